"""A changed or removed ledger entry raises the alarm; a new one does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stream
from tools.template import Template

EVENTS = Path(__file__).parent.parent / "events"


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service has a name, which Lambda's environment gives it before the import."""
    monkeypatch.setattr(stream.metrics, "service", "loyalty-test")
    yield
    stream.metrics.clear_metrics()


def handle(name: str) -> None:
    stream.handler(json.loads((EVENTS / f"stream_{name}.json").read_text("utf-8")), None)


def published(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The metrics that the handler wrote to its log."""
    written = capsys.readouterr().out.splitlines()
    return [metric for metric in map(json.loads, written) if "_aws" in metric]


# A batch without a metric is what is wanted here; Powertools remarks on it.
@pytest.mark.filterwarnings("ignore:No application metrics to publish")
def test_a_new_entry_is_no_event(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handle("insert")
    assert published(capsys) == []
    assert caplog.records == []


@pytest.mark.parametrize(("name", "change"), [("modify", "MODIFY"), ("remove", "REMOVE")])
def test_a_changed_or_removed_entry_is_counted_and_named(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, name: str, change: str
) -> None:
    handle(name)
    [metric] = published(capsys)
    assert metric[stream.METRIC] == [1]
    [error] = caplog.records
    assert error.levelname == "ERROR"
    assert vars(error)["change"] == change
    assert vars(error)["key"] == {"pk": "demo#e#order-1001", "sk": "0"}


@pytest.mark.parametrize("name", ["modify", "remove"])
def test_what_the_entry_holds_is_not_logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    handle(name)
    # The number of the thread may have any digits in it.
    told = [{k: v for k, v in vars(r).items() if k != "thread"} for r in caplog.records]
    written = repr(told) + capsys.readouterr().out
    assert "mila" not in written
    assert "4200" not in written


def test_every_change_of_a_batch_counts(capsys: pytest.CaptureFixture[str]) -> None:
    batch = [
        record
        for name in ("insert", "modify", "remove")
        for record in json.loads((EVENTS / f"stream_{name}.json").read_text("utf-8"))["Records"]
    ]
    stream.handler({"Records": batch}, None)
    [metric] = published(capsys)
    assert sum(metric[stream.METRIC]) == 2


def test_the_alarm_waits_for_this_metric_in_this_namespace(
    template: Template, capsys: pytest.CaptureFixture[str]
) -> None:
    alarm = template.document["Resources"]["LedgerChangedAlarm"]["Properties"]
    handle("remove")
    [metric] = published(capsys)
    [description] = metric["_aws"]["CloudWatchMetrics"]
    assert description["Namespace"] == alarm["Namespace"]
    assert [each["Name"] for each in description["Metrics"]] == [alarm["MetricName"]]
    assert description["Dimensions"] == [[each["Name"] for each in alarm["Dimensions"]]]
