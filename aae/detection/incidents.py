"""The life of an incident, as a pure function: what was found now, against what is open.

    opened -> escalated (a class worse) -> easing (not seen this time) -> resolved -> re-opened within the cool-down

One notification when it opens, one for each class it gets worse by, one when it is over. An incident of an account that
was not judged this time stays as it is. Judging twice at the same moment changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from aae.detection.causes import Finding
from aae.detection.scoring import SEVERITIES

State = Literal["opened", "escalated", "easing", "resolved"]
Kind = Literal["open", "escalate", "update", "ease", "resolve", "reopen"]

RESOLVE_AFTER: Final = 2
"""Judgements in a row without a sign of it: one may be luck."""

COOL_DOWN: Final = timedelta(hours=24)
"""A repeat this soon after the end is the same incident."""


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident as stored. ``severity`` is the worst it has been.

    ``missed`` (judgements in a row that did not see it), ``family``, ``path`` (entity ids from the campaign down, empty
    above) and ``accounts`` live in the table's ``data``, the others in columns of the same name.
    """

    id: int
    fingerprint: str
    state: State
    severity: str
    opened_at: datetime
    updated_at: datetime
    accounts: tuple[int, ...]
    family: str
    path: tuple[int, ...] = ()
    missed: int = 0
    resolved_at: datetime | None = None
    snoozed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What to write, and whether to tell. ``state``, ``severity`` and ``missed`` are the incident's from now on.

    ``finding`` is None when the incident was not seen; ``incident`` is None when a new one opens. The incident keeps
    its own fingerprint, also when the finding that continues it names a neighbour above or below.
    """

    kind: Kind
    finding: Finding | None
    incident: OpenIncident | None
    notify: bool
    state: State
    severity: str
    missed: int = 0


def reconcile(
    findings: Sequence[Finding],
    open_incidents: Sequence[OpenIncident],
    recently_resolved: Sequence[OpenIncident],
    *,
    now: datetime,
    judged_accounts: Collection[int],
    fresh_accounts: Collection[int] | None = None,
) -> list[Change]:
    """The changes that make the stored incidents agree with what was found.

    Args:
        findings: Of one user, as :func:`aae.detection.detect` gave them.
        open_incidents: All of the user's that are not resolved.
        recently_resolved: The user's resolved ones, at least those younger than the cool-down.
        now: The moment of judging.
        judged_accounts: Ids of the accounts that were judged: the others' silence means nothing.
        fresh_accounts: Those of them with numbers not judged before: the same silence counts once. None: all.
    """
    findings = _distinct(findings)
    waiting = {incident.id: incident for incident in open_incidents}
    resolved = {
        incident.id: incident
        for incident in recently_resolved
        if incident.resolved_at is not None and now - incident.resolved_at <= COOL_DOWN
    }
    changes: list[Change] = []
    matches = _match(findings, waiting)
    for finding, incident in zip(findings, matches, strict=True):
        if incident is not None:
            if incident.updated_at < now:
                changes.append(_seen(finding, incident, now))
            continue
        again = next((old for same in (_same, _related) for old in resolved.values() if same(finding, old)), None)
        if again is not None:
            del resolved[again.id]
            changes.append(_again(finding, again, now))
        else:
            changes.append(Change("open", finding, None, True, "opened", finding.severity))
    judged = set(judged_accounts)
    fresh = judged if fresh_accounts is None else set(fresh_accounts)
    for incident in waiting.values():
        if set(incident.accounts) <= judged and not fresh.isdisjoint(incident.accounts) and incident.updated_at < now:
            wider = any(_related(finding, incident) for finding in findings)
            changes.append(_unseen(incident, now, covered=wider))
    return changes


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    """One finding per family and branch, the first: an incident can be continued by one only."""
    kept: list[Finding] = []
    for finding in findings:
        if not any(_related(finding, other) for other in kept):
            kept.append(finding)
    return kept


def _match(findings: Sequence[Finding], waiting: dict[int, OpenIncident]) -> list[OpenIncident | None]:
    """For each finding the incident it continues, taken out of ``waiting``: the same one, or else the same branch."""
    matches: list[OpenIncident | None] = [None] * len(findings)
    for same in (_same, _related):
        for position, finding in enumerate(findings):
            if matches[position] is None:
                fitting = [incident for incident in waiting.values() if same(finding, incident)]
                if fitting:
                    matches[position] = waiting.pop(min(fitting, key=lambda each: (each.opened_at, each.id)).id)
    return matches


def _same(finding: Finding, incident: OpenIncident) -> bool:
    return finding.fingerprint == incident.fingerprint


def _related(finding: Finding, other: Finding | OpenIncident) -> bool:
    """The same family on the same branch: as evidence grows, a cause may be named a level higher or lower."""
    path, accounts = _place(finding)
    other_path, other_accounts = _place(other)
    short = min(len(path), len(other_path))
    return (
        finding.family == other.family
        and not accounts.isdisjoint(other_accounts)
        and path[:short] == other_path[:short]
    )


def _place(of: Finding | OpenIncident) -> tuple[tuple[int, ...], set[int]]:
    """Entity ids from the campaign down, and the accounts."""
    if isinstance(of, Finding):
        return tuple(of.data["path"]), set(of.data["accounts"])
    return of.path, set(of.accounts)


def _awake(incident: OpenIncident, now: datetime) -> bool:
    return incident.snoozed_until is None or incident.snoozed_until <= now


def _worse(severity: str, than: str) -> bool:
    return SEVERITIES.index(severity) > SEVERITIES.index(than)


def _seen(finding: Finding, incident: OpenIncident, now: datetime) -> Change:
    if _worse(finding.severity, incident.severity):
        return Change("escalate", finding, incident, _awake(incident, now), "escalated", finding.severity)
    state: State = "opened" if incident.state == "easing" else incident.state
    return Change("update", finding, incident, False, state, incident.severity)


def _again(finding: Finding, incident: OpenIncident, now: datetime) -> Change:
    """A repeat within the cool-down is told only if it is worse than it was."""
    worse = _worse(finding.severity, incident.severity)
    severity = finding.severity if worse else incident.severity
    return Change("reopen", finding, incident, worse and _awake(incident, now), "opened", severity)


def _unseen(incident: OpenIncident, now: datetime, *, covered: bool) -> Change:
    missed = incident.missed + 1
    if covered:  # another incident tells the same story at another level
        return Change("resolve", None, incident, False, "resolved", incident.severity, missed)
    if missed >= RESOLVE_AFTER:
        return Change("resolve", None, incident, _awake(incident, now), "resolved", incident.severity, missed)
    return Change("ease", None, incident, False, "easing", incident.severity, missed)
