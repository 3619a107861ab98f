"""Lets `python -m nanolab_daemon` do what `nanolab-daemon` does."""

import sys

from nanolab_daemon.cli import main

if __name__ == "__main__":  # worker processes import this module too, and must not run the command again
    sys.exit(main())
