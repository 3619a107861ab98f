"""Folders that workers on other machines see under other names: `pools.path_map`, both ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from nanolab_daemon.tasks import CannotWrite, Segmented, Staged, WorkSettings

Outcome = TypeVar("Outcome")


class PathMap:
    """Pairs of folders, here and there; the longest that holds a path counts, and what none holds is the same."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        plain = [(here.rstrip("/") or "/", there.rstrip("/") or "/") for here, there in pairs]
        self._out = sorted(plain, key=lambda pair: len(pair[0]), reverse=True)
        self._back = sorted(((there, here) for here, there in self._out), key=lambda p: len(p[0]), reverse=True)

    def there(self, path: str) -> str:
        """Give an absolute path of this machine as a worker sees it."""
        return _mapped(path, self._out)

    def here(self, path: str) -> str:
        """Give an absolute path of a worker as this machine sees it."""
        return _mapped(path, self._back)

    def settings(self, settings: WorkSettings) -> WorkSettings:
        """Give settings as a worker elsewhere needs them: its own names, and bundles left to be moved from here."""
        return replace(
            settings,
            raw_root=self.there(settings.raw_root),
            stage_root=self.there(settings.stage_root),
            output_root=self.there(settings.output_root),
            aside=True,
        )

    def outcome(self, outcome: Outcome) -> Outcome:
        """Give a worker's answer with the names of this machine."""
        match outcome:
            case Staged() | Segmented() if outcome.bundle is not None:
                return replace(outcome, bundle=self.here(outcome.bundle))
            case CannotWrite():
                return replace(outcome, root=self.here(outcome.root))
        return outcome


def _mapped(path: str, pairs: list[tuple[str, str]]) -> str:
    for one, other in pairs:
        if path == one or path.startswith(one.rstrip("/") + "/"):
            return other.rstrip("/") + path[len(one.rstrip("/")) :] or "/"
    return path
