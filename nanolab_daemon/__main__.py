"""Where the program begins, as `nanolab-daemon` or `python -m nanolab_daemon`: nothing is imported before here."""

import sys


def main() -> int:
    """Be `nanolab-daemon`; Ctrl-C while it is still being read in ends it as it does later."""
    try:
        from nanolab_daemon.cli import main as command

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("nanolab-daemon: Interrupted.\n")
        return 130


if __name__ == "__main__":  # worker processes import this module too, and must not run the command again
    sys.exit(main())
