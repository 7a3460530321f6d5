"""One user's report on one day: what :func:`build_report` makes of frames and incidents, before any rendering."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import pandas as pd

from aae.frames import AccountFrames
from aae.model import Account, AccountStatus, Level, from_micros
from aae.reporting.advice import Recommendation, recommend
from aae.reporting.insights import (
    Change,
    Ratio,
    Split,
    biggest,
    describe_change,
    describe_day,
    explain,
    is_firm,
    split_total,
)
from aae.reporting.numbers import (
    METRICS,
    NOTHING,
    WEEK_DAYS,
    Compared,
    Sums,
    ages,
    compare,
    facts,
    known_days,
    sums_by,
    total,
)

YOUNG_DAYS: Final = 3
"""For so many days after a day ends, its conversions are expected to grow noticeably."""
DRIFT_LIMIT: Final = Decimal("0.01")
"""Our sums may be this far from the platform's own totals before it is said (the customer's 1 %)."""
MOVERS: Final = 6
"""Changes told per currency."""
MIN_SHARE: Final = 0.05
"""A campaign with less of the movement of spend than this, and no firm change of its own, is not told."""
ADVICE_PER_CURRENCY: Final = 6
_SEVERITIES: Final = ("critical", "high", "medium", "low")


@dataclass(frozen=True)
class IncidentNote:
    """An incident as the report tells it; ``opened_at`` is aware, ``stake_micros`` is in ``currency``."""

    metric: str
    level: str
    entity_name: str | None
    platform: str | None
    severity: str
    state: str
    opened_at: datetime
    cause: str | None
    recommendation: str | None
    currency: str | None
    stake_micros: int | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state == "resolved"


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One account whose numbers for its ``day`` are all there."""

    account: Account
    day: date
    compared: Compared


@dataclass(frozen=True, slots=True)
class CampaignLine:
    """One campaign; ``campaign_id`` is the platform's. ``week`` is the 7 days that end with the reported one."""

    account: Account
    day: date
    campaign_id: str
    name: str
    status: str
    compared: Compared
    week: Sums


@dataclass(frozen=True, slots=True)
class LateAccount:
    """An account that is not counted, because its numbers do not yet cover ``day``; the reason is one sentence."""

    account: Account
    day: date
    reason: str


@dataclass(frozen=True, slots=True)
class DriftNote:
    """An account whose sums are further from the platform's own totals than ``DRIFT_LIMIT``."""

    account: Account
    share: Decimal


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """One day of the trend; ``young`` says that conversions are still arriving."""

    day: date
    sums: Sums
    young: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Everything in one currency, over the accounts that are not late. Campaigns come by spend of the week."""

    currency: str
    headline: str
    compared: Compared
    accounts: tuple[AccountLine, ...]
    campaigns: tuple[CampaignLine, ...]
    trend: tuple[TrendPoint, ...]
    why: Split | None
    changes: tuple[Change, ...]
    recommendations: tuple[Recommendation, ...]

    @property
    def partial(self) -> bool:
        """Whether a total leaves something out because some platform does not tell it."""
        shown = (self.compared.day, self.compared.week or NOTHING)
        return any(sums.partial(metric) for sums in shown for metric in METRICS)


@dataclass(frozen=True, slots=True)
class Report:
    """One user's report. ``completeness`` (0..1) is the share of accounts whose numbers for the day are all there."""

    user_name: str
    report_date: date
    created_at: datetime
    completeness: float
    headline: str
    sections: tuple[Section, ...]
    incidents: tuple[IncidentNote, ...]
    late: tuple[LateAccount, ...]
    drift: tuple[DriftNote, ...]
    young: bool

    @property
    def accounts(self) -> tuple[AccountLine, ...]:
        """Of all currencies."""
        return tuple(line for section in self.sections for line in section.accounts)

    @property
    def campaigns(self) -> tuple[CampaignLine, ...]:
        """Of all currencies."""
        return tuple(line for section in self.sections for line in section.campaigns)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Of all currencies."""
        return tuple(change for section in self.sections for change in section.changes)

    @property
    def trends(self) -> dict[str, tuple[TrendPoint, ...]]:
        """By currency."""
        return {section.currency: section.trend for section in self.sections}

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """Of all currencies."""
        return tuple(advice for section in self.sections for advice in section.recommendations)

    @property
    def accounts_total(self) -> int:
        """Accounts counted and late."""
        return len(self.accounts) + len(self.late)

    def summary(self) -> dict[str, Any]:
        """The report in short as JSON: amounts and ratios are decimal strings, unknown is null."""
        return {
            "report_date": self.report_date.isoformat(),
            "headline": self.headline,
            "completeness": self.completeness,
            "accounts": self.accounts_total,
            "late": [
                {"platform": str(late.account.platform), "account": late.account.external_id, "reason": late.reason}
                for late in self.late
            ],
            "drift": [
                {"platform": str(note.account.platform), "account": note.account.external_id, "share": str(note.share)}
                for note in self.drift
            ],
            "conversions_still_arriving": self.young,
            "currencies": {section.currency: _section_summary(section) for section in self.sections},
            "incidents": {
                "open": sum(not note.over for note in self.incidents),
                "resolved": sum(note.over for note in self.incidents),
            },
        }


def usual_day(accounts: Sequence[Account], now: datetime) -> date:
    """The day that a report written at ``now`` bears: the yesterday that most of the accounts have, or UTC's."""
    yesterdays = [account.local_day(now) - timedelta(days=1) for account in accounts]
    return _commonest(yesterdays) or now.astimezone(UTC).date() - timedelta(days=1)


def build_report(
    *,
    user_name: str,
    frames: Sequence[AccountFrames],
    incidents: Sequence[IncidentNote],
    now: datetime,
    report_date: date | None = None,
    drift: Mapping[int, Decimal] | None = None,
) -> Report:
    """Everything one user should know about one day.

    Args:
        user_name: whom it is for.
        frames: one per account; those whose numbers do not cover the day in full are listed as late and not counted.
        incidents: what detection found, open or ended lately.
        now: the aware moment of writing.
        report_date: the local day to report on, the same for all accounts. Without it, each account's own yesterday;
            the report then bears the day that most accounts have.
        drift: account id to how far our sums are from the platform's own, as a share of them.
    """
    days = {f.account.id: report_date or f.account.local_day(now) - timedelta(days=1) for f in frames}
    bears = report_date or usual_day([frame.account for frame in frames], now)
    late = tuple(
        LateAccount(f.account, days[f.account.id], reason)
        for f in frames
        if (reason := _why_late(f, days[f.account.id]))
    )
    lagging = {line.account.id for line in late}
    by_currency: dict[str, list[AccountFrames]] = defaultdict(list)
    for frame in frames:
        if frame.account.id not in lagging:
            by_currency[frame.account.currency].append(frame)
    ordered = sorted(by_currency.items(), key=lambda item: (-len(item[1]), item[0]))
    sections = tuple(_section(currency, members, days, bears, now) for currency, members in ordered)
    return Report(
        user_name=user_name,
        report_date=bears,
        created_at=now,
        completeness=round((len(frames) - len(late)) / len(frames), 4) if frames else 1.0,
        headline=_headline(sections, late),
        sections=sections,
        incidents=tuple(sorted(incidents, key=_incident_order)),
        late=late,
        drift=tuple(
            DriftNote(f.account, share)
            for f in frames
            if (share := abs((drift or {}).get(f.account.id, Decimal(0)))) > DRIFT_LIMIT
        ),
        young=any(_is_young(f.account, days[f.account.id], now) for f in frames),
    )


def _section(
    currency: str, members: Sequence[AccountFrames], days: Mapping[int, date], bears: date, now: datetime
) -> Section:
    rows = {f.account.id: facts(f, days[f.account.id]) for f in members}
    by_age: dict[int, Sums] = defaultdict(Sums)
    for account_rows in rows.values():
        for age, sums in sums_by(account_rows, "age").items():
            by_age[age] += sums
    known = known_days(by_age)
    accounts, campaigns = [], []
    for frame in members:
        lines = _campaign_lines(frame, rows[frame.account.id], days[frame.account.id], known)
        whole = _sum_compared([line.compared for line in lines], known)
        accounts.append(AccountLine(frame.account, days[frame.account.id], whole))
        campaigns.extend(lines)
    campaigns.sort(key=lambda line: (-line.week.spend_micros, line.account.id, line.campaign_id))
    compared = _sum_compared([line.compared for line in accounts], known)
    why, cause = _why(compared, campaigns)
    advice = [found for frame in members for found in recommend(frame, rows[frame.account.id])]
    advice.sort(key=lambda found: (-found.impact_micros, found.account_id, found.target_id))
    return Section(
        currency=currency,
        headline=describe_day(
            compared, currency, why, cause, young=any(_is_young(line.account, line.day, now) for line in accounts)
        ),
        compared=compared,
        accounts=tuple(accounts),
        campaigns=tuple(campaigns),
        trend=tuple(
            TrendPoint(
                day=bears - timedelta(days=age),
                sums=by_age.get(age, NOTHING),
                young=any(_is_young(f.account, days[f.account.id] - timedelta(days=age), now) for f in members),
            )
            for age in range(max(by_age, default=0), -1, -1)
        ),
        why=why,
        changes=_changes(currency, campaigns),
        recommendations=tuple(advice[:ADVICE_PER_CURRENCY]),
    )


def _campaign_lines(frame: AccountFrames, rows: pd.DataFrame, day: date, known: int) -> list[CampaignLine]:
    """Every campaign that ran on the day, in the week before it, or both."""
    found = compare(
        sums_by(ages(rows, 0, 0), "campaign_id"),
        sums_by(ages(rows, 1, 1), "campaign_id"),
        sums_by(ages(rows, 1, WEEK_DAYS), "campaign_id"),
        known,
    )
    week = sums_by(ages(rows, 0, WEEK_DAYS - 1), "campaign_id")
    entities = frame.entities
    known_campaigns = entities[entities["level"] == Level.CAMPAIGN].set_index("entity_id")
    described = known_campaigns[["external_id", "name", "status"]].to_dict("index")
    lines = []
    for campaign, compared in found.items():
        about = described.get(campaign, {"external_id": f"#{campaign}", "name": "(not listed)", "status": "other"})
        lines.append(
            CampaignLine(
                account=frame.account,
                day=day,
                campaign_id=str(about["external_id"]),
                name=str(about["name"]),
                status=str(about["status"]),
                compared=compared,
                week=week.get(campaign, NOTHING),
            )
        )
    return lines


def _sum_compared(parts: Sequence[Compared], known: int) -> Compared:
    return Compared(
        day=total(part.day for part in parts),
        before=total(part.before or NOTHING for part in parts) if known else None,
        week=total(part.week or NOTHING for part in parts) if known else None,
        week_days=known,
    )


def _why(compared: Compared, campaigns: Sequence[CampaignLine]) -> tuple[Split | None, str | None]:
    """Why the currency's CPA (or else its ROAS) moved, and the name of the campaign that did most."""
    if compared.week is None:
        return None, None
    metrics: tuple[Ratio, Ratio] = ("cpa", "roas")
    for metric in metrics:
        if is_firm(metric, compared.week, compared.day):
            parts = {f"{line.account.id}/{line.campaign_id}": line for line in campaigns}
            whole = split_total(metric, [line.compared for line in campaigns])
            if whole:
                key = biggest(metric, {k: line.compared for k, line in parts.items()}) if len(parts) > 1 else None
                return whole, parts[key].name if key else None
    return None, None


def _changes(currency: str, campaigns: Sequence[CampaignLine]) -> tuple[Change, ...]:
    """The campaigns that moved most: first those whose CPA or ROAS firmly changed, weighted by money, then spend."""
    moved = {id(line): line.compared.day.spend - (line.compared.average("spend") or 0) for line in campaigns}
    movement = sum(abs(change) for change in moved.values())
    if not any(line.compared.week for line in campaigns):
        return ()
    found: list[tuple[float, Change]] = []
    for line in campaigns:
        compared, why = line.compared, explain(line.compared)
        change, share = moved[id(line)], float(abs(moved[id(line)]) / movement) if movement else 0.0
        spend_moved = compared.change("spend")
        small = share < MIN_SHARE or (spend_moved is not None and abs(spend_moved) < Decimal("0.1"))
        if small and why is None:
            continue
        before, after = compared.average("conversions"), compared.day.conversions
        weight = float(abs(change)) + (abs(why.change) * float(compared.day.spend) if why else 0.0)
        told = Change(
            account_id=line.account.id,
            campaign_id=line.campaign_id,
            name=line.name,
            currency=currency,
            spend_change=change,
            conversions_change=None if before is None or after is None else after - before,
            share=share,
            split=why,
            sentence=describe_change(compared, why, currency),
        )
        found.append((weight, told))
    found.sort(key=lambda pair: (-pair[0], pair[1].account_id, pair[1].campaign_id))
    return tuple(change for _, change in found[:MOVERS])


def _why_late(frame: AccountFrames, day: date) -> str:
    """Why the account's numbers do not cover its local ``day``; empty if they do."""
    account = frame.account
    ends = datetime.combine(day + timedelta(days=1), time(), tzinfo=account.zone)
    if frame.data_through is not None and frame.data_through >= ends:
        return ""
    if account.status in {AccountStatus.EXPIRED, AccountStatus.REVOKED}:
        return "We may no longer read it: connect it again."
    if account.status == AccountStatus.PAUSED:
        return "It is paused."
    if frame.data_through is None:
        return "Its first numbers are on their way."
    through = frame.data_through.astimezone(account.zone)
    return f"Numbers reach to {through:%d %b %H:%M} ({account.timezone})."


def _headline(sections: Sequence[Section], late: Sequence[LateAccount]) -> str:
    if not sections:
        if not late:
            return "No ad account is connected yet"
        return f"No complete numbers yet: {_accounts(len(late))} late"
    if len(sections) == 1:
        return sections[0].headline
    told = [section.headline for section in sections[:3]]
    rest = f". And {len(sections) - 3} more currencies" if len(sections) > 3 else ""
    return ". ".join(told) + rest


def _accounts(count: int) -> str:
    return "1 account is" if count == 1 else f"{count} accounts are"


def _is_young(account: Account, day: date, now: datetime) -> bool:
    return (account.local_day(now) - day).days <= YOUNG_DAYS


def _commonest(days: Sequence[date]) -> date | None:
    """The day that most accounts have, the later one of equals."""
    counted = Counter(days)
    return max(counted, key=lambda day: (counted[day], day), default=None)


def _incident_order(note: IncidentNote) -> tuple[bool, int, int, datetime]:
    severity = _SEVERITIES.index(note.severity) if note.severity in _SEVERITIES else len(_SEVERITIES)
    return note.over, severity, -(note.stake_micros or 0), note.opened_at


def _section_summary(section: Section) -> dict[str, Any]:
    def text(value: Decimal | None) -> str | None:
        # Six places are all that money has and more than a ratio needs; plain notation, never an exponent.
        return None if value is None else f"{value:.6f}"

    compared = section.compared
    return {
        "headline": section.headline,
        "day": {metric: text(compared.day.value(metric)) for metric in METRICS},
        "day_before": {metric: text(compared.before.value(metric)) for metric in METRICS} if compared.before else None,
        "average": {metric: text(compared.average(metric)) for metric in METRICS} if compared.week else None,
        "average_days": compared.week_days,
        "partial": [metric for metric in METRICS if compared.day.partial(metric)],
        "why": None
        if section.why is None
        else {
            "metric": section.why.metric,
            "change": round(section.why.change, 6),
            "steps": {step: round(part, 6) for step, part in section.why.steps.items()},
            "mix": None if section.why.mix is None else round(section.why.mix, 6),
            "rate": None if section.why.rate is None else round(section.why.rate, 6),
        },
        "accounts": [
            {
                "platform": str(line.account.platform),
                "account": line.account.external_id,
                "name": line.account.name,
                "day": line.day.isoformat(),
                **{metric: text(line.compared.day.value(metric)) for metric in METRICS},
            }
            for line in section.accounts
        ],
        "trend": [
            {"day": point.day.isoformat(), "young": point.young}
            | {metric: text(point.sums.value(metric)) for metric in METRICS}
            for point in section.trend
        ],
        "changes": [
            {
                "account_id": change.account_id,
                "campaign_id": change.campaign_id,
                "name": change.name,
                "spend_change": text(change.spend_change),
                "conversions_change": text(change.conversions_change),
                "sentence": change.sentence,
            }
            for change in section.changes
        ],
        "recommendations": [
            {
                "kind": advice.kind,
                "platform": advice.platform,
                "account_id": advice.account_id,
                "level": advice.level,
                "target_id": advice.target_id,
                "target_name": advice.target_name,
                "reason": advice.reason,
                "expected_impact": advice.expected_impact,
                "impact_per_week": text(from_micros(advice.impact_micros)),
                "confidence": advice.confidence,
                "change": text(advice.change),
            }
            for advice in section.recommendations
        ],
    }
