"""A replayed file comes out on every wire exactly as it went in, oddities included."""

from __future__ import annotations

import csv
import os
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aae.errors import UserError
from aae.model import Level, Platform, to_micros
from aae.sandbox import World
from aae.sandbox.entities import AdAccount
from aae.sandbox.replay import Columns, replay
from tests.unit.sandbox.wires import Rows, Wire, read

HEADER = (
    "month,day,campaign_number,user_engagement,banner,placement,displays,cost,clicks,revenue,"
    "post_click_conversions,post_click_sales_amount"
)
ROWS = """\
April,1,camp 1,High,160 x 600,abc,4,0.006,0,0,0,0
April,1,camp 1,High,160 x 600,def,20170,26.7824,158,28.9717,23,1972.4602
April,1,camp 1,High,160 x 600,#N/A,7,0.123456,9,1,12,0.000001
April,1,camp 1,High,160 x 600,def,30,0.2176,2,9,1,27.5398
April,2,camp 1,Low,240 x 400,def,100,1,1,0,0,5.5
May,2,camp 2,High,160 x 600,def,0,0,0,0,2,10
June,30,camp 2,High,160 x 600,def,0,0,0,7,0,0
"""
YEAR = 2020
NOW = datetime(2020, 7, 1, 9, tzinfo=UTC)
REAL = Path(__file__).parents[4] / "shared" / "data" / "online_advertising_performance_data.csv"


@pytest.fixture(scope="module")
def empty() -> World:
    return World.generate(1, NOW, days=2, ahead=1, users=1)


def replayed(world: World, path: Path, platform: Platform, **options: str) -> tuple[Wire, AdAccount]:
    whole = replay(world, path, platform, year=YEAR, **options)
    return Wire(whole, platform, NOW, page=1000), whole.accounts[-1]


def named(account: AdAccount, rows: Rows) -> dict[tuple[str, ...], tuple[int | None, ...]]:
    """The rows by campaign, ad set and ad names, day and hour."""
    out = {}
    for (external_id, day, hour), numbers in rows.items():
        ad = account.by_id[external_id]
        assert ad.parent
        ad_set = account.by_id[ad.parent]
        names = account.campaign_of(ad).name, ad_set.name, ad.name
        out[*names, day, "" if hour is None else str(hour)] = numbers
    return out


@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("hourly", [False, True])
def test_a_file_comes_out_exactly(tmp_path: Path, empty: World, platform: Platform, hourly: bool) -> None:
    path = tmp_path / "file.csv"
    path.write_text(f"{HEADER}\n{ROWS}")
    wire, account = replayed(empty, path, platform)
    rows = named(account, read(wire, account, Level.AD, date(2020, 4, 1), date(2020, 6, 30), hourly=hourly))
    hour = "12" if hourly else ""
    expected = {
        ("camp 1", "High", "160 x 600 / abc", "2020-04-01", hour): (4, 0, 6_000, 0, 0),
        ("camp 1", "High", "160 x 600 / def", "2020-04-01", hour): (20200, 160, 27_000_000, 24_000_000, 2_000_000_000),
        ("camp 1", "High", "160 x 600 / #N/A", "2020-04-01", hour): (7, 9, 123_456, 12_000_000, 1),
        ("camp 1", "Low", "240 x 400 / def", "2020-04-02", hour): (100, 1, 1_000_000, 0, 5_500_000),
        ("camp 2", "High", "160 x 600 / def", "2020-05-02", hour): (0, 0, 0, 2_000_000, 10_000_000),
    }
    if hourly and platform is Platform.META:  # which tells no purchases by the hour
        assert {key: value[:3] for key, value in rows.items()} == {key: value[:3] for key, value in expected.items()}
    else:
        assert rows == expected


amounts = st.decimals(0, 10_000, places=6, allow_nan=False, allow_infinity=False)
cells = st.tuples(
    st.integers(1, 28), st.sampled_from(["a", "#N/A", "ü, \"x\""]), st.integers(0, 10**6), amounts,
    st.integers(0, 10**4), st.integers(0, 10**4), amounts,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(cells, min_size=1, max_size=25), platform=st.sampled_from(Platform))
def test_no_micro_is_lost_whatever_the_file(
    tmp_path: Path, empty: World, rows: list[tuple[int, str, int, Decimal, int, int, Decimal]], platform: Platform
) -> None:
    path = tmp_path / "any.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        for day, place, shown, cost, clicks, bought, sales in rows:
            writer.writerow(["May", day, "c", "s", "b", place, shown, f"{cost:f}", clicks, 0, bought, f"{sales:f}"])
    wire, account = replayed(empty, path, platform, timezone="America/New_York")
    said = read(wire, account, Level.AD, date(2020, 5, 1), date(2020, 5, 31), hourly=False).values()
    sums = [sum(number or 0 for number in column) for column in zip(*said, strict=True)] or [0] * 5
    assert sums == [
        sum(row[2] for row in rows),
        sum(row[4] for row in rows),
        sum(to_micros(row[3]) for row in rows),
        sum(to_micros(row[5]) for row in rows),
        sum(to_micros(row[6]) for row in rows),
    ]


def test_other_files_need_only_another_mapping(tmp_path: Path, empty: World) -> None:
    path = tmp_path / "other.csv"
    path.write_text("when,c,s,a,i,m,k,n,v\n2020-05-04,C,S,A,10,1.25,2,1,3\n")
    columns = Columns(
        campaign="c", ad_set="s", ad=("a",), impressions="i", spend="m", clicks="k", conversions="n", revenue="v",
        date="when",
    )  # fmt: skip
    account = replay(empty, path, Platform.TIKTOK, year=YEAR, columns=columns, currency="EUR").accounts[-1]
    facts = account.leaf_facts(date(2020, 5, 4), date(2020, 5, 4), NOW, hourly=False)
    assert [row[3:] for row in facts.rows()] == [(10, 2, 1_250_000, 1_000_000, 3_000_000)]
    assert account.currency == "EUR"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("month,day\nApril,1\n", "lacks the columns campaign_number"),
        (f"{HEADER}\nApril,1,c\n", "line 2"),
        (f"{HEADER}\nApril,1,c,s,b,p,x,1,1,1,1,1\n", "not an amount"),
        (f"{HEADER}\nApril,31,c,s,b,p,1,1,1,1,1,1\n", "line 2"),
        (f"{HEADER}\nApril,1,c,s,b,p,1,0.0000001,1,1,1,1\n", "six decimals"),
        (f"{HEADER}\n", "no rows"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_why(tmp_path: Path, empty: World, text: str, says: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        replay(empty, path, Platform.META, year=YEAR)
    with pytest.raises(UserError, match="Cannot read"):
        replay(empty, tmp_path / "absent.csv", Platform.META, year=YEAR)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.exists(), reason=f"NO REAL DATA at {os.fspath(REAL)}: the replay of it is not tested")
@pytest.mark.parametrize("platform", list(Platform))
def test_the_real_file_comes_out_exactly(empty: World, platform: Platform) -> None:
    expected: Counter[tuple[str | int, ...]] = Counter()
    months = {"April": 4, "May": 5, "June": 6}
    with REAL.open(newline="") as file:
        for row in csv.DictReader(file):
            day = date(YEAR, months[row["month"]], int(row["day"])).isoformat()
            ad = f"{row['banner']} / {row['placement']}"
            key = (row["campaign_number"], row["user_engagement"], ad, day)
            numbers = [row["displays"], row["clicks"], row["cost"], row["post_click_conversions"]]
            for index, text in enumerate([*numbers, row["post_click_sales_amount"]]):
                expected[*key, index] += int(text) if index < 2 else to_micros(text)
    wire, account = replayed(empty, REAL, platform)
    rows = named(account, read(wire, account, Level.AD, date(2020, 4, 1), date(2020, 6, 30), hourly=False))
    said = {
        (*key[:4], index): number for key, numbers in rows.items() for index, number in enumerate(numbers) if number
    }
    assert said == {key: number for key, number in expected.items() if number}
    assert sum(numbers[0] for numbers in rows.values() if numbers[0]) == 239_017_725
