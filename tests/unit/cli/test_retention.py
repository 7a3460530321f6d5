"""``aae retention`` on tables of its own: what it shows, what it does, for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Engine, func, insert, select
from typer.testing import CliRunner

from aae import cli
from aae.errors import AaeError, UserError
from aae.jobs import retention
from aae.jobs.retention import RetentionOutcome
from aae.settings import load
from aae.storage.engine import connect, reading, upgrade
from aae.storage.schema import reports, users

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def tables() -> Engine:
    """Three old reports."""
    engine = connect(load().resolved_database_url)
    upgrade(engine)
    with engine.begin() as connection:
        user = {"id": 1, "email": "a@example.com", "name": "A", "active": True, "preferences": {}}
        connection.execute(insert(users).values(**user, created_at=LONG_AGO))
        texts = {"summary": {}, "html": "", "csv": "", "markdown": "", "completeness": 1}
        for day in (1, 2, 3):
            row = {"user_id": 1, "report_date": date(2024, 1, day), "created_at": LONG_AGO}
            connection.execute(insert(reports).values(**row, **texts))
    return engine


def left(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(reports)) or 0


def test_a_dry_run_shows_what_would_go_and_the_real_one_does_it(tables: Engine) -> None:
    shown = CliRunner().invoke(cli.app, ["retention", "--dry-run"], catch_exceptions=False)
    assert "reports" in shown.stdout
    assert "Nothing was changed" in shown.stdout
    assert left(tables) == 3
    done = CliRunner().invoke(cli.app, ["retention"], catch_exceptions=False)
    assert "removed 2 reports" in done.stdout
    assert left(tables) == 1
    tables.dispose()


def test_programs_get_json(tables: Engine) -> None:
    told = json.loads(CliRunner().invoke(cli.app, ["retention", "--dry-run", "--json"], catch_exceptions=False).stdout)
    assert (told["dry_run"], told["removed"]["reports"], told["days"]) == (True, 2, 0)
    did = json.loads(CliRunner().invoke(cli.app, ["retention", "--json"], catch_exceptions=False).stdout)
    assert (did["dry_run"], did["removed"]["reports"], did["finished"]) == (False, 2, True)
    tables.dispose()


def test_accounts_that_could_not_be_folded_make_the_exit_code(tables: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RetentionOutcome(failed=["meta:1001: sums differ"])
    monkeypatch.setattr(retention, "keep_small", lambda *_, **__: broken)
    with pytest.raises(AaeError, match="1 accounts were left as they are; the first: meta:1001: sums differ"):
        CliRunner().invoke(cli.app, ["retention"], catch_exceptions=False)
    tables.dispose()


def test_without_tables_it_says_what_to_do() -> None:
    with pytest.raises(UserError, match="aae db upgrade"):
        CliRunner().invoke(cli.app, ["retention"], catch_exceptions=False)
