"""Names of raw files, which are bytes, as text that can be stored, printed and put into JSON."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\(?:(\\)|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([nrt]))")
_CONTROLS = {"n": b"\n", "r": b"\r", "t": b"\t"}


def shown_path(path: bytes) -> str:
    r"""Give a relative path as text that can be stored and printed: bytes that are no UTF-8 and controls escaped.

    A backslash is doubled, so that no two names have one text.
    """
    text = path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def raw_path(shown: str) -> bytes:
    """Give the path that is shown so. Of a byte that is no UTF-8 and a control beyond ASCII, it takes the byte."""
    parts: list[bytes] = []
    at = 0
    for match in _ESCAPED.finditer(shown):
        backslash, byte, short, long, control = match.groups()
        parts.append(shown[at : match.start()].encode("utf-8", "surrogateescape"))
        if backslash:
            parts.append(b"\\")
        elif byte:
            parts.append(bytes.fromhex(byte))
        elif control:
            parts.append(_CONTROLS[control])
        else:
            parts.append(chr(int(short or long, 16)).encode("utf-8", "surrogateescape"))
        at = match.end()
    return b"".join(parts) + shown[at:].encode("utf-8", "surrogateescape")
