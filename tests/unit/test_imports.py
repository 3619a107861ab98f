"""The parent stays light: what it imports holds no Polars, Arrow or NumPy, and so no pool of threads."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import nanolab_daemon

HEAVY = ("polars", "pyarrow", "numpy", "pandas")
WORKERS_SIDE = {
    "audit",
    "facts",
    "manifest",
    "tables",
    "pages",
    "parquet",
    "phases",
    "rows",
    "segment",
    "stage",
    "sweeps",
}
FOR_ANALYSIS = {"lake"}  # for notebooks: neither parent nor worker

_IMPORT_ALL = """
import importlib, json, sys
heavy = sys.argv[1].split(",")
guilty = {}
for name in sys.argv[2:]:
    importlib.import_module(f"nanolab_daemon.{name}")
    found = [one for one in heavy if one in sys.modules]
    if found:
        guilty[name] = found
        for module in [m for m in sys.modules if m.partition(".")[0] in heavy]:
            del sys.modules[module]
print(json.dumps(guilty))
"""


def heavy_after(modules: list[str]) -> dict[str, list[str]]:
    """Import modules one after the other in a fresh interpreter; give those that brought in something heavy."""
    command = [sys.executable, "-I", "-c", _IMPORT_ALL, ",".join(HEAVY), *modules]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def all_modules() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(nanolab_daemon.__path__)} - {"__main__"}


def test_no_module_of_the_parent_imports_polars_arrow_or_numpy() -> None:
    assert heavy_after(sorted(all_modules() - WORKERS_SIDE - FOR_ANALYSIS)) == {}


def test_every_module_that_is_excused_needs_to_be() -> None:
    assert all_modules() >= WORKERS_SIDE
    assert all(heavy_after([name]) for name in sorted(WORKERS_SIDE))


def test_the_command_line_answers_help_without_log_ledger_or_engine() -> None:
    script = "import sys; from nanolab_daemon.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stderr.split())
    assert "Usage:" in done.stdout
    assert not loaded & {*HEAVY, "structlog", "rich", "watchdog", "sqlite3", "nanolab_daemon.engine"}
