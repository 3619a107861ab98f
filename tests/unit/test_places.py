"""Which parts a raw folder has, and how each is watched; the mount table is a parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolab_daemon.mounts import Mount
from nanolab_daemon.places import below, place_of, survey
from nanolab_daemon.sections import WatchMode


def table(raw: Path, *more: tuple[str, str]) -> list[Mount]:
    """Make a mount table: the root file system, and mounts below raw, each with its kind."""
    found = [Mount(1, 0, "8:1", Path("/"), "ext4", "/dev/sda1")]
    for number, (name, kind) in enumerate(more, 2):
        found.append(Mount(number, 1, f"0:{number}", raw / name, kind, f"//pc/{name}"))
    return found


def modes(raw: Path, mounts: list[Mount], mode: WatchMode = WatchMode.AUTO, **more: object) -> dict[bytes, str]:
    options: dict[str, object] = {"known": [], "hears": lambda _: True, "deaf": {}, **more}
    places = survey(raw, mode, table=mounts, **options)  # type: ignore[arg-type]
    return {path: f"gone: {place.gone}" if place.gone else str(place.mode) for path, place in places.items()}


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "vboxsf", "virtiofs", "afs"])
def test_each_share_is_judged_by_its_own_kind(tmp_path: Path, kind: str) -> None:
    """Below a local raw folder, a share of any remote kind is scanned, while its neighbours are watched."""
    mounts = table(tmp_path, ("pc1", kind), ("pc2", "xfs"))
    assert modes(tmp_path, mounts) == {b"": "events", b"pc1": "scan", b"pc2": "events"}


def test_the_configuration_decides_where_it_speaks(tmp_path: Path) -> None:
    """Modes other than auto hold for every part."""
    mounts = table(tmp_path, ("pc1", "cifs"))
    assert set(modes(tmp_path, mounts, WatchMode.EVENTS).values()) == {"events"}
    assert set(modes(tmp_path, mounts, WatchMode.SCAN).values()) == {"scan"}


def test_silence_and_deafness_lead_to_scans(tmp_path: Path) -> None:
    """A part from which no event came when it was tried, or in practice, is scanned, and says why."""
    mounts = table(tmp_path, ("pc1", "odd"), ("pc2", "ext4"))
    found = modes(tmp_path, mounts, hears=lambda folder: folder != tmp_path / "pc1", deaf={b"pc2": "3 files came"})
    assert found == {b"": "events", b"pc1": "scan", b"pc2": "scan"}


def test_what_was_mounted_and_is_not(tmp_path: Path) -> None:
    """A share that was there is gone, not empty, whether or not its folder has gone with it."""
    (tmp_path / "pc1").mkdir()
    known = [(b"", "/", "ext4"), (b"pc1", str(tmp_path / "pc1"), "cifs"), (b"pc9", str(tmp_path / "pc9"), "cifs")]
    found = modes(tmp_path, table(tmp_path), known=known)
    assert found == {
        b"": "events",
        b"pc1": f"gone: {tmp_path}/pc1 (cifs) is not mounted",
        b"pc9": f"gone: {tmp_path}/pc9 (cifs) is not mounted",
    }


def test_raw_itself_was_a_share(tmp_path: Path) -> None:
    """A raw folder that was on a mount of its own and is on the machine's disk now is not what it was."""
    found = modes(tmp_path, table(tmp_path), known=[(b"", str(tmp_path), "nfs4")])
    assert found[b""].startswith("gone")
    back = [*table(tmp_path), Mount(9, 1, "0:9", tmp_path, "nfs4", "nas:/lab")]
    assert modes(tmp_path, back, known=[(b"", str(tmp_path), "nfs4")]) == {b"": "scan"}
    moved_onto_a_share = modes(tmp_path, back, known=[(b"", "/", "ext4")])
    assert moved_onto_a_share == {b"": "scan"}


def test_a_file_lies_on_the_deepest_part_above_it() -> None:
    """Parts are told apart by whole names of folders."""
    parts = [b"", b"pc1", b"pc1/deep", b"pc10"]
    assert place_of(parts, b"pc1/a.csv") == b"pc1"
    assert place_of(parts, b"pc10/a.csv") == b"pc10"
    assert place_of(parts, b"pc1/deep/a.csv") == b"pc1/deep"
    assert place_of(parts, b"pc2/a.csv") == b""
    assert below(parts, b"pc1") == {b"pc1/deep"}
    assert below(parts, b"") == {b"pc1", b"pc1/deep", b"pc10"}
