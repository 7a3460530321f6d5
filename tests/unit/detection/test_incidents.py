"""The life of an incident: one notification when it opens, gets worse, is over; silence about what was not judged."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aae.detection import Change, Finding, OpenIncident, reconcile
from aae.detection.incidents import COOL_DOWN
from aae.detection.scoring import SEVERITIES

NOW = datetime(2026, 3, 12, 14, tzinfo=UTC)
STEP = timedelta(hours=6)


def finding(severity: str = "high", *, path: tuple[int, ...] = (11,), account: int = 1, metric: str = "cpa") -> Finding:
    family = {"cpa": "conversion", "cpm": "price", "delivery": "delivery"}[metric]
    return Finding(
        user_id=7,
        account_id=account,
        entity_id=path[-1] if path else None,
        level=("account", "campaign", "ad_set", "ad")[len(path)],
        entity_name="Spring",
        platform="meta",
        metric=metric,
        window="yesterday",
        since="2026-03-11T00:00:00",
        until="2026-03-12T00:00:00",
        current=20.0,
        expected=10.0,
        deviation=1.0,
        severity=severity,
        p_value=1e-6,
        currency="EUR",
        stake_micros=5_000_000,
        cause="c",
        recommendation="r",
        data={"family": family, "path": list(path), "accounts": [account]},
    )


def stored(found: Finding, **more: object) -> OpenIncident:
    incident = OpenIncident(
        id=1,
        fingerprint=found.fingerprint,
        state="opened",
        severity=found.severity,
        opened_at=NOW - STEP,
        updated_at=NOW - STEP,
        accounts=tuple(found.data["accounts"]),
        family=found.family,
        path=tuple(found.data["path"]),
    )
    return replace(incident, **more)  # type: ignore[arg-type]


def run(findings=(), waiting=(), resolved=(), judged=(1, 2), now=NOW) -> list[Change]:
    return reconcile(list(findings), list(waiting), list(resolved), now=now, judged_accounts=judged)


def test_something_new_opens_and_is_told() -> None:
    (change,) = run([finding()])
    assert (change.kind, change.state, change.severity, change.notify) == ("open", "opened", "high", True)


def test_the_same_again_is_an_update_in_silence() -> None:
    (change,) = run([finding()], [stored(finding(), missed=1, state="easing")])
    assert (change.kind, change.state, change.missed, change.notify) == ("update", "opened", 0, False)


def test_worse_by_a_class_is_told_and_better_again_is_not() -> None:
    (worse,) = run([finding("critical")], [stored(finding("high"))])
    assert (worse.kind, worse.state, worse.severity, worse.notify) == ("escalate", "escalated", "critical", True)
    (milder,) = run([finding("low")], [stored(finding("high"))])
    assert (milder.kind, milder.severity, milder.notify) == ("update", "high", False)


def test_one_silent_judgement_eases_and_the_next_resolves() -> None:
    (ease,) = run([], [stored(finding())])
    assert (ease.kind, ease.state, ease.missed, ease.notify) == ("ease", "easing", 1, False)
    (over,) = run([], [stored(finding(), state="easing", missed=1)])
    assert (over.kind, over.state, over.notify) == ("resolve", "resolved", True)


def test_an_account_that_was_not_judged_keeps_its_incidents() -> None:
    assert run([], [stored(finding(), missed=1)], judged=[2]) == []
    wide = stored(finding(), accounts=(1, 2), missed=1)
    assert run([], [wide], judged=[2]) == []


def test_a_repeat_within_the_cool_down_reopens() -> None:
    old = stored(finding(), state="resolved", resolved_at=NOW - COOL_DOWN / 2)
    (change,) = run([finding()], resolved=[old])
    assert (change.kind, change.incident, change.notify) == ("reopen", old, False)
    (worse,) = run([finding("critical")], resolved=[old])
    assert (worse.kind, worse.severity, worse.notify) == ("reopen", "critical", True)
    (later,) = run([finding()], resolved=[replace(old, resolved_at=NOW - 2 * COOL_DOWN)])
    assert later.kind == "open"


def test_a_snoozed_incident_changes_in_silence() -> None:
    asleep = stored(finding(), snoozed_until=NOW + STEP, missed=1, state="easing")
    assert [change.notify for change in run([finding("critical")], [asleep])] == [False]
    assert [change.notify for change in run([], [asleep])] == [False]
    awake = replace(asleep, snoozed_until=NOW - STEP)
    assert [change.notify for change in run([finding("critical")], [awake])] == [True]


def test_a_cause_named_a_level_lower_is_the_same_incident() -> None:
    (change,) = run([finding(path=(11, 12, 13))], [stored(finding(path=(11,)))])
    assert change.kind == "update"


def test_another_branch_and_another_family_are_other_incidents() -> None:
    kinds = {change.kind for change in run([finding(path=(21,))], [stored(finding(path=(11,)))])}
    assert kinds == {"open", "ease"}
    kinds = {change.kind for change in run([finding(metric="delivery")], [stored(finding())])}
    assert kinds == {"open", "ease"}
    kinds = {change.kind for change in run([finding(account=2, path=())], [stored(finding(path=()))])}
    assert kinds == {"open", "ease"}


def test_incidents_that_a_wider_one_covers_end_in_silence() -> None:
    two = [stored(finding(path=(11,))), stored(finding(path=(21,)), id=2)]
    changes = run([finding("critical", path=())], two)
    assert sorted((change.kind, change.notify) for change in changes) == [("escalate", True), ("resolve", False)]


def applied(changes: list[Change], incidents: list[OpenIncident], now: datetime) -> list[OpenIncident]:
    """What persistence does with the changes."""
    table = {incident.id: incident for incident in incidents}
    for change in changes:
        if change.incident is None:
            assert change.finding is not None
            fresh = max(table, default=0) + 1
            table[fresh] = stored(change.finding, id=fresh, opened_at=now, updated_at=now)
        else:
            table[change.incident.id] = replace(
                change.incident,
                state=change.state,
                severity=change.severity,
                missed=change.missed,
                updated_at=now,
                resolved_at=now if change.state == "resolved" else None,
            )
    return list(table.values())


FINDINGS = st.lists(
    st.builds(finding, st.sampled_from(SEVERITIES), path=st.sampled_from([(), (11,), (21,), (11, 12), (11, 12, 13)])),
    max_size=3,
    unique_by=lambda found: found.fingerprint,
)


@given(st.lists(FINDINGS, min_size=1, max_size=5))
def test_judging_twice_at_the_same_moment_changes_nothing(rounds: list[list[Finding]]) -> None:
    incidents: list[OpenIncident] = []
    for number, findings in enumerate(rounds):
        now = NOW + number * STEP
        for turn in (1, 2):
            waiting = [each for each in incidents if each.state != "resolved"]
            over = [each for each in incidents if each.state == "resolved"]
            changes = run(findings, waiting, over, now=now)
            assert turn == 1 or changes == []
            incidents = applied(changes, incidents, now)


@given(st.lists(FINDINGS, min_size=1, max_size=6))
def test_no_two_open_incidents_share_a_fingerprint(rounds: list[list[Finding]]) -> None:
    incidents: list[OpenIncident] = []
    for number, findings in enumerate(rounds):
        now = NOW + number * STEP
        waiting = [each for each in incidents if each.state != "resolved"]
        over = [each for each in incidents if each.state == "resolved"]
        incidents = applied(run(findings, waiting, over, now=now), incidents, now)
        marks = [each.fingerprint for each in incidents if each.state != "resolved"]
        assert len(marks) == len(set(marks))
