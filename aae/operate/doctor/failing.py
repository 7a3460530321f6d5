"""Jobs that fail again and again: since when, in which words, and what helps against that kind of failure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Final

from sqlalchemy import Engine, func, select

from aae.errors import AaeError, UserError
from aae.logs import redact
from aae.operate.doctor.findings import DEPLOY, GRACE, Check, Subject, ago, attempt, failed, moment
from aae.operate.doctor.imports import ImportTrial
from aae.operate.prefect_api import Deployment, FlowRun, PrefectApi
from aae.operate.redis_server import dial
from aae.operate.schedule import Job
from aae.shares import are_apart
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts

RESULT_BLOCK: Final = "aae-results"
"""Name of the block with the Redis of the results (``deployments/declared.py`` has it)."""

_RESULT_KIND: Final = "redis-database"
_LOOK_BACK: Final = 50
_WORDS: Final = 300


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of failure: how its words look, and what helps; ``{run}`` is the last such run's id, ``{job}`` the job."""

    name: str
    pattern: re.Pattern[str]
    remedy: str


def _kind(name: str, pattern: str, remedy: str) -> Kind:
    return Kind(name, re.compile(pattern, re.IGNORECASE), remedy)


# The first that fits. What a process says before it begins comes before what a platform says.
KINDS: Final = (
    _kind(
        "does not start",
        r"status code:? 2\b",
        "correct what the basics above say (settings, tables) on the worker's machine, then restart the worker",
    ),
    _kind(
        "flow cannot be loaded",
        r"ModuleNotFoundError|ImportError|SyntaxError|No module named|MissingFlowError|ScriptError|cannot be loaded",
        f"install requirements.lock on the worker's machine (make .venv/.runtime), then {DEPLOY}",
    ),
    _kind("tables behind", r"aae db upgrade|is empty and this program needs", "aae db upgrade"),
    _kind("program behind", r"does not know: update the program", "install the newer version and restart the workers"),
    _kind(
        "wrong key",
        r"AAE_ENCRYPTION_KEYS|does not open with the key|is encrypted with the key",
        "set AAE_ENCRYPTION_KEYS on the worker's machine to the keys that the tokens were stored with",
    ),
    _kind(
        "result storage",
        r"Unable to find block|block document|redis-database|AAE_RESULTS_URL",
        f"{DEPLOY}, with AAE_RESULTS_URL (or AAE_REDIS_URL) naming a Redis that answers",
    ),
    _kind("Redis away", r"redis", "start the Redis that AAE_REDIS_URL names, then prefect deployment run {job}"),
    _kind(
        "database away",
        r"OperationalError|InterfaceError|AAE_DATABASE_URL|lost connection|can.t connect|the database does not answer"
        r"|database is locked|read.only",
        "start the database that AAE_DATABASE_URL names, then prefect deployment run {job}",
    ),
    _kind(
        "time limit",
        r"exceeded timeout|TimedOut|of at most \d+ s",
        "prefect flow-run logs {run} says where it hangs; if it only needs longer, AAE_LIMITS__SOFT_SECONDS and "
        "AAE_LIMITS__HARD_SECONDS",
    ),
    _kind(
        "lost",
        r"\bLost:|is given up",
        "read the worker's log and the kernel's (dmesg | grep -i 'killed process'): something ends the process",
    ),
    _kind(
        "throttled",
        r"asked for patience|throttled|HTTP 429",
        "wait, the next run catches up; if it goes on, set AAE_FETCH__ACCOUNTS_AT_ONCE lower",
    ),
    _kind(
        "authorization",
        r"reauthori[sz]e|authori[sz]ation|revoked|expired",
        "aae accounts list names them; their owners have been asked to connect them again",
    ),
)

_OTHER: Final = Kind("other", re.compile(""), "prefect flow-run logs {run}")


def kind_of(words: str) -> Kind:
    """What kind of failure these words tell of."""
    return next((kind for kind in KINDS if kind.pattern.search(words)), _OTHER)


def examine(subject: Subject, trial: ImportTrial) -> Iterator[Check]:
    """The checks; without the API or the database those that can be made without."""
    api, engine = subject.api, subject.engine
    if api is not None:
        yield attempt("result storage", lambda: _result_storage(api), DEPLOY)
    if engine is not None:
        yield attempt("accounts", lambda: _accounts(engine), "aae accounts list; their owners must connect them again")
    for job in subject.jobs:
        deployment = subject.deployments.get(job.name)
        if api is None or deployment is None:
            continue
        try:
            dealt = dict.fromkeys(one.share for one in deployment.schedules) or {None: None}
            runs = [one for one in api.last_runs(deployment.id, _LOOK_BACK * len(dealt)) if not one.only]
            for share in dealt:
                own = [one for one in runs if not are_apart(one.share, share)]
                yield _runs(job, share, deployment, own, subject.now)
        except AaeError as error:
            yield failed(f"{job.name} runs", error, "aae doctor, once the Prefect server is well")
    if subject.jobs:  # last, since it takes longest
        yield attempt("flows load", lambda: _loaded(trial), "make .venv/.runtime, which installs requirements.lock")


def _result_storage(api: PrefectApi) -> str:
    block = api.block(_RESULT_KIND, RESULT_BLOCK)
    if block is None:
        raise UserError(f"The server has no block {_RESULT_KIND}/{RESULT_BLOCK}, where the runs' results go.")
    return dial(_block_url(block), "AAE_RESULTS_URL")


def _block_url(block: Mapping[str, object]) -> str:
    url = block.get("connection_url")
    if isinstance(url, str) and url:
        return url
    return f"redis://{block.get('host', 'localhost')}:{block.get('port', 6379)}/{block.get('db', 0)}"


def _accounts(engine: Engine) -> str:
    """How many accounts are in which state; that some have lost their authorization is their owners' affair."""
    with reading(engine) as connection:
        rows = connection.execute(select(ad_accounts.c.status, func.count()).group_by(ad_accounts.c.status)).all()
        lost = connection.execute(
            select(ad_accounts.c.platform, ad_accounts.c.external_id)
            .where(ad_accounts.c.status.in_(["expired", "revoked"]))
            .order_by(ad_accounts.c.id)
            .limit(5)
        ).all()
    counts = {str(status): int(number) for status, number in rows}
    gone = counts.get("expired", 0) + counts.get("revoked", 0)
    which = ", ".join(f"{platform}:{account}" for platform, account in lost)
    which += f" and {gone - len(lost)} more" if gone > len(lost) else ""
    if gone and not counts.get("active"):
        raise UserError(f"No account is active; {gone} have lost their authorization: {which}.")
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "none connected yet"
    return f"{told} ({which})" if gone else told


def _loaded(trial: ImportTrial) -> str:
    found = trial.result()
    broken = {entrypoint: why for entrypoint, why in found.items() if why}
    if broken:
        entrypoint, why = next(iter(broken.items()))
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise UserError(f"{entrypoint} cannot be loaded here{more}: {why}.")
    return f"all {len(found)} of prefect.yaml"


def _runs(job: Job, share: str | None, deployment: Deployment, runs: Sequence[FlowRun], now: datetime) -> Check:
    """The latest runs of the job or its share.

    One that was cancelled, or skipped since a newer one did its work, says nothing.
    """
    name = f"{job.name} runs" if share is None else f"{job.name} runs of {share}"
    again = f"prefect deployment run {job.name}"
    due = _last_due(job, now)
    owed = due is not None and due > deployment.created and not (deployment.paused or job.paused)
    telling = [one for one in runs if one.state_type not in {"CANCELLED", "CANCELLING"}]
    if not telling:
        if owed:
            return Check(name, False, f"It has never run; it was due {ago(now, due)}.", again)
        return Check(name, True, "not yet due")
    ended = [one for one in telling if one.is_final]
    bad = list(takewhile(lambda one: not one.succeeded, ended))
    if bad:
        good = next((one for one in ended if one.succeeded), None)
        return Check(name, False, _story(bad, good, now), _remedy(job, bad))
    last = telling[0]
    begun = last.started or last.scheduled_for
    told = f"{last.state_name}, {'started' if last.started else 'due'} {ago(now, begun)}"
    if owed and due and last.is_final and begun and begun < due:
        return Check(name, False, f"{told}; overdue, it was due {ago(now, due)}.", again)
    return Check(name, True, told)


def _last_due(job: Job, now: datetime) -> datetime | None:
    try:
        return job.last_due(now - GRACE)
    except UserError:
        return None  # following tells


def _story(bad: Sequence[FlowRun], good: FlowRun | None, now: datetime) -> str:
    times = {1: "Failed once", 2: "Failed twice in a row"}.get(len(bad), f"Failed {len(bad)} times in a row")
    first = _when(bad[-1])
    since = f", {ago(now, _when(bad[0]))}" if len(bad) == 1 else f" since {moment(first) if first else 'long ago'}"
    before = f"the last success was {ago(now, _when(good))}" if good else "it has not succeeded before"
    return f"{times}{since} ({before}). {'; '.join(_classes(bad))}"


def _classes(bad: Sequence[FlowRun]) -> Iterator[str]:
    """The reasons, the same said once: the latest words and how often, the latest first."""
    alike: dict[str, list[FlowRun]] = {}
    for one in bad:
        alike.setdefault(_without_numbers(_words(one)), []).append(one)
    several = len(alike) > 1 or len(bad) > 1
    for group in list(alike.values())[:3]:
        words = _words(group[0])
        yield f"{len(group)} x {words}" if several else words
    if len(alike) > 3:
        yield f"and {len(alike) - 3} other reasons"


def _words(run: FlowRun) -> str:
    said = " ".join((run.message or "")[: 4 * _WORDS].split())
    words = redact(said) or f"{' '.join(run.state_name.split())}, without a reason"
    return words if len(words) <= _WORDS else f"{words[:_WORDS]} ..."


def _without_numbers(words: str) -> str:
    return re.sub(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\d+(?:[.,:]\d+)*", "#", words)


def _remedy(job: Job, bad: Sequence[FlowRun]) -> str:
    return kind_of(_words(bad[0])).remedy.format(run=bad[0].id, job=job.name)


def _when(run: FlowRun) -> datetime | None:
    return run.started or run.ended or run.scheduled_for
