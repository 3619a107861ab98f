"""The two files that hold secrets: the page's token, and the addresses of notices. Read, never shown.

What is wrong with one is told without a word of what is in it.
"""

from __future__ import annotations

import stat
from importlib.util import find_spec
from pathlib import Path

from nanolab_daemon.errors import ConfigError

LEAST_TOKEN = 16
MOST_TOKEN_BYTES = 4096


def read_token(file: Path | None) -> tuple[str, str]:
    """Give the secret that allows to retry, and else why there is none, in words."""
    if file is None:
        return "", "no http.token_file is set"
    try:
        with file.open("rb") as opened:
            token = opened.read(MOST_TOKEN_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return "", f"http.token_file can't be read: {getattr(error, 'strerror', None) or error}"
    if len(token) < LEAST_TOKEN:
        return "", f"the secret in http.token_file has fewer than {LEAST_TOKEN} characters"
    return token, ""


def read_addresses(file: Path | None) -> list[str]:
    """Give the addresses of notices, one a line of the file, each tried for whether apprise understands it.

    ConfigError where there are none, or the extra is not installed.
    """
    if file is None:
        raise ConfigError(
            "notify.urls_file names no file.",
            advice="Write an apprise address a line into one that only the daemon's user may read, such as "
            "mailto://user:password@example.org, and name it there.",
        )
    if find_spec("apprise") is None:
        import sys

        raise ConfigError(
            "Notices need apprise.", advice=f"Type: {sys.executable} -m pip install 'nanolab-daemon[notify]'"
        )
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"notify.urls_file = {file} can't be read: {error}.", advice="Check the file and its rights."
        ) from error
    urls = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not urls:
        raise ConfigError(f"notify.urls_file = {file} holds no address.", advice="Write one a line.")
    import apprise

    for number, url in enumerate(urls, 1):
        if apprise.Apprise.instantiate(url, suppress_exceptions=True) is None:
            # Not the address itself: it holds a password.
            raise ConfigError(
                f"notify.urls_file = {file}: address {number} ({service(url)}:…) is none for apprise.",
                advice="See https://appriseit.com for how to write it.",
            )
    return urls


def service(url: str) -> str:
    """Give what an address may be called where others can read it: the word before its colon."""
    return url.partition(":")[0]


def open_to_all(file: Path) -> str:
    """Say what users outside the file's group may do with it; empty if nothing. Raises OSError."""
    mode = file.stat().st_mode
    rights = [word for bit, word in ((stat.S_IROTH, "read"), (stat.S_IWOTH, "write")) if mode & bit]
    return " and ".join(rights)
