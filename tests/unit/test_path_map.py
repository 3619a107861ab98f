"""Folders under other names: nothing is mapped that only looks alike, and the way back ends where it began."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.config import load
from nanolab_daemon.path_map import PathMap
from nanolab_daemon.tasks import CannotWrite

NAMES = st.sampled_from(["a", "b", "ab", "data"])
FOLDERS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/srv/lab", "/mnt"),
        ("/srv/lab/raw/x", "/mnt/raw/x"),
        ("/srv/lab2", "/srv/lab2"),
        ("/srv/lab/deep/x", "/elsewhere/x"),
        ("/srv", "/srv"),
    ],
)
def test_the_longest_folder_counts(path: str, there: str) -> None:
    """A folder is not taken for another whose name begins alike; a pair for a part of a folder goes before it."""
    path_map = PathMap([("/srv/lab", "/mnt/"), ("/srv/lab/deep/", "/elsewhere")])
    assert path_map.there(path) == there
    assert path_map.here(there) == path


@given(FOLDERS, FOLDERS, st.lists(NAMES, max_size=3))
def test_there_and_back(here: str, there: str, below: list[str]) -> None:
    """Whatever a pair maps comes back by it, and is a path without doubled slashes."""
    path = "/".join([here, *below])
    path_map = PathMap([(here, there)])
    mapped = path_map.there(path)
    assert mapped == str(PurePosixPath(mapped))
    assert path_map.here(mapped) == path


def test_the_whole_of_a_machine_may_be_mapped() -> None:
    """`/` is a folder as any other."""
    assert PathMap([("/", "/mnt")]).there("/srv/lab") == "/mnt/srv/lab"
    assert PathMap([("/mnt", "/")]).there("/mnt/srv") == "/srv"
    assert PathMap([("/mnt", "/")]).there("/mnt") == "/"


def test_a_trouble_is_told_of_the_folder_here() -> None:
    """What a worker can't write is named as this machine knows it."""
    told = PathMap([("/srv", "/mnt")]).outcome(CannotWrite("/mnt/stage", "no space", 28))
    assert told.root == "/srv/stage"


def test_a_variable_gives_pairs() -> None:
    """In the environment, pairs are parted by commas."""
    environ = {
        **{f"NANOLAB_PATHS_{key}": f"/x/{key}" for key in ("RAW", "STAGE", "OUTPUT", "STATE")},
        "NANOLAB_POOLS_PATH_MAP": "/srv=/mnt, /a = /b",
    }
    assert load(environ=environ).pools.path_map == (("/srv", "/mnt"), ("/a", "/b"))
