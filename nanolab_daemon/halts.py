"""What the machine is at fault for: told once, tried again in its time, over when work succeeds.

Says what is to wait, and tries whether it still has to. What then is to be done is the engine's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from nanolab_daemon import publish
from nanolab_daemon.courier import SilentError
from nanolab_daemon.log import REASON, logger
from nanolab_daemon.outputs import Outputs
from nanolab_daemon.pauses import Pause, Pauses, remedy
from nanolab_daemon.sections import Paths
from nanolab_daemon.tasks import words_of

MACHINE, SHARE = "machine", "share"
"""Names for what is at fault where it is no folder of ours: a limit of this machine, a share of raw files."""

ASK_EVERY_S = 1.0


class Halts:
    """The faults for which everything waits. Moments are monotonic seconds."""

    def __init__(self, paths: Paths, owner: str, outputs: Outputs) -> None:
        self._paths = paths
        self._owner = owner
        self._outputs = outputs
        self._pauses = Pauses()
        self._devices: dict[Path, int] = {}
        self._asked_at = 0.0  # when the outputs' shares were asked for a sign of life
        self.was_silent = False  # a share for outputs: what was asked of it may have been done since
        self._log = logger(__name__)

    @property
    def first(self) -> Pause | None:
        """The fault of the machine for which everything waits."""
        return self._pauses.first

    @property
    def until(self) -> float:
        """When something is to be tried next; infinity if nothing waits."""
        return self._pauses.until

    def opened(self, root: Path) -> None:
        """Take note of the disk on which an output folder is, so that no other one is written on in its place."""
        self._devices[root] = root.stat().st_dev

    def hold(self, place: Path | str, words: str, code: int | None, now: float) -> bool:
        """Begin nothing until the fault is mended; tell whether that is to be waited for from now on.

        `place`: a folder of ours, or a name for what else is at fault.
        """
        paths = self._paths
        names = {paths.stage: "stage", paths.output: "output", paths.state: "state"}
        if isinstance(place, Path):
            words = f"the {names.get(place, 'output')} folder {place} can't be written: {words}."
        pause = self._pauses.fault(str(place), f"{words} {remedy(code)}", now)
        if pause is not None and pause.tries == 1:
            self._log.error("paused", **{REASON: pause.reason})
        elif pause is not None:
            self._log.debug("still paused", **{REASON: pause.reason}, retry_in_s=pause.until - now)
        return pause is not None

    def blame(self, error: OSError, now: float) -> None:
        """Hold everything up for a fault that this process has met in one of the output folders."""
        self.was_silent = self.was_silent or isinstance(error, SilentError)
        name = Path(os.fsdecode(error.filename or b""))
        root = self._paths.output if name.is_relative_to(self._paths.output) else self._paths.stage
        self.hold(root, words_of(error, root), error.errno, now)

    def worked(self, place: Path | str) -> None:
        """Take note that real work has succeeded in a place."""
        pause = self._pauses.worked(str(place))
        if pause is not None:
            after_s = round(time.monotonic() - pause.since, 1)
            self._log.info("resumed", **{REASON: pause.reason}, after_s=after_s)

    def look_for_life(self, now: float) -> None:
        """Find out whether the shares on which runs are published answer, before somebody has to wait for it."""
        if now >= self._asked_at + ASK_EVERY_S and self.first is None:
            self._asked_at = now
            self.outputs_hang(now)

    def outputs_hang(self, now: float) -> bool:
        """Tell whether an output folder does not answer, for which a worker may have waited; if so, all waits."""
        error = self._outputs.silent()
        if error is not None:
            self.blame(error, now)
        return error is not None

    def try_again(self, now: float, commit: Callable[[float], object]) -> bool:
        """Try what is due: a folder by writing there, the ledger by `commit`; tell whether a folder is well again."""
        well = False
        for pause in self._pauses.due(now):
            root = Path(pause.place)
            if root == self._paths.state:
                self._pauses.tried(pause.place)
                commit(now)
                continue
            try:
                if root in self._devices:
                    self._outputs.call(root, publish.try_to_write, root, self._owner, self._devices[root])
            except OSError as error:
                self.hold(root, error.strerror or str(error), error.errno, now)
            else:
                self._pauses.tried(pause.place)
                well = well or root in self._devices
        return well
