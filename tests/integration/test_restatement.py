"""Days in the life of three accounts whose conversions arrive late: what is read when, and that nothing stays old."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select

from aae.model import Account, Granularity, Platform
from aae.sandbox import World
from aae.storage import metrics, revisions
from aae.storage.engine import reading
from aae.storage.schema import fetches, metric_revisions
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 20, 13, 20, tzinfo=UTC)
RUNS = [datetime(2026, 11, day, hour, 2, tzinfo=UTC) for day in (21, 22) for hour in (0, 6, 12, 18)]
WINDOW = {Platform.META: 28, Platform.TIKTOK: 28, Platform.GOOGLE: 30}
"""What the platforms' fact sheet says of how long each goes on restating."""


def days_read(product: Bench, account: Account, run_id: str) -> set[date]:
    query = select(fetches.c.since, fetches.c.until).where(
        fetches.c.account_id == account.id,
        fetches.c.granularity == Granularity.DAILY.value,
        fetches.c.outcome == "stored",
        fetches.c.run_id == run_id,
    )
    with reading(product.engine) as connection:
        spans = connection.execute(query).all()
    return {span.since + timedelta(days=n) for span in spans for n in range((span.until - span.since).days + 1)}


def test_recent_days_are_read_every_time_and_once_a_day_after_noon_all_that_may_still_change(
    engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.generate(5, ANCHOR, days=33, ahead=3, users=2, big_campaigns=1, ads_per_ad_set=1)
    few = {"AAE_FETCH__FIRST_DAYS": "31", "AAE_FETCH__FIRST_HOURLY_DAYS": "2"}
    with bench(world, engine, redis_url, monkeypatch, **few) as product:
        product.connect()
        # The second user's, whose tokens last.
        chosen = [product.accounts(platforms=[platform])[-1] for platform in Platform]
        product.fetch("first", chosen)
        day = ANCHOR.date() - timedelta(days=5)
        at_first = {account.id: sums(product, account, day) for account in chosen}
        for moment in RUNS:
            product.clock.set(moment, frozen=True)
            run_id = f"run {moment:%d %H}"
            outcomes = product.fetch(run_id, chosen)
            assert {(outcome.outcome, outcome.drift) for outcome in outcomes} == {("stored", 0.0)}
            for account in chosen:
                days = WINDOW[account.platform] if moment.hour == 12 else product.settings.fetch.recent_days
                today = account.local_day(moment)
                assert days_read(product, account, run_id) == {today - timedelta(days=n) for n in range(days)}
                if moment.hour == 12:  # nothing that the platform still changes is as it was
                    since = today - timedelta(days=days - 1)
                    assert product.stored(account, "daily", since, today) == product.truth(
                        account, "daily", since, today
                    )
        for account in chosen:
            with reading(engine) as connection:
                changes = revisions.of_day(connection, account.id, day)
            told = {name: sum(one.difference for one in changes if one.metric == name) for name in revisions.METRICS}
            last = sums(product, account, day)
            assert told == {name: last[name] - at_first[account.id][name] for name in revisions.METRICS}
        with reading(engine) as connection:
            runs = connection.scalars(select(metric_revisions.c.run_id).distinct()).all()
            late = connection.scalar(
                select(func.count()).where(metric_revisions.c.local_date < ANCHOR.date() - timedelta(days=3))
            )
        assert late, "conversions of days that only the window reaches have arrived"
        assert set(runs) <= {f"run {moment:%d %H}" for moment in RUNS}


def sums(product: Bench, account: Account, day: date) -> dict[str, int]:
    with reading(product.engine) as connection:
        totals = metrics.daily_totals(connection, account.id, day, day)[day]
    numbers = (totals.impressions * 10**6, totals.clicks * 10**6, totals.spend_micros)
    return dict(
        zip(revisions.METRICS, (*numbers, totals.conversions_micros or 0, totals.revenue_micros or 0), strict=True)
    )
