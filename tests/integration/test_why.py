"""``aae why``: the corrections of a day, told so that the difference of its sums is explained to the last micro."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from typer.testing import CliRunner

from aae import cli
from aae.model import Account, Granularity
from aae.settings import load
from aae.storage import fetches, metrics, revisions
from aae.vault import Vault
from tests.integration.test_storage_metrics import Content, connect, contents, forgotten, store, whole

DAY = date(2026, 3, 28)
LATER = datetime(2026, 4, 2, 6, tzinfo=UTC)


@pytest.fixture
def account(engine: Engine, vault: Vault, now: datetime, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setenv("AAE_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    load.cache_clear()
    return connect(engine, vault, now, "Europe/Berlin", "1001")


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_changes_explain_the_difference_of_the_days_sums(
    engine: Engine, account: Account, data: st.DataObject
) -> None:
    versions = [data.draw(contents(Granularity.DAILY))[1] for _ in range(3)]
    piece = whole(account, Granularity.DAILY)
    with forgotten(engine) as connection:
        for number, version in enumerate(versions):
            store(connection, account, piece, version, now=LATER + timedelta(hours=number))
        for day in (piece.since + timedelta(days=n) for n in range(3)):
            first = sums(versions[0], day)
            if first is None:
                continue  # of a day that held nothing there is nothing to be corrected
            changes = revisions.of_day(connection, account.id, day)
            told = {name: sum(one.difference for one in changes if one.metric == name) for name in revisions.METRICS}
            if all(sums(version, day) is not None for version in versions):
                last = sums(versions[-1], day)
                assert last is not None
                assert told == {name: last[name] - first[name] for name in revisions.METRICS}


def sums(content: Content, day: date) -> dict[str, int] | None:
    rows = [numbers for (_, _, on, _), numbers in content.items() if on == day]
    scales = (10**6, 10**6, 1, 1, 1)
    return (
        {name: sum((row[place] or 0) * scales[place] for row in rows) for place, name in enumerate(revisions.METRICS)}
        if rows
        else None
    )


def aae(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})


def test_it_says_when_in_which_run_and_from_what_to_what(engine: Engine, account: Account) -> None:
    piece = whole(account, Granularity.DAILY)
    before: Content = {
        ("ad", "1", DAY, None): (100, 5, 12_340_000, 1_000_000, None),
        ("ad", "2", DAY, None): (10, 1, 1_000_000, 0, None),
    }
    after: Content = {
        ("ad", "1", DAY, None): (100, 5, 12_500_000, 3_000_000, 20_000_000),
        ("ad", "3", DAY, None): (7, 0, 70_000, 0, None),
    }
    with engine.begin() as connection:
        store(connection, account, piece, before)
        store(connection, account, piece, after, run_id="0a1b2c3d-run", now=LATER)
        fetches.record(
            connection,
            account_id=account.id,
            piece=piece,
            started_at=LATER,
            finished_at=LATER,
            outcome="stored",
            rows_fetched=2,
            rows_inserted=1,
            rows_updated=1,
            rows_deleted=1,
            totals=metrics.slice_totals(connection, account.id, piece),
            drift=0.0012,
            run_id="0a1b2c3d-run",
        )
    said = aae("why", "--account", "meta:1001", "--date", str(DAY))
    assert said.exit_code == 0, said.output
    assert "Now: 107 impressions, 5 clicks, 12.57 spend, 3 conversions, 20 revenue (EUR)." in said.output
    change = next(line for line in said.output.splitlines() if line.startswith("2026-04-02 06:00  0a1b2c3d"))
    assert change.split("0a1b2c3d")[1].split()[:5] == ["-3", "-1", "-0.77", "+2", "+20"]
    assert "2 corrected, 1 withdrawn" in change
    assert any("12.34" in line and "12.50" in line for line in said.output.splitlines())
    assert "0.12%" in said.output


def test_it_is_there_for_programs_too(engine: Engine, account: Account) -> None:
    piece = whole(account, Granularity.DAILY)
    with engine.begin() as connection:
        store(connection, account, piece, {("ad", "1", DAY, None): (1, 0, 0, None, None)})
        store(connection, account, piece, {("ad", "1", DAY, None): (2, 0, 0, None, None)}, now=LATER)
    (change,) = json.loads(aae("why", "--account", str(account.id), "--date", str(DAY), "--json").output)["changes"]
    assert (change["metric"], change["old"], change["new"]) == ("impressions", 1_000_000, 2_000_000)
    assert (change["name"], change["changed_at"]) == ("1", LATER.isoformat())


def test_a_day_that_did_not_change_and_one_that_was_never_fetched_are_said_to_be_so(
    engine: Engine, account: Account
) -> None:
    with engine.begin() as connection:
        store(connection, account, whole(account, Granularity.DAILY), {("ad", "1", DAY, None): (1, 0, 0, None, None)})
    assert "No number of that day has changed" in aae("why", "--account", "1001", "--date", str(DAY)).output
    said = aae("why", "--account", "1001", "--date", "2026-03-01").output
    assert "Nothing is stored of that day." in said
    assert "aae backfill" in said


@pytest.mark.usefixtures("account")
def test_an_account_that_nobody_knows_is_one_sentence() -> None:
    said = aae("why", "--account", "4711", "--date", str(DAY))
    assert said.exit_code != 0
    assert "There is no account '4711'" in str(said.exception)
