"""What each notification says. Pure: facts in, a notification out.

Titles become e-mail subjects and lines of a list; names in them come from people and are cleaned. The dedupe key names
the piece of news, so that telling it twice is impossible, whoever tries how often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from aae.display import clean, money, number, percent
from aae.model import Account, Platform, from_micros

if TYPE_CHECKING:  # reporting brings the chart library, which a token check has no use for
    from aae.reporting import Report

Kind = Literal["token_expired", "token_recovered", "anomaly_alert", "daily_report"]
Urgency = Literal["urgent", "normal"]

ALONE: Final = 3
"""So many alerts of one moment are sent one by one; more become one digest."""
_PLATFORMS: Final = {Platform.META: "Meta", Platform.TIKTOK: "TikTok", Platform.GOOGLE: "Google Ads"}
_SEVERITIES: Final = ("critical", "high", "medium", "low")
_MONEY: Final = {"cpa", "cpc", "cpm", "spend"}
_SHARES: Final = {"ctr", "cvr"}


@dataclass(frozen=True, slots=True)
class Notification:
    """One piece of news for one user.

    ``message`` is plain text, paragraphs divided by an empty line. ``data`` is JSON-safe; its ``link`` is where to act
    and its ``action`` what the link does, in words.
    """

    kind: Kind
    urgency: Urgency
    title: str
    message: str
    data: dict[str, Any] = field(hash=False)
    dedupe_key: str


@dataclass(frozen=True, slots=True)
class IncidentNews:
    """One step in an incident's life worth telling: it opened, escalated or resolved at the aware moment ``at``.

    ``current`` and ``expected`` are in the metric's own unit (money in the currency's unit, CTR and CVR as fractions),
    ``deviation`` is relative (0.8 is 80 % up), ``stake_micros`` in ``currency``.
    """

    incident_id: int
    state: str
    severity: str
    metric: str
    level: str
    at: datetime
    entity_name: str | None = None
    platform: str | None = None
    current: float | None = None
    expected: float | None = None
    deviation: float | None = None
    currency: str | None = None
    stake_micros: int | None = None
    cause: str | None = None
    recommendation: str | None = None


def wants_email(preferences: Mapping[str, Any], notification: Notification) -> bool:
    """Whether to send it by e-mail: ``{"mute": [kinds]}`` in the user's preferences; urgent ones always go."""
    muted = preferences.get("mute")
    return notification.urgency == "urgent" or not (isinstance(muted, list) and notification.kind in muted)


def token_expired(account: Account, *, reason: str, token_version: int, public_url: str) -> Notification:
    """The account cannot be used until its owner connects it again. Once per token version."""
    return _cannot_be_read(
        account,
        public_url,
        title="Authorization expired",
        what=f"We can no longer read the {_PLATFORMS[account.platform]} account",
        reason=reason,
        then="Connect it again, and it resumes by itself; days that were missed are fetched afterwards.",
        dedupe_key=f"token-expired:{account.id}:{token_version}",
    )


def access_lost(account: Account, *, reason: str, at: datetime, public_url: str) -> Notification:
    """The platform no longer gives the account to us, though the token is good. Once per moment ``at`` of giving up."""
    return _cannot_be_read(
        account,
        public_url,
        title="No access any more",
        what=f"{_PLATFORMS[account.platform]} no longer lets us read the account",
        reason=reason,
        then=(
            "When it is open to us again we notice within a day and it resumes by itself; connect it again, and it "
            "does so at once. Days that were missed are fetched afterwards."
        ),
        dedupe_key=f"access-lost:{account.id}:{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
    )


def _cannot_be_read(
    account: Account, public_url: str, *, title: str, what: str, reason: str, then: str, dedupe_key: str
) -> Notification:
    """The account is paused, for ``reason``; ``then`` is how it gets well again."""
    name, platform = clean(account.name), _PLATFORMS[account.platform]
    return Notification(
        kind="token_expired",
        urgency="urgent",
        title=f"{title}: {name} ({platform})",
        message=(
            f"{what} {name} ({clean(account.external_id)}): {_sentence(reason)}\n\n"
            f"Everything that runs on this account is paused. {then}"
        ),
        data=_account_data(account) | {"link": _authorize(account, public_url), "action": "Connect the account again"},
        dedupe_key=dedupe_key,
    )


def token_recovered(account: Account, *, failure: int, public_url: str) -> Notification:
    """The account works again. ``failure`` is the number of what the owner had been told of: once for each."""
    name, platform = clean(account.name), _PLATFORMS[account.platform]
    return Notification(
        kind="token_recovered",
        urgency="normal",
        title=f"Connected again: {name} ({platform})",
        message=(
            f"The {platform} account {name} ({clean(account.external_id)}) works again. "
            "Fetching, alerts and reports have resumed."
        ),
        data=_account_data(account) | {"link": f"{public_url}/accounts/{account.id}", "action": "See the account"},
        dedupe_key=f"token-recovered:{account.id}:{failure}",
    )


def anomaly_alerts(news: Sequence[IncidentNews], *, user_id: int, public_url: str) -> list[Notification]:
    """The notifications for what happened to one user's incidents at one moment: one each, or one digest of many."""
    if len(news) <= ALONE:
        return [anomaly_alert(item, public_url=public_url) for item in news]
    return [anomaly_digest(news, user_id=user_id, public_url=public_url)]


def anomaly_alert(news: IncidentNews, *, public_url: str) -> Notification:
    """One incident opened, got worse, or is over. Urgent when critical and not over."""
    where = _where(news)
    heading = {"resolved": "Over", "escalated": f"Worse, now {news.severity}"}.get(
        news.state, news.severity.capitalize()
    )
    parts = [_measured(news)]
    if news.cause:
        parts.append(_sentence(news.cause))
    if news.recommendation and news.state != "resolved":
        parts.append(f"To do: {_sentence(news.recommendation)}")
    if news.stake_micros and news.currency:
        parts.append(f"At stake: {money(news.stake_micros, news.currency)}.")
    return Notification(
        kind="anomaly_alert",
        urgency=_urgency(news),
        title=clean(f"{heading}: {_headline(news)}", limit=200),
        message="\n\n".join(part for part in parts if part) or f"{_metric(news)} on {where}.",
        data=_news_data(news) | {"link": f"{public_url}/incidents/{news.incident_id}", "action": "See the incident"},
        dedupe_key=_news_key(news),
    )


def anomaly_digest(news: Sequence[IncidentNews], *, user_id: int, public_url: str) -> Notification:
    """Many at once in one message, the gravest first."""
    ranked = sorted(news, key=lambda item: (item.state == "resolved", _rank(item), -(item.stake_micros or 0)))
    over = sum(item.state == "resolved" for item in news)
    critical = sum(_urgency(item) == "urgent" for item in news)
    counts = [
        f"{critical} critical" if critical else "",
        f"{len(news) - over - critical} others" if critical and len(news) > over + critical else "",
        f"{len(news) - over} new or worse" if not critical and len(news) > over else "",
        f"{over} over" if over else "",
    ]
    lines = []
    for item in ranked:
        badge = "over" if item.state == "resolved" else item.severity
        lines.append(f"- [{badge}] {_headline(item)}{f': {_sentence(item.cause)}' if item.cause else ''}")
    keys = "\n".join(sorted(map(_news_key, news)))
    return Notification(
        kind="anomaly_alert",
        urgency="urgent" if critical else "normal",
        title=f"{len(news)} changes to incidents: {', '.join(part for part in counts if part)}",
        message="\n".join(lines),
        data={
            "incidents": [_news_data(item) for item in ranked],
            "link": f"{public_url}/incidents",
            "action": "See all incidents",
        },
        dedupe_key=f"anomaly-digest:{user_id}:{hashlib.sha256(keys.encode()).hexdigest()[:32]}",
    )


def daily_report(*, user_id: int, report: Report, public_url: str) -> Notification:
    """The report is there. Once per user and day; the mail brings the report itself."""
    day = report.report_date
    parts = [f"{clean(report.headline, limit=500)}."]
    still_open = sum(not note.over for note in report.incidents)
    if still_open:
        parts.append(f"Open incidents: {still_open}.")
    if report.recommendations:
        parts.append("Recommended:\n" + "\n".join(f"- {_advised(advice)}" for advice in report.recommendations[:5]))
    if report.late:
        parts.append(f"Not counted yet, because their numbers are late: {len(report.late)} of {report.accounts_total}.")
    if report.young and report.sections:
        parts.append("Conversions of the last days are still arriving.")
    return Notification(
        kind="daily_report",
        urgency="normal",
        title=clean(f"{day:%a} {day.day} {day:%b}: {report.headline}", limit=200),
        message="\n\n".join(parts),
        data={
            "user_id": user_id,
            "report_date": day.isoformat(),
            "completeness": float(report.completeness),
            "link": f"{public_url}/reports/{day.isoformat()}",
            "action": "Open the report",
        },
        dedupe_key=f"daily-report:{user_id}:{day.isoformat()}",
    )


def _advised(advice: Any) -> str:
    change = f" {percent(advice.change, signed=True)}" if advice.change else ""
    return f"{advice.kind.replace('_', ' ').replace('adset', 'ad set')}{change}: {clean(advice.target_name)}"


def _headline(news: IncidentNews) -> str:
    if news.state == "resolved":
        return f"{_metric(news)} on {_where(news)} is back to normal"
    if news.current is None and news.metric == "cpa":
        return f"no conversions on {_where(news)}"
    moved = f" {percent(news.deviation, signed=True)}" if news.deviation is not None else ""
    return f"{_metric(news)}{moved} on {_where(news)}"


def _measured(news: IncidentNews) -> str:
    if news.expected is None or news.state == "resolved":
        return f"{_headline(news)}."
    current = "none" if news.current is None else _shown(news.current, news)
    return f"{_metric(news)} on {_where(news)} is {current}; {_shown(news.expected, news)} was to be expected."


def _shown(value: float, news: IncidentNews) -> str:
    exact = Decimal(repr(value))
    if news.metric in _MONEY and news.currency:
        return money(exact, news.currency)
    if news.metric in _SHARES:
        return percent(exact)
    return number(exact, decimals=2 if news.metric == "roas" else 0)


def _where(news: IncidentNews) -> str:
    name = clean(news.entity_name, limit=80) if news.entity_name else "all campaigns"
    known = news.platform in set(Platform)
    return f"{name} ({_PLATFORMS[Platform(str(news.platform))]})" if known else name


def _metric(news: IncidentNews) -> str:
    metric = clean(news.metric, limit=20)
    return metric.upper() if len(metric) <= 4 else metric.capitalize()


def _urgency(news: IncidentNews) -> Urgency:
    return "urgent" if news.severity == "critical" and news.state != "resolved" else "normal"


def _rank(news: IncidentNews) -> int:
    return _SEVERITIES.index(news.severity) if news.severity in _SEVERITIES else len(_SEVERITIES)


def _news_key(news: IncidentNews) -> str:
    # The moment belongs to it: an incident may re-open and be over again.
    return f"anomaly:{news.incident_id}:{news.state}:{news.severity}:{news.at.astimezone(UTC):%Y%m%dT%H%M%S}"


def _news_data(news: IncidentNews) -> dict[str, Any]:
    return {
        "incident_id": news.incident_id,
        "state": news.state,
        "severity": news.severity,
        "metric": news.metric,
        "level": news.level,
        "entity_name": news.entity_name,
        "platform": news.platform,
        "current": news.current,
        "expected": news.expected,
        "deviation": news.deviation,
        "currency": news.currency,
        "stake": None if news.stake_micros is None else str(from_micros(news.stake_micros)),
        "cause": news.cause,
        "recommendation": news.recommendation,
        "at": news.at.astimezone(UTC).isoformat(),
    }


def _account_data(account: Account) -> dict[str, Any]:
    return {
        "account_id": account.id,
        "platform": str(account.platform),
        "external_id": account.external_id,
        "account_name": account.name,
    }


def _authorize(account: Account, public_url: str) -> str:
    return f"{public_url}/accounts/{account.id}/authorize"


def _sentence(text: str) -> str:
    line = clean(text, limit=500)
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."
