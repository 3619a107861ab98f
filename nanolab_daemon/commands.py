"""The program's commands as they are to be typed: with the settings that whoever reads of them has to name.

What is told to be done, in a message, on the page or in a notice, is often a command. Texts hold it in its shortest
form, `nanolab-daemon retry FILE`, which finds the right settings only where they lie at a default place.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from nanolab_daemon.settings import escaped

PROGRAM = "nanolab-daemon"
TAKE_CONFIG = (
    *("run", "backfill", "pipeline", "stage", "preprocess"),
    *("status", "why", "show", "rejects", "retry", "verify", "check", "notify"),
)
SYSTEM_FILE = Path("/etc/nanolab-daemon/config.toml")
"""The settings that are found from wherever a command is typed."""

_COMMAND = re.compile(rf"({PROGRAM} (?:{'|'.join(TAKE_CONFIG)}))\b")


def as_typed(text: str, file: str | None) -> str:
    """Put `--config` and the file into the commands of a text; None: they find it by themselves."""
    if file is None:
        return text
    option = f"--config {escaped(shlex.quote(file))}"
    return _COMMAND.sub(lambda found: f"{found[1]} {option}", text)


def file_to_name(file: Path | None) -> str | None:
    """Give the file of settings as somebody elsewhere must name it; None: there is none, or all find it."""
    return None if file is None or file.absolute() == SYSTEM_FILE else str(file.absolute())
