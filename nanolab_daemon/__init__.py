"""Turns the CSV files of a nano-electronics lab into Parquet while the instruments write them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanolab_daemon.lake import NoRunsError, Runs, runs

__version__ = "0.1.0"
__all__ = ["NoRunsError", "Runs", "__version__", "runs"]


def __getattr__(name: str) -> Any:
    """Bring what is for analysis when it is asked for: the daemon and its commands do without Polars."""
    if name in {"NoRunsError", "Runs", "runs"}:
        return getattr(import_module("nanolab_daemon.lake"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
