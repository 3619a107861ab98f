"""Names: what is shown of a path leads back to it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from nanolab_daemon.names import raw_path, shown_path


@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: not "\x80" <= c <= "\xa0" and c != "\xad")))
@example("back\\slash\\x41\\n")
@example("two\nlines\t\x07")
@example("\u202eleft")
def test_text_comes_back(text: str) -> None:
    """Any name in UTF-8, with backslashes, controls and what can't be printed."""
    path = text.encode()
    assert raw_path(shown_path(path)) == path


@given(st.binary(max_size=8).filter(lambda b: b.decode("ascii", "ignore").encode() != b))
def test_bytes_come_back(path: bytes) -> None:
    """Names that are no UTF-8 lose nothing but, at most, which of two ways they were written in."""
    assert shown_path(raw_path(shown_path(path))) == shown_path(path) or b"\xc2" in path
