"""A laboratory whose daemon serves its page: addresses, answers, and a browser's first questions."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any

from lab import QUICK, Lab, until

from nanolab_daemon.config import Http

TOKEN = "a secret of the laboratory"


@dataclass(frozen=True)
class Answer:
    code: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Quiet(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a test wants to see where it is sent."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(Quiet, urllib.request.ProxyHandler({}))


class Website:
    def __init__(self, lab: Lab, process: subprocess.Popen[bytes], address: str) -> None:
        self.lab, self.process, self.address = lab, process, address

    def get(self, path: str, headers: dict[str, str] | None = None, data: dict[str, str] | None = None) -> Answer:
        body = None if data is None else urllib.parse.urlencode(data).encode()
        request = urllib.request.Request(self.address + path.lstrip("/"), body, headers or {})
        try:
            with OPENER.open(request, timeout=30) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    @property
    def described(self) -> dict[str, Any]:
        status = self.lab.status()
        assert status is not None
        page: dict[str, Any] = status["page"]
        return page

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """Listen to the news as a browser does."""
        with OPENER.open(self.address + "events", timeout=30) as answer:

            def told() -> Iterator[tuple[str, Any]]:
                name = ""
                for line in answer:
                    text = line.decode().rstrip("\n")
                    if text.startswith("event: "):
                        name = text[7:]
                    elif text.startswith("data: "):
                        yield name, json.loads(text[6:])

            yield told()


def laboratory(home: Path, **http: Any) -> Lab:
    """Make a laboratory whose daemon will serve its page on a free port."""
    lab = Lab(home, watch=replace(QUICK, quiet_s=60.0))  # a measurement may pause while a test looks at it
    secret = home / "token"
    secret.write_text(TOKEN + "\n")
    lab.config = replace(lab.config, http=Http(**{"enabled": True, "port": 0, "token_file": secret, **http}))
    return lab


@contextlib.contextmanager
def website(lab: Lab) -> Iterator[Website]:
    """Run the daemon and wait for its page to answer."""
    with lab.process() as process:
        address = until(lambda: (lab.status() or {"page": {}})["page"].get("address"), what="for the page's address")
        site = Website(lab, process, address)
        assert site.get("health").code in (200, 503)
        yield site
