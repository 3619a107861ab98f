"""What is shown, made from what is known: the templates, their filters, and the pieces that several pages share."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import jinja2
import pyarrow as pa
from markupsafe import Markup, escape

from nanolab_daemon.commands import as_typed, file_to_name
from nanolab_daemon.config import Config
from nanolab_daemon.model import FileState
from nanolab_daemon.procedures import Registry
from nanolab_daemon.settings import counted, escaped
from nanolab_daemon.web import state, svg
from nanolab_daemon.web.curves import thumb
from nanolab_daemon.web.hub import View
from nanolab_daemon.web.index import Entry, Index, chip_name
from nanolab_daemon.web.preview import Preview, growing

MOST_CARDS = 48
MOST_WAITING = 12
THUMBS_KEPT = 4096
FRESH_S = 1.0
ASSETS = ("page.css", "page.js", "plot.js", "list.js", "icon.svg")

_STATES = {
    FileState.QUEUED: "waits for its turn in the instrument's queue",
    FileState.STARTED: "has started: connecting, ramping or burning in; no rows yet",
}


class Shown:
    """Everything that pages are made of. Safe from any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.zone = ZoneInfo(config.lab.timezone)
        self.registry = Registry.builtin().with_overrides(config.procedures)
        self.index = Index(config.paths.state / "ledger.sqlite")
        self.assets = _assets()
        self._preview = Preview(config, self.registry)
        self._thumbs: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._lock = threading.Lock()
        self._answer: tuple[float, Mapping[str, Any] | None, str] = (-FRESH_S, None, "")
        file = file_to_name(config.file)
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("nanolab_daemon.web"),
            autoescape=True,
            finalize=plain,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "moment": self.moment,
            "clock": self.clock,
            "number": lambda value: "—" if value is None else f"{value:,}",
            "sig": lambda value: f"{value:.4g}".replace("-", "−"),
            "unit": svg.with_unit,
            "counted": counted,
            "coded": lambda text: coded(as_typed(str(text), file)),
            "chip": lambda facts: chip_name(facts.chip_group, facts.chip_number, facts.sample),
            "query": lambda text: quote(str(text), safe=""),
            "duration": state.duration,
        }
        self._templates.globals |= {"assets": self.assets, "Waiting": _STATES}

    def render(self, template: str, **values: Any) -> str:
        """Fill in a template."""
        return self._templates.get_template(template).render(**values)

    def live(self) -> tuple[Mapping[str, Any] | None, str]:
        """Give the daemon's answer, at most a second old, else why there is none."""
        with self._lock:
            if time.monotonic() - self._answer[0] > FRESH_S:
                answer, trouble = state.live(self.config)
                self._answer = (time.monotonic(), answer, trouble)
            return self._answer[1], self._answer[2]

    def badge(self) -> str:
        """Render how things stand, for the head of each page."""
        answer, trouble = self.live()
        return self.render("badge.html", health=state.health(answer, trouble, self.index.trouble))

    def view(self) -> View:
        """Look at everything that an open page shows."""
        answer, trouble = state.live(self.config)
        with self._lock:
            self._answer = (time.monotonic(), answer, trouble)
        live = {}
        for glimpse in reversed(self._preview.look(growing(answer))):
            key = f"live-{_digest(glimpse.file)}"
            live[key] = self.render("live.html", key=key, one=glimpse, points=svg.thumbnail(glimpse.x, glimpse.y))
        for waiting in self.index.waiting(MOST_WAITING):
            key = f"live-{_digest(waiting.file)}"
            if key not in live:
                live[key] = self.render("waiting.html", key=key, one=waiting)
        entries, count = self.today()
        runs = {f"run-{entry.run_id}": self.card(entry) for entry in entries}
        return View(self.badge(), live, runs, count)

    def today(self) -> tuple[list[Entry], int]:
        """Give the runs that were published today, the last one first, and how many there are."""
        return self.index.arrived(state.midnight(self.zone), MOST_CARDS)

    def card(self, entry: Entry) -> str:
        """Render a run as a card with its small curve."""
        return self.render("card.html", run=entry, points=self.thumb(entry))

    def thumb(self, entry: Entry) -> str:
        """Give the points of a run's small curve; empty where it has none or can't be read now."""
        key = (entry.run_id, entry.sha256)
        with self._lock:
            if key in self._thumbs:
                self._thumbs.move_to_end(key)
                return self._thumbs[key]
        try:
            points = svg.thumbnail(*thumb(self.config.paths.stage / entry.stage, self.registry.get(entry.proc)))
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return ""
        with self._lock:
            self._thumbs[key] = points
            while len(self._thumbs) > THUMBS_KEPT:
                self._thumbs.popitem(last=False)
        return points

    def moment(self, seconds: float) -> str:
        """Write a moment (seconds since 1970) as day and time of the lab."""
        return datetime.fromtimestamp(seconds, self.zone).strftime("%Y-%m-%d %H:%M:%S")

    def clock(self, seconds: float) -> str:
        """Write a moment as the lab's time of day, with the day if it is another one."""
        moment = datetime.fromtimestamp(seconds, self.zone)
        today = datetime.now(self.zone).date()
        return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M")


def plain(value: object) -> object:
    r"""Write what can't be seen, or turns the text around it, with a backslash, as in the names of files.

    Every value that a template shows passes here. Lines and tabs stay: they are what a header's text consists of.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    lines = value.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(escaped(part) for part in line.split("\t")) for line in lines)


def coded(text: str) -> Markup:
    """Show what stands between back-ticks as code; all else as it is, whoever wrote it."""
    text = str(plain(text))
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:  # one has no partner
        return escape(text)
    marked = "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
    return Markup(marked)  # noqa: S704 -- it was escaped before


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _assets() -> dict[str, str]:
    """Give the address of each asset: it changes with the content, so that browsers may keep them for ever."""
    folder = files("nanolab_daemon.web") / "static"
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:12] for name in ASSETS}
    return {name: f"/static/{digest}/{name}" for name, digest in digests.items()}
