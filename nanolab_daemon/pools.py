"""Which pools work for the engine, by `pools.engine`: processes of this machine, or workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanolab_daemon.config import Config
from nanolab_daemon.path_map import PathMap
from nanolab_daemon.pool import Pool
from nanolab_daemon.sections import PoolEngine
from nanolab_daemon.tasks import WorkSettings
from nanolab_daemon.workpool import WorkPool

STAGE = "nanolab_daemon.stage:stage_batch"
SEGMENT = "nanolab_daemon.segment:segment_batch"


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of one engine. `house` does what belongs to no run, and so stays on this machine; None: `segment`."""

    stage: WorkPool[Any, Any]
    segment: WorkPool[Any, Any]
    house: WorkPool[Any, Any] | None = None


def pools_of(config: Config, settings: WorkSettings) -> Pools:
    """Make the pools that the configuration asks for; nothing is started, and nobody asked, before their `start`."""
    if config.pools.engine is PoolEngine.LOCAL:
        return local_pools(config, settings)
    # Only here: whoever works on one machine needs none of it.
    from nanolab_daemon.dask_link import DaskLink
    from nanolab_daemon.dask_pool import DaskPool

    path_map = PathMap(config.pools.path_map)
    link = DaskLink(config.pools.scheduler, settings, path_map)

    def on_dask(name: str) -> DaskPool[Any, Any]:
        return DaskPool(
            name,
            f"nanolab_{name}",
            link,
            settings=settings,
            path_map=path_map,
            task_timeout_s=config.pools.task_timeout_s,
            task_memory_mb=config.pools.task_memory_mb,
        )

    return Pools(on_dask("stage"), on_dask("segment"), _on_this_machine(config, settings)("house", SEGMENT, 1))


def local_pools(config: Config, settings: WorkSettings) -> Pools:
    """Make pools of processes on this machine."""
    make = _on_this_machine(config, settings)
    return Pools(
        make("stage", STAGE, config.pools.stage_processes), make("segment", SEGMENT, config.pools.segment_processes)
    )


def _on_this_machine(config: Config, settings: WorkSettings) -> Callable[[str, str, int], Pool[Any, Any]]:
    def make(name: str, entry: str, workers: int) -> Pool[Any, Any]:
        return Pool(
            name,
            entry,
            workers=workers,
            settings=settings,
            task_timeout_s=config.pools.task_timeout_s,
            task_memory_mb=config.pools.task_memory_mb,
        )

    return make
