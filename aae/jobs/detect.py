"""One user's anomalies: judge the hot windows, move the incidents on, tell the user what is new.

Incidents, their history and the notifications about them change in one transaction, together with the mark of which
numbers have been seen: a run that is cut off has either said everything or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Connection

from aae.detection import Change, Finding, OpenIncident, detect, is_late, reconcile
from aae.detection.incidents import COOL_DOWN, State
from aae.frames import AccountFrames
from aae.jobs.context import Stores
from aae.jobs.fetch import read_hot_frames
from aae.jobs.telling import tell
from aae.model import Account
from aae.notify import messages
from aae.notify.messages import IncidentNews
from aae.storage import accounts, incidents
from aae.storage.accounts import User
from aae.storage.incidents import IncidentRow
from aae.storage.transact import look, transact

Sensitivity = Literal["low", "medium", "high"]

_TOLD = (
    "metric",
    "level",
    "entity_name",
    "platform",
    "current",
    "expected",
    "deviation",
    "currency",
    "stake_micros",
    "cause",
    "recommendation",
)
"""What a notification needs of a finding."""


@dataclass(frozen=True, slots=True)
class DetectionOutcome:
    """What came of judging one user. ``findings`` are JSON-safe rows, the gravest first.

    ``outcome``: ``judged``, ``unchanged`` (no new numbers since the last time), ``no accounts`` or ``previewed``.
    """

    user_id: int
    user: str
    outcome: str
    findings: tuple[dict[str, Any], ...] = ()
    opened: int = 0
    escalated: int = 0
    resolved: int = 0
    late: tuple[str, ...] = ()


def detect_user(
    stores: Stores, user: User, *, now: datetime, sensitivity: Sensitivity, again: bool, dry_run: bool
) -> DetectionOutcome:
    """Judge all accounts of one user, which only make sense together, if any has numbers not judged before.

    ``again`` judges in any case; ``dry_run`` shows the findings and keeps nothing.
    """
    owned, versions, through = look(stores.engine, _standing, user)
    if not owned:
        return DetectionOutcome(user.id, user.name, "no accounts")
    late = {one.id for one in owned if is_late(through[one.id], now=now)}
    told_late = tuple(str(one) for one in owned if one.id in late)
    moved = {one.id for one in owned if again or versions[one.id][0] > versions[one.id][1]}
    if not moved and not dry_run:
        return DetectionOutcome(user.id, user.name, "unchanged", late=told_late)
    frames = [read_hot_frames(stores, one, now=now, version=versions[one.id][0]) for one in owned]
    findings = detect(frames, now=now, sensitivity=sensitivity)
    changes: Sequence[Change] = ()
    if not dry_run:
        judged = {one.id for one in owned} - late
        changes = _keep(stores, user, frames, findings, judged=judged, moved=moved, now=now)
    kinds = [change.kind for change in changes]
    return DetectionOutcome(
        user.id,
        user.name,
        "previewed" if dry_run else "judged",
        findings=tuple(_row(finding) for finding in findings),
        opened=kinds.count("open") + kinds.count("reopen"),
        escalated=kinds.count("escalate"),
        resolved=kinds.count("resolve"),
        late=told_late,
    )


def _standing(
    connection: Connection, user: User
) -> tuple[list[Account], dict[int, tuple[int, int]], dict[int, datetime | None]]:
    """The user's accounts; of each its versions and how far its numbers reach."""
    owned = accounts.list_accounts(connection, user_ids=[user.id])
    versions = accounts.data_versions(connection, user_id=user.id)
    return owned, versions, accounts.data_through(connection, user_id=user.id)


def _keep(
    stores: Stores,
    user: User,
    frames: Sequence[AccountFrames],
    findings: Sequence[Finding],
    *,
    judged: set[int],
    moved: set[int],
    now: datetime,
) -> list[Change]:
    def work(connection: Connection) -> list[Change]:
        # What was updated at ``now`` is passed over by reconcile: doing this twice is doing it once.
        open_rows = incidents.open_incidents(connection, [user.id])
        ended_rows = incidents.recently_resolved(connection, user.id, now - COOL_DOWN)
        changes = reconcile(
            findings,
            [_as_open(row) for row in open_rows],
            [_as_open(row) for row in ended_rows],
            now=now,
            judged_accounts=judged,
            fresh_accounts=moved,
        )
        before = {row.id: row for row in (*open_rows, *ended_rows)}
        news = [told for change in changes if (told := _apply(connection, change, before, now=now)) is not None]
        for note in messages.anomaly_alerts(news, user_id=user.id, public_url=stores.settings.public_url):
            tell(connection, user, note, now=now)
        for frame in frames:
            accounts.set_detected_version(connection, frame.account.id, frame.version)
        return changes

    return transact(stores.engine, work)


def _apply(
    connection: Connection, change: Change, before: dict[int, IncidentRow], *, now: datetime
) -> IncidentNews | None:
    """Write one change and its event; what is to be told of it, nothing if another run was quicker."""
    data = _data(change, before)
    incident_id = _write(connection, change, data, now=now)
    if incident_id is None:
        return None
    if change.kind != "update":
        incidents.add_event(connection, incident_id, at=now, state=change.state, severity=change.severity, data=data)
    if not change.notify:
        return None
    told: dict[str, Any] = {name: data.get(name) for name in _TOLD}
    return IncidentNews(incident_id, change.state, change.severity, at=now, **told)


def _write(connection: Connection, change: Change, data: dict[str, Any], *, now: datetime) -> int | None:
    """The incident's id after writing it; ``None`` if it is not ours to write any more."""
    finding, incident = change.finding, change.incident
    stake = finding.stake_micros if finding else None
    if incident is None:
        assert finding is not None  # noqa: S101 - reconcile opens nothing without a finding
        return incidents.insert(
            connection,
            user_id=finding.user_id,
            account_id=finding.account_id,
            entity_id=finding.entity_id,
            fingerprint=finding.fingerprint,
            metric=finding.metric,
            level=finding.level,
            state=change.state,
            severity=change.severity,
            currency=finding.currency,
            stake=stake,
            data=data,
            now=now,
        )
    write = incidents.reopen if change.kind == "reopen" else incidents.update
    done = write(connection, incident.id, now=now, state=change.state, severity=change.severity, stake=stake, data=data)
    return incident.id if done else None


def _data(change: Change, before: dict[int, IncidentRow]) -> dict[str, Any]:
    """What the incident's row says: the finding of now, or what was found last with the misses counted on."""
    if change.finding is None:
        assert change.incident is not None  # noqa: S101 - a change has at least one of the two
        return before[change.incident.id].data | {"missed": change.missed}
    own = change.finding.data | {"family": change.finding.family, "missed": 0}
    return _row(change.finding) | own


def _row(finding: Finding) -> dict[str, Any]:
    """A finding as a flat JSON-safe row, for the incident and for the table in the UI."""
    row = asdict(finding)
    del row["data"]
    return row | {"p_value": float(finding.p_value)}


def _as_open(row: IncidentRow) -> OpenIncident:
    return OpenIncident(
        id=row.id,
        fingerprint=row.fingerprint,
        state=cast(State, row.state),
        severity=row.severity,
        opened_at=row.opened_at,
        updated_at=row.updated_at,
        accounts=tuple(row.data["accounts"]),
        family=row.data["family"],
        path=tuple(row.data["path"]),
        missed=row.data.get("missed", 0),
        resolved_at=row.resolved_at,
        snoozed_until=row.snoozed_until,
    )
