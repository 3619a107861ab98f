"""The pages: a question each, answered from the ledger, the published files and the daemon. They change nothing."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from nanolab_daemon import quality, report
from nanolab_daemon.catalog import FILE_NAME, Catalog, RunRecord
from nanolab_daemon.errors import EngineError, NanolabError, RejectCause
from nanolab_daemon.names import raw_path, shown_path
from nanolab_daemon.remedy import REPAIR
from nanolab_daemon.secret import read_token
from nanolab_daemon.web import state, svg
from nanolab_daemon.web.curves import Curve, curve
from nanolab_daemon.web.index import Query
from nanolab_daemon.web.show import Shown, plain
from nanolab_daemon.why import Flagged, why

ROWS_A_PAGE = 50
MOST_ROWS = 200
MOST_REJECTS = 100
FIRST_REJECTS = 20
MOST_SEGMENTS = 64
MOST_INSTRUMENTS = 24


class Pages:
    """The handlers; each runs in a thread of the server."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._config = shown.config

    def today(self, request: Request) -> Response:
        """Show what is measured now and what arrived today."""
        view = self._shown.view()
        return self._page("today.html", request, live=view.live, runs=view.runs, count=view.count)

    def runs(self, request: Request) -> Response:
        """Show all runs, or those that are searched for."""
        query, offset = _query(request), _number(request, "offset", 0)
        found = self._shown.index.search(query)
        rows = found[offset : offset + ROWS_A_PAGE]
        procedures = sorted({entry.proc for entry in self._shown.index.runs()})
        return self._page(
            "runs.html",
            request,
            query=query,
            rows=[(entry, self._shown.thumb(entry)) for entry in rows],
            total=len(found),
            offset=offset,
            size=ROWS_A_PAGE,
            procedures=procedures,
            asked={key: value for key, value in asdict(query).items() if value},
        )

    def rows(self, request: Request) -> Response:
        """Give a stretch of the list of runs, for a page that scrolls."""
        offset = _number(request, "offset", 0)
        most = min(MOST_ROWS, _number(request, "limit", ROWS_A_PAGE))
        found = self._shown.index.search(_query(request))
        rows = [(entry, self._shown.thumb(entry)) for entry in found[offset : offset + most]]
        return HTMLResponse(self._shown.render("rows.html", rows=rows), headers={"X-Total": str(len(found))})

    def run(self, request: Request) -> Response:
        """Show one run: plot, header, where it comes from, what to download."""
        record, flags = self._flagged(request.path_params["run_id"])
        trouble = ""
        drawn: Curve | None = None
        try:
            drawn = self._curve(record)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            trouble = f"Its published file can't be read: {getattr(error, 'strerror', None) or error}."
            if isinstance(error, FileNotFoundError):
                trouble = f"Its published file is gone: {REPAIR}."
        log = request.query_params.get("y") == "log"
        laid = None
        if drawn is not None and drawn.axes is not None and drawn.whole is not None:
            laid = svg.plot(drawn.axes, drawn.whole, drawn.segments, log=log)
        notes = drawn.notes if drawn else {}
        return self._page(
            "run.html",
            request,
            run=record,
            facts=record.facts,
            source=shown_path(record.source),
            plot=laid,
            log=log,
            trouble=trouble,
            gone=not (self._config.paths.stage / record.stage_file.path).exists(),
            sections=[(name, _table(notes.get(key))) for name, key in (
                ("Parameters", "parameters"), ("Metadata", "metadata"),
            )],
            header=notes.get("header", ""),
            flags=flags,
            segments=record.segment_files[:MOST_SEGMENTS],
            start_s=record.facts.start_us / 1e6,
        )  # fmt: skip

    def points(self, request: Request) -> Response:
        """Give the numbers of a run's curve, for reading values off its plot."""
        record = self._record(request.path_params["run_id"])
        try:
            drawn = self._curve(record)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise HTTPException(503, "Its file can't be read now.") from error
        if drawn.axes is None or drawn.whole is None:
            return JSONResponse({"x": "", "y": "", "series": []})
        series = [
            {"name": plain(one.name), "x": one.x.tolist(), "y": one.y.tolist()}
            for one in (drawn.segments or (drawn.whole,))
        ]
        return JSONResponse({"x": plain(drawn.axes.x), "y": plain(drawn.axes.y), "series": series})

    def why(self, request: Request) -> Response:
        """Show everything that is known of one raw file."""
        shown = request.query_params.get("file", "")
        path = self._path(shown)
        try:
            found = why(self._config, os.fsdecode(os.path.join(os.fsencode(self._config.paths.raw), path)))
        except (NanolabError, sqlite3.Error) as error:
            raise HTTPException(404, str(error)) from error
        told = request.query_params.get("told", "")
        return self._page("why.html", request, one=found, told=told, token=self._token_words())

    def rejects(self, request: Request) -> Response:
        """Show what was refused, by cause."""
        try:
            groups = report.rejects(self._config)
        except (NanolabError, sqlite3.Error) as error:
            raise HTTPException(503, f"The ledger can't be read: {error}") from error
        chosen = request.query_params.get("cause", "")
        if chosen and chosen not in {*RejectCause, *(group.cause for group in groups)}:
            raise HTTPException(404, f"{chosen} is no cause for which files are refused.")
        offset = _number(request, "offset", 0)
        shown = slice(offset, offset + MOST_REJECTS) if chosen else slice(FIRST_REJECTS)
        listed = [(group, group.files[shown]) for group in groups if not chosen or group.cause == chosen]
        return self._page(
            "rejects.html",
            request,
            groups=[(group, len(files), _alike(files)) for group, files in listed],
            chosen=chosen,
            offset=offset if chosen else 0,
            size=MOST_REJECTS,
            total=sum(len(group.files) for group in groups),
            token=self._token_words(),
        )

    def status(self, request: Request) -> Response:
        """Show how the daemon is: queue, pools, places, instruments."""
        answer, trouble = self._shown.live()
        states, causes, totals, unread = state.counts(self._config)
        procedures, folders = self._shown.index.instruments()
        return self._page(
            "status.html",
            request,
            live=answer,
            health=state.health(answer, trouble, unread),
            states=states,
            causes=causes,
            totals=totals,
            procedures=procedures,
            folders=folders[:MOST_INSTRUMENTS],
            now=datetime.now(UTC).timestamp(),
            paths=self._config.paths,
        )

    def record_of(self, run_id: str) -> RunRecord:
        """Give a run's record; HTTPException 404 if there is none."""
        return self._record(run_id)

    def refused(self, request: Request, code: int, words: str) -> Response:
        """Say in a page why there is no other."""
        return self._page("refused.html", request, code=code, words=words, status=code)

    def _page(self, template: str, request: Request, *, status: int = 200, **values: Any) -> Response:
        text = self._shown.render(
            template, path=request.url.path, badge=self._shown.badge(), zone=self._config.lab.timezone, **values
        )
        return HTMLResponse(text, status)

    def _record(self, run_id: str) -> RunRecord:
        return self._flagged(run_id)[0]

    def _flagged(self, run_id: str) -> tuple[RunRecord, tuple[Flagged, ...] | None]:
        """Give a run's record and its flags; None where these are not known."""
        try:
            catalog = Catalog.open_to_read(self._config.paths.state / FILE_NAME)
            if catalog is None:
                raise HTTPException(503, "There is no ledger yet.")
            try:
                record = catalog.run(run_id)
                misdated = record is not None and bool(quality.misdated(catalog.copies(run_id)))
            finally:
                catalog.close()
        except (EngineError, sqlite3.Error) as error:
            raise HTTPException(503, f"The ledger can't be read: {error}") from error
        if record is None:
            raise HTTPException(404, f"No run {run_id} is published.")
        flags = quality.with_clock(record.facts.flags, disagrees=misdated)
        return record, None if flags is None else tuple(Flagged(one, quality.MEANINGS.get(one, "")) for one in flags)

    def _curve(self, record: RunRecord) -> Curve:
        files = [self._config.paths.output / one.path for one in record.segment_files[:MOST_SEGMENTS]]
        return curve(
            self._config.paths.stage / record.stage_file.path, files, self._shown.registry, record.facts.proc
        )

    def _path(self, shown: str) -> bytes:
        """Take a name from an address for a path below raw, and nothing else."""
        path = raw_path(shown)
        if not path or path.startswith(b"/") or b".." in path.split(b"/") or b"\0" in path:
            raise HTTPException(404, "That is no file below the raw folder.")
        return path

    def _token_words(self) -> str:
        """Say why nothing can be retried from here; empty if it can."""
        return read_token(self._config.http.token_file)[1]


@dataclass(frozen=True, slots=True)
class Alike:
    """Refused files of one cause whose remedy is the same; `reason` is empty if each has one of its own."""

    reason: str
    advice: str
    files: tuple[report.RejectedFile, ...]


def _alike(files: Sequence[report.RejectedFile]) -> list[Alike]:
    """Bring together what is to be said once: a reason of several files, a remedy of several reasons."""
    often = Counter(one.reason for one in files)
    found: dict[tuple[str, str], list[report.RejectedFile]] = {}
    for one in files:
        found.setdefault((one.reason if often[one.reason] > 1 else "", one.advice), []).append(one)
    return [Alike(reason, advice, tuple(alike)) for (reason, advice), alike in found.items()]


def redirect_to_why(file: str, told: str) -> Response:
    """Send a browser to what is known of a file."""
    from urllib.parse import urlencode

    return RedirectResponse(f"/why?{urlencode({'file': file, 'told': told})}", 303)


def _query(request: Request) -> Query:
    given = request.query_params
    names = ("chip", "procedure", "since", "until", "text")
    asked = {name: given.get(name, "").strip()[:200] for name in names}
    for name in ("since", "until"):
        if asked[name] and not _is_day(asked[name]):
            raise HTTPException(400, f"{name}={asked[name]} is no day: write it as 2025-09-30.")
    return Query(**asked)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return min(int(text), 10**9) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _table(text: str | None) -> list[tuple[str, str]]:
    """Read one of the header's sections back from a published file."""
    import json

    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError:
        return []
    return [(str(name), str(value)) for name, value in found.items()] if isinstance(found, Mapping) else []
