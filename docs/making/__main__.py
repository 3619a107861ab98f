"""`python -m making [--to FOLDER]`: make the site. `./go docs` does it with everything that it needs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from making import site


def main() -> int:
    """Make it, and say where it is."""
    parser = argparse.ArgumentParser(prog="./go docs", description="Build the site of the documentation.")
    default = site.DOCS.parent / "build/docs"
    parser.add_argument("--to", type=Path, default=default, metavar="FOLDER", help="where; by default build/docs")
    began = time.monotonic()
    try:
        made = site.build(parser.parse_args().to.absolute())
    except site.SiteError as error:
        print(error, file=sys.stderr)
        return 1
    pages = sum(1 for _ in made.rglob("*.html"))
    print(f"{pages} pages in {time.monotonic() - began:.0f} s. Open {made / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
