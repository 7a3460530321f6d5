"""What each notification says, how urgent it is, and that the same news always has the same key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from aae.model import Account, Platform
from aae.notify.messages import (
    IncidentNews,
    Notification,
    access_lost,
    anomaly_alert,
    anomaly_alerts,
    daily_report,
    token_expired,
    token_recovered,
    wants_email,
)
from aae.reporting import build_report
from tests.unit.reporting.worlds import NOW, Campaign, frames, incident

URL = "https://app.example.com"
HOSTILE = "Shop\r\nBcc: victim@example.com\u202e"
AT = datetime(2026, 3, 11, 10, tzinfo=UTC)


def account(**changes: object) -> Account:
    values: dict[str, object] = {
        "id": 5, "user_id": 2, "platform": Platform.META, "external_id": "1001", "name": "Shop Europe",
        "currency": "EUR", "timezone": "Europe/Berlin",
    }  # fmt: skip
    return Account(**(values | changes))  # type: ignore[arg-type]


def news(**changes: object) -> IncidentNews:
    values: dict[str, object] = {
        "incident_id": 9, "state": "opened", "severity": "high", "metric": "cpa", "level": "campaign", "at": AT,
        "entity_name": "Winter Sale", "platform": "meta", "current": 18.0, "expected": 10.0, "deviation": 0.8,
        "currency": "EUR", "stake_micros": 120_000_000, "cause": "CVR fell by half",
        "recommendation": "Check the page.",
    }  # fmt: skip
    return IncidentNews(**(values | changes))  # type: ignore[arg-type]


def expired(of: Account | None = None, version: int = 3) -> Notification:
    return token_expired(of or account(), reason="The user removed the app.", token_version=version, public_url=URL)


def test_an_expired_token_is_urgent_and_links_to_where_it_is_renewed() -> None:
    note = expired()
    assert (note.kind, note.urgency) == ("token_expired", "urgent")
    assert note.title == "Authorization expired: Shop Europe (Meta)"
    assert note.data["link"] == f"{URL}/accounts/5/authorize"
    assert "The user removed the app." in note.message


def test_news_about_a_token_is_told_once_per_token_version() -> None:
    assert expired().dedupe_key == expired().dedupe_key
    assert expired().dedupe_key != expired(version=4).dedupe_key
    recovered = token_recovered(account(), failure=3, public_url=URL)
    assert (recovered.kind, recovered.urgency) == ("token_recovered", "normal")
    assert recovered.dedupe_key != expired().dedupe_key


def test_lost_access_is_urgent_says_why_and_is_told_once_for_each_time() -> None:
    def note(of: Account | None = None, at: datetime = AT) -> Notification:
        return access_lost(of or account(), reason="No permission (200)", at=at, public_url=URL)

    assert (note().kind, note().urgency) == ("token_expired", "urgent")
    assert note().title == "No access any more: Shop Europe (Meta)"
    assert "No permission (200)." in note().message
    assert note().data["link"] == f"{URL}/accounts/5/authorize"
    assert note().dedupe_key == note(account(name="Another name")).dedupe_key != note(at=NOW).dedupe_key
    assert note().dedupe_key != expired().dedupe_key
    assert "\n" not in note(account(name=HOSTILE)).title


@pytest.mark.parametrize(
    ("severity", "state", "urgency"),
    [("critical", "opened", "urgent"), ("critical", "escalated", "urgent"), ("critical", "resolved", "normal"),
     ("high", "opened", "normal"), ("low", "opened", "normal")],
)  # fmt: skip
def test_an_alert_is_urgent_when_critical_and_not_over(severity: str, state: str, urgency: str) -> None:
    assert anomaly_alert(news(severity=severity, state=state), public_url=URL).urgency == urgency


def test_an_alert_has_current_expected_deviation_cause_recommendation_and_stake() -> None:
    note = anomaly_alert(news(), public_url=URL)
    assert note.title == "High: CPA +80\u00a0% on Winter Sale (Meta)"
    assert note.message == (
        "CPA on Winter Sale (Meta) is €18.00; €10.00 was to be expected.\n\n"
        "CVR fell by half.\n\nTo do: Check the page.\n\nAt stake: €120.00."
    )
    assert note.data["deviation"] == 0.8
    assert note.data["link"] == f"{URL}/incidents/9"


def test_a_cpa_without_conversions_is_said_in_words() -> None:
    note = anomaly_alert(news(current=None), public_url=URL)
    assert note.title == "High: no conversions on Winter Sale (Meta)"
    assert "is none; €10.00 was to be expected" in note.message


def test_each_step_of_an_incident_is_its_own_news_and_a_repeat_of_a_step_is_not() -> None:
    steps = [news(), news(state="escalated", severity="critical"), news(state="resolved", at=AT + timedelta(hours=3)),
             news(at=AT + timedelta(hours=5))]  # fmt: skip
    keys = [anomaly_alert(step, public_url=URL).dedupe_key for step in steps]
    assert len(set(keys)) == len(steps)
    assert keys[0] == anomaly_alert(news(cause="said differently"), public_url=URL).dedupe_key


def test_a_few_alerts_go_alone_and_many_become_one_digest_the_gravest_first() -> None:
    few = [news(incident_id=n) for n in range(3)]
    assert len(anomaly_alerts(few, user_id=1, public_url=URL)) == 3
    many = [news(incident_id=n, entity_name=f"C{n}") for n in range(20)]
    many += [news(incident_id=50, severity="critical", entity_name="Grave"), news(incident_id=51, state="resolved")]
    (digest,) = anomaly_alerts(many, user_id=1, public_url=URL)
    assert digest.title == "22 changes to incidents: 1 critical, 20 others, 1 over"
    assert digest.urgency == "urgent"
    assert "Grave" in digest.message.splitlines()[0]
    assert digest.message.splitlines()[-1].startswith("- [over]")
    assert len(digest.data["incidents"]) == 22
    (again,) = anomaly_alerts(many[::-1], user_id=1, public_url=URL)
    assert again.dedupe_key == digest.dedupe_key
    assert anomaly_alerts([], user_id=1, public_url=URL) == []


def test_a_daily_report_is_news_once_per_user_and_day() -> None:
    report = build_report(user_name="Ada", frames=[frames(campaigns=[Campaign()])], incidents=[incident()], now=NOW)
    note = daily_report(user_id=2, report=report, public_url=URL)
    assert (note.kind, note.urgency, note.dedupe_key) == ("daily_report", "normal", "daily-report:2:2026-03-10")
    assert note.title == "Tue 10 Mar: Spend steady at €100.00; CPA steady at €10.00"
    assert note.data["report_date"] == "2026-03-10"
    assert "Open incidents: 1." in note.message


@pytest.mark.parametrize(
    ("preferences", "wanted"),
    [({}, True), ({"mute": ["daily_report"]}, True), ({"mute": ["anomaly_alert"]}, False), ({"mute": None}, True)],
)
def test_preferences_mute_kinds(preferences: dict[str, object], wanted: bool) -> None:
    assert wants_email(preferences, anomaly_alert(news(), public_url=URL)) is wanted


def test_urgent_news_ignores_preferences() -> None:
    everything = {"mute": ["token_expired", "anomaly_alert", "daily_report", "token_recovered"]}
    assert wants_email(everything, expired())
    assert wants_email(everything, anomaly_alert(news(severity="critical"), public_url=URL))


def test_hostile_names_cannot_break_a_line_or_a_key_and_data_is_json() -> None:
    notes = [expired(account(name=HOSTILE)), anomaly_alert(news(entity_name=HOSTILE, cause=HOSTILE), public_url=URL)]
    for note in notes:
        assert "\n" not in note.title
        assert "\u202e" not in note.title + note.message
        assert "Shop\r\nBcc" not in note.message
        assert len(note.title) <= 300
        assert len(note.dedupe_key) <= 190
        json.dumps(note.data)
