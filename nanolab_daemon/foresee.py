"""Which file each run would be published from after a pass, by the registrar's own rule.

Knows what a dry pass has read so far and what the ledger says of the rest; changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nanolab_daemon.catalog import HAS_RUN, Catalog, FileRecord, RunRecord
from nanolab_daemon.model import DateOrigin, FileState, RunFacts
from nanolab_daemon.registrar import best_of
from nanolab_daemon.tasks import Staged


@dataclass(frozen=True, slots=True)
class Fate:
    """What would become of a file with a run; `best` is the file that is published instead, if another is."""

    path: bytes
    outcome: Staged
    best: FileRecord | None
    published_anew: bool = False
    why: str = ""


class Foresight:
    """What a dry pass has learnt. Its sets are filled by whoever reads the files."""

    def __init__(self, catalog: Catalog | None, *, force: bool) -> None:
        self._catalog = catalog
        self._force = force
        self.judged: set[bytes] = set()  # paths whose bytes were read: the ledger's word no longer counts
        self.gone: set[bytes] = set()
        self.forced: set[bytes] = set()
        self._staged: dict[bytes, Staged] = {}
        self._by_run: dict[str, list[bytes]] = {}
        self._new_names: dict[bytes, bytes] = {}

    def stage(self, path: bytes, outcome: Staged) -> None:
        """Note that a file holds a run."""
        self._staged[path] = outcome
        self._by_run.setdefault(outcome.facts.run_id, []).append(path)

    def move(self, old: bytes, new: bytes) -> None:
        """Note that a known file has a new name."""
        self._new_names[old] = new

    def run(self, run_id: str | None) -> RunRecord | None:
        """Give what the ledger knows of a run."""
        return None if self._catalog is None or run_id is None else self._catalog.run(run_id)

    def stages(self, run_id: str) -> bool:
        """Tell whether the pass stages a file that holds this run."""
        return run_id in self._by_run

    def to_stage_again(self) -> set[bytes]:
        """Give the known files whose runs would have to be published from them, as another file has left the run."""
        if self._catalog is None:
            return set()
        left: set[str] = set()
        for path in self.judged | self.gone:
            before, now = self._catalog.file(path), self._staged.get(path)
            if before is not None and before.run_id and (now is None or now.facts.run_id != before.run_id):
                left.add(before.run_id)
        again = set()
        for run_id in left:
            run = self._catalog.run(run_id)
            best = None if run is None else self._best(run_id, run, run.facts)
            if run is None or best is None:
                continue
            if best.sha256 != run.source_sha256 or (_dated_by_path(run.facts) and best.path != run.source):
                again.add(best.path)
        return again

    def resolve(self) -> Iterator[Fate]:
        """Say of each staged file whether its run is published from it."""
        for run_id, paths in self._by_run.items():
            run = self.run(run_id)
            best = self._best(run_id, run, self._staged[paths[0]].facts)
            for path in paths:
                if best is not None and path != best.path:
                    yield Fate(path, self._staged[path], best)
                else:
                    yield self._published(path, run)

    def _published(self, path: bytes, run: RunRecord | None) -> Fate:
        outcome = self._staged[path]
        record = None if self._catalog is None else self._catalog.file(path)
        if run is None:
            why = "new" if record is None else "its bytes are others than those that were judged"
        elif path in self.forced:
            why = "its run was published from another file, or under another date"
        elif run.source_sha256 != outcome.sha256:
            why = f"other bytes than published: revision {run.revision + 1}"
        else:
            why = "known, done again by force" if self._force else "its run is published already"
        anew = (
            run is None
            or self._force
            or path in self.forced
            or run.source_sha256 != outcome.sha256
            or run.folder != outcome.target
            or run.facts.start_us != outcome.facts.start_us
        )
        return Fate(path, outcome, None, anew, why)

    def _best(self, run_id: str, run: RunRecord | None, facts: RunFacts) -> FileRecord | None:
        by_path = _dated_by_path(run.facts if run is not None else facts)
        return best_of(self._holders(run_id), run.source if run else b"", by_path=by_path)

    def _holders(self, run_id: str) -> list[FileRecord]:
        """Give the files that will hold a run after this pass, as the ledger would have them."""
        holders = [_record(path, self._staged[path]) for path in self._by_run.get(run_id, ())]
        if self._catalog is not None:
            for record in self._catalog.holding(run_id):
                path = self._new_names.get(record.path, record.path)
                if record.state in HAS_RUN and path not in self.judged and path not in self.gone:
                    holders.append(replace(record, path=path))
        return holders


def _dated_by_path(facts: RunFacts) -> bool:
    return facts.date_origin is not DateOrigin.META


def _record(path: bytes, outcome: Staged) -> FileRecord:
    """Write down a file as the registrar would, in as far as its rule looks at it."""
    return FileRecord(
        path=path,
        present=True,
        fingerprint=outcome.fingerprint,
        sha256=outcome.sha256,
        state=FileState.STAGED,
        reason="",
        proc=outcome.facts.proc,
        run_id=outcome.facts.run_id,
        rows=outcome.facts.rows,
        rejection=None,
        attempts=0,
        republished=0,
        skip_bad_rows=outcome.skipped,
        version="",
        seen_at=0.0,
        judged_at=0.0,
    )
