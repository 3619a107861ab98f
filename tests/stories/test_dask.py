"""The same two stages on a real Dask cluster: the output is that of one machine, whatever is lost on the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hosts_rig
import instrument
import outputs
import pytest
from dask import config as dask_config
from dask_lab import Cluster, cluster, end
from lab import Lab, assert_converged, toml, until
from stories.test_convergence import Folder, machine
from stories.test_several_labs import sharing

from nanolab_daemon import batch, dask_link, publish, report, verify
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.dask_link import DaskLink
from nanolab_daemon.engine import work_settings
from nanolab_daemon.errors import EngineError
from nanolab_daemon.path_map import PathMap
from nanolab_daemon.sections import Fallback, PoolEngine

POISON_SITE = Path(__file__).parents[1] / "poison_site"


def on(lab: Lab, dask: Cluster, **more: Any) -> Lab:
    pools = replace(lab.config.pools, engine=PoolEngine.DASK, scheduler=dask.address, **more)
    lab.config = replace(lab.config, pools=pools)
    return lab


def fill(lab: Lab, files: int) -> None:
    """Write measurements of three procedures, copies, earlier states, a file without rows, and one that is bad."""
    for number in range(files):
        make = (instrument.iv, instrument.ivg, instrument.it)[number % 3]
        folder = lab.raw / f"2025-01-{number % 9 + 1:02}"
        folder.mkdir(exist_ok=True)
        one = make(number, start=1757018821.0 + 60 * number)
        (folder / f"{one.procedure}_{number}.csv").write_bytes(one.data())
        if number % 10 == 0:
            (folder / f"copy_{number}.csv").write_bytes(one.data())
        if number % 15 == 0:
            (folder / f"early_{number}.csv").write_bytes(one.data(len(one.rows) // 2))
    (lab.raw / "bad.csv").write_bytes(instrument.iv(9999, start=1.7e9).data().replace(b"e-", b"x-", 1))
    (lab.raw / "queued.csv").write_bytes(instrument.iv(9998).queued())


def assert_as_on_one_machine(lab: Lab) -> None:
    assert_converged(lab)
    assert not verify.verify(lab.config).problems
    assert not outputs.leftovers(lab.stage, lab.output)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give the cluster that is shared by the tests that break nothing."""
    with cluster(tmp_path_factory.mktemp("dask")) as found:
        yield found


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


def test_a_backfill_gives_what_one_machine_gives(lab: Lab, dask: Cluster) -> None:
    fill(lab, 60)
    ended = batch.run(on(lab, dask).config, "backfill")
    assert ended.tally.staged_done > 60
    assert_as_on_one_machine(lab)
    assert batch.run(lab.config, "backfill").tally.staged_done == 0


def test_a_daemon_works_on_it(lab: Lab, dask: Cluster) -> None:
    fill(lab, 12)
    with on(lab, dask).process():
        until(lambda: len(lab.runs()) >= 12, 60)
        (lab.raw / "late.csv").write_bytes(instrument.iv(77, start=1758018821.0).data())
        until(lambda: any(run.source == b"late.csv" for run in lab.runs().values()), 30)
        lab.age()
        lab.wait_quiet()
        status = lab.status() or {}
        assert [pool["name"] for pool in status["pools"]] == ["stage", "segment", "house"]
        assert status["pools"][0]["ready"] == 2
        assert status["pools"][0]["scheduler"] == dask.address
        until(lab.has_looked)
    assert_as_on_one_machine(lab)


def test_workers_and_the_scheduler_are_lost_on_the_way(lab: Lab, tmp_path: Path) -> None:
    """Workers are killed one after the other, then the scheduler with all that it knew, while a backfill runs."""
    fill(lab, 240)
    with cluster(tmp_path / "dask") as found:
        on(lab, found)
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(batch.run(lab.config, "backfill")))
        thread.start()
        done = lambda: len(lab.runs()) if (lab.state / "ledger.sqlite").exists() else 0  # noqa: E731
        until(lambda: done() > 10, 60, "for the first runs")
        end(found.workers[0])
        found.keep(2)
        until(lambda: done() > 60 or ended, 60, "for it to go on after a worker was lost")
        found.kill_scheduler()
        found.start_scheduler()
        # The workers of a scheduler that is gone leave; whoever looks after them starts others.
        until(lambda: found.keep(2) or ended, 120, "for the end")
        thread.join(60)
        assert ended
        assert not ended[0].interrupted
    assert_as_on_one_machine(lab)


@pytest.mark.parametrize(
    ("word", "cause"),
    [("exit", "crashed"), ("segfault", "crashed"), ("gil", "timed_out"), ("memory", "out_of_memory")],
)
def test_poison_kills_no_worker_of_the_cluster(lab: Lab, tmp_path: Path, word: str, cause: str) -> None:
    """A file that crashes, blocks or fills its process is tried twice and refused, as on one machine; nobody pays."""
    fill(lab, 12)
    bad = instrument.iv(5000, start=1759018821.0)
    bad = replace(bad, parameters={**bad.parameters, "Information": f"poison={word}"})
    (lab.raw / "poison.csv").write_bytes(bad.data())
    found = Cluster(tmp_path / "dask")
    log = tmp_path / "poison.log"
    path = f"{Path(__file__).parents[2]}{os.pathsep}{POISON_SITE}"
    try:
        found.start_scheduler()
        worker = found.start_worker(environment={"PYTHONPATH": path, "POISON_LOG": str(log)})
        batch.run(on(lab, found, task_timeout_s=5.0, task_memory_mb=512).config, "backfill")
        assert worker.poll() is None
    finally:
        found.stop()
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    attempts = {
        record.path: (record.rejection.cause, record.attempts) for record in catalog.files() if record.rejection
    }
    catalog.close()
    assert attempts.pop(b"poison.csv") == (cause, 2)
    assert len(log.read_text().splitlines()) == 2
    assert {number for _, number in attempts.values()} == {0}  # nobody else was charged


def test_folders_under_other_names(lab: Lab, dask: Cluster, tmp_path: Path) -> None:
    """The workers know the laboratory's folders by a name that does not exist for the daemon's settings."""
    fill(lab, 9)
    alias = tmp_path / "elsewhere"
    alias.symlink_to(lab.home)
    on(lab, dask, path_map=((str(lab.home), str(alias)),))
    batch.run(lab.config, "backfill")
    assert_as_on_one_machine(lab)


def test_two_laboratories_share_a_cluster_and_a_lake(tmp_path: Path, dask: Cluster) -> None:
    """Each worker serves both, with the settings of the one whose files it has; neither gets the other's runs."""
    labs = [on(sharing(tmp_path, name), dask) for name in ("east", "west")]
    zones = ("America/Santiago", "Pacific/Auckland")
    for lab, zone in zip(labs, zones, strict=True):
        lab.config = replace(lab.config, lab=replace(lab.config.lab, timezone=zone))
        fill(lab, 30)
        lab.age()
    with labs[0].process(), labs[1].process():
        for lab in labs:
            lab.wait_quiet(120)
    for lab in labs:
        assert_as_on_one_machine(lab)
    assert not labs[0].runs().keys() & labs[1].runs().keys()


@pytest.mark.parametrize("fault", ["path", "other folder", "version", "nanny"])
def test_a_worker_that_can_not_be_used_gets_no_work_and_is_told(lab: Lab, tmp_path: Path, fault: str) -> None:
    fill(lab, 3)
    found = Cluster(tmp_path / "dask")
    environment = {}
    pairs: tuple[tuple[str, str], ...] = ()
    if fault == "path":
        pairs = ((str(lab.home), "/nowhere/at/all"),)
    elif fault == "other folder":
        other = Lab(tmp_path / "other")
        fill(other, 1)
        other.stage.mkdir()
        other.output.mkdir()
        pairs = ((str(lab.home), str(other.home)),)
    elif fault == "version":
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text("import nanolab_daemon\nnanolab_daemon.__version__ = '0.0.1'\n")
        environment = {"PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{site}"}
    words = {
        "path": "does not see the raw folder /nowhere/at/all/raw",
        "other folder": "does not see",
        "version": "it has nanolab-daemon 0.0.1",
        "nanny": "start it with --no-nanny",
    }[fault]
    try:
        found.start_scheduler()
        found.start_worker(environment=environment, nanny=fault == "nanny")
        with on(lab, found, path_map=pairs).process():
            status = until(lambda: (s := lab.status()) and s["pools"][0]["unfit"] and s, 60, "for the verdict")
            assert words in next(iter(status["pools"][0]["unfit"].values()))
            assert "no worker that can be used" in status["pools"][0]["start_failure"]
            assert not lab.runs()
            if fault in ("version", "nanny"):  # one that can be used takes it on
                found.start_worker()
                until(lambda: len(lab.runs()) >= 3, 60)
    finally:
        found.stop()
    assert words in (lab.home / "daemon.log").read_text()


def command(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    file = lab.home / "config.toml"
    file.write_text(toml(lab.config))
    argv = [sys.executable, "-m", "nanolab_daemon", *words, "--config", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=lab.home, check=False)


def test_without_a_scheduler_there_is_a_clear_error(lab: Lab, tmp_path: Path) -> None:
    fill(lab, 3)
    nobody = Cluster(tmp_path / "dask")
    done = command(on(lab, nobody), "backfill")
    assert done.returncode == 1
    assert f"The Dask scheduler {nobody.address} can't be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert not lab.runs()


def test_without_a_scheduler_the_work_is_done_here_if_that_is_wanted(lab: Lab, tmp_path: Path) -> None:
    fill(lab, 3)
    done = command(on(lab, Cluster(tmp_path / "dask"), fallback=Fallback.LOCAL), "backfill")
    assert done.returncode == 0, done.stderr
    assert "the work is done on this machine" in done.stderr
    assert_as_on_one_machine(lab)


def test_without_the_package_there_is_a_clear_error(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab, 3)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EngineError, match="not installed") as caught:
        batch.run(on(lab, Cluster(tmp_path / "dask")).config, "backfill")
    assert "nanolab-daemon[dask]" in caught.value.advice


def test_a_late_answer_of_a_lost_worker_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """A worker that stands still is given up, its work done by another; what it makes when it goes on is not used."""
    fill(lab, 60)
    runs = len(lab.fresh().runs())
    with cluster(tmp_path / "dask") as found:
        on(lab, found)
        with lab.process():
            until(lambda: len(lab.runs()) > 5, 60)
            stopped = found.workers[0]
            os.kill(stopped.pid, 19)
            until(lambda: len(lab.runs()) == runs, 120, "for the other one to do it all")
            os.kill(stopped.pid, 18)
            (lab.raw / "late.csv").write_bytes(instrument.iv(77, start=1758018821.0).data())
            until(lambda: any(run.source == b"late.csv" for run in lab.runs().values()), 60)
            lab.age()
            lab.wait_quiet()
    assert_as_on_one_machine(lab)


def test_a_scheduler_that_takes_calls_and_says_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up in time; with a fallback the work is done here."""
    fill(lab, 3)
    monkeypatch.setattr(dask_link, "CONNECT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = Cluster(tmp_path / "dask")
        silent.address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(EngineError, match="can't be reached: "):
            batch.run(on(lab, silent).config, "backfill")
        batch.run(on(lab, silent, fallback=Fallback.LOCAL).config, "backfill")
    assert_as_on_one_machine(lab)


def test_a_worker_without_the_program_lives_to_tell(lab: Lab, tmp_path: Path) -> None:
    fill(lab, 3)
    found = Cluster(tmp_path / "dask")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['nanolab_daemon'] = None\n")
    try:
        found.start_scheduler()
        lacking = found.start_worker(environment={"PYTHONPATH": str(site)})
        with on(lab, found).process():
            status = until(lambda: (s := lab.status()) and s["pools"][0]["unfit"] and s, 60, "for the verdict")
            assert "it can't load nanolab-daemon" in next(iter(status["pools"][0]["unfit"].values()))
            until(lambda: "nobody works" in (lab.home / "daemon.log").read_text(), 60, "for the silence to be told")
            health = report.status(lab.config, datetime.now(UTC)).health
            assert health.startswith("unwell: No worker of the stage pool is there")
            found.start_worker()
            until(lambda: len(lab.runs()) >= 3, 60)
            assert lacking.poll() is None
    finally:
        found.stop()


@pytest.mark.skipif(not hosts_rig.can_be(), reason="hosts are made by root, with iproute2")
@pytest.mark.parametrize("root", ["raw", "stage"])
def test_a_worker_that_loses_a_mount_is_not_believed(lab: Lab, tmp_path: Path, root: str) -> None:
    """What it does not find, and is there, is neither gone nor lost: another one does it, and this one is told of."""
    fill(lab, 240)
    runs = len(lab.fresh().runs())
    found = Cluster(tmp_path / "dask")
    try:
        found.start_scheduler()
        found.start_worker()
        bad = found.start_worker(within=("unshare", "-m", "--propagation", "private"))
        on(lab, found)
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(batch.run(lab.config, "backfill")))
        thread.start()
        until(lambda: (lab.state / FILE_NAME).exists() and len(lab.runs()) > 5, 60, "for the first runs")
        hide = ["nsenter", "-t", str(bad.pid), "-m", "mount", "-t", "tmpfs", "tmpfs", str(getattr(lab, root))]
        subprocess.run(hide, check=True)
        thread.join(120)
        assert ended
    finally:
        found.stop()
    assert ended[0].tally.outcomes["gone"] == 0
    assert len(lab.runs()) == runs
    assert_as_on_one_machine(lab)


def test_a_scheduler_that_comes_and_goes_costs_nothing(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a try in vain nor a scheduler that was lost leaves descriptors or threads behind."""
    monkeypatch.setattr(dask_link, "FORGOTTEN_S", 0.2)
    monkeypatch.setattr(dask_link, "FIRST_PAUSE_S", 0.05)
    pytest.importorskip("distributed")  # which brings its settings along
    monkeypatch.setitem(dask_config.get("distributed.comm.timeouts"), "connect", "1s")
    for root in (lab.stage, lab.output):
        root.mkdir()
        publish.make_temp_folder(root, "owner")
    used = lambda: (len(os.listdir("/proc/self/fd")), threading.active_count())  # noqa: E731
    found = Cluster(tmp_path / "dask")
    link = DaskLink(found.address, work_settings(lab.config, "owner"), PathMap(()))
    before = used()
    try:
        with pytest.raises(EngineError, match="can't be reached"):
            link.open()
        until(lambda: used() == before)
        found.start_scheduler()
        link = DaskLink(found.address, work_settings(lab.config, "owner"), PathMap(()))
        link.open()
        until(lambda: link.up)
        files, _ = used()
        for _ in range(2):
            lost = link._client
            assert lost is not None
            found.kill_scheduler()
            until(lambda: lost.status == "closed", 30, "for the client to give up")  # noqa: B023
            found.start_scheduler()
            until(lambda: link.up and not link.trouble, 30)
        # A connection comes and goes; what each loss left behind, two would show.
        until(lambda: used()[0] < files + 4, 30, "for files that are no longer used to be given back")
        names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
        until(lambda: names().count("dask answers") == names().count("dask loop") == 1, 30, "for threads")
    finally:
        link.stop()
        found.stop()
    until(lambda: used() <= before, 30, "for all to be given back")


_cluster: list[Cluster] = []


@pytest.fixture(scope="module", autouse=True)
def _for_the_folder(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    while _cluster:
        _cluster.pop().stop()


class FolderOnDask(Folder):
    """Random things happen to a raw folder whose files a cluster works off; workers are killed among them."""

    def start(self) -> None:
        if not _cluster:
            _cluster.append(Cluster(Path(tempfile.mkdtemp(prefix="nanolab-test-"))))
            _cluster[0].start_scheduler()
        _cluster[0].keep(2)
        on(self.lab, _cluster[0])
        super().start()


TestConvergesOnDask = machine(FolderOnDask)
