"""deploy/prometheus and deploy/grafana: valid, tested, and about existing metrics only."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import program
from user_service.observability.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\buser_service[a-z0-9_:]*")


def rules() -> list[dict[str, Any]]:
    groups = [yaml.safe_load(file.read_text("utf-8"))["groups"] for file in RULES]
    return [rule for several in groups for group in several for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def alert_tests() -> Iterator[dict[str, Any]]:
    tests = yaml.safe_load((PROMETHEUS / "tests" / "alerts.yml").read_text("utf-8"))
    for test in tests["tests"]:
        yield from test.get("alert_rule_test", ())


def promtool(*arguments: str) -> str:
    ended = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def available() -> set[str]:
    """Return the names of all series that the service exposes or the rules record."""
    metrics = Metrics()
    metrics.set_build_info("1", "unknown")
    metrics.http.observe("/", "GET", 200, 0.1)
    exposed = {s.name for family in metrics.registry.collect() for s in family.samples}
    return exposed | {rule["record"] for rule in rules() if "record" in rule}


def test_configuration_is_valid(tmp_path: Path) -> None:
    config = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    here = config.replace("/etc/prometheus/", f"{PROMETHEUS}/")
    assert here != config
    (tmp_path / "prometheus.yml").write_text(here)
    told = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert f"{len(RULES)} rule files found" in told


def test_rules_are_valid() -> None:
    told = promtool("check", "rules", *map(str, RULES))
    assert sum(int(n) for n in re.findall(r"(\d+) rules found", told)) == len(rules())


def test_alerts_fire_as_their_tests_say() -> None:
    promtool("test", "rules", str(PROMETHEUS / "tests" / "alerts.yml"))


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    firing = {test["alertname"] for test in alert_tests() if test.get("exp_alerts")}
    assert firing == alerts().keys()
    # In these tests only some series fire, and promtool compares the exact set.
    quiet = {test["alertname"] for test in alert_tests() if not test.get("exp_alerts")}
    among_others = {
        "UserServiceReplicaDown",
        "UserServicePoolSaturated",
        "UserServiceBreakerOpen",
    }
    assert quiet | among_others == alerts().keys()


@pytest.mark.parametrize("file", [*RULES, *DASHBOARDS], ids=lambda path: path.name)
def test_every_queried_metric_exists(file: Path) -> None:
    text = file.read_text("utf-8")
    named = set(METRIC.findall(text))
    assert named
    assert named <= available(), named - available()


@pytest.mark.parametrize("name", alerts())
def test_alert_has_a_severity_a_description_and_a_runbook(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    file, heading = alert["annotations"]["runbook"].split("#")
    runbook = (DEPLOY.parent / file).read_text("utf-8")
    assert heading == name.lower()
    section = runbook.split(f"\n## {name}\n", 1)[1].strip()
    assert section.startswith(f"*{alert['labels']['severity'].capitalize()}.*")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_has_a_query_in_every_panel_and_its_own_data_source(file: Path) -> None:
    dashboard = json.loads(file.read_text("utf-8"))
    sources = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(sources.read_text("utf-8"))["datasources"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
