"""What is given for Grafana and Prometheus speaks of metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from making.reference import ANSWER

from nanolab_daemon.web.metrics import Numbers, exposition
from nanolab_daemon.web.state import health

FOLDER = Path(__file__).parents[2] / "docs/monitoring"


def made() -> set[str]:
    """Give the names of all metrics, as they are exposed."""
    text = exposition(Numbers(ANSWER, {}, {}, {}, health(ANSWER))).decode()
    return set(re.findall(r"^(nanolab_\w+)", text, re.MULTILINE))


def named(text: str) -> set[str]:
    return set(re.findall(r"\bnanolab_\w+", text))


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    asked = named(json.dumps([panel["targets"] for panel in panels])) | named((FOLDER / "alerts.yml").read_text())
    assert len(asked) > 15
    assert asked <= made()


def test_every_metric_is_documented() -> None:
    told = named((FOLDER / "README.md").read_text())
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in made()}
    assert families <= told
    assert told <= families
