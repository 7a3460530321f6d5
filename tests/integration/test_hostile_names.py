"""Names of every kind, from the platform's answer through the tables to every place where somebody reads them."""

from __future__ import annotations

import csv
import email
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email import policy
from itertools import count
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import Engine

from aae import logs
from aae.cli import common
from aae.errors import UserError
from aae.frames import AccountFrames
from aae.model import Account, Granularity, Level, Platform, Slice
from aae.notify import messages
from aae.notify.email import Mail, compose
from aae.operate.metrics import catalogue
from aae.operate.metrics.exposition import expose
from aae.operate.metrics.tables import bounded
from aae.platforms.columns import EntityColumns, metrics_frame, metrics_page
from aae.platforms.reading import Reader
from aae.reporting import Report, build_report, render_csv, render_html, render_markdown
from aae.storage import accounts, metrics
from aae.vault import Vault
from tasks.showing import harmless
from tests.unit.reporting.test_render import Page
from tests.unit.reporting.worlds import incident

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = date(2026, 11, 21)
URL = "https://app.example.com"
# What must not reach a reader: it moves the cursor, hides, reorders or breaks the line.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
FORMULA = re.compile(r"[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
NUMBER = re.compile(r"-?\d+(\.\d+)?")

HOSTILE = st.sampled_from(
    [
        *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</td></table><h1>", "<!--", "&lt;b&gt;"),
        *("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1", '"=1+1', "\uff1d1+1", "=HYPERLINK()"),
        *("a\r\nBcc: x@evil.example", "a\n\nbody", "=?utf-8?q?=0ABcc=3A_x?=", "a\u2028b\u2029c", "a\x85b"),
        *("\u202egnp.exe", "\u2066x\u2069", "a\u200bb\ufeffc", "\x1b[2J\x1b]0;owned\x07", "\x00\x08\x7f\x9b31m"),
        *("[bold red]x[/]", "[link=https://evil.example]x[/link]", "{{ 7*7 }}", "{% raw %}", "%s%n", "${jndi:x}"),
        *("| a | b |", "[x](javascript:y)", "![](https://evil.example)", "`x`", "# x", "* x", "~~~", "</details>"),
        *('x",evil="1', "x\\", "x}\naae_up 0", "\ud800", "\udfff\ud800", "😀" * 400, "x" * 10_000, "İı", "ﬀ", "ß"),
        *(
            "name",
            "name ",
            "NAME",
            "näme",
            "\U0001d427ame",
            "",
            " ",
            "\u0301" * 50,
            "''; DROP TABLE users; --",
            "NULL",
            "nan",
        ),
    ]
)
NAMES = (
    HOSTILE | st.text(max_size=30) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "So"]), max_size=9)
)
_fresh = count(1)


def store(engine: Engine, vault: Vault, names: list[str]) -> tuple[str, AccountFrames]:
    """A new user with one account and a campaign, an ad set and an ad, as a connector would give them; read back."""
    number = next(_fresh)
    said = [Reader(Platform.META).text(name, "name") for name in names]
    listing = EntityColumns()
    for level, parent, name in zip(Level, (None, "1", "2"), said[2:], strict=True):
        listing.level.append(level)
        listing.external_id.append(str(list(Level).index(level) + 1))
        listing.parent_external_id.append(parent)
        listing.name.append(name)
        listing.status.append("active")
        listing.daily_budget_micros.append(None)
        listing.channel.append(None if parent else name[:64])
    ages = range(9)
    rows = metrics_page(
        Level.AD,
        len(ages),
        external_id=["3"] * len(ages),
        ad_set_external_id=["2"] * len(ages),
        campaign_external_id=["1"] * len(ages),
        local_date=[DAY - timedelta(days=age) for age in ages],
        impressions=[9000 - age for age in ages],
        clicks=[90] * len(ages),
        spend_micros=[10**7 + age for age in ages],
        conversions_micros=[5_000_000] * len(ages),
        revenue_micros=[10**8] * len(ages),
    )
    with engine.begin() as connection:
        user = accounts.add_user(connection, email=f"user{number}@example.com", name=said[0], now=NOW)
        account_id, _ = accounts.connect_account(
            connection,
            vault,
            user_id=user,
            platform=Platform.META,
            external_id=str(number),
            name=said[1],
            currency="EUR",
            timezone="UTC",
            login_customer_id=None,
            access_token=SecretStr("t"),
            refresh_token=None,
            expires_at=None,
            now=NOW,
        )
        (account,) = accounts.list_accounts(connection, ids=[account_id])
        metrics.upsert_entities(connection, account_id, listing.frame(), now=NOW)
        piece = Slice(account_id, Granularity.DAILY, DAY - timedelta(days=8), DAY)
        metrics.store_slice(connection, account, piece, metrics_frame([rows]), attribution="", run_id=None, now=NOW)
        accounts.bump_data_version(connection, account_id, through=NOW, now=NOW)
        (owner,) = accounts.list_users(connection, ids=[user])
        days = {"daily_since": DAY - timedelta(days=30), "hourly_since": DAY}
        frames = metrics.read_frames(connection, account_id, **days)
    kept = [owner.name, account.name, *frames.entities.sort_values("entity_id")["name"]]
    for told, there, longest in zip(said, kept, (200, 400, 400, 400, 400), strict=True):
        assert len(there) <= longest
        assert there == told or len(told) > longest or not told, "the tables keep a name as it was said"
    return owner.name, frames


def report_of(user: str, frames: AccountFrames, **more: Any) -> Report:
    name = str(frames.entities["name"].iloc[0])
    note = incident(entity_name=name, cause=name, recommendation=name, opened_at=NOW - timedelta(hours=2))
    return build_report(user_name=user, frames=[frames], incidents=[note], now=NOW, **more)


def check_html(report: Report) -> None:
    html = render_html(report, charts=False, public_url=URL)
    page = Page(html)  # complains about whatever is not closed
    assert not {name for name, _ in page.found} & {"script", "img", "iframe", "form", "object", "base", "link"}
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert [attributes["href"] for attributes in page.all("a")] == [URL]
    assert not UNSEEN.search("".join(page.text).replace("\n", ""))


def check_csv(report: Report) -> None:
    header, *rows = csv.reader(io.StringIO(render_csv(report), newline=""), strict=True)
    assert len(rows) == 1
    for row in rows:
        assert len(row) == len(header)
        assert not [cell for cell in row if FORMULA.match(cell) and not NUMBER.fullmatch(cell)]
        assert not UNSEEN.search("".join(row))


def check_markdown(report: Report, lines: int) -> None:
    text = render_markdown(report)
    assert len(text.splitlines()) == lines, "a name adds no line"
    assert not UNSEEN.search(text.replace("\n", ""))
    assert not re.search(r"<(?!br)|(?<!\\)[\[`]", text), "no markup, no link, no code"


def check_mail(note: messages.Notification, user: str) -> None:
    mail = Mail("ada@example.com", user, note.urgency == "urgent", note.title, note.message, note.data, "k", NOW)
    read = email.message_from_bytes(
        compose(mail, sender="AAE <r@aae.example>", public_url=URL).as_bytes(), policy=policy.default
    )
    assert {*read.keys()} <= {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "List-Unsubscribe", "MIME-Version"),
        *("Content-Type", "Importance", "X-Priority"),
    }
    assert read["To"].addresses[0].addr_spec == "ada@example.com"
    assert len(read["To"].addresses) == 1
    assert not UNSEEN.search(str(read["Subject"]))


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    out = io.StringIO()
    with monkeypatch.context() as changed:
        changed.setattr(common, "out", Console(file=out, width=5000, force_terminal=False))
        yield out


def check_terminal(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as out:
        common.print_table(("id", "name"), [{"id": number, "name": name} for number, name in enumerate(names)])
    lines = out.getvalue().splitlines()
    assert len(lines) == len(names) + 1
    assert not UNSEEN.search("".join(lines))


def check_metrics(names: list[str]) -> None:
    labels = bounded(names)
    text, _ = expose(catalogue.ATTEMPTS_RUNNING.of(1, label) for label in set(labels.values()))
    (family,) = text_string_to_metric_families(text.decode())
    assert {sample.labels["flow"] for sample in family.samples} == set(labels.values())


def check_logs(names: list[str]) -> None:
    for name in names:
        record = logging.LogRecord(name, logging.WARNING, name, 1, "%s: %s", (name, names), None)
        line = logs.JsonFormatter().format(record)
        assert line.isascii()
        assert len(line.splitlines()) == 1
        assert isinstance(json.loads(line), dict)


def check_artifact(account: Account, names: list[str]) -> None:
    for row in harmless([{"name": name, "rows": 5, "share": 0.5, "none": None} for name in [account.name, *names]]):
        assert {key: row[key] for key in ("rows", "share", "none")} == {"rows": 5, "share": 0.5, "none": None}
        assert not UNSEEN.search(row["name"])
        json.dumps(row).encode()


@examples(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(names=["<script>alert(1)</script>", "=1+1", "a\r\nBcc: x@y.z", "\u202ex", "| a |"])
@given(names=st.lists(NAMES, min_size=5, max_size=5))
def test_no_name_is_more_than_a_name_wherever_it_is_read(
    engine: Engine, vault: Vault, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    user, frames = store(engine, vault, names)
    plain = pd.DataFrame(frames.entities)
    plain["name"] = "Plain"
    ordinary = report_of("Ada", AccountFrames(frames.account, 1, NOW, plain, frames.daily, frames.hourly))
    report = report_of(user, frames)
    check_html(report)
    check_csv(report)
    check_markdown(report, lines=len(render_markdown(ordinary).splitlines()))
    about = messages.IncidentNews(
        1, "opened", "high", "cpa", "campaign", NOW, *names[:1], cause=names[1], recommendation=names[2]
    )
    for note in (
        messages.daily_report(user_id=1, report=report, public_url=URL),
        messages.token_expired(frames.account, reason=names[0], token_version=1, public_url=URL),
        messages.anomaly_alert(about, public_url=URL),
        messages.anomaly_digest([about] * 5, user_id=1, public_url=URL),
    ):
        check_mail(note, user)
    check_terminal([user, frames.account.name, *names], monkeypatch)
    check_metrics(names)
    check_logs(names)
    check_artifact(frames.account, names)


@pytest.mark.parametrize(
    "other", ["josé@example.com", "jose\u0301@example.com", "\uff4aose@example.com", "JOSE@example.com"]
)
def test_two_addresses_are_never_one_user_because_a_database_sorts_them_alike(engine: Engine, other: str) -> None:
    with engine.begin() as connection:
        first = accounts.add_user(connection, email="jose@example.com", name="José", now=NOW)
        if other.lower() == "jose@example.com":
            assert accounts.add_user(connection, email=other, name="José", now=NOW) == first
            return
        try:
            second = accounts.add_user(connection, email=other, name="Mallory", now=NOW)
        except UserError as error:
            assert "jose@example.com" not in str(error)  # noqa: PT017 - either end is right
        else:
            assert second != first
        (user,) = accounts.list_users(connection, ids=[first])
        assert user.name == "José"
