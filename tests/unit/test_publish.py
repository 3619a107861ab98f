"""Publication: whole or not at all, one winner, no reader ever disappointed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanolab_daemon import publish
from nanolab_daemon.errors import EngineError
from nanolab_daemon.tasks import words_of


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    return publish.make_temp_folder(tmp_path / "root", "me")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "root" / "proc=IV" / "date=2025-09-04" / "run_id=1"


def contents(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_bundle_is_placed_once(temp: Path, target: Path) -> None:
    """A bundle goes to a free place, makes the folders on the way, and never goes over what is published."""
    files = {"part-000.parquet": b"one", "segment=0/part-000.parquet": b"zero"}
    assert publish.place(publish.write_bundle(temp, files), target)
    late = publish.write_bundle(temp, {"part-000.parquet": b"two"})
    assert not publish.place(late, target)
    assert contents(target) == files
    assert late.is_dir()


def test_bundle_that_is_gone_is_an_error(temp: Path, target: Path) -> None:
    """A bundle that somebody took away is reported; nobody tries for ever."""
    with pytest.raises(FileNotFoundError):
        publish.place(temp / "none", target)


def test_one_of_two_racers_wins(temp: Path, target: Path) -> None:
    """Of many bundles that race for one place exactly one gets there, whole."""
    for turn in range(20):
        place = target.with_name(f"run_id={turn}")
        bundles = [publish.write_bundle(temp, {"a": bytes([n]), "b": bytes([n])}) for n in range(4)]
        start = threading.Barrier(len(bundles))
        won: list[int] = []

        def race(n: int, bundle: Path, place: Path = place, start: threading.Barrier = start) -> None:
            start.wait()
            if publish.place(bundle, place):
                won.append(n)  # noqa: B023 -- joined below, before the next turn

        threads = [threading.Thread(target=race, args=(n, bundle)) for n, bundle in enumerate(bundles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert contents(place) == {"a": bytes(won), "b": bytes(won)}


@contextmanager
def reader_of(path: Path, allowed: set[bytes]) -> Iterator[list[object]]:
    """Read a file over and over; collect whatever was not as it should be."""
    found: list[object] = []
    stop = threading.Event()
    first = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen = path.read_bytes()
            except OSError as error:
                found.append(error)
            else:
                if seen not in allowed:
                    found.append(seen[:20])
            first.set()

    thread = threading.Thread(target=read)
    thread.start()
    first.wait()
    yield found
    stop.set()
    thread.join()


def test_readers_never_see_less_than_a_whole(temp: Path, target: Path) -> None:
    """While a run is replaced again and again, a reader of its path always finds a complete file."""
    versions = [bytes([n]) * 100_000 for n in range(5)]
    publish.place(publish.write_bundle(temp, {"part": versions[0]}), target)
    with reader_of(target / "part", set(versions)) as wrong:
        for n in range(300):
            publish.replace(publish.write_bundle(temp, {"part": versions[n % 5]}), target)
    assert wrong == []
    assert not list(temp.iterdir())


def test_no_file_of_the_old_one_is_left(temp: Path, target: Path) -> None:
    """What replaces a run replaces all of it."""
    publish.replace(publish.write_bundle(temp, {"segment=0/p": b"0", "segment=1/p": b"1"}), target)
    publish.replace(publish.write_bundle(temp, {"segment=0/p": b"2"}), target)
    assert contents(target) == {"segment=0/p": b"2"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_without_exchange_it_is_replaced_all_the_same(
    temp: Path, target: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system can't exchange names, two renames do."""
    publish.place(publish.write_bundle(temp, {"p": b"1"}), target)

    def refuse(one: Path, _: Path) -> None:
        raise OSError(code, os.strerror(code), str(one))

    monkeypatch.setattr(publish, "_exchange", refuse)
    publish.replace(publish.write_bundle(temp, {"p": b"2"}), target)
    assert contents(target) == {"p": b"2"}
    assert not list(temp.iterdir())


def test_withdrawn_run_leaves_no_empty_folder(temp: Path, target: Path) -> None:
    """A run that is taken away takes its empty partitions with it, and no others."""
    other = target.parents[1] / "date=2025-09-05" / "run_id=2"
    for place in (target, other):
        publish.place(publish.write_bundle(temp, {"p": b"1"}), place)
    publish.withdraw(target, temp)
    publish.withdraw(target, temp)  # that it is gone already is no error
    assert not target.parent.exists()
    assert contents(other) == {"p": b"1"}
    publish.withdraw(other, temp)
    assert not other.parents[1].exists()


def test_withdrawing_goes_on_where_a_crash_has_cut_it_short(temp: Path, target: Path) -> None:
    """Partitions whose last run was just taken away go with the next try."""
    target.parent.mkdir(parents=True)
    publish.withdraw(target, temp)
    assert not target.parents[1].exists()
    assert temp.exists()


def test_notes_survive_a_start_and_a_torn_one_harms_nobody(
    temp: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is announced stays known as long as its note; half a line, or what is no run, names nothing."""
    run = target.with_name("run_id=0123456789abcdef")
    bundle, other = (publish.write_bundle(temp, {"p": b"1"}) for _ in range(2))
    root = temp.parents[1]
    run.parent.mkdir(parents=True)
    monkeypatch.setattr(publish, "_announced", 0)
    note = temp / f"announced-{publish._me}-0"
    note.write_text(f"{run.parent.stat().st_ino} {run.parent.relative_to(root)}\n7")
    publish.announce(temp, [(bundle, str(run.relative_to(root)))])
    publish.place(bundle, run)
    for _ in range(2):
        publish.make_temp_folder(root, "me")
        assert publish.notes(root, "me") == [note]
        assert publish.announced(root, note) == [str(run.relative_to(root))]
    assert not other.exists()


def test_notes_are_of_a_size(temp: Path) -> None:
    """A long load leaves many notes, none of which takes long to work off."""
    bundle = publish.write_bundle(temp, {"p": b"1"})
    moves = [(bundle, f"proc=IV/date=2025-09-04/run_id={number:016x}") for number in range(32)]
    for _ in range(40):
        publish.announce(temp, moves)
    notes = publish.notes(temp.parents[1], "me")
    lines = [note.read_text().count("run_id=") for note in notes]
    assert sum(lines) == 40 * 32
    assert max(lines) <= publish.MOVES_A_NOTE + 32


def test_failed_write_leaves_no_bundle(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that could not be written whole gives its room back."""
    real = os.write
    calls = 0

    def full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        publish.write_bundle(temp, {"a": b"1", "b": b"2"})
    assert not list(temp.iterdir())


def test_short_writes_are_completed(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part is followed by others until all is written."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    bundle = publish.write_bundle(temp, {"a": b"0123456789"})
    assert (bundle / "a").read_bytes() == b"0123456789"


def test_sync_tells_of_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the kernel met while writing back is raised, not swallowed."""
    publish.sync(tmp_path)

    class Libc:
        @staticmethod
        def syncfs(_: int) -> int:
            publish.ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(publish, "_libc", Libc)
    with pytest.raises(OSError, match="Input/output error") as caught:
        publish.sync(tmp_path)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(tmp_path)


def test_temporary_folder_begins_empty_and_goes(tmp_path: Path) -> None:
    """What an earlier life left half made is cleared away; other engines' folders stay."""
    mine = publish.make_temp_folder(tmp_path, "me")
    publish.write_bundle(mine, {"a": b"1"})
    publish.make_temp_folder(tmp_path, "you")
    assert not list(publish.make_temp_folder(tmp_path, "me").iterdir())
    publish.remove_temp_folder(tmp_path, "me")
    assert [path.name for path in (tmp_path / publish.TEMP_FOLDER).iterdir()] == ["you"]
    publish.remove_temp_folder(tmp_path, "you")
    assert not list(tmp_path.iterdir())


def test_output_root_that_can_not_be_made(tmp_path: Path) -> None:
    """A root that can't be written stops the program with a word of advice."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EngineError, match="can't be written"):
        publish.make_temp_folder(tmp_path / "file", "me")


def ours(name: str = "part-000.parquet") -> dict[str, bytes]:
    """Give a file with the end of one of our Parquet files."""
    note = b"...nanolab.run_id..."
    return {name: b"PAR1 rows " + note + len(note).to_bytes(4, "little") + b"PAR1"}


@pytest.mark.parametrize("known", [True, False])
def test_replacing_leaves_nothing_of_ours(temp: Path, target: Path, known: bool) -> None:
    """An old run goes when a new one takes its place, whether the ledger knew of it or not."""
    publish.place(publish.write_bundle(temp, ours()), target)
    new = {"part-000.parquet": b"new"}
    assert publish.replace(publish.write_bundle(temp, new), target, known=known) is None
    assert contents(target) == new
    assert not list(temp.iterdir())


def test_replacing_keeps_what_is_not_ours(temp: Path, target: Path) -> None:
    """Of a folder that is replaced, foreign files are set aside under their own names, ours are removed."""
    old = ours() | ours("segment=3/part-000.parquet") | {"notes.txt": b"mine", "segment=3/more.txt": b"mine too"}
    publish.place(publish.write_bundle(temp, old), target)
    aside = publish.replace(publish.write_bundle(temp, {"part-000.parquet": b"new"}), target)
    assert aside is not None
    assert aside.is_relative_to(temp.parents[1] / publish.SET_ASIDE)
    assert contents(aside) == {"notes.txt": b"mine", "segment=3/more.txt": b"mine too"}
    assert contents(target) == {"part-000.parquet": b"new"}


@pytest.mark.parametrize("theirs", [b"", b"PAR1", b"no Parquet", b"PAR1...\xff\xff\xff\xffPAR1", b"x" * 100])
def test_a_file_under_our_name_may_be_anybodys(temp: Path, target: Path, theirs: bytes) -> None:
    """Where the ledger knows of no run, a file counts as ours by what is in it, not by its name."""
    publish.place(publish.write_bundle(temp, {"part-000.parquet": theirs}), target)
    aside = publish.replace(publish.write_bundle(temp, {"part-000.parquet": b"new"}), target, known=False)
    assert aside is not None
    assert contents(aside) == {"part-000.parquet": theirs}


def test_withdrawing_keeps_what_is_not_ours(temp: Path, target: Path) -> None:
    """A run that is taken away leaves the foreign files of its folder."""
    publish.place(publish.write_bundle(temp, ours() | {"notes.txt": b"mine"}), target)
    publish.withdraw(target, temp)
    assert not target.exists()
    (kept,) = (path for path in (temp.parents[1] / publish.SET_ASIDE).rglob("*") if path.is_file())
    assert kept.read_bytes() == b"mine"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_way_is_cleared(temp: Path, target: Path, depth: int) -> None:
    """A file where a folder is to be is set aside, not removed."""
    root = temp.parents[1]
    obstacle = (target, *target.parents)[depth]
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_bytes(b"mine")
    bundle = publish.write_bundle(temp, ours())
    with pytest.raises((NotADirectoryError, FileExistsError)):
        publish.place(bundle, target)
    aside = publish.clear_the_way(root, target)
    assert aside is not None
    assert aside.read_bytes() == b"mine"
    assert publish.clear_the_way(root, target) is None
    assert publish.place(bundle, target)


def test_trying_to_write_leaves_nothing(temp: Path) -> None:
    """A try is a real write, and leaves no trace; another disk in the place of ours is not written on."""
    root = temp.parents[1]
    publish.try_to_write(root, "me", root.stat().st_dev)
    assert not list(temp.iterdir())
    with pytest.raises(OSError, match="another disk"):
        publish.try_to_write(root, "me", root.stat().st_dev + 1)


def test_trying_for_room_leaves_nothing(tmp_path: Path) -> None:
    """Nothing lies there meanwhile either, and a folder that is not there or can't be tried is nobody's full disk."""
    publish.try_for_room(tmp_path)
    assert not list(tmp_path.iterdir())
    publish.try_for_room(tmp_path / "none")
    publish.try_for_room(Path("/proc"))


@pytest.mark.parametrize(
    ("below", "words"),
    [
        ("proc=IV/date=2025-09-04/run_id=0123456789abcdef", "(proc=IV/date=2025-09-04/run_id=0123456789abcdef)"),
        ("proc=IV/date=2025-09-04/run_id=0123456789abcdef/part-000.parquet", "run_id=0123456789abcdef)"),
        (".nanolab-tmp/me/12-3/part-000.parquet", "Permission denied"),
        ("", "Permission denied"),
    ],
)
def test_a_fault_names_the_folder_below(tmp_path: Path, below: str, words: str) -> None:
    """Where something further down is at fault than the root, that is told; the program's own names are not."""
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / below))
    assert words_of(error, tmp_path).endswith(words)
    assert words_of(OSError("odd"), tmp_path) == "odd"
