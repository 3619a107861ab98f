"""The way to a Dask scheduler: made, kept up, made anew when it is lost; and which of its workers may be used.

All that can take long happens in threads of its own. What the engine asks is answered at once, from what was found
last. A worker gets no work before it has been asked whether it sees the folders and runs the same program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanolab_daemon import __version__, dask_worker
from nanolab_daemon.errors import EngineError
from nanolab_daemon.log import REASON, WORKER, logger
from nanolab_daemon.path_map import PathMap
from nanolab_daemon.settings import counted
from nanolab_daemon.tasks import WorkSettings

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0
SURVEY_EVERY_S = 1.0
ASK_EVERY_S = 0.05
PATIENCE_S = 5.0
LOOK_S = 30.0
LOOK_AGAIN_S = 60.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STOP_S = 1.0
FORGOTTEN_S = 60.0
RAW_NAMES = 100
LOOK = "__import__('importlib').import_module('nanolab_daemon.dask_worker').look(question)"
INSTALL = "Install it: pip install 'nanolab-daemon[dask]'. Or set pools.engine to \"local\"."


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task: its result; or None, why, and whether Dask has given it up since workers died of it."""

    result: bytes | None
    why: str = ""
    killed: bool = False


Taker = Callable[["Future", Answer], None]


class DaskLink:
    """A client of one scheduler, and what it knows of the workers. `changed` is called from other threads."""

    def __init__(self, scheduler: str, settings: WorkSettings, path_map: PathMap) -> None:
        self.scheduler = scheduler
        self.fit: Mapping[str, Mapping[str, int]] = {}  # address → how many it takes at a time, by resource
        self.unfit: Mapping[str, str] = {}  # address → why
        self.trouble = ""  # why there is no scheduler now
        self.surveys = 0
        self._settings = settings
        self._path_map = path_map
        self._changed: list[Callable[[], None]] = []
        self._client: Client | None = None
        self._asked: dict[str, tuple[float, Future]] = {}  # address → since when, and the question to it
        self._ask_again: dict[str, float] = {}
        self._doubted: dict[str, float] = {}
        self._changing = threading.Lock()
        self._beacons: list[tuple[str, str]] = []
        self._lacking_since = time.monotonic()
        self._told_lacking: frozenset[str] = frozenset()
        self._tried = threading.Event()
        self._stop = threading.Event()
        self._loop: _Loop | None = None
        self._thread = threading.Thread(target=self._keep_up, name="dask link", daemon=True)
        self._ready: queue.SimpleQueue[tuple[Future, Taker] | None] = queue.SimpleQueue()
        self._log = logger(__name__)

    def tell(self, changed: Callable[[], None]) -> None:
        """Have something called, from another thread, whenever something has changed."""
        self._changed.append(changed)

    def open(self) -> None:
        """Reach the scheduler, or EngineError. A second call does nothing."""
        if self._thread.ident is not None:
            return
        try:
            import distributed  # noqa: F401 -- is it there?
        except ImportError as error:
            raise EngineError('pools.engine is "dask", which is not installed here.', advice=INSTALL) from error
        for name in ("distributed", "tornado"):  # what they tell of in tracebacks is told here, in words
            logging.getLogger(name).setLevel(logging.CRITICAL)
        roots = (self._settings.stage_root, self._settings.output_root)
        self._beacons = [dask_worker.write_beacon(Path(root), self._settings.owner) for root in dict.fromkeys(roots)]
        self._thread.start()
        self._tried.wait(2 * CONNECT_S)
        if not self.up:
            self.stop()
            raise EngineError(
                f"The Dask scheduler {self.scheduler} can't be reached: {self.trouble or 'it does not answer'}.",
                advice='Start it, or correct pools.scheduler; pools.fallback = "local" works here meanwhile.',
            )

    @property
    def up(self) -> bool:
        """Whether there is a scheduler to give work to."""
        client = self._client
        return client is not None and client.status == "running"

    def submit(self, task: bytes, *, key: str, resource: str, priority: int, answer: Taker) -> Future | None:
        """Give away a task to the workers that may have it; None if it can't be done now.

        `answer` is called with the future and what became of it, from another thread.
        """
        client = self._client
        workers = [address for address, slots in self.fit.items() if slots.get(resource)]
        if client is None or not workers or not self.up:
            return None
        try:
            future: Future = client.submit(
                dask_worker.work,
                task,
                key=key,
                pure=False,
                workers=workers,
                allow_other_workers=False,
                resources={resource: 1},
                priority=priority,
                retries=0,
            )
            ready = self._ready
            future.add_done_callback(lambda done: ready.put((done, answer)))
        except Exception as error:  # noqa: BLE001 -- the client is just being closed
            self.trouble = _words(error)
            return None
        return future

    def stop(self) -> None:
        """Let go of the scheduler; what is out there may go on, and is heard of no more. Twice is once."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._ready.put(None)
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    # -- in other threads -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        from distributed import Client

        self._client = None
        self._asked.clear()
        if self._loop is None:
            self._loop = _Loop()
        self._loop.reach(self.scheduler)  # a client would wait for ever for one that takes calls and says nothing
        # One loop for all clients: one that can't reach its scheduler would leave its own behind, each time.
        client = Client(
            self.scheduler, loop=self._loop.loop, timeout=CONNECT_S, set_as_default=False, name="nanolab-daemon"
        )
        self._ready = queue.SimpleQueue()
        threading.Thread(
            target=_fetch, args=(client, self._ready), name="dask answers", daemon=True
        ).start()  # one a client: a call to a scheduler that hangs does not come back
        self._ask_again.clear()
        self._client = client
        self.trouble = ""

    def _keep_up(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stop.is_set():
            client = self._client
            try:
                if client is not None and client.status == "running":
                    self._survey(client)
                    pause_s = FIRST_PAUSE_S
                elif client is None or client.status == "closed":
                    if client is not None:
                        self._lost("it is gone")
                    self._connect()
                    if self._tried.is_set():
                        self._log.info("the scheduler is back", scheduler=self.scheduler)
                    self._survey(self._client)
                else:
                    self._lost("it does not answer")
            except Exception as error:  # noqa: BLE001 -- of many kinds, all with one meaning: try again
                self._lost(_words(error))
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            self._tried.set()
            self._stop.wait(pause_s if not self.up else ASK_EVERY_S if self._asked else SURVEY_EVERY_S)
        self._let_go()

    def _lost(self, words: str) -> None:
        if not self.trouble and self._tried.is_set():  # a first try in vain ends in an error
            self._log.error("the scheduler is lost", **{REASON: words}, scheduler=self.scheduler)
        self.trouble = words
        if self.fit:
            self.fit = {}
            self._call()

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(STOP_S / 2)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def distrust(self, address: str, words: str) -> None:
        """Give a worker no more work before it was asked again: what it says is not what is seen here."""
        now = time.monotonic()
        with self._changing:
            often = now - self._doubted.get(address, -LOOK_AGAIN_S) < LOOK_AGAIN_S
            self._doubted[address] = now
            self._ask_again[address] = now + (LOOK_AGAIN_S if often else 0.0)
            self.fit = {one: slots for one, slots in self.fit.items() if one != address}
            self.unfit = {**self.unfit, address: words}
        self._log.warning("a worker is not used", **{WORKER: address, REASON: words})
        self._call()

    def _survey(self, client: Client | None) -> None:
        assert client is not None
        found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        offers = {
            address: slots
            for address, one in found.items()
            if (slots := {name: int(one.get("resources", {}).get(name, 0)) for name in dask_worker.STAGES})
            and any(slots.values())
        }
        told = self._look(client, offers)
        before = self.fit
        with self._changing:
            for address, words in told.items():
                if words and self.unfit.get(address) != words:
                    self._log.warning("a worker is not used", **{WORKER: address, REASON: words})
            unfit = {address: words for address, words in {**self.unfit, **told}.items() if address in offers}
            fit = {address: offers[address] for address in self.fit if address in offers}
            fit |= {address: offers[address] for address, words in told.items() if not words and address in offers}
            self.fit = {address: slots for address, slots in fit.items() if not unfit.get(address)}
            self.unfit = {address: words for address, words in unfit.items() if words}
            self.surveys += 1
            self.trouble = ""
        for address in self.fit.keys() - before.keys():
            self._log.info("a worker has come", **{WORKER: address})
        for address in before.keys() - offers.keys():
            self._log.warning("a worker is gone", **{WORKER: address})
            self._ask_again.pop(address, None)
        self._tell_of_idle_stages(offers)
        if self.fit != before:
            self._call()

    def _tell_of_idle_stages(self, offers: Collection[str]) -> None:
        """Say, once, that nobody is there for a stage: the work would wait without a word."""
        lacking = {name for name in dask_worker.STAGES if not any(slots.get(name) for slots in self.fit.values())}
        now = time.monotonic()
        if not lacking:
            self._lacking_since = now
            self._told_lacking = frozenset()
        elif lacking != self._told_lacking and now - self._lacking_since > PATIENCE_S and not self._asked:
            self._told_lacking = frozenset(lacking)
            names = " and ".join(sorted(lacking))
            words = f"none of the {counted(len(offers), 'worker')} that are there can be used and offers {names}"
            remedy = 'Start one: dask worker … --no-nanny --resources "nanolab_stage=2 nanolab_segment=2".'
            self._log.warning("nobody works", **{REASON: words}, remedy=remedy, scheduler=self.scheduler)

    def _look(self, client: Client, offers: Collection[str]) -> dict[str, str]:
        """Ask workers whether they can be used; give what those that have answered lack, in words.

        Nobody is waited for: an answer comes with a later survey. Those in use are asked again each minute.
        """
        now = time.monotonic()
        due = [one for one in offers if one not in self._asked and now >= self._ask_again.get(one, 0.0)]
        if due:
            question = {"question": pickle.dumps(self._question(), pickle.HIGHEST_PROTOCOL)}
            for address in due:
                self._asked[address] = (
                    now,
                    client.submit(
                        eval,  # of the standard library: a worker without this program must live to tell
                        LOOK,
                        question,
                        key=f"nanolab-look-{address}-{time.monotonic_ns()}",
                        pure=False,
                        workers=[address],
                        allow_other_workers=False,
                        priority=100,
                        retries=0,
                    ),
                )
        found: dict[str, str] = {}
        for address, (since, future) in list(self._asked.items()):
            words = _answer(future)
            if words is None and now - since > LOOK_S and address not in self.fit:
                words = "it does not answer"  # one in use may be busy
            if words is None and address in offers and now - since <= LOOK_S:
                continue
            del self._asked[address]
            self._ask_again[address] = now + LOOK_AGAIN_S
            if words is not None:
                found[address] = words
            future.cancel()
        return found

    def _question(self) -> dask_worker.Question:
        there = self._path_map.there
        return dask_worker.Question(
            version=__version__,
            raw_root=there(self._settings.raw_root),
            raw_names=_some_names(self._settings.raw_root),
            beacons=tuple((there(path), word) for path, word in self._beacons),
        )

    def _call(self) -> None:
        for changed in self._changed:
            changed()


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._began = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="dask loop", daemon=True)
        self._thread.start()
        self._began.wait()

    async def _run(self) -> None:
        from tornado.ioloop import IOLoop

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # of what nobody waits for any more
        self.loop = IOLoop.current()
        self._over = asyncio.Event()
        self._began.set()
        await self._over.wait()

    def reach(self, address: str) -> None:
        """Have a scheduler say who it is, in time; OSError or TimeoutError if it does not."""
        loop: asyncio.AbstractEventLoop = self.loop.asyncio_loop  # type: ignore[attr-defined]
        asyncio.run_coroutine_threadsafe(self._reach(address), loop).result()

    async def _reach(self, address: str) -> None:
        from distributed.core import rpc

        async with asyncio.timeout(CONNECT_S), rpc(address, timeout=CONNECT_S) as scheduler:
            await scheduler.identity()

    def stop(self) -> None:
        """End it, and all that was begun in it."""
        self.loop.add_callback(self._over.set)


def _fetch(client: Client, ready: queue.SimpleQueue[tuple[Future, Taker] | None]) -> None:
    """Fetch the results of all tasks that have come to an end, many at a time."""
    while True:
        try:
            first = ready.get(timeout=FORGOTTEN_S)
        except queue.Empty:
            if client.status == "closed":
                return  # another one has taken its place, and nothing of this one is left to be told
            continue
        if first is None:
            return
        some = [first]
        while not ready.empty() and len(some) < 64:
            more = ready.get()
            if more is None:
                return
            some.append(more)
        finished = [future for future, _ in some if future.status == "finished"]
        results: dict[str, bytes] = {}
        try:
            results = dict(zip((one.key for one in finished), client.gather(finished), strict=True))
        except Exception:  # noqa: BLE001 -- one of them, or the scheduler: each by itself
            for future in finished:
                with contextlib.suppress(Exception):
                    results[future.key] = client.gather(future)
        for future, answer in some:
            result = results.get(future.key)
            answer(future, _failure(future) if result is None else Answer(result))


def _answer(future: Future) -> str | None:
    """Give what a worker said when it was asked, in words; None as long as it has not."""
    if not future.done():
        return None
    try:
        return str(future.result(timeout=LOOK_S))
    except (ImportError, AttributeError) as error:
        return f"it can't load nanolab-daemon: {_words(error)}. Install it there"
    except Exception as error:  # noqa: BLE001 -- whatever it was, it is no use
        return f"it does not answer: {_words(error)}"


def _failure(future: Future) -> Answer:
    if future.status == "error":
        try:
            error = future.exception(timeout=LOOK_S)
        except Exception as trouble:  # noqa: BLE001 -- as good as any other
            error = trouble
        name = type(error).__name__
        return Answer(None, f"{name}: {_words(error)}", killed=name == "KilledWorker")
    if future.status in ("cancelled", "lost"):
        return Answer(None, "the scheduler was lost, or has forgotten it")
    return Answer(None, "its result can't be fetched")


def _some_names(root: str) -> tuple[bytes, ...]:
    try:
        with os.scandir(os.fsencode(root)) as entries:
            return tuple(entry.name for entry in islice(entries, RAW_NAMES))
    except OSError:
        return ()


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return (str(error) or type(error).__name__).strip().rstrip(".").splitlines()[0]
