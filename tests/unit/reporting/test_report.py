"""Which day, which accounts, which currency: what goes into a report and what is left out aloud."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from time import process_time

import pytest

from aae.frames import AccountFrames
from aae.model import AccountStatus
from aae.reporting import Report, build_report
from tests.unit.reporting.worlds import DAY, NOW, Ad, AdSet, Campaign, account, frames, incident


def report(*windows: AccountFrames, now: datetime = NOW, **more: object) -> Report:
    return build_report(user_name="Ada", frames=windows, incidents=more.pop("incidents", ()), now=now, **more)  # type: ignore[arg-type]


def test_yesterday_is_decided_by_each_account_and_the_report_bears_the_day_of_most() -> None:
    berlin, tokyo = frames(account(1), [Campaign()]), frames(account(2, timezone="Asia/Tokyo"), [Campaign()])
    honolulu = frames(account(3, timezone="Pacific/Honolulu"), [Campaign()], day=DAY - timedelta(days=1))
    made = report(berlin, tokyo, honolulu)
    assert {line.account.id: line.day for line in made.accounts} == {1: DAY, 2: DAY, 3: DAY - timedelta(days=1)}
    assert made.report_date == DAY
    assert made.sections[0].compared.day.spend == 300


def test_a_given_day_holds_for_all_accounts() -> None:
    wanted = DAY - timedelta(days=3)
    made = report(frames(account(1), [Campaign()]), frames(account(2, timezone="Asia/Tokyo"), []), report_date=wanted)
    assert {line.day for line in made.accounts} == {wanted}
    assert made.report_date == wanted
    assert made.sections[0].trend[-1].day == wanted


@pytest.mark.parametrize(
    ("through", "counted"),
    [
        (datetime(2026, 3, 29, 22, 0, tzinfo=UTC), True),  # midnight in Berlin, the day the clocks went forward
        (datetime(2026, 3, 29, 21, 59, tzinfo=UTC), False),
        (None, False),
    ],
)
def test_an_account_counts_once_its_numbers_reach_its_own_midnight(through: datetime | None, counted: bool) -> None:
    window = frames(account(), [Campaign()], day=date(2026, 3, 29), through=through)
    made = report(window, now=datetime(2026, 3, 30, 9, tzinfo=UTC))
    assert bool(made.accounts) is counted
    assert bool(made.late) is not counted
    assert made.completeness == float(counted)


def test_late_accounts_are_named_with_their_reason_and_change_no_sum() -> None:
    fresh = frames(account(1), [Campaign()])
    late = frames(account(2, name="Slow"), [Campaign()], through=NOW - timedelta(hours=12))
    never = frames(account(3, name="New"), [], through=None)
    expired = frames(account(4, status=AccountStatus.EXPIRED), [], through=NOW - timedelta(days=3))
    made = report(fresh, late, never, expired)
    assert made.completeness == 0.25
    assert made.sections == report(fresh).sections
    assert [line.reason for line in made.late] == [
        "Numbers reach to 10 Mar 22:00 (Europe/Berlin).",
        "Its first numbers are on their way.",
        "We may no longer read it: connect it again.",
    ]


def test_money_of_different_currencies_is_never_added_up() -> None:
    made = report(
        frames(account(1), [Campaign()]),
        frames(account(2, currency="USD"), [Campaign()]),
        frames(account(3, currency="USD"), [Campaign()]),
    )
    assert {s.currency: s.compared.day.spend for s in made.sections} == {"EUR": Decimal(100), "USD": Decimal(200)}


def test_the_parts_add_up_to_the_whole_at_every_level() -> None:
    windows = [frames(account(n), [Campaign(), Campaign(ad_sets=[AdSet(ads=[Ad(spend=n)])])]) for n in (1, 2, 3)]
    (section,) = report(*windows).sections
    whole = section.compared
    for parts in (section.accounts, section.campaigns):
        assert sum(line.compared.day.spend_micros for line in parts) == whole.day.spend_micros
        assert sum((line.compared.week.spend_micros for line in parts if line.compared.week), 0) == (
            whole.week and whole.week.spend_micros
        )
    assert section.trend[-1].sums == whole.day
    assert section.trend[-2].sums == whole.before


def test_the_average_is_of_the_days_on_record() -> None:
    (section,) = report(frames(account(), [Campaign(ad_sets=[AdSet(ads=[Ad(days=4)])])])).sections
    assert section.compared.week_days == 3
    assert section.compared.average("spend") == 100


def test_a_first_day_has_nothing_to_compare_with() -> None:
    made = report(frames(account(), [Campaign(ad_sets=[AdSet(ads=[Ad(days=1)])])]))
    (section,) = made.sections
    assert (section.compared.before, section.compared.week, section.changes) == (None, None, ())
    assert made.headline == "First numbers: €100.00 spent; CPA €10.00"


def test_no_accounts_no_delivery_and_nothing_complete_are_said_as_what_they_are() -> None:
    assert report().headline == "No ad account is connected yet"
    assert report().report_date == date(2026, 3, 10)
    assert report(frames(account(), [])).headline == "Nothing was delivered in EUR"
    assert report(frames(account(), [], through=None)).headline == "No complete numbers yet: 1 account is late"
    stopped = Ad(spend=lambda age: 100 if age else 0, impressions=lambda age: 5 * age, clicks=lambda age: age)
    made = report(frames(account(), [Campaign(ad_sets=[AdSet(ads=[stopped])])]))
    assert made.headline == "Nothing was delivered in EUR (€100.00 a day in the week before)"
    assert made.changes[0].sentence == "Stopped: nothing spent, €100.00 a day before"


def test_a_collapse_is_explained_by_step_and_campaign() -> None:
    broken = Ad(spend=1000, clicks=2000, conversions=lambda age: 100 if age else 40, revenue=lambda age: 3000)
    made = report(frames(account(), [Campaign("Winter Sale", [AdSet(ads=[broken])]), Campaign("Brand")]))
    assert made.headline.endswith("worse so far at €22.00, mostly CVR on Winter Sale")
    assert made.changes[0].name == "Winter Sale"
    assert made.changes[0].split is not None
    assert made.changes[0].split.main_step == "cvr"


def test_young_numbers_are_called_young_and_old_ones_are_not() -> None:
    window = frames(account(), [Campaign()])
    assert report(window).young
    assert [point.young for point in report(window).sections[0].trend[-4:]] == [False, True, True, True]
    replay = report(window, now=NOW + timedelta(days=30), report_date=DAY)
    assert not replay.young


def test_open_incidents_come_before_ended_ones_the_gravest_first() -> None:
    notes = [
        incident(severity="critical", state="resolved"),
        incident(severity="high"),
        incident(severity="critical", stake_micros=1),
        incident(severity="critical", stake_micros=2),
    ]
    made = report(incidents=notes)
    assert [(n.severity, n.state, n.stake_micros) for n in made.incidents] == [
        ("critical", "opened", 2),
        ("critical", "opened", 1),
        ("high", "opened", 340_500_000),
        ("critical", "resolved", 340_500_000),
    ]


def test_drift_is_told_above_one_percent_only() -> None:
    windows = [frames(account(n), []) for n in (1, 2)]
    made = report(*windows, drift={1: Decimal("0.01"), 2: Decimal("-0.02")})
    assert [(note.account.id, note.share) for note in made.drift] == [(2, Decimal("0.02"))]


def test_the_summary_is_json_with_amounts_as_text_and_unknown_as_null() -> None:
    unknown = Campaign(ad_sets=[AdSet(ads=[Ad(conversions=None, revenue=None)])])
    summary = json.loads(json.dumps(report(frames(account(), [unknown])).summary()))
    assert summary["currencies"]["EUR"]["day"] == {
        "spend": "100.000000",
        "revenue": None,
        "roas": None,
        "conversions": None,
        "cpa": None,
    }
    assert summary["report_date"] == "2026-03-10"


def test_a_large_user_is_built_in_a_few_seconds() -> None:
    ads = [AdSet(ads=[Ad(conversions=float(n % 7)) for n in range(5)]) for _ in range(4)]
    windows = [frames(account(n), [Campaign(f"C{c}", ads, budget=50) for c in range(15)]) for n in range(1, 7)]
    begun = process_time()
    made = report(*windows)
    assert process_time() - begun < 5
    assert len(made.campaigns) == 90
