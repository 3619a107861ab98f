from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.mounts import Mount, is_remote, mount_of, mounts_below, parse_mounts, read_mounts

LAB = rb"""
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
21 20 0:21 / /proc rw - proc proc rw
30 20 8:17 / /srv/raw rw,relatime shared:2 master:1 - xfs /dev/sdb1 rw
31 30 0:50 / /srv/raw/probe\040station rw - cifs //pc-7/share\134data rw
32 30 0:51 / /srv/raw/caf\303\251\012 rw - fuse.sshfs lab@host: rw
33 20 0:52 / /srv/rawest rw - tmpfs none rw
34 20 0:53 / /mnt/latin\351 rw - nfs4 server:/x rw
"""


@pytest.fixture
def lab() -> tuple[Mount, ...]:
    return parse_mounts(LAB)


def test_a_line_in_full(lab):
    """The fields of a line are found, whatever the number of optional fields before the dash."""
    assert lab[2] == Mount(30, 20, "8:17", Path("/srv/raw"), "xfs", "/dev/sdb1")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv", "ext4"),
        ("/srv/raw", "xfs"),
        ("/srv/raw/2024/x.csv", "xfs"),
        ("/srv/rawest/x", "tmpfs"),
        ("/srv/raw/probe station/a", "cifs"),
        ("/srv/raw/probe", "xfs"),
        ("/srv/raw/café\n/x", "fuse.sshfs"),
        ("/mnt/latin\udce9/x", "nfs4"),
        ("/srv/raw/../raw/x/..", "xfs"),
    ],
)
def test_mount_of(lab, path, kind):
    """A path is on the mount with the longest point above it, whole names compared and escapes undone."""
    assert mount_of(path, lab).kind == kind


def test_source_is_unescaped(lab):
    """Backslashes in the source of a Windows share are read."""
    assert lab[3].source == "//pc-7/share\\data"


def test_mount_of_follows_links(lab, tmp_path):
    """A link is followed to the file system that it leads to."""
    (tmp_path / "raw").symlink_to("/srv/raw/probe station")
    assert mount_of(tmp_path / "raw" / "x.csv", lab).kind == "cifs"


def test_last_of_two_on_one_point_is_seen():
    """What was mounted over another mount hides it, and all that was mounted below that one."""
    table = parse_mounts(
        b"1 0 8:1 / / rw - ext4 a rw\n"
        b"2 1 8:2 / /srv rw - xfs b rw\n"
        b"3 2 8:3 / /srv/raw rw - nfs c rw\n"
        b"4 2 8:4 / /srv rw - btrfs d rw\n"
    )
    assert mount_of("/srv", table).kind == "btrfs"
    assert mount_of("/srv/raw/x", table).kind == "btrfs"
    assert [mount.kind for mount in mounts_below("/", table)] == ["btrfs"]


def test_parent_mounted_after_its_child():
    """A mount on a folder above hides an earlier one, though the earlier point is the longer."""
    table = parse_mounts(
        b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /srv/raw rw - nfs b rw\n3 1 8:3 / /srv rw - btrfs c rw\n"
    )
    assert mount_of("/srv/raw", table).kind == "btrfs"


def test_mounts_below(lab):
    """The mounts strictly below a folder are listed, those of neighbours with a similar name are not."""
    assert [mount.kind for mount in mounts_below("/srv/raw", lab)] == ["cifs", "fuse.sshfs"]
    assert mounts_below("/srv/raw/probe station", lab) == ()


REMOTE = "nfs nfs4 cifs smb3 smbfs fuse fuse.sshfs fuse.rclone 9p vboxsf virtiofs afs ceph lustre glusterfs autofs"


@pytest.mark.parametrize("kind", [*REMOTE.split(), "prl_fs", "vmhgfs"])
def test_remote_kinds(kind):
    """Network file systems, shares of virtual machines and user-space programs count as remote."""
    assert is_remote(kind)


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "vfat", "exfat", "ntfs3", "f2fs", "bcachefs"],
)
def test_local_kinds(kind):
    """Disks of this machine count as local, among them NTFS sticks behind fuseblk."""
    assert not is_remote(kind)


def test_in_memory(lab):
    """What a restart erases is known as such."""
    assert [mount.point.name for mount in lab if mount.in_memory] == ["rawest"]


@pytest.mark.parametrize("line", [b"", b"x", b"1 2 3 - ", b"a b 8:1 / / rw - ext4 x", b"1 0 8:1 / / rw x", b" - "])
def test_lines_that_make_no_sense(line):
    """A line that is no mount is left out."""
    assert parse_mounts(line) == ()


@given(st.binary(max_size=80) | st.text("0123456789 -/\\a\n", max_size=80).map(str.encode))
def test_any_bytes_are_parsed(text):
    """Whatever the table holds, reading it and asking it raises nothing."""
    table = parse_mounts(text)
    mount_of("/srv", table)
    mounts_below("/", table)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b"..")))
def test_any_name_is_unescaped(name):
    """Whatever a mount point is called, the kernel's escapes lead back to it."""
    kernel = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    table = parse_mounts(b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /" + kernel + b" rw - xfs b rw\n")
    assert table[1].point == Path(os.fsdecode(b"/" + name))


def test_this_machine():
    """The table of the running kernel is read, and knows /proc."""
    table = read_mounts()
    assert mount_of("/proc/self/status", table).kind == "proc"
    assert mount_of("/proc/self/status") is not None
    assert mounts_below("/")


def test_no_table(tmp_path):
    """Without a mount table the error is the system's own."""
    with pytest.raises(FileNotFoundError):
        read_mounts(tmp_path / "none")
