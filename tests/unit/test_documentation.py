"""The reference has everything that the code knows by name, and the site is found out where it asks for strangers."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import instrument
import messy
import pytest
from lab import Lab, toml
from making import answers, reference, site, source, words
from making.tables import plain, table

from nanolab_daemon import journal
from nanolab_daemon.cli import cli
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import FileState
from nanolab_daemon.sections import RULES
from nanolab_daemon.web.metrics import PREFIX

Told = Callable[..., tuple[int, str, str]]

DOCS = Path(__file__).parents[2] / "docs"


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_key_has_its_entry_with_default_value_reload_and_meaning() -> None:
    page = reference.settings()
    found = []
    for section, text in re.findall(r"^## `\[(\w+)\]`$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| (`.*) \|$", text, re.MULTILINE)
        for row in rows:
            key, default, value, reload, meaning = re.split(r"(?<!\\) \| ", row)
            assert default.startswith("`")
            assert value
            assert reload in ("yes", "restart")
            assert len(meaning) > 10, key
            found.append(f"{section}.{key.strip('`')}")
    assert found == list(RULES)


def test_a_reload_is_promised_where_the_daemon_keeps_it() -> None:
    page = reference.settings()
    assert re.search(r"^\| `settle_s` .* \| yes \|", page, re.MULTILINE)
    assert re.search(r"^\| `stage_workers` .* \| restart \|", page, re.MULTILINE)


def test_every_command_and_every_option_has_its_entry() -> None:
    page = reference.commands()
    told = dict(re.findall(r"^## (\w[\w ]*)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    commands = {path: command for path, command in reference.every_command(cli) if path}
    assert len(commands) > 12
    assert set(told) == {*commands, "Exit codes"}
    for path, command in commands.items():
        if isinstance(command, click.Group):
            continue
        options = [name for one in command.params if isinstance(one, click.Option) for name in one.opts]
        assert [name for name in options if f"`{name}" not in told[path] and f", {name}" not in told[path]] == []
        assert f"nanolab-daemon {path}" in told[path]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        (reference.states, [str(one) for one in FileState]),
        (reference.metrics, list(reference.every_metric())),
    ],
)
def test_every_state_and_metric_has_its_entry(page, names) -> None:
    assert first_cells(page()) == names


def test_what_commands_answer_to_programs_is_told_key_by_key(tmp_path: Path, told: Told) -> None:
    lab = Lab(tmp_path)
    (lab.home / "config.toml").write_text(toml(lab.config))
    instrument.iv(1).write(lab.raw / "IV_1.csv")
    (lab.raw / "bad.csv").write_bytes(messy.with_bad_row(instrument.iv(2)))
    lab.age()
    lab.backfill()
    next(lab.stage.rglob("part-000.parquet")).unlink()
    page = "\n\n".join(answers.page())
    for name, (kind, is_list) in answers.ANSWERS.items():
        words = name.replace("FILE", "IV_1.csv").split()
        _, out, _ = told(*words, "--config", str(lab.home / "config.toml"), "--json")
        found = json.loads(out)
        assert isinstance(found, list) == is_list
        assert_told(page, kind.__name__, found[0] if is_list else found)


def assert_told(page: str, heading: str, found: Mapping[str, object]) -> None:
    """Compare an object with the table below its heading, and the objects in it with those that it refers to."""
    (part,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", part, re.MULTILINE))
    assert rows.keys() == found.keys()
    for key, value in found.items():
        one = value[0] if isinstance(value, list) and value else value
        if link := re.search(r"\[(\w+)\]\(#", rows[key]):
            if isinstance(one, dict):
                assert_told(page, link[1], one)
        elif isinstance(value, list):
            assert rows[key].startswith("list of") or "list of" in rows[key]


def test_every_cause_has_its_entry_and_what_the_program_says_of_it() -> None:
    page = reference.causes()
    parts = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(parts) == [str(one) for one in RejectCause]
    assert all("**What to do.**" in part for part in parts.values())
    assert "holds NUL bytes" in parts["nul_bytes"]
    assert "has … columns, more than the limit of …" in parts["too_large"]


def test_every_event_and_every_field_has_its_entry() -> None:
    page = reference.events()
    kept = dict(re.findall(r"^\| ([^|]+) \|.*\| `([0-9a-f]{32})` \|$", page, re.MULTILINE))
    assert kept == journal.MESSAGE_IDS
    logged = {key for event in source.events().values() for key in event.keys}
    assert len(logged) > 20
    fields = page.partition("## Fields")[2]
    assert set(first_cells(fields)) == logged
    assert len(source.events()) > len(journal.MESSAGE_IDS)


def test_the_page_of_the_journal_speaks_of_fields_that_there_are() -> None:
    table_ = (DOCS / "journal.md").read_text(encoding="utf-8").partition("## Fields")[2].partition("## Kinds")[0]
    told = set(re.findall(r"`([A-Z_]+)`", " ".join(re.findall(r"^\| ([^|]*) \|", table_, re.MULTILINE))))
    assert told - {name.upper() for name in words.FIELDS} == {"MESSAGE", "MESSAGE_ID", "PRIORITY", "LOGGER"}


def test_nothing_is_explained_that_is_there_no_more() -> None:
    assert set(words.STATES) == set(FileState)
    assert set(words.CAUSES) == set(RejectCause)
    assert set(words.EVENTS) == set(journal.MESSAGE_IDS)
    assert set(words.EXIT_CODES) == set(reference.exit_codes())
    assert set(words.FIELDS) == {key for event in source.events().values() for key in event.keys}


def test_all_metrics_bear_the_programs_prefix() -> None:
    assert all(name.startswith(f"{PREFIX}_") for name in reference.every_metric())


def test_a_cell_can_break_neither_table_nor_page() -> None:
    assert table(("a",), [("x | y\nz",)]).splitlines()[2] == "| x \\| y z |"
    assert plain("<b> [x] `[y]` *z* &") == "&lt;b\\> \\[x\\] `[y]` \\*z\\* &amp;"


def test_the_menu_names_pages_that_there_are_and_all_that_were_written() -> None:
    settings = tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8").replace("@decisions@", ""))
    named = set(re.findall(r"'([\w/-]+\.md)'", str(settings["project"]["nav"])))
    made = {"analysis.md", "changes.md"} | {name for name in named if name.startswith("reference/")}
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert named - made == written


def test_the_notebook_is_kept_without_what_it_put_out() -> None:
    cells = json.loads((DOCS / "analysis.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 8
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', "<script> https://cdn.example/x.js"),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">', "<link> //fonts.example/css"),
        ("a.html", '<p><img alt="" src="http://x.example/y.png"></p>', "<img> http://x.example/y.png"),
        ("a.html", '<img srcset="https://x.example/2.png 2x">', "<img> https://x.example/2.png"),
        ("a.html", "<style>@import 'https://x.example/a.css';</style>", "<style> https://x.example/a.css"),
        ("a.html", '<a href="https://example.org/">a link is no resource</a> <img src="y.png">', None),
        ("a.css", "p { background: url(https://x.example/y.png) }", "https://x.example/y.png"),
        ("a.css", "p { background: url(data:image/png;base64,//8=) } /* https://x.example */", None),
    ],
)
def test_what_lies_elsewhere_is_found(tmp_path: Path, name: str, text: str, found: str | None) -> None:
    (tmp_path / name).write_text(text)
    assert list(site.outside(tmp_path)) == ([] if found is None else [f"{name}: {found}"])


def test_the_foreign_worker_is_replaced_by_the_sites_own(tmp_path: Path) -> None:
    page = tmp_path / "a/b.html"
    page.parent.mkdir()
    page.write_text('<script src="https://unpkg.com/iframe-worker/shim" type="text/javascript"></script>')
    site.use_own_worker(tmp_path)
    assert page.read_text() == '<script src="../theme/worker.js"></script>'
