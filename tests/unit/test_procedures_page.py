"""The page on procedures tells what comes of the files today."""

from __future__ import annotations

import procedures_page


def test_page_is_current() -> None:
    """docs/procedures.md is what both stages make of every procedure's files; procedures_page.py writes it anew."""
    assert procedures_page.PAGE.read_text(encoding="utf-8") == procedures_page.page(), (
        "docs/procedures.md is out of date: run `python tests/procedures_page.py`, and look at what has changed."
    )
