"""Scan: which files count, in whatever folder and under whatever name, and what could not be looked at."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.rawfile import fingerprint
from nanolab_daemon.scan import Listing, name_test, walk

CSV = name_test(["*.csv"], [])


def files(root: Path, start: bytes = b"") -> list[bytes]:
    return [path for listing in walk(os.fsencode(root), CSV, start) for path in sorted(listing.files)]


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        (b"a.csv", True),
        (b"2025/09/04/deep/er/a.csv", True),
        (b"a b \xc3\xa4.csv", True),
        (b"caf\xe9.csv", True),
        (b"line\nend.csv", True),
        (b".csv", False),
        (b".a.csv", False),
        (b"._a.csv", False),
        (b".~a.csv", False),
        (b"~a.csv", False),
        (b"~$a.csv", False),
        (b"a.csv.tmp", False),
        (b"a.csv.part", False),
        (b"a.tmp", False),
        (b".syncthing.a.csv.tmp", False),
        (b".stfolder/a.csv", False),
        (b".sync/a.csv", False),
        (b".hidden/a.csv", False),
        (b"a.txt", False),
        (b"a.csv.bak", False),
        (b"acsv", False),
    ],
)
def test_which_names_count(tmp_path: Path, path: bytes, counts: bool) -> None:
    """Files named *.csv count in any depth; hidden, temporary and sync tools' own do not. The walk agrees."""
    assert CSV(path) is counts
    file = os.path.join(os.fsencode(tmp_path), path)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "wb"):
        pass
    assert files(tmp_path) == ([path] if counts else [])


@pytest.mark.parametrize(
    ("include", "exclude", "path", "counts"),
    [
        (["*.dat"], [], b"a.dat", True),
        (["*.csv"], ["test_*"], b"x/test_1.csv", False),
        (["*.csv"], ["old/*"], b"old/a.csv", False),
        (["*.csv"], ["old/*"], b"new/a.csv", True),
        (["IV*.csv", "It*.csv"], [], b"d/It_1.csv", True),
        (["IV*.csv", "It*.csv"], [], b"d/Pt_1.csv", False),
    ],
)
def test_patterns(include: list[str], exclude: list[str], path: bytes, counts: bool) -> None:
    """Patterns are held against the name, or the whole path if they have a slash; exclusion wins."""
    assert name_test(include, exclude)(path) is counts


def test_only_regular_files_not_through_links(tmp_path: Path) -> None:
    """Links, pipes and folders with such a name are no instrument files; a linked folder is not entered."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "b.csv").touch()
    (tmp_path / "link.csv").symlink_to("real/a.csv")
    (tmp_path / "dangling.csv").symlink_to("none")
    (tmp_path / "linked").symlink_to("real")
    os.mkfifo(tmp_path / "pipe.csv")
    assert files(tmp_path) == [b"folder.csv/b.csv", b"real/a.csv"]


def test_listing_gives_fingerprints(tmp_path: Path) -> None:
    """What a listing tells of a file is what stat(2) tells; nothing is opened."""
    (tmp_path / "a.csv").write_bytes(b"123")
    os.chmod(tmp_path / "a.csv", 0)
    (listing,) = walk(os.fsencode(tmp_path), CSV)
    assert listing.files == {b"a.csv": fingerprint((tmp_path / "a.csv").stat())}
    assert (listing.error, listing.unseen) == (None, frozenset())


def test_folder_that_can_not_be_listed_is_told(tmp_path: Path) -> None:
    """A folder that is gone is a listing with an error, so that nothing is concluded from it."""
    (listing,) = walk(os.fsencode(tmp_path / "none"), CSV)
    assert isinstance(listing.error, FileNotFoundError)


def test_walk_from_a_folder_below(tmp_path: Path) -> None:
    """A part of the tree is walked under the same paths as the whole."""
    for path in ("a/1.csv", "a/b/2.csv", "c/3.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert files(tmp_path, b"a") == [b"a/1.csv", b"a/b/2.csv"]
    found: list[Listing] = list(walk(os.fsencode(tmp_path), CSV))
    assert [listing.folder for listing in found] == [b"", b"a", b"a/b", b"c"]


def test_numbers_that_a_ledger_can_hold(tmp_path: Path) -> None:
    """Inode numbers of 64 bits and times far away become whole numbers of 63 bits and a sign; small ones stay."""
    status = (tmp_path / ".").stat()

    def with_(inode: int, mtime_ns: int) -> os.stat_result:
        parts = {"st_mtime_ns": mtime_ns, "st_ctime_ns": 1, "st_atime_ns": 1}
        return os.stat_result([*status[:1], inode, *status[2:10]], parts)

    mark = fingerprint(with_(2**64 - 5, 2**70))
    assert (mark.inode, mark.mtime_ns) == (-5, 2**63 - 1)
    assert fingerprint(with_(17, 5)).inode == 17


def test_shell_agrees(tmp_path: Path) -> None:
    """The walk finds what find(1) does."""
    for number in range(40):
        path = tmp_path / f"d{number % 7}" / f"e{number % 3}" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    told = subprocess.run(["find", ".", "-name", "*.csv"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert sorted(files(tmp_path)) == sorted(line[2:] for line in told.splitlines())


NAMES = st.text(st.sampled_from("IVa.~*_csvtmpart12\n"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
PATTERNS = st.lists(st.sampled_from(["*.csv", "IV*", "*_[12].*", "a?*", "*.CSV", "*~", "d/*.csv", "*"]), max_size=3)


@given(NAMES, st.sampled_from(["", "d/", ".d/"]), PATTERNS, PATTERNS)
def test_a_name_counts_as_its_patterns_say(name: str, folder: str, include: list[str], exclude: list[str]) -> None:
    """One that is wanted and not refused does, as a shell understands patterns; hidden ones never do."""

    def meets(patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(folder + name if "/" in one else name, one) for one in patterns)

    never = folder == ".d/" or name[0] in ".~" or name.endswith((".tmp", ".part"))
    counts = meets(include) and not meets(exclude) and not never
    assert name_test(include, exclude)(os.fsencode(folder + name)) == counts


def test_a_folder_named_like_a_file_that_can_not_be_looked_at_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't be listed, from which nothing follows; as an unseen file it would say that all in it are gone."""

    class Entry:
        name = "day.csv"

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            assert not follow_symlinks
            return True  # which the listing of the folder above tells

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext([Entry()]))
    above, below = walk(os.fsencode(tmp_path), CSV)
    assert (above.unseen, len(above)) == (frozenset(), 0)
    assert below.folder == b"day.csv"
    assert below.error is not None
