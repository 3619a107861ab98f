"""What stands before every answer: whose page a browser thinks this is, and what it may do with what it gets."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanolab_daemon.config import Http

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'none'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Refuses requests made to another name, which is how a foreign page would reach a local one (DNS rebinding).

    An address can't be rebound, so every address is allowed, and of names those of this computer and of the settings.
    """

    def __init__(self, app: ASGIApp, http: Http) -> None:
        self._app = app
        self._names = _names(http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on, with the headers that every answer bears."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not is_allowed(hosts[0], self._names):
            refusal = PlainTextResponse(
                "This page does not go by that name. Use its address, or name the host in http.hosts.\n", 421
            )
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def is_allowed(host: str, names: Iterable[str]) -> bool:
    """Tell whether the value of a Host header is an address or one of some names, whatever its port."""
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "")
    if port and not port.isdigit():
        return False
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return name.lower().rstrip(".") in names
    return True


def is_token(given: str, token: str) -> bool:
    """Compare in a time that tells nothing of the token; without a token nothing is right."""
    return bool(token) and hmac.compare_digest(given.encode(), token.encode())


def _names(http: Http) -> frozenset[str]:
    here = socket.gethostname().lower()
    return frozenset({"localhost", here, f"{here}.local", http.host.lower(), *http.hosts})
