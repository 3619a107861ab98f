"""What is given for Grafana and Prometheus speaks of metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from nanolab_daemon.tally import Latency, Tally
from nanolab_daemon.web.metrics import Numbers, exposition
from nanolab_daemon.web.state import health

FOLDER = Path(__file__).parents[2] / "docs/monitoring"
ANSWER = {
    "since": 1.0,
    "tally": {**Tally().as_dict(), "outcomes": {"staged": 1}, "causes": {"bad_rows": 1}},
    "latency": Latency().as_dict(),
    "lost_events": 0,
    "queues": {"stage": [0, 0], "segment": [0, 0]},
    "oldest_in_line_s": 0.0,
    "following": 0,
    "measuring": {},
    "scanned_at": 1.0,
    "rescan_s": 60.0,
    "pools": [{"name": "stage", "size": 1, "ready": 1, "idle": 1, "replaced": 0, "workers": [{"rss_mb": 1}]}],
    "page": {"restarts": 0},
}


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
