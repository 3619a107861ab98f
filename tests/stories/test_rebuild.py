"""Ledgers and outputs that are damaged, deleted or mixed with foreign files: told, mended, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import instrument
import outputs
import pytest
from click.testing import CliRunner
from lab import QUICK, Lab, assert_converged, inline_pools, toml, until

from nanolab_daemon import again, batch, published, verify
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.cli import cli
from nanolab_daemon.errors import EngineError
from nanolab_daemon.rebuild import rebuild


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nobody need processes; what they do is tested elsewhere."""
    from lab import InlinePool

    monkeypatch.setattr(published, "Pool", InlinePool)
    monkeypatch.setattr(verify, "Pool", InlinePool)
    with inline_pools():
        yield


LONG = pytest.mark.long


def full_lab(home: Path) -> Lab:
    """Make a laboratory in which every state occurs: copies, a lesser copy, rows left out, runs without a source."""
    lab = Lab(home)
    instrument.lab(lab.raw, 12)
    one = instrument.iv(30)
    one.write(lab.raw / "a copied.csv")
    one.write(lab.raw / "b copy.csv")
    instrument.ivg(31).first(9).write(lab.raw / "a lesser.csv")
    instrument.ivg(31).write(lab.raw / "the whole.csv")
    replace(instrument.it(32), start_time=None).write(lab.raw / "2025-09-09" / "undated.csv")
    replace(instrument.iv(33), start_time=None).write(lab.raw / "by its time.csv")
    (lab.raw / "no file of ours.csv").write_bytes(b"a,b\n1,2\n")
    (lab.raw / "queued.csv").write_bytes(instrument.iv(34).queued())
    (lab.raw / "bad row.csv").write_bytes(instrument.iv(35).data() + b"x,y\r\n")
    (lab.raw / "bad row, allowed.csv").write_bytes(instrument.iv(36).data() + b"x,y\r\n")
    Path(os.fsdecode(os.path.join(os.fsencode(lab.raw), b"caf\xe9\n\\x.csv"))).write_bytes(instrument.iv(37).data())
    instrument.iv(38).write(lab.raw / "gone.csv")
    instrument.ivg(39).write(lab.raw / "gone too.csv")
    lab.age()
    lab.backfill()
    jobs = again.choose(lab.config, (str(lab.raw / "bad row, allowed.csv"),), skip_bad_rows=True).jobs
    batch.run(lab.config, "retry", jobs=jobs)
    for name in ("gone.csv", "gone too.csv"):
        (lab.raw / name).unlink()
    lab.backfill()
    assert not verify.verify(lab.config).problems
    return lab


def lose_ledger(lab: Lab) -> None:
    for path in lab.state.glob("ledger*"):
        path.unlink()


def told(lab: Lab) -> dict[str, object]:
    """Give all that the ledger says of its runs, but for when and how often."""
    return {
        run_id: replace(
            run, revision=0, staged_at=0.0, segmented_at=None, source=b"" if "IV" in run_id else run.source
        )
        for run_id, run in lab.runs().items()
    }


def marks(lab: Lab) -> dict[str, tuple[int, int]]:
    """Tell of each published file whether it is the very one that it was."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for root in (lab.stage, lab.output)
        for path in root.glob("*=*/**/*.parquet" if root == lab.stage else "*_segments/**/*.parquet")
    }


def test_a_lost_ledger_is_rebuilt(tmp_path: Path) -> None:
    """The new ledger tells what the old one told, no published file is written again, and nothing is left to do."""
    lab = full_lab(tmp_path)
    runs, files, there = told(lab), lab.files(), marks(lab)
    snapshot = lab.snapshot()
    lose_ledger(lab)
    made = rebuild(lab.config)
    assert made.runs == len(runs)
    assert not made.passed_over
    assert lab.files() == files
    assert told(lab) == runs
    assert marks(lab) == there
    manifests = {path: frame for path, frame in lab.snapshot().items() if "_manifest" in path}
    before = {path: frame for path, frame in snapshot.items() if "_manifest" in path}
    outputs.assert_equal(manifests, before, ignoring=outputs.TIMES)
    assert not verify.verify(lab.config).problems
    again = lab.backfill()
    assert again.tally.staged_done == again.tally.segmented_done == 0


def test_a_backfill_without_its_ledger_adopts(tmp_path: Path) -> None:
    """A backfill alone converges too, and leaves alone what is right; runs without a raw file are named by verify."""
    lab = full_lab(tmp_path)
    gone = {run_id for run_id, run in lab.runs().items() if run.source_missing}
    allowed = {run.run_id for run in lab.runs().values() if run.facts.bad_rows_skipped}
    there = marks(lab)
    lose_ledger(lab)
    lab.backfill()
    now = marks(lab)
    assert {path for path, mark in there.items() if now[path] != mark} <= {
        path for path in there if "proc=IVg" in path or any(r in path for r in allowed)
    }  # a lesser copy, met first, may have taken a place for a moment
    problems = verify.verify(lab.config).problems
    assert {one.kind for one in problems} == {"stale"}
    assert {one.path.partition("run_id=")[2][:16] for one in problems} == gone | allowed
    assert all("--rebuild" in one.remedy for one in problems)
    made = rebuild(lab.config)
    assert made.old_ledger is not None
    assert made.old_ledger.exists()
    assert not verify.verify(lab.config).problems
    assert {run_id for run_id, run in lab.runs().items() if run.source_missing} == gone


def garbage(path: Path) -> None:
    chance = random.Random(1)
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 512):
        data[at : at + 128] = chance.randbytes(128)
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(random.Random(1).randbytes(50_000)),
    "garbage inside": garbage,
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096),
    "cut within a page": lambda path: os.truncate(path, path.stat().st_size - 5000),
}


@pytest.mark.parametrize("damage", [d if "in" in d else pytest.param(d, marks=LONG) for d in DAMAGES])
def test_a_damaged_ledger_is_told_and_rebuilt(tmp_path: Path, damage: str) -> None:
    """Engine, daemon, `verify` and `status` say that the ledger is damaged and what mends it; that does mend it."""
    lab = full_lab(tmp_path)
    runs, files, there = told(lab), lab.files(), marks(lab)
    DAMAGES[damage](lab.state / FILE_NAME)
    with pytest.raises(EngineError) as caught:
        lab.backfill()
    assert "verify --rebuild" in caught.value.advice
    with pytest.raises(EngineError, match="ledger"), lab.daemon():
        pass
    file = tmp_path / "config.toml"
    file.write_text(toml(lab.config))
    for command in ("verify", "status", "rejects", "run", "backfill"):
        result = CliRunner().invoke(cli, [command, "--config", str(file)])
        assert isinstance(result.exception, EngineError), (command, result.output, result.exception)
    rebuild(lab.config)
    assert lab.files() == files
    assert told(lab) == runs
    assert marks(lab) == there
    assert not verify.verify(lab.config).problems


@pytest.mark.parametrize(
    "damage", ["garbage", "cut", pytest.param("empty", marks=LONG), pytest.param("away", marks=LONG)]
)
def test_a_damaged_journal_costs_what_it_held(tmp_path: Path, damage: str) -> None:
    """What is only in the journal of a killed engine may be lost with it; the next pass finds it again."""
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 4)
    lab.age()
    lab.backfill()
    instrument.lab(lab.raw, 9)
    (lab.raw / "2025-09-04" / "IV2025-09-04_0.csv").write_bytes(instrument.iv(0).first(30).data())
    lab.age()
    with lab.daemon():
        lab.wait_quiet()
        for path in lab.state.glob("ledger*"):
            shutil.copy(path, tmp_path / path.name)
    for path in lab.state.glob("ledger*"):
        path.unlink()
    for path in tmp_path.glob("ledger*"):
        shutil.copy(path, lab.state / path.name)
    journal = lab.state / f"{FILE_NAME}-wal"
    match damage:
        case "garbage":
            journal.write_bytes(random.Random(2).randbytes(journal.stat().st_size))
        case "cut":
            os.truncate(journal, journal.stat().st_size // 2 + 7)
        case "empty":
            os.truncate(journal, 0)
        case _:
            journal.unlink()
    lab.backfill()
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


def test_an_empty_ledger_is_a_lost_one(tmp_path: Path) -> None:
    """A ledger of no bytes is begun anew, and what is published is adopted."""
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 6)
    lab.age()
    lab.backfill()
    there = marks(lab)
    os.truncate(lab.state / FILE_NAME, 0)
    lab.backfill()
    assert marks(lab) == there
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


def test_a_newer_ledger_is_never_replaced(tmp_path: Path) -> None:
    """The ledger of a newer program is refused by engine, daemon and rebuild, with the advice to upgrade."""
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 3)
    lab.backfill()
    db = sqlite3.connect(lab.state / FILE_NAME)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (lab.state / FILE_NAME).read_bytes()
    for attempt in (lab.backfill, lambda: rebuild(lab.config), lambda: verify.verify(lab.config)):
        with pytest.raises(EngineError) as caught:
            attempt()
        assert "Upgrade" in caught.value.advice
    assert (lab.state / FILE_NAME).read_bytes() == before


def test_rebuilding_proves_each_file(tmp_path: Path) -> None:
    """Outputs that were damaged while there was no ledger are found out against the raw files and made again."""
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 9)
    lab.age()
    lab.backfill()
    whole = lab.snapshot()
    staged = sorted(lab.stage.glob("proc=*/**/*.parquet"))
    staged[0].unlink()
    os.truncate(staged[1], 100)
    other = staged[2].read_bytes()
    staged[3].write_bytes(other)  # a whole file, but of another run
    segments = sorted(lab.output.glob("*/**/*.parquet"))
    segments[0].unlink()
    segments[-1].write_bytes(segments[1].read_bytes())
    lose_ledger(lab)
    rebuild(lab.config)
    assert {one.kind for one in verify.verify(lab.config).problems} == {"set_aside"}  # nobody knows whose it was
    for root in (lab.stage, lab.output):
        shutil.rmtree(root / "_set_aside", ignore_errors=True)
    outputs.assert_equal(lab.snapshot(), whole, ignoring=outputs.TIMES)
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


# -- outputs changed by hand -----------------------------------------------------------------------------------------


def a_run(lab: Lab, proc: str = "IVg") -> Path:
    return sorted(lab.stage.glob(f"proc={proc}/date=*/run_id=*"))[0]


def its_segments(lab: Lab) -> Path:
    return sorted(lab.output.glob("ivg_segments/proc=IVg/date=*/run_id=*"))[0]


HANDS: dict[str, Callable[[Lab], object]] = {
    "a run's folder": lambda lab: shutil.rmtree(a_run(lab)),
    "a run's file": lambda lab: (a_run(lab) / "part-000.parquet").unlink(),
    "half a file": lambda lab: os.truncate(a_run(lab) / "part-000.parquet", 500),
    "a segment": lambda lab: shutil.rmtree(its_segments(lab) / "segment=1"),
    "all segments of a run": lambda lab: shutil.rmtree(its_segments(lab)),
    "the manifest": lambda lab: shutil.rmtree(lab.stage / "_manifest"),
    "an old manifest": lambda lab: (lab.stage / "_manifest/manifest.parquet").write_bytes(
        (a_run(lab) / "part-000.parquet").read_bytes()
    ),
    "the whole stage folder": lambda lab: shutil.rmtree(lab.stage),
    "both": lambda lab: (shutil.rmtree(lab.stage), shutil.rmtree(lab.output)),
}


BESIDE = ("a segment", "the manifest", "both")


@pytest.mark.parametrize(
    ("hand", "running"),
    [pytest.param(hand, False, id=f"{hand}, alone") for hand in HANDS]
    + [
        pytest.param(hand, True, id=f"{hand}, beside a daemon", marks=[] if hand in BESIDE else LONG)
        for hand in HANDS
    ],
)
def test_outputs_deleted_by_hand(tmp_path: Path, hand: str, running: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` lists what is missing and names the one command that mends it; it does, beside a daemon too."""
    monkeypatch.setattr(verify, "LOOK_AGAIN_AFTER_S", 0.05)
    lab = Lab(tmp_path, watch=replace(QUICK, rescan_s=600.0))
    instrument.lab(lab.raw, 9)
    lab.age()
    lab.backfill()
    whole = lab.snapshot()
    file = tmp_path / "config.toml"
    file.write_text(toml(lab.config))

    def command(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, [*words, "--config", str(file)], standalone_mode=False)
        assert result.exception is None, result.exception
        return int(result.return_value), result.output

    @contextmanager
    def perhaps() -> Iterator[None]:
        if running:
            with lab.daemon():
                lab.wait_quiet()
                yield
        else:
            yield

    with perhaps():
        HANDS[hand](lab)
        if hand in ("the whole stage folder", "both") and running:
            lab.stage.mkdir()
            lab.output.mkdir(exist_ok=True)
        code, said = command("verify")
        assert code == 1, said
        assert f"`nanolab-daemon verify --config {lab.home / 'config.toml'} --repair`" in said
        code, said = command("verify", "--repair")
        if running:
            lab.wait_quiet()
            code, said = command("verify")
        assert code == 0, said
    outputs.assert_equal(lab.snapshot(), whole, ignoring=outputs.TIMES)


def test_mending_keeps_the_rows_left_out(tmp_path: Path) -> None:
    """A run that was staged without its bad rows, as was asked, is mended so, not rejected."""
    lab = Lab(tmp_path)
    (lab.raw / "bad.csv").write_bytes(instrument.iv(1).data() + b"x,y\r\n")
    lab.backfill()
    assert lab.state_of("bad.csv") == "rejected"
    batch.run(lab.config, "retry", jobs=again.choose(lab.config, (), skip_bad_rows=True).jobs)
    assert lab.state_of("bad.csv") == "segmented"
    whole = lab.snapshot()
    shutil.rmtree(lab.stage / "proc=IV")
    found = verify.verify(lab.config)
    assert found.problems
    batch.run(lab.config, "verify --repair", jobs=verify.to_repair(lab.config, found))
    outputs.assert_equal(lab.snapshot(), whole, ignoring=outputs.TIMES)
    assert not verify.verify(lab.config).problems


# -- foreign files among the outputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "running"),
    [
        pytest.param(False, False, id="new, backfill", marks=LONG),
        pytest.param(True, False, id="republished, backfill", marks=LONG),
        pytest.param(True, True, id="republished, daemon"),
        pytest.param(False, True, id="new, daemon", marks=LONG),
    ],
)
@pytest.mark.parametrize(
    "what",
    ["beside", "proc is a file", "date is a file", "run is a file", "run is a link", "run is a folder", "in the run",
     "part is theirs"],
)  # fmt: skip
def test_a_foreign_file_is_never_destroyed(tmp_path: Path, what: str, running: bool, known: bool) -> None:
    """Whatever lies where a run is to be is kept, beside or aside, and named by `verify`; the run is published."""
    lab = Lab(tmp_path)
    one = instrument.ivg(1)
    one.first(20).write(lab.raw / "one.csv")
    lab.age()
    reference = lab.fresh()
    targets = [
        (root, path) for root in ("stage", "output") for path in [*getattr(reference, root).glob("**/run_id=*")]
    ]
    if known:
        lab.backfill()
    keep: list[bytes] = []
    for number, (root, path) in enumerate(targets):
        target = getattr(lab, root) / path.relative_to(getattr(reference, root))
        contents = f"somebody's own {number}".encode()
        keep.append(contents)
        place = {
            "beside": target.parent.parent / "notes.txt",
            "proc is a file": target.parent.parent,
            "date is a file": target.parent,
            "run is a file": target,
            "run is a link": target,
            "run is a folder": target / "notes.txt",
            "in the run": target / "deep" / "er" / "notes.txt",
            "part is theirs": target / ("part-000.parquet" if root == "stage" else "segment=0/part-000.parquet"),
        }[what]
        if what.endswith("file") or what.endswith("link") or what == "part is theirs":
            (shutil.rmtree if place.is_dir() else Path.unlink)(place) if place.exists() else None
        place.parent.mkdir(parents=True, exist_ok=True)
        if what == "run is a link":
            (tmp_path / f"theirs {number}").write_bytes(contents)
            place.symlink_to(tmp_path / f"theirs {number}")
        else:
            place.write_bytes(contents)
    one.write(lab.raw / "one.csv")
    if running:
        with lab.daemon():
            until(lambda: [run.facts.rows for run in lab.runs().values()] == [len(one.rows)])
            lab.wait_quiet()
    else:
        lab.age()
        lab.backfill()
    found = {path.read_bytes() for root in (lab.stage, lab.output) for path in root.rglob("*") if path.is_file()} | {
        path.read_bytes() for path in tmp_path.glob("theirs*")
    }
    if not (what == "part is theirs" and known):  # that is a damaged file of ours, as far as anybody can know
        assert set(keep) <= found
        problems = verify.verify(lab.config).problems
        assert problems
        assert {one.kind for one in problems} <= {"foreign", "set_aside", "stale"}
        strange = {os.path.realpath(path) for root in (lab.stage, lab.output) for path in root.rglob("*")
                   if path.is_file() and path.read_bytes() in keep}  # fmt: skip
        assert {os.path.realpath(one.path) for one in problems} == strange
        for one_problem in problems:
            Path(one_problem.path).unlink()
    for root in (lab.stage, lab.output):
        for path in sorted(root.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    assert not verify.verify(lab.config).problems
    assert_converged(lab)


def test_the_ledger_is_whole_after_each_story(tmp_path: Path) -> None:
    """A ledger that was rebuilt is opened by everybody as any other."""
    lab = Lab(tmp_path)
    rebuild(lab.config)
    instrument.lab(lab.raw, 3)
    lab.backfill()
    rebuild(lab.config)
    catalog = Catalog.open(lab.state / FILE_NAME)
    assert len(list(catalog.runs())) == 3
    catalog.close()
