from __future__ import annotations

import os
import resource
from collections import namedtuple
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest

from nanolab_daemon import check as check_module
from nanolab_daemon import inotify, layout, mounts
from nanolab_daemon.check import Finding, Status, check, check_paths, worst
from nanolab_daemon.config import Config, Limits, Paths, Watch, WatchMode
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.publish import TEMP_FOLDER
from nanolab_daemon.trial import try_writing

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Config:
    """Give a laboratory on a roomy local disk, with the kernel's limits at their usual values."""
    for name in ("raw", "stage", "output", "state"):
        (tmp_path / name).mkdir()
    paths = Paths(
        raw=tmp_path / "raw", stage=tmp_path / "stage", output=tmp_path / "output", state=tmp_path / "state"
    )
    set_limits(monkeypatch, tmp_path, max_user_watches=65536, max_user_instances=128, max_queued_events=16384)
    set_mounts(monkeypatch, "1 0 8:1 / / rw - ext4 /dev/sda1 rw")
    return Config(paths=paths, limits=Limits(min_free_mb=0, min_free_percent=0))


def set_limits(monkeypatch, tmp_path: Path, **limits: int) -> None:
    folder = tmp_path / "proc"
    folder.mkdir(exist_ok=True)
    for name, value in limits.items():
        (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(inotify, "LIMITS", folder)
    monkeypatch.setattr(inotify, "NAMESPACE_WATCHES", folder / "none")


def set_mounts(monkeypatch, text: str) -> None:
    table = mounts.parse_mounts(text.encode())
    monkeypatch.setattr(mounts, "read_mounts", lambda: table)


def find(findings: list[Finding], name: str, status: Status | None = None) -> Finding:
    found = [one for one in findings if one.name == name and status in (None, one.status)]
    assert found, [(one.name, one.status) for one in findings]
    return found[0]


def test_a_sound_machine(lab):
    """On a sound machine everything is well, nothing is left behind, and raw is untouched."""
    before = {path: os.stat(path).st_mtime_ns for path in (lab.paths.raw,)}
    findings = check(lab, now=NOW)
    assert [one for one in findings if one.status is not Status.OK] == []
    assert worst(findings) is Status.OK
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    assert [list(root.iterdir()) for root in (lab.paths.stage, lab.paths.output, lab.paths.state)] == [[], [], []]
    names = {one.name for one in findings}
    assert {"raw", "stage replacement", "state file system", "output space", "time zone", "versions"} <= names


def test_findings_are_printable_lines(lab, tmp_path):
    """Each finding is one printable line, whatever the folders are called."""
    odd = tmp_path / "r\udce9\nw"
    findings = check(replace(lab, paths=replace(lab.paths, raw=odd)), now=NOW)
    assert all(one.detail.isprintable() and one.remedy.isprintable() for one in findings)
    assert "r\\xe9\\nw" in find(findings, "raw", Status.FAIL).detail


def test_what_is_wrong_has_a_remedy(lab, monkeypatch, tmp_path):
    """Nothing is complained of without saying what to do."""
    set_limits(monkeypatch, tmp_path, max_user_watches=0, max_queued_events=1)
    monkeypatch.setattr(inotify, "try_instance", lambda: "Too many open files")
    paths = replace(lab.paths, raw=tmp_path / "no", stage=Path("/proc/nanolab"), output=tmp_path / "proc/none/x")
    findings = check(
        replace(lab, paths=paths, limits=Limits(min_free_mb=1 << 30)), now=datetime(1970, 1, 1, tzinfo=UTC)
    )
    bad = [one for one in findings if one.status is not Status.OK]
    assert len(bad) > 6
    assert [one for one in bad if not one.remedy] == []


def test_raw_is_missing(lab):
    """A missing raw folder fails, and the remedy names the key and the flag."""
    lab.paths.raw.rmdir()
    findings = check(lab, now=NOW)
    assert "--raw-root" in find(findings, "raw", Status.FAIL).remedy
    assert "does not exist" in find(findings, "folders", Status.FAIL).detail


def test_outputs_are_made_later(lab):
    """A missing output folder is well if it can be made, and the check does not make it."""
    lab.paths.stage.rmdir()
    assert "first start" in find(check(lab, now=NOW), "stage", Status.OK).detail
    assert not lab.paths.stage.exists()


def test_outputs_that_cannot_be_made(lab):
    """A folder that can't be made fails before the daemon does."""
    config = replace(lab, paths=replace(lab.paths, stage=Path("/proc/nanolab/stage")))
    assert "can't be made in /proc" in find(check(config, now=NOW), "stage", Status.FAIL).detail


@pytest.mark.parametrize("root", ["raw", "raw/stage", "raw/new/stage"])
def test_raw_is_never_written(lab, monkeypatch, tmp_path, root):
    """Where an output folder lies inside raw by mistake, it is not tried out: that would write there."""
    (tmp_path / "raw" / "stage").mkdir()
    before = os.stat(tmp_path / root).st_mtime_ns if (tmp_path / root).exists() else None
    raw_before = os.stat(lab.paths.raw).st_mtime_ns
    find(check(replace(lab, paths=replace(lab.paths, stage=tmp_path / root)), now=NOW), "folders", Status.FAIL)
    assert os.stat(lab.paths.raw).st_mtime_ns == raw_before
    assert before is None or os.stat(tmp_path / root).st_mtime_ns == before


def test_folder_that_cannot_be_written(lab):
    """Writing is tried, not guessed from rights: even root can't write in /proc."""
    config = replace(lab, paths=replace(lab.paths, output=Path("/proc")))
    assert "/proc can't be written" in find(check(config, now=NOW), "output", Status.FAIL).detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_raw_that_cannot_be_read(lab):
    """A raw folder closed to this user fails."""
    lab.paths.raw.chmod(0)
    try:
        assert "Permission denied" in find(check(lab, now=NOW), "raw", Status.FAIL).detail
    finally:
        lab.paths.raw.chmod(0o755)


def test_trial_leaves_nothing(tmp_path):
    """The trial of a folder succeeds on this machine and leaves the folder as it was."""
    assert try_writing(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_no_exchange(lab, monkeypatch):
    """Where folders can't be exchanged in one step, the consequence for readers is told."""
    monkeypatch.setattr(check_module, "try_writing", lambda _root: "Invalid argument")
    finding = find(check(lab, now=NOW), "stage replacement", Status.WARN)
    assert "Invalid argument" in finding.detail
    assert "a reader may find it missing" in finding.detail


def test_temporary_folder_elsewhere(lab, tmp_path):
    """A temporary folder that leads to another place fails: files could not be moved from there in one step."""
    (lab.paths.stage / TEMP_FOLDER).symlink_to(tmp_path / "raw")
    find(check(lab, now=NOW), "stage temporary folder", Status.FAIL)


@pytest.mark.parametrize(
    ("root", "kind", "mode", "status", "word"),
    [
        ("raw", "ext4", WatchMode.AUTO, Status.OK, "ext4 on"),
        ("raw", "cifs", WatchMode.AUTO, Status.OK, "seen by scans"),
        ("raw", "nfs4", WatchMode.EVENTS, Status.WARN, "makes no events"),
        ("raw", "fuse.sshfs", WatchMode.SCAN, Status.OK, "seen by scans"),
        ("raw", "tmpfs", WatchMode.AUTO, Status.OK, "tmpfs on"),
        ("state", "nfs", WatchMode.AUTO, Status.FAIL, "locks can't be relied upon"),
        ("state", "tmpfs", WatchMode.AUTO, Status.WARN, "lost when the machine restarts"),
        ("state", "fuseblk", WatchMode.AUTO, Status.OK, "fuseblk on"),
        ("stage", "9p", WatchMode.AUTO, Status.WARN, "the server's affair"),
        ("output", "tmpfs", WatchMode.AUTO, Status.WARN, "lost when the machine restarts"),
    ],
)
def test_file_systems(lab, monkeypatch, tmp_path, root, kind, mode, status, word):
    """The kind of file system under each folder is named and judged by what the folder is for."""
    set_mounts(monkeypatch, f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {tmp_path / root} rw - {kind} x rw")
    config = replace(lab, watch=Watch(mode=mode))
    finding = find(check(config, now=NOW), f"{root} file system")
    assert (finding.status, word in finding.detail) == (status, True)


def test_shares_below_raw(lab, monkeypatch):
    """A share mounted below raw is named and judged on its own."""
    below = lab.paths.raw / "probe"
    set_mounts(monkeypatch, f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {below} rw - cifs x rw")
    findings = check(replace(lab, watch=Watch(mode=WatchMode.EVENTS)), now=NOW)
    assert str(below) in find(findings, "raw file system", Status.WARN).detail


def test_mounts_below_outputs(lab, monkeypatch):
    """A mount below an output folder fails: nothing can be moved into it in one step."""
    below = lab.paths.stage / "proc=IVg"
    set_mounts(monkeypatch, f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {below} rw - xfs x rw")
    assert "mount of its own (xfs)" in find(check(lab, now=NOW), "stage file system", Status.FAIL).detail


def test_no_mount_table(lab, monkeypatch):
    """Without /proc the check goes on and says what it can't know."""

    def missing():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(mounts, "read_mounts", missing)
    find(check(lab, now=NOW), "file systems", Status.WARN)
    check_paths(lab)


@pytest.mark.parametrize(
    ("folders", "allowed", "mode", "status"),
    [
        (3, 100, WatchMode.AUTO, Status.OK),
        (9, 10, WatchMode.AUTO, Status.WARN),
        (10, 5, WatchMode.AUTO, Status.WARN),
        (9, 10, WatchMode.EVENTS, Status.WARN),
        (10, 5, WatchMode.EVENTS, Status.FAIL),
    ],
)
def test_watches(lab, monkeypatch, tmp_path, folders, allowed, mode, status):
    """The number of folders is held against the limit; the remedy is the line to type."""
    for number in range(folders - 1):
        (lab.paths.raw / str(number)).mkdir()
    (lab.paths.raw / "link").symlink_to(tmp_path)
    set_limits(monkeypatch, tmp_path, max_user_watches=allowed)
    finding = find(check(replace(lab, watch=Watch(mode=mode)), now=NOW), "inotify max_user_watches")
    assert finding.status is status
    assert f"raw has {folders} folders" in finding.detail
    assert ("sudo sysctl fs.inotify.max_user_watches=524288;" in finding.remedy) == (status is not Status.OK)


@pytest.mark.parametrize(("folders", "value"), [(1, 524288), (262144, 524288), (262145, 1 << 20), (600_000, 1 << 21)])
def test_advised_watches(folders, value):
    """The advised limit leaves room for as many folders again."""
    assert inotify.advised_watches(folders) == value


def test_counting_is_bounded(lab):
    """Counting the folders of a vast or slow tree is cut, and said to be."""
    for number in range(5):
        (lab.paths.raw / str(number)).mkdir()
    finding = find(check(lab, now=NOW, count_budget_s=-1), "inotify max_user_watches")
    assert "at least 1 folder (counting was cut)" in finding.detail


def test_limit_of_a_namespace(monkeypatch, tmp_path):
    """In a container the lower of the two limits counts."""
    set_limits(monkeypatch, tmp_path, max_user_watches=1000)
    (tmp_path / "proc" / "none").write_text("50\n")
    assert inotify.max_watches() == 50


def test_instances_used_up(lab, monkeypatch):
    """That no inotify instance is left is found by asking for one."""
    monkeypatch.setattr(inotify, "try_instance", lambda: "Too many open files")
    finding = find(check(lab, now=NOW), "inotify max_user_instances", Status.WARN)
    assert "fs.inotify.max_user_instances=256" in finding.remedy


def test_short_queue(lab, monkeypatch, tmp_path):
    """A queue shorter than the kernel's usual one is warned of."""
    set_limits(monkeypatch, tmp_path, max_queued_events=128)
    assert "max_queued_events=16384" in find(check(lab, now=NOW), "inotify max_queued_events", Status.WARN).remedy


def test_limits_unknown(lab, monkeypatch, tmp_path):
    """Limits that can't be read are said to be unknown."""
    monkeypatch.setattr(inotify, "LIMITS", tmp_path / "nothing")
    findings = check(lab, now=NOW)
    for name in ("max_user_watches", "max_queued_events", "max_user_instances"):
        find(findings, f"inotify {name}", Status.WARN)


@pytest.mark.parametrize("mode", [WatchMode.SCAN, WatchMode.AUTO])
def test_inotify_not_needed(lab, monkeypatch, mode):
    """Where raw is scanned, inotify's limits don't matter."""
    kind = "ext4" if mode is WatchMode.SCAN else "nfs4"
    set_mounts(monkeypatch, f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {lab.paths.raw} rw - {kind} x rw")
    findings = check(replace(lab, watch=Watch(mode=mode)), now=NOW)
    assert "not needed" in find(findings, "inotify", Status.OK).detail


Usage = namedtuple("Usage", "f_bavail f_frsize f_blocks f_files f_favail")


@pytest.mark.parametrize(
    ("usage", "status", "word"),
    [
        (Usage(10 << 18, 4096, 20 << 18, 1000, 900), Status.OK, "10.0 GiB free, 50 %"),
        (Usage(10 << 18, 4096, 2000 << 18, 1000, 900), Status.WARN, "10.0 GiB free, 0 %"),
        (Usage(1 << 17, 4096, 1 << 18, 1000, 900), Status.WARN, "0.5 GiB free, 50 %"),
        (Usage(10 << 18, 4096, 20 << 18, 1000, 10), Status.WARN, "10 more files fit"),
        (Usage(10 << 18, 4096, 20 << 18, 0, 0), Status.OK, "10.0 GiB"),
    ],
)
def test_free_space(lab, monkeypatch, usage, status, word):
    """A disk is nearly full below 1 GiB, below 5 %, or when few more files fit; Btrfs knows no number of files."""
    monkeypatch.setattr(os, "statvfs", lambda _path: usage)
    finding = find(check(replace(lab, limits=Limits()), now=NOW), "stage space")
    assert (finding.status, word in finding.detail) == (status, True)


def test_clock(lab):
    """A clock that was never set is warned of: it dates files and runs."""
    find(check(lab, now=datetime(1970, 1, 1, tzinfo=UTC)), "clock", Status.WARN)


def test_time_zone(lab):
    """The lab's own time is shown, so that a wrong zone is seen at once."""
    assert "2026-01-15 09:00 -0300" in find(check(lab, now=NOW), "time zone").detail


@pytest.mark.parametrize(("soft", "status"), [(256, Status.WARN), (4096, Status.OK), (-1, Status.OK)])
def test_open_files(lab, monkeypatch, soft, status):
    """A low limit on open files is warned of, with the unit's line."""
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, soft))
    finding = find(check(lab, now=NOW), "open files")
    assert (finding.status, "LimitNOFILE=" in finding.remedy) == (status, status is Status.WARN)


def test_packages(lab, monkeypatch):
    """Versions are read without importing the packages; one that is missing fails."""

    def version(name):
        if name == "polars":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(metadata, "version", version)
    findings = check(lab, now=NOW)
    assert "pip install polars" in find(findings, "packages", Status.FAIL).remedy
    assert "pyarrow 1.2" in find(findings, "versions").detail


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"raw": "nowhere"}, ["paths.raw", "nowhere", "does not exist", "--raw-root"]),
        ({"raw": "file"}, ["paths.raw", "is not a folder"]),
        ({"raw": "file/x"}, ["paths.raw", "on the way to it, is not a folder"]),
        ({"stage": "file"}, ["paths.stage", "is not a folder"]),
        ({"stage": "raw"}, ["paths.raw", " is paths.stage"]),
        ({"stage": "raw/stage"}, ["paths.stage", "lies inside paths.raw"]),
        ({"output": "raw/../raw/new/deep"}, ["paths.output", "lies inside paths.raw"]),
        ({"state": "link_to_raw/state"}, ["paths.state", "lies inside paths.raw"]),
        ({"raw": "stage/raw"}, ["paths.raw", "lies inside paths.stage"]),
        ({"output": "stage"}, ["paths.stage", " is paths.output"]),
        ({"state": "stage/.nanolab"}, ["paths.state", "lies inside paths.stage"]),
        ({"output": "state/out"}, ["paths.output", "lies inside paths.state"]),
        ({"output": "stage/out"}, ["paths.output", "lies inside paths.stage"]),
        ({"stage": "rawest"}, []),
        ({"stage": "not/yet/there"}, []),
    ],
)
def test_paths_that_cannot_work(lab, tmp_path, change, words):
    """Folders that lie in each other, through links and `..` too, or are none, are mistakes of the configuration."""
    (tmp_path / "file").touch()
    (tmp_path / "stage" / "raw").mkdir()
    (tmp_path / "link_to_raw").symlink_to("raw")
    config = replace(lab, paths=replace(lab.paths, **{key: tmp_path / name for key, name in change.items()}))
    if not words:
        check_paths(config)
        return
    with pytest.raises(ConfigError) as caught:
        check_paths(config)
    assert caught.value.exit_code == 78
    for word in words:
        assert word in str(caught.value)


def test_all_mistakes_of_the_folders(lab, tmp_path):
    """Several mistakes stand in one message."""
    config = replace(lab, paths=Paths(*[tmp_path / "nowhere"] * 4))
    with pytest.raises(ConfigError, match="The folders have 7 mistakes:"):
        check_paths(config)


def test_same_folder_by_two_ways(lab, monkeypatch, tmp_path):
    """A bind mount shows one folder under two names; device and inode give it away."""
    monkeypatch.setattr(layout.os.path, "samestat", lambda one, other: {one.st_ino, other.st_ino} == both)
    both = {os.stat(lab.paths.raw).st_ino, os.stat(lab.paths.stage).st_ino}
    with pytest.raises(ConfigError, match=r"paths\.raw"):
        check_paths(lab)


def test_raw_may_be_missing(lab):
    """A daemon that waits for a share may start without raw."""
    lab.paths.raw.rmdir()
    check_paths(lab, raw_may_be_missing=True)


def test_state_on_a_share(lab, monkeypatch):
    """The ledger on a network file system is refused."""
    set_mounts(monkeypatch, f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:9 / {lab.paths.state} rw - nfs4 x rw")
    with pytest.raises(ConfigError, match="nfs4"):
        check_paths(lab)


@pytest.mark.parametrize(
    ("statuses", "gravest"), [([], "ok"), (["ok", "warn"], "warn"), (["fail", "warn", "ok"], "fail")]
)
def test_worst(statuses, gravest):
    """The gravest finding decides."""
    assert worst([Finding("x", Status(one), "") for one in statuses]) == gravest
