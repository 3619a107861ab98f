"""While a daemon works on the same state folder, it does the work; these commands ask it to, and watch.

Writes nothing itself: two engines on one ledger would be one too many.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from nanolab_daemon import control
from nanolab_daemon.again import judged_after
from nanolab_daemon.backlog import Rules
from nanolab_daemon.batch import Ended
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.settings import counted
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import StageJob

LOOK_EVERY_S = 0.25


def daemon_runs(config: Config) -> bool:
    """Tell whether a daemon listens on this state folder."""
    return control.ask(config.paths.state, {"ask": "status"}) is not None


def backfill(config: Config, rules: Rules, *, show: Callable[[Tally, bool], None]) -> tuple[Ended, int]:
    """Have the daemon make a pass and watch it to its end; tell also how many files it goes on following."""
    began = time.monotonic()
    before = _status(config)
    chosen = rules.selection
    question = {
        "ask": "backfill",
        "force": rules.force,
        "accept_missing": rules.accept_missing,
        "selection": {"procedures": sorted(chosen.procedures), "since": chosen.since, "until": chosen.until},
    }
    answer = _asked(config, question)
    number = int(answer["pass"])
    while True:
        now = _status(config)
        scanning = now["pass"] < number or (now["pass"] == number and now["scanning"])
        tally = _difference(now["tally"], before["tally"])
        show(tally, scanning)
        if not scanning and not any(sum(queue) for queue in now["queues"].values()):
            return Ended(tally, time.monotonic() - began, interrupted=False), int(now["following"])
        time.sleep(LOOK_EVERY_S)


def retry(config: Config, jobs: tuple[StageJob, ...], *, skip_bad_rows: bool, limit_s: float) -> None:
    """Have the daemon try files again, and wait until it has judged them all."""
    import os

    began = time.time()
    paths = [os.fsdecode(job.path) for job in jobs]
    _asked(config, {"ask": "retry", "paths": paths, "skip_bad_rows": skip_bad_rows})
    until = time.monotonic() + limit_s
    while not judged_after(config, jobs, began):
        if time.monotonic() > until:
            raise EngineError(
                f"The daemon has not judged all {counted(len(jobs), 'file')} after {limit_s:.0f} s.",
                advice="It goes on with them; `nanolab-daemon status` shows how far it is.",
            )
        time.sleep(LOOK_EVERY_S)


def _status(config: Config) -> Mapping[str, Any]:
    return _asked(config, {"ask": "status"})


def _asked(config: Config, question: Mapping[str, Any]) -> Mapping[str, Any]:
    answer = control.ask(config.paths.state, question)
    if answer is None:
        raise EngineError(
            "The daemon has ended meanwhile.", advice="Run the command again: it goes on where it stopped."
        )
    return answer


def _difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> Tally:
    """Give what was counted since an earlier look."""
    tally = Tally()
    for name, value in now.items():
        if isinstance(value, int) and isinstance(getattr(tally, name, None), int):
            setattr(tally, name, value - int(before.get(name, 0)))
    tally.missing_ignored = int(now.get("missing_ignored", 0))  # of the last pass, not of all
    tally.outcomes = Counter(now.get("outcomes", {})) - Counter(before.get("outcomes", {}))
    return tally
