"""What a round left behind, by natural keys: no surrogate ids, no moments. Two pictures are equal or tell where not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from tests.chaos.stage import Stage

Picture = dict[str, Counter[Hashable]]

_ACCOUNT = "CONCAT(a.platform, ':', a.external_id)"
_FACT = "m.impressions, m.clicks, m.spend, m.conversions, m.revenue, m.attribution"
_QUERIES = {
    "ad_metrics_daily": f"SELECT {_ACCOUNT}, e.level, e.external_id, m.local_date, {_FACT} FROM ad_metrics_daily m "
    "JOIN ad_accounts a ON a.id = m.account_id JOIN entities e ON e.id = m.entity_id",
    "ad_metrics_hourly": f"SELECT {_ACCOUNT}, e.level, e.external_id, m.local_date, m.local_hour, {_FACT} "
    "FROM ad_metrics_hourly m JOIN ad_accounts a ON a.id = m.account_id JOIN entities e ON e.id = m.entity_id",
    "entities": f"SELECT {_ACCOUNT}, e.level, e.external_id, p.external_id, e.name, e.status, e.daily_budget "
    "FROM entities e JOIN ad_accounts a ON a.id = e.account_id LEFT JOIN entities p ON p.id = e.parent_id",
    "metric_revisions": f"SELECT {_ACCOUNT}, e.external_id, r.granularity, r.local_date, r.local_hour, r.metric, "
    "r.old, r.new FROM metric_revisions r JOIN ad_accounts a ON a.id = r.account_id "
    "JOIN entities e ON e.id = r.entity_id",
    "ad_accounts": f"SELECT {_ACCOUNT}, user_id, name, status, status_reason, token_version FROM ad_accounts a",
    "incidents": "SELECT user_id, fingerprint, metric, level, state, severity, resolved_at IS NULL FROM incidents",
    "incident_events": "SELECT i.fingerprint, v.state, v.severity FROM incident_events v "
    "JOIN incidents i ON i.id = v.incident_id",
    "reports": "SELECT user_id, report_date, completeness FROM reports",
    "notifications": "SELECT user_id, kind, urgency, title, email_state FROM notifications",
}
# Of the log of refreshes what had an effect; probes and tries may be more.
_EFFECTS = (
    f"SELECT {_ACCOUNT}, t.outcome, t.token_version FROM token_refreshes t JOIN ad_accounts a ON a.id = t.account_id "
    "WHERE t.outcome IN ('refreshed', 'permanent_failure', 'access_refused', 'recovered')"
)
_COVERED = (
    f"SELECT DISTINCT {_ACCOUNT}, f.granularity, f.since, f.until FROM fetches f "
    "JOIN ad_accounts a ON a.id = f.account_id WHERE f.outcome = 'stored'"
)


@dataclass(frozen=True)
class Difference:
    """Rows that are missing (lost) or too many (twice, or made up) in one table."""

    table: str
    missing: list[str]
    extra: list[str]


def picture(stage: Stage) -> Picture:
    """Everything that must be as if nothing had happened."""
    found: Picture = {name: Counter(map(tuple, stage.database.do(query))) for name, query in _QUERIES.items()}
    found["token effects"] = Counter(map(tuple, stage.database.do(_EFFECTS)))
    found["days covered"] = _days(stage.database.do(_COVERED))
    found["e-mails"] = Counter(_mail(path) for path in (stage.stack.state_dir / "outbox").glob("*.eml"))
    found["report files"] = Counter(path.name for path in (stage.stack.state_dir / "reports").glob("*"))
    found["reports' lines"] = Counter(
        (user, str(day), line)
        for user, day, csv, summary in stage.database.do("SELECT user_id, report_date, csv, summary FROM reports")
        for line in [*csv.splitlines(), *json.dumps(json.loads(summary), indent=1, sort_keys=True).splitlines()]
    )
    return found


def differences(expected: Picture, found: Picture) -> list[Difference]:
    """Where the two are not the same."""
    told = []
    for name in expected:
        missing, extra = expected[name] - found[name], found[name] - expected[name]
        if missing or extra:
            told.append(Difference(name, sorted(map(str, missing.elements())), sorted(map(str, extra.elements()))))
    return told


def _days(windows: list[Any]) -> Counter[Hashable]:
    """Every local day that some fetch has stored."""
    days = {
        (account, granularity, since.fromordinal(day))
        for account, granularity, since, until in windows
        for day in range(since.toordinal(), until.toordinal() + 1)
    }
    return Counter(days)


def _mail(path: Path) -> Hashable:
    message = BytesParser(policy=policy.default).parsebytes(path.read_bytes())
    return message["To"], message["Subject"]
