"""The site as it is read: made strictly, needing nothing from elsewhere, with a notebook that was really executed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from making import notebook, site
from playwright.sync_api import Browser, Page, expect

pytestmark = [
    pytest.mark.docs,
    pytest.mark.timeout(180),
    pytest.mark.skipif(find_spec("zensical") is None, reason="`./go docs` installs what makes the site"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the site, or take the one that `./go docs --to $SITE` has made."""
    if given := os.environ.get("SITE"):
        return Path(given)
    folder = tmp_path_factory.mktemp("docs")
    site.build(folder)
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page that may ask for nothing but files beside it, and raises no error."""
    page = browser.new_page()
    troubles: list[str] = []
    page.on("request", lambda asked: troubles.append(asked.url) if asked.url.startswith("http") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    yield page
    page.close()
    assert not troubles


def test_no_page_asks_for_anything_from_elsewhere(made: Path) -> None:
    assert len(list((made / "site").rglob("*.html"))) > 30
    assert list(site.outside(made / "site")) == []


def test_what_the_program_says_stands_there_as_it_says_it(made: Path, page: Page) -> None:
    page.goto((made / "site/reference/causes.html").as_uri())
    expect(page.locator("main")).to_contain_text("The first line is not '#Procedure: <...>': this is no file")
    page.goto((made / "site/reference/settings.html").as_uri())
    expect(page.locator("main")).to_contain_text("pip install '.[notify]'")


def test_a_link_that_leads_nowhere_stops_the_build(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "pages", tmp_path / "pages")
    shutil.copy(made / "zensical.toml", tmp_path)
    with (tmp_path / "pages/limits.md").open("a") as file:
        file.write("\n[lost](no-such-page.md)\n")
    with pytest.raises(site.SiteError, match=r"page does not exist[\s\S]*no-such-page"):
        site.render(tmp_path)


def test_the_notebook_was_executed_and_found_what_the_simulated_device_is(made: Path) -> None:
    """It conducts least at 1.1 V, whichever way the gate goes, and some percent better when it is lit."""
    executed = json.loads((made / "site/analysis.ipynb").read_text())
    code = [cell for cell in executed["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = (made / "pages/analysis.md").read_text()
    up_v, down_v = (float(re.search(rf"^{way}\s+(\S+) V$", text, re.MULTILINE)[1]) for way in ("up", "down"))  # type: ignore[index]
    assert up_v == pytest.approx(1.1, abs=0.05)
    assert down_v == pytest.approx(1.1, abs=0.05)
    assert 3 < float(re.search(r"^photoresponse (\S+) %$", text, re.MULTILINE)[1]) < 7  # type: ignore[index]
    (picture,) = re.findall(r"!\[[^]]*\]\((.*\.png)\)", text)
    assert (made / "site" / picture).stat().st_size > 5000


def test_a_cell_that_fails_stops_the_build(made: Path, tmp_path: Path) -> None:
    from nbclient.exceptions import CellExecutionError

    cells = json.loads((site.DOCS / "analysis.ipynb").read_text())
    cells["cells"] = [{**cells["cells"][1], "source": ["import nanolab_daemon as nl\n", "nl.runs('elsewhere')"]}]
    (tmp_path / "wrong.ipynb").write_text(json.dumps(cells))
    with pytest.raises(CellExecutionError, match="Nothing is published in elsewhere"):
        notebook.execute(tmp_path / "wrong.ipynb", tmp_path)


def test_the_search_works_from_a_folder_without_network(made: Path, page: Page) -> None:
    page.goto((made / "site/index.html").as_uri())
    page.get_by_role("button", name="Search").first.click()
    box = page.get_by_role("combobox", name="Search")
    box.fill("quarantine")
    expect(page.locator("a[href*='limits.html']").filter(has_text="uarantine").first).to_be_visible(timeout=30_000)
    expect(box).to_have_value("quarantine")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_on_a_phone_in_both_schemes(made: Path, page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("index", "analysis", "reference/settings", "freeze"):
        page.goto((made / f"site/{name}.html").as_uri())
        expect(page.locator("h1").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
