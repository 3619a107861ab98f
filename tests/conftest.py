"""What all tests share: the helpers beside this file can be imported, and Hypothesis does not judge by the clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("nanolab", deadline=None)
settings.load_profile("nanolab")
