"""Rows decoded straight into their shape are what Python's own strict decoder would have read."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.platforms.google import reports as google
from aae.platforms.google.wire import Batch
from aae.platforms.meta import reports as meta
from aae.platforms.meta.wire import Page as MetaPage
from aae.platforms.shapes import decode, shaped
from aae.platforms.tiktok import reports as tiktok
from aae.platforms.tiktok.wire import Envelope, Page

SHAPES: Final[dict[str, Any]] = {
    "meta": MetaPage[meta._Row],
    "tiktok": Envelope[Page[tiktok._Row]],
    "google": list[Batch[google._Row]],
}
NUMBERS = st.from_regex(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
FIELDS: Final = {
    "meta": [
        "ad_id",
        "impressions",
        "spend",
        "hourly_stats_aggregated_by_advertiser_time_zone",
        "actions",
        "date_stop",
    ],
    "tiktok": ["dimensions", "metrics", "ad_id", "spend", "complete_payment", "stat_time_hour"],
    "google": ["campaign", "adGroupAd", "ad", "id", "metrics", "costMicros", "conversions", "segments", "hour"],
}


def quoted(names: list[str]) -> st.SearchStrategy[str]:
    """JSON text of values such as rows are made of, some of which are no JSON at all."""
    strings = st.text(max_size=4).map(json.dumps) | st.sampled_from([r'"\ud800"', '"\x01"', '"é"', '"-"', '"12.50"'])
    leaves = strings | NUMBERS | st.sampled_from(["null", "true", "NaN", "-Infinity", "01", "1.", "", "{", "]"])

    def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pairs = st.tuples(st.sampled_from(names).map(json.dumps), inner).map(":".join)
        objects, lists = (st.lists(each, max_size=4).map(",".join) for each in (pairs, inner))
        return objects.map("{{{}}}".format) | lists.map("[{}]".format)

    return st.recursive(leaves, wider, max_leaves=12)


@st.composite
def bodies(draw: st.DrawFn, platform: str) -> bytes:
    """What a platform might send as rows; nearly always of nearly the right shape."""
    rows = ",".join(draw(st.lists(quoted(FIELDS[platform]), max_size=3)))
    more = draw(st.sampled_from(["", ',"error":null', ',"error":{"code":190}', ',"code":0', ',"request_id":"r"']))
    envelope = {
        "meta": '{"data":[%s]%s}',
        "tiktok": '{"code":0,"data":{"list":[%s]}%s}',
        "google": '[{"results":[%s]%s}]',
    }[platform]
    return (envelope % (rows, more) + draw(st.sampled_from(["", "", "\n", " x", "}"]))).encode()


def in_shape(decoded: tuple[Any, bool], shape: Any) -> str:
    """What was decoded, in the shape; or why that is not possible."""
    data, is_json = decoded
    try:
        return repr(shaped(data, shape)) if is_json else "no JSON"
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("platform", SHAPES)
@given(data=st.data())
def test_any_rows_are_read_as_by_pythons_own_decoder(platform: str, data: st.DataObject) -> None:
    body, shape = data.draw(bodies(platform)), SHAPES[platform]
    assert in_shape(decode(body, shape), shape) == in_shape(decode(body), shape)


@pytest.mark.parametrize("platform", SHAPES)
def test_an_error_never_has_the_shape_of_rows(platform: str) -> None:
    error = {
        "meta": {"data": [], "error": {"code": 190}},
        "tiktok": {"code": 40105, "data": {"list": []}},
        "google": [{"results": []}, {"error": {"code": 401}}],
    }[platform]
    assert decode(json.dumps(error).encode(), SHAPES[platform]) == (error, True)


def test_a_number_keeps_every_digit_and_a_field_that_nobody_asks_for_is_passed_over() -> None:
    row = '{"metrics":{"conversions":0.1234567890123456789,"costMicros":"9007199254740993"},"other":[{"a":1e400}]}'
    (batch,), _ = decode(f'[{{"results":[{row}]}}]'.encode(), SHAPES["google"])
    metrics = batch.results[0].metrics
    assert (metrics.conversions, metrics.cost_micros) == (Decimal("0.1234567890123456789"), "9007199254740993")
    assert (metrics.clicks, metrics.conversions_value) == ("0", 0)


def test_a_character_too_broken_for_the_decoder_does_not_cost_the_other_rows() -> None:
    body = rb'{"data":[{"ad_id":"1","spend":"2.50"},{"ad_id":"\ud800"}]}'
    data, is_json = decode(body, SHAPES["meta"])
    page = shaped(data, SHAPES["meta"])
    assert is_json
    assert [row.ad_id for row in page.data] == ["1", "\ud800"]


@pytest.mark.parametrize("data", [5, [], {}, {"data": {}}, {"data": ["secret"]}, {"data": [{"actions": "secret"}]}])
def test_another_shape_is_refused_without_quoting_it(data: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected|required") as refused:
        shaped(data, SHAPES["meta"])
    assert "secret" not in str(refused.value)


def test_nesting_without_end_is_not_json_wherever_it_is() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (deep, b'{"data":[{"ad_id":%s}]}' % deep, b'{"data":[{"other":%s}]}' % deep):
        assert decode(body, SHAPES["meta"]) == (None, False)
