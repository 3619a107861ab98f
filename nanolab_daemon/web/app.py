"""The application: which address gives what, and what programs ask (`/health`, `/metrics`, `/events`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote

import anyio.to_thread
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from nanolab_daemon import control
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.log import SOURCE_FILE, logger
from nanolab_daemon.names import raw_path, shown_path
from nanolab_daemon.rawfile import open_below
from nanolab_daemon.remedy import REPAIR
from nanolab_daemon.secret import read_token
from nanolab_daemon.web import state
from nanolab_daemon.web.guard import HEADERS, Guard, is_token
from nanolab_daemon.web.hub import Hub
from nanolab_daemon.web.metrics import Numbers, exposition
from nanolab_daemon.web.pages import Pages, redirect_to_why
from nanolab_daemon.web.show import Shown

THREADS = 12
MOST_FORM_BYTES = 64 << 10
FORM_S = 10.0
AFTER_A_WRONG_TOKEN_S = 1.0
CHUNK_BYTES = 1 << 18
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
RUN = "/runs/{run_id:str}"
NO_PAGES = ("/health", "/metrics", "/events", "/runs/rows")
FAULT = (
    "This page has a fault and could not be shown. Files are processed all the same. The daemon's log tells what"
    " happened; please report it with those lines."
)
FULL = "retry: 30000\nevent: full\ndata: {}\n\n"


def make_app(config: Config) -> Starlette:
    """Put the page together for one laboratory."""
    shown = Shown(config)
    pages, programs = Pages(shown), Programs(shown)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        work = asyncio.create_task(programs.hub.work())
        yield
        programs.hub.end()
        work.cancel()
        shown.index.close()

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = str(error.detail)
        if request.url.path.startswith(NO_PAGES):
            return PlainTextResponse(f"{words}\n", error.status_code, headers=error.headers)
        return await run_in_threadpool(pages.refused, request, error.status_code, words)

    async def unforeseen(request: Request, _error: Exception) -> Response:
        """Say in the page's own frame that it has a fault; the server's log has the traceback."""
        answer: Response = PlainTextResponse(f"{FAULT}\n", 500)
        if not request.url.path.startswith(NO_PAGES):
            # What failed may be what every page is made of: the plain words do then.
            with contextlib.suppress(Exception):
                answer = await run_in_threadpool(pages.refused, request, 500, FAULT)
        answer.headers.update({**HEADERS, "Cache-Control": "no-store"})  # it is made outside the guard
        return answer

    return Starlette(
        routes=[
            Route("/", pages.today),
            Route("/runs", pages.runs),
            Route("/runs/rows", pages.rows),
            Route(RUN, pages.run),
            Route(f"{RUN}/points", pages.points),
            Route(f"{RUN}/run.parquet", programs.parquet),
            Route(f"{RUN}/segment-{{number:int}}.parquet", programs.segment),
            Route(f"{RUN}/raw.csv", programs.raw),
            Route("/why", pages.why),
            Route("/rejects", pages.rejects),
            Route("/status", pages.status),
            Route("/retry", programs.retry, methods=["POST"]),
            Route("/events", programs.events),
            Route("/health", programs.health),
            Route("/metrics", programs.metrics),
            Route("/static/{digest:str}/{name:str}", programs.asset),
        ],
        middleware=[Middleware(Guard, http=config.http)],
        exception_handlers={HTTPException: refused, Exception: unforeseen},
        lifespan=lifespan,
    )


class Programs:
    """What is no page: answers for programs, news, downloads, and the one thing that can be ordered."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._config = shown.config
        self._log = logger(__name__)
        self._pages = Pages(shown)
        self._trying = asyncio.Lock()
        self.hub = Hub(shown.view)
        static = files("nanolab_daemon.web") / "static"
        self._assets = {name: (static / name).read_bytes() for name in shown.assets}

    def health(self, _request: Request) -> Response:
        """Say whether all is well: 200 or 503, with the reasons."""
        answer, trouble = self._shown.live()
        self._shown.index.runs()
        found = state.health(answer, trouble, self._shown.index.trouble or self.hub.trouble)
        told: dict[str, Any] = {
            "status": found.word,
            "reasons": list(found.reasons),
            "remarks": list(found.remarks),
            "version": answer["version"] if answer else None,
            "since": answer["since"] if answer else None,
            "paused_since": answer["paused_since"] if answer else None,
        }
        return JSONResponse(told, 200 if found.well else 503)

    def metrics(self, _request: Request) -> Response:
        """Give the numbers for Prometheus."""
        answer, trouble = self._shown.live()
        states, causes, totals, unread = state.counts(self._config)
        numbers = Numbers(answer, states, causes, totals, state.health(answer, trouble, unread))
        return Response(exposition(numbers), media_type=CONTENT_TYPE_LATEST)

    async def events(self, request: Request) -> Response:
        """Tell an open page what changes, for as long as it listens."""
        if self.hub.is_full:  # told as news: a browser gives no page the words of a refusal
            return Response(FULL, media_type="text/event-stream")
        return StreamingResponse(self.hub.listen(), media_type="text/event-stream")

    def asset(self, request: Request) -> Response:
        """Give a part of the page that never changes under its address."""
        name = request.path_params["name"]
        if self._shown.assets.get(name) != request.url.path:
            raise HTTPException(404, "There is no such part of the page.")
        kind = KINDS[name[name.rindex(".") :]]
        kept = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(self._assets[name], media_type=kind, headers=kept)

    def parquet(self, request: Request) -> Response:
        """Give a run's published file."""
        record = self._pages.record_of(request.path_params["run_id"])
        name = f"{record.facts.proc}_{record.run_id}.parquet"
        return self._published(self._config.paths.stage / record.stage_file.path, name)

    def segment(self, request: Request) -> Response:
        """Give one of a run's published segments, by its place among them."""
        record = self._pages.record_of(request.path_params["run_id"])
        number = request.path_params["number"]
        if number >= len(record.segment_files):
            raise HTTPException(404, "The run has no such segment.")
        name = f"{record.facts.proc}_{record.run_id}_{number}.parquet"
        return self._published(self._config.paths.output / record.segment_files[number].path, name)

    def raw(self, request: Request) -> Response:
        """Give the raw file that a run was made from, as it is now."""
        record = self._pages.record_of(request.path_params["run_id"])
        try:
            handle = open_below(os.fsencode(self._config.paths.raw), record.source)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise HTTPException(404, "Its raw file is no regular file any more.")
        except OSError as error:
            raise HTTPException(404, f"Its raw file can't be read: {error.strerror}.") from error
        name = shown_path(os.path.basename(record.source))  # noqa: PTH119 -- a name of bytes
        return StreamingResponse(_chunks(handle), media_type="text/csv", headers=_attached(name))

    async def retry(self, request: Request) -> Response:
        """Have the daemon look at a rejected file again, if the token is right."""
        form = await _form(request)
        token, words = await run_in_threadpool(read_token, self._config.http.token_file)
        async with self._trying:  # one at a time, so that guessing is slow for all guessers together
            if not is_token(form.get("token", ""), token):
                await asyncio.sleep(AFTER_A_WRONG_TOKEN_S)
                raise HTTPException(403, f"Nothing can be retried from here: {words}." if words else "Wrong token.")
        file = form.get("file", "")
        skip = form.get("skip_bad_rows") == "yes"
        question = {"ask": "retry", "paths": [os.fsdecode(raw_path(file))], "skip_bad_rows": skip}
        if not await run_in_threadpool(self._is_rejected, raw_path(file)):
            raise HTTPException(409, "It is not rejected, so there is nothing to retry.")
        try:
            answer = await run_in_threadpool(control.ask, self._config.paths.state, question)
        except EngineError as error:
            raise HTTPException(503, str(error)) from error
        if answer is None:
            raise HTTPException(503, "The daemon does not listen.")
        self._log.info("retry asked for on the page", **{SOURCE_FILE: file})
        return redirect_to_why(file, "retry")

    def _is_rejected(self, path: bytes) -> bool:
        from nanolab_daemon.catalog import FILE_NAME, Catalog
        from nanolab_daemon.model import FileState

        catalog = Catalog.open_to_read(self._config.paths.state / FILE_NAME)
        if catalog is None:
            return False
        try:
            record = catalog.file(path)
        finally:
            catalog.close()
        return record is not None and record.state is FileState.REJECTED

    def _published(self, path: os.PathLike[str], name: str) -> Response:
        if not os.path.isfile(path):  # noqa: PTH113
            raise HTTPException(404, f"The file is not there now; {REPAIR}.")
        return FileResponse(path, media_type="application/vnd.apache.parquet", headers=_attached(name))


def _attached(name: str) -> dict[str, str]:
    """Have a browser save an answer under a name and never show it, whatever it holds."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def _chunks(handle: int) -> Iterator[bytes]:
    with os.fdopen(handle, "rb") as file:
        while part := file.read(CHUNK_BYTES):
            yield part


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for part in request.stream():
                body += part
                if len(body) > MOST_FORM_BYTES:
                    raise HTTPException(413, "The form is too large.")
    except (TimeoutError, ClientDisconnect) as error:
        raise HTTPException(408, "The form did not arrive.") from error
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=16)
    return {name: values[0] for name, values in fields.items()}
