"""One pass over historical data, to its end: what `backfill`, `stage`, `preprocess` and `retry` have in common."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import FrameType

from nanolab_daemon.backlog import Backlog, Reach, Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, unusable
from nanolab_daemon.config import Config
from nanolab_daemon.engine import Engine
from nanolab_daemon.errors import EngineError
from nanolab_daemon.layout import check_paths
from nanolab_daemon.lock import Lock
from nanolab_daemon.names import shown_path
from nanolab_daemon.places import survey_for_a_pass
from nanolab_daemon.scan import name_test
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import StageJob, StageOutcome
from nanolab_daemon.wakeup import Wakeup

STEP_S = 0.1
GIVE_UP_AFTER_S = 60.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pass ended."""

    tally: Tally
    seconds: float
    interrupted: bool


@contextlib.contextmanager
def stop_signals(call: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question to be asked; `call` wakes who waits."""
    asked = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        call()

    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    config: Config,
    command: str,
    *,
    stage: bool = True,
    segment: bool = True,
    rules: Rules | None = None,
    jobs: Iterable[StageJob] | None = None,
    on_start: Callable[[Engine], None] = lambda _: None,
    on_step: Callable[[Engine], None] = lambda _: None,
    answered: Callable[[StageJob, StageOutcome], None] | None = None,
) -> Ended:
    """Work off the whole raw folder, or just `jobs`, and end when all is done. Can be interrupted at any point."""
    check_paths(config)
    rules = rules or Rules(abandoned_after_s=config.watch.abandoned_after_s)
    began = time.monotonic()
    with Lock(config.paths.state, command):
        catalog = Catalog.open(config.paths.state / FILE_NAME)
        wakeup = Wakeup()
        engine = Engine(config, catalog, segment=segment, answered=answered)
        backlog: Backlog | None = None
        try:
            engine.selector.register(wakeup, 1)
            engine.start(warm=False)
            if jobs is None and catalog.has_runs():
                engine.reconciler.hire(engine.selector, config.pools.task_timeout_s)
                selection = rules.selection
                engine.again = lambda job: engine.offer(replace(job, selection=selection)) if stage else None
            if jobs is not None:
                for job in jobs:
                    engine.offer(job)
            elif stage:
                backlog = _scan(engine, rules, wakeup)
                engine.source = backlog
                backlog.start()
            on_start(engine)
            with stop_signals(wakeup.call) as interrupted:
                while not engine.idle and not interrupted():
                    engine.step(STEP_S)
                    wakeup.clear()
                    on_step(engine)
                    _give_up_if_hopeless(engine)
            if backlog is not None:
                backlog.stop()
            engine.stop(STOP_S)
            return Ended(engine.tally, time.monotonic() - began, interrupted())
        except sqlite3.Error as error:
            raise unusable(error, config.paths.state / FILE_NAME, "used") from error
        finally:
            if backlog is not None:
                backlog.stop()
            engine.kill()
            with contextlib.suppress(sqlite3.Error):
                catalog.close()
            wakeup.close()


def _scan(engine: Engine, rules: Rules, wakeup: Wakeup) -> Backlog:
    """Make one pass over all of the raw folder but the shares that were there once and are not mounted now."""
    config, catalog = engine.config, engine.catalog
    known = [] if rules.accept_missing else catalog.places()
    places = survey_for_a_pass(config.paths.raw, config.watch.mode, known)
    engine.adopt_places(places.values())
    here = [(place.path, place.point, place.kind) for place in places.values()]
    if sorted(here) != sorted(catalog.places()):
        catalog.set_places(here)
    gone = frozenset(place.path for place in places.values() if place.gone)
    engine.tally.frozen = sorted(shown_path(path) for path in gone)
    return Backlog(
        config.paths.raw,
        name_test(config.watch.include, config.watch.exclude),
        catalog,
        engine.tally,
        rules=replace(rules, young_s=config.watch.abandoned_after_s),
        reach=Reach(skip=gone),
        registrar=engine.registrar,
        act=lambda actions: engine.act(actions, live=False),
        trusts=engine.trusts,
        wake=wakeup.call,
    )


def _give_up_if_hopeless(engine: Engine) -> None:
    """End a command that the machine has kept from working for a minute: a person waits for it."""
    pause = engine.paused
    if pause is not None and time.monotonic() - pause.since > GIVE_UP_AFTER_S:
        raise EngineError(
            f"Nothing could be done for {GIVE_UP_AFTER_S:.0f} s: {pause.reason}",
            advice="Then run the command again: it goes on where it stopped.",
        )
