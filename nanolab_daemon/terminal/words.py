"""Words that stand in pictures and in plain lines alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanolab_daemon.cli_base import as_typed

if TYPE_CHECKING:
    from nanolab_daemon.report import RejectGroup


def left_out(group: RejectGroup, most: int) -> str:
    """Say how many files of a group are not listed, and how to see them."""
    return as_typed(f"… and {group.count - most:,} more: nanolab-daemon rejects --cause {group.cause} --all")
