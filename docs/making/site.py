"""Puts the pages together, has them made into a site, and sees that it needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from making import lab, notebook, reference

DOCS = Path(__file__).parents[1]
NOT_PAGES = shutil.ignore_patterns("making", "zensical.toml", "__pycache__", "*.ipynb")
FOREIGN_WORKER = re.compile(r'<script src="https://[^"]*iframe-worker[^"]*"[^>]*></script>')
RESOURCES = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
    "use": "href",
}
"""By tag, the attribute that a browser fetches by itself."""

OUTSIDE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class SiteError(Exception):
    """The site can't be made, or would not be good."""


def build(folder: Path) -> Path:
    """Make the site in a folder, whatever was there of an earlier one; give the folder of its pages."""
    for name in ("pages", "site", "lab", ".cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    lab.measure(folder / "lab")
    assemble(folder)
    return render(folder)


def render(folder: Path) -> Path:
    """Make the site of what was put together; SiteError where a page is wrong, or asks for what lies elsewhere."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said, _, trace = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).partition("Traceback")
        raise SiteError(f"zensical does not take the pages:\n{said}{trace.strip().rpartition(chr(10))[2]}")
    site = folder / "site"
    use_own_worker(site)
    if found := list(outside(site)):
        raise SiteError("The site asks for what lies elsewhere:\n" + "\n".join(found))
    if lacking := sorted(set(pages_of(folder / "pages")) - set(pages_of(site, ".html"))):
        raise SiteError(f"Pages that did not become any: {', '.join(lacking)}")
    return site


def assemble(folder: Path) -> None:
    """Lay the written pages, the reference and the executed notebook into `pages`, and the settings beside them."""
    pages = folder / "pages"
    shutil.copytree(DOCS, pages, ignore=NOT_PAGES)
    changes = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    (pages / "changes.md").write_text(re.sub(r"\]\(docs/", "](", changes), encoding="utf-8")
    for name, text in reference.pages(folder / "lab").items():
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    notebook.publish(DOCS / "analysis.ipynb", folder / "lab", pages)
    settings = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(settings.replace("@decisions@", _decisions(pages)), encoding="utf-8")
    named = {re.sub(r"\bREADME$", "index", name) for name in re.findall(r'= "([^"]+)\.md"', settings)}
    if lost := sorted(set(pages_of(pages)) - named):
        raise SiteError(f"Pages that docs/zensical.toml does not name: {', '.join(lost)}")


def _decisions(pages: Path) -> str:
    entries = []
    for path in sorted((pages / "decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").replace('"', "'")
        entries.append(f'      {{ "{title}" = "decisions/{path.name}" }},')
    return "\n".join(['    { "Decisions" = [', *entries, "    ] },"])


def pages_of(folder: Path, suffix: str = ".md") -> Iterator[str]:
    """Give the pages of a folder without their suffix, decisions aside; `README` is `index`, as on the site."""
    for path in folder.rglob(f"*{suffix}"):
        name = path.relative_to(folder).as_posix().removesuffix(suffix)
        if not name.startswith("decisions/"):
            yield re.sub(r"\bREADME$", "index", name)


def use_own_worker(site: Path) -> None:
    """Let the pages take the script beside them that lets the search work from a folder."""
    for path in site.rglob("*.html"):
        own = os.path.relpath(site / "theme/worker.js", path.parent)
        text = FOREIGN_WORKER.sub(f'<script src="{own}"></script>', path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")


def outside(site: Path) -> Iterator[str]:
    """Give each script, style, font or picture that the site would have a browser fetch from elsewhere."""
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site)
        if path.suffix == ".html":
            finder = _Finder()
            finder.feed(path.read_text(encoding="utf-8"))
            yield from (f"{name}: <{tag}> {address}" for tag, address in finder.found)
        elif path.suffix == ".css":
            yield from (f"{name}: {address}" for address in IN_STYLES.findall(path.read_text(encoding="utf-8")))


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        for name, value in attrs:
            if name == RESOURCES.get(tag) and OUTSIDE.match(value or ""):
                self.found.append((tag, str(value)))
            elif name in ("srcset", "style"):
                self.found += [(tag, one) for one in re.findall(r"(?:https?:)?//[^\s,)'\"]+", value or "")]

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += [("style", one) for one in IN_STYLES.findall(data)]
