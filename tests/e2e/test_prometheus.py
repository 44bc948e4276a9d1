"""deploy/prometheus and deploy/grafana: valid, tested, and about existing metrics only."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import ROOT, program, shell
from user_service.observability.metrics import Metrics

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
ALERT_TESTS = PROMETHEUS / "tests" / "alerts.yml"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\buser_service[a-z0-9_:]*")


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


RULES = [rule for file in RULE_FILES for group in loaded(file)["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def promtool(*arguments: str) -> str:
    return shell(program("promtool"), *arguments)


def test_configuration_is_valid_and_alerts_fire_as_their_tests_say(tmp_path: Path) -> None:
    config = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    here = config.replace("/etc/prometheus/", f"{PROMETHEUS}/")
    assert here != config
    here = here.replace("/etc/prometheus-edge/", f"{PROMETHEUS}/edge/")
    (tmp_path / "prometheus.yml").write_text(here)
    told = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert f"{len(RULE_FILES)} rule files found" in told
    told = promtool("check", "rules", *map(str, RULE_FILES))
    assert sum(int(n) for n in re.findall(r"(\d+) rules found", told)) == len(RULES)
    promtool("test", "rules", str(ALERT_TESTS))


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    groups = loaded(ALERT_TESTS)["tests"]
    tests = [each for group in groups for each in group.get("alert_rule_test", ())]
    firing = {test["alertname"] for test in tests if test.get("exp_alerts")}
    assert firing == ALERTS.keys()
    # In these tests only some series fire, and promtool compares the exact set.
    among_others = {
        f"UserService{name}" for name in ("ReplicaDown", "PoolSaturated", "BreakerOpen")
    }
    quiet = {test["alertname"] for test in tests if not test.get("exp_alerts")}
    assert quiet | among_others == ALERTS.keys()


@pytest.mark.parametrize("file", [*RULE_FILES, *DASHBOARDS], ids=lambda path: path.name)
def test_every_queried_metric_is_exposed_or_recorded(file: Path) -> None:
    metrics = Metrics()
    metrics.set_build_info("1", "unknown")
    metrics.observe("/", "GET", 200, 0.1)
    exposed = {s.name for family in metrics.collector.collect() for s in family.samples}
    named = set(METRIC.findall(file.read_text("utf-8")))
    assert named or file.stem == "database"  # whose metrics are CloudNativePG's
    assert named - exposed - {rule.get("record") for rule in RULES} == set()


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_severity_a_description_and_a_runbook(name: str) -> None:
    labels, annotations = ALERTS[name]["labels"], ALERTS[name]["annotations"]
    assert labels["severity"] in ("page", "ticket")
    assert annotations.keys() == {"summary", "description", "runbook"}
    file, heading = annotations["runbook"].split("#")
    runbook = (DEPLOY.parent / file).read_text("utf-8")
    assert heading == name.lower()
    section = runbook.split(f"\n## {name}\n", 1)[1].strip()
    assert section.startswith(f"*{labels['severity'].capitalize()}.*")


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_has_a_query_in_every_panel_and_its_own_data_source(file: Path) -> None:
    sources = loaded(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")
    (source,) = sources["datasources"]
    panels = json.loads(file.read_text("utf-8"))["panels"]
    panels = [panel for panel in panels if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
