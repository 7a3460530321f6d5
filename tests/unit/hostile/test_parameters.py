"""Any parameters of any job: ``aae run`` and the run itself take them, or say in one short sentence why not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from prefect import Flow
from prefect.exceptions import ParameterTypeError, SignatureMismatchError

from aae.errors import UserError
from aae.jobs.planning import check_range
from aae.operate.prefect_api import Deployment
from aae.operate.run import check_parameters, read_value
from flows.anomaly_detection import detect_anomalies
from flows.data_fetch import fetch_ad_data
from flows.reports import generate_daily_report
from flows.token_refresh import check_token_expiry

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
JOBS = (check_token_expiry, fetch_ad_data, detect_anomalies, generate_daily_report)
MARK = "hunter2secret"
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2**63 - 1, 2**63, 10**40, 0.5, 1.0, 1e300, -0.0, "", "1", "NaN", "inf", "٣"),
        *("2026-11-20", "2026-11-31", "0000-01-01", "9999-12-31", "2026-W47-5", "20261120", "2026-11-20T25:00", "now"),
        *("meta", "META", "high", "\ud800", "\x00", "\u202e", "=1+1", MARK, "x" * 5000, "{{ 7*7 }}", "$(id)", "../.."),
        *([], {}, [[]], [None], [True], ["meta"] * 300, [1, 1, 1], [-1] * 300, [2**63], list(range(11_000)), [[1]]),
        *({"": 1}, {"__prefect_kind": "jinja", "template": "{{ 7*7 }}"}, {"a": {"b": [{}] * 50}}),
    ]
)
VALUE = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=5,
)


def names(job: Flow[..., Any]) -> list[str]:
    return list(job.parameters.properties)


def deployment(job: Flow[..., Any]) -> Deployment:
    schema = job.parameters.model_dump()
    return Deployment("d", f"{job.name}/x", False, NOW, "aae", (), parameter_schema=schema)


def check_sentence(text: str) -> None:
    assert len(text) < 700, text
    assert MARK * 2 not in text
    assert len(text.splitlines()) <= 8


def as_a_run(job: Flow[..., Any], parameters: dict[str, Any]) -> dict[str, Any] | None:
    """The values that the run would work with; None if it says that it does not take them."""
    usual: dict[str, Any] = {name: one.get("default") for name, one in job.parameters.properties.items()}
    try:
        return job.validate_parameters(usual | parameters)
    except (ParameterTypeError, SignatureMismatchError) as error:
        check_sentence(str(error))
        return None


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
@examples(max_examples=60)
@given(data=st.data())
def test_any_parameters_are_values_within_their_limits_or_a_sentence(job: Flow[..., Any], data: st.DataObject) -> None:
    known = st.sampled_from([*names(job), "sinse", ""])
    given = data.draw(st.dictionaries(known, VALUE, max_size=3))
    try:
        check_parameters(deployment(job), given)
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - either end is right
        check_sentence(str(error))
    found = as_a_run(job, given)
    for name in ("accounts", "users"):
        for each in (found or {}).get(name) or ():
            assert type(each) is int
            assert 0 < each < 2**63
    assert 0 <= (found or {}).get("within_hours", 0) <= 8784


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
@examples(max_examples=40)
@given(data=st.data())
def test_any_typed_text_is_a_value_or_a_sentence(job: Flow[..., Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(job)))
    text = data.draw(ODD.map(json.dumps) | st.text(max_size=30) | st.just("[" * 10_000))
    value = read_value(deployment(job), name, text)
    try:
        check_parameters(deployment(job), {name: value})
    except UserError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - either end is right
        check_sentence(str(error))


@given(since=st.dates() | st.none(), until=st.dates() | st.none())
def test_any_range_of_days_is_one_that_a_platform_knows_or_a_sentence(since: date | None, until: date | None) -> None:
    try:
        check_range(since, until, now=NOW)
    except UserError as error:
        assert len(str(error)) < 150  # noqa: PT017 - either end is right
    else:
        assert since is None or date(2023, 10, 1) <= since <= date(2026, 11, 23)
        assert until is None or (since or until) <= until <= date(2026, 11, 23)
