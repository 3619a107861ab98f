"""Be the page's process: die with the daemon, give up all writing, serve until told to end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import sys

from nanolab_daemon import confine
from nanolab_daemon.config import Config
from nanolab_daemon.log import REASON, configure, logger
from nanolab_daemon.worker import die_with_parent

NICER = 5
"""The page comes after the workers: curves are drawn with what they leave."""


def main(argv: list[str]) -> int:
    """Serve on the listening socket with number argv[0], for the daemon with process id argv[1]."""
    number, parent_pid = map(int, argv)
    die_with_parent(parent_pid, "nl-page")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable()
    with contextlib.suppress(OSError):
        os.nice(NICER)
    config: Config = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the daemon
    configure(config.log.level, config.log.format)
    trouble = confine.write_only_below([])
    if trouble:
        logger(__name__).debug("the page is not confined", **{REASON: trouble})

    from nanolab_daemon.web.server import serve

    with socket.socket(fileno=number) as listener:
        serve(config, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
