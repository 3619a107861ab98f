"""Names of raw files, which are bytes, as text that can be stored, printed and put into JSON."""

from __future__ import annotations


def shown_path(path: bytes) -> str:
    r"""Give a relative path as text that can be stored and printed: bytes that are no UTF-8 and controls escaped.

    A backslash is doubled, so that no two names have one text.
    """
    text = path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
