"""Memory that was freed goes back to the system now and then, so that months of work leave a process as a day does.

Lists of files come and go beside what stays for long, such as the ledger's cache: the C library keeps the gaps for
itself, and they grow. Measured in a soak test: 1 MiB a minute with nothing more in use.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Give whole free pages back; costs some milliseconds. Does nothing with a C library that can't."""
    _trimmer()(0)


@functools.cache
def _trimmer() -> Callable[[int], object]:
    trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim or (lambda _: None)
