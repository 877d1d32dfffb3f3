"""Alert rules, runbook and dashboard speak of metrics that exist, and Prometheus itself lets each alert fire."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from polygon_live.commands import cli
from polygon_live.metrics import FAMILIES
from tests.promtool import promtool

OPS: Final = Path(__file__).parent.parent / "ops"
LABELS: Final = {name: {*family.labels} for family in FAMILIES for name in family.samples}
OF_PROMETHEUS: Final = {"instance", "job", "le"}
PROCESS: Final = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}

(GROUP,) = yaml.safe_load((OPS / "alerts.yaml").read_text())["groups"]
RULES: Final[Mapping[str, Any]] = {rule["alert"]: rule for rule in GROUP["rules"]}
RUNBOOK: Final = (OPS / "runbook.md").read_text()
PARAGRAPHS: Final = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=\n\n## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
DASHBOARD: Final = json.loads((OPS / "dashboard.json").read_text())

END: Final = "240m"
NOW: Final = "0+60x240"
"""A timestamp that is always this moment: the clock of promtool begins at 0, and a value comes each minute."""
LONG_AGO: Final = "0x240"

WELL: Final[Mapping[str, str]] = {
    "build_info": "1x240",
    "healthy": "1x240",
    "market_open": "1x240",
    "feed_streaming": "1x240",
    "feed_needs_operator": "0x240",
    "feed_left_quiet": "0x240",
    "feed_symbols_silent": "0x240",
    "feed_symbols_added_silent": "0x240",
    "last_tick_received_timestamp_seconds": NOW,
    'feed_reconnects_total{reason="cut"}': "3x240",
    "clock_skew_seconds": "0.1x240",
    "feed_messages_dropped_total": "0x240",
    "events_received_total": "0+600x240",
    'rejects_total{stage="validate",reason="repeat"}': "0+6x240",
    "filler_ticks_rejected_total": "0x240",
    'sink_behind_seconds{sink="kafka"}': "0.1x240",
    'sink_needs_operator{sink="kafka"}': "0x240",
    'sink_until_loss_seconds{sink="kafka"}': "900000x240",
    'sink_ticks_lost_total{sink="kafka"}': "7x240",
    'sink_ticks_set_aside_total{sink="kafka"}': "1x240",
    'sink_complaints{sink="kafka"}': "0x240",
    'verification_differences{sink="kafka"}': "0x240",
    'verification_behind_seconds{sink="kafka"}': "70x240",
    "retention_verified": "1x240",
    "journal_failing": "0x240",
    "journal_damaged_files": "0x240",
    "configuration_refusal_standing": "0x240",
    "hub_failures_total": "50x240",
    "hub_answered_timestamp_seconds": NOW,
    'task_restarts_total{task="retention"}': "2x240",
}
STEPS: Final = "0x235 1x5"
FAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "PolygonLiveAbsent": {"build_info": "1x200"},
    "PolygonLiveUnhealthy": {"healthy": "0x240"},
    "PolygonLiveNotStreaming": {"feed_streaming": "0x240"},
    "PolygonLiveNoTicks": {"last_tick_received_timestamp_seconds": LONG_AGO},
    "PolygonLiveRefused": {"feed_needs_operator": "1x240"},
    "PolygonLiveSymbolsSilent": {"feed_symbols_added_silent": "1x240"},
    "PolygonLiveReconnecting": {'feed_reconnects_total{reason="cut"}': "0+1x240"},
    "PolygonLiveClockSkew": {"clock_skew_seconds": "-3x240"},
    "PolygonLiveMessagesDropped": {"feed_messages_dropped_total": STEPS},
    "PolygonLiveRejectsMany": {'rejects_total{stage="validate",reason="repeat"}': "0+60x240"},
    "PolygonLiveRateLimitViolation": {'rate_limit_violations_total{endpoint="wss://x subscribe"}': "_x235 1x5"},
    "PolygonLiveSinkLate": {'sink_behind_seconds{sink="kafka"}': "3x240"},
    "PolygonLiveSinkDown": {'sink_behind_seconds{sink="kafka"}': "12x240"},
    "PolygonLiveSinkNeedsOperator": {'sink_needs_operator{sink="kafka"}': "1x240"},
    "PolygonLiveLossNear": {
        'sink_until_loss_seconds{sink="kafka"}': "3000x240",
        'sink_behind_seconds{sink="kafka"}': "12x240",
    },
    "PolygonLiveTicksLost": {'sink_ticks_lost_total{sink="kafka"}': STEPS},
    "PolygonLiveTicksSetAside": {'sink_ticks_set_aside_total{sink="kafka"}': STEPS},
    "PolygonLiveStoreDiffers": {'verification_differences{sink="kafka"}': "1x240"},
    "PolygonLiveUnverified": {'verification_behind_seconds{sink="kafka"}': "2000x240"},
    "PolygonLiveSinkComplaint": {'sink_complaints{sink="kafka"}': "1x240"},
    "PolygonLiveRetentionUnverified": {"retention_verified": "0x240"},
    "PolygonLiveJournalFailing": {"journal_failing": "1x240"},
    "PolygonLiveJournalDamaged": {"journal_damaged_files": "1x240"},
    "PolygonLiveDiskFilling": {'disk_until_full_seconds{holds="journal"}': "3600x240"},
    "PolygonLiveRetentionFails": {"retention_failures_total": "0+1x240"},
    "PolygonLiveGapsUnfilled": {"gaps_unsettled_timestamp_seconds": LONG_AGO},
    "PolygonLiveConfigurationRefused": {"configuration_refusal_standing": "1x240"},
    "PolygonLiveHubAway": {"hub_answered_timestamp_seconds": LONG_AGO},
    "PolygonLiveTaskRestarts": {'task_restarts_total{task="retention"}': STEPS},
}
"""For each alert what makes it fire. Others may fire as well."""
QUIET: Final[Mapping[str, Mapping[str, str]]] = {
    "all is well": {},
    "the market is closed": {
        "market_open": "0x240",
        "feed_streaming": "0x240",
        "last_tick_received_timestamp_seconds": LONG_AGO,
        "clock_skew_seconds": "30x240",
        "feed_symbols_silent": "14x240",
    },
    "the market opens slowly": {
        "market_open": "0x236 1x4",
        "last_tick_received_timestamp_seconds": LONG_AGO,
    },
    "there is no Hub": {"hub_failures_total": "0x240", "hub_answered_timestamp_seconds": "_x240"},
    "a full journal that nobody needs": {'sink_until_loss_seconds{sink="kafka"}': "1000x240"},
    "a violation of long ago": {'rate_limit_violations_total{endpoint="x"}': "_x100 1x140"},
    "ticks that were lost before a start of long ago": {'sink_ticks_lost_total{sink="kafka"}': "_x100 7x140"},
    "what is fetched is refused": {
        'rejects_total{stage="validate",reason="spread"}': "0+60x240",
        "filler_ticks_rejected_total": "0+60x240",
    },
    "what is fetched while nothing comes is refused": {
        "events_received_total": "144000x240",
        'rejects_total{stage="validate",reason="repeat"}': "0+0.1x240",
        'rejects_total{stage="validate",reason="spread"}': "0+0.2x240",
        "filler_ticks_rejected_total": "0+0.3x240",
    },
    "a gap of a moment ago": {"gaps_unsettled_timestamp_seconds": NOW},
}


FOUND_AT_A_START: Final = "0x150 _x77 5x12"
FURTHER_FAULTS: Final[Sequence[tuple[str, Mapping[str, str]]]] = (
    ("PolygonLiveHubAway", {"hub_answered_timestamp_seconds": "_x240"}),
    ("PolygonLiveTicksLost", {'sink_ticks_lost_total{sink="kafka"}': FOUND_AT_A_START}),
    ("PolygonLiveTicksSetAside", {'sink_ticks_set_aside_total{sink="kafka"}': FOUND_AT_A_START}),
)


def scenario(name: str, series: Mapping[str, str], expression: str, count: int | None) -> Mapping[str, Any]:
    """Prometheus evaluates the rules over four hours of these series; at the end so many alerts match."""
    found = [] if count is None else [{"labels": "{}", "value": count}]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": f"polygon_live_{metric}", "values": values} for metric, values in {**WELL, **series}.items()
        ],
        "promql_expr_test": [{"expr": f"count(ALERTS{{{expression}}})", "eval_time": END, "exp_samples": found}],
    }


def fires(alert: str, series: Mapping[str, str]) -> Mapping[str, Any]:
    return scenario(alert, series, f'alertname="{alert}", alertstate="firing"', 1)


def test_prometheus_itself_reads_the_rules() -> None:
    promtool("check", "rules", OPS / "alerts.yaml")


def test_each_alert_fires_on_its_fault_and_none_without(tmp_path: Path) -> None:
    assert set(FAULTS) == set(RULES)
    faults = [fires(alert, series) for alert, series in (*FAULTS.items(), *FURTHER_FAULTS)]
    quiet = [scenario(name, series, 'alertstate="firing"', None) for name, series in QUIET.items()]
    file = tmp_path / "rules.yaml"
    rules = {"rule_files": [str(OPS / "alerts.yaml")], "evaluation_interval": "1m", "tests": [*faults, *quiet]}
    file.write_text(yaml.safe_dump(rules))
    promtool("test", "rules", file)


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics in it, each with the labels by which it is selected."""
    for name, _, selected in re.findall(r"\b((?:polygon_live|process)_\w+)(\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected))


def check_expression(expression: str) -> None:
    """Every metric exists, with the labels by which it is selected or grouped."""
    found = dict(used(expression))
    assert found, expression
    assert set(found) <= set(LABELS) | PROCESS, expression
    labels = {label for name in found for label in LABELS.get(name, ())} | OF_PROMETHEUS
    for name, selected in found.items():
        assert selected <= LABELS.get(name, set()) | OF_PROMETHEUS, expression
    for grouped in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",") if label.strip()} <= labels, expression


@pytest.mark.parametrize("alert", RULES)
def test_each_alert_speaks_of_metrics_that_exist(alert: str) -> None:
    check_expression(RULES[alert]["expr"])
    labels = {label for name, _ in used(RULES[alert]["expr"]) for label in LABELS[name]} | {"instance"}
    said = RULES[alert]["annotations"]["summary"]
    assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels
    assert said.endswith(".")
    assert RULES[alert]["labels"]["severity"] in {"critical", "warning"}


def test_each_alert_has_its_paragraph_and_no_other_is_there() -> None:
    anchors = {alert: rule["annotations"]["runbook"] for alert, rule in RULES.items()}
    assert anchors == {alert: f"ops/runbook.md#{alert.lower()}" for alert in PARAGRAPHS}
    assert list(PARAGRAPHS) == list(RULES), "in the same order"
    assert all(len(text) > 150 for text in PARAGRAPHS.values())


def test_the_runbook_names_metrics_commands_and_alerts_that_exist() -> None:
    named = set(re.findall(r"\bpolygon_live_\w+", RUNBOOK))
    assert named
    assert named <= {*LABELS, *(family.exposed for family in FAMILIES)}
    assert set(re.findall(r"process_\w+", RUNBOOK)) <= PROCESS
    assert set(re.findall(r"\bPolygonLive[A-Z]\w+", RUNBOOK)) == set(RULES)
    commands = {" ".join(found.split()) for found in re.findall(r"`polygon-live ([a-z]+(?:\s+[a-z]+\b)?)", RUNBOOK)}
    assert commands
    for command in commands:
        assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0, command


def panels() -> Iterator[Mapping[str, Any]]:
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def test_every_panel_of_the_dashboard_asks_for_metrics_that_exist() -> None:
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        for target in panel["targets"]:
            check_expression(target["expr"].replace("$__rate_interval", "5m"))
            labels = {label for name, _ in used(target["expr"]) for label in LABELS.get(name, ())}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels | {"instance"}


def test_the_dashboard_has_its_variables_and_each_panel_its_place() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "instance"}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            check_expression(variable["query"]["query"])
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_itself_reads_the_dashboards_expressions(tmp_path: Path) -> None:
    rules = [
        {"record": f"x:{n}", "expr": target["expr"].replace("$__rate_interval", "5m").replace("$instance", "a")}
        for n, target in enumerate(target for panel in panels() for target in panel["targets"])
    ]
    file = tmp_path / "expressions.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
    promtool("check", "rules", file)


def test_what_the_issue_wants_to_see_is_on_the_dashboard() -> None:
    asked = {name for panel in panels() for target in panel["targets"] for name, _ in used(target["expr"])}
    for name in (
        "events_received_total",
        "ticks_accepted_total",
        "rejects_total",
        "sink_ticks_delivered_total",
        "sink_behind_seconds",
        "sink_batch_ticks_bucket",
        "sink_delay_seconds_bucket",
        "feed_delay_seconds_bucket",
        "feed_reconnects_total",
        "gaps",
        "journal_bytes",
        "configuration_generation",
        "build_info",
    ):
        assert f"polygon_live_{name}" in asked
