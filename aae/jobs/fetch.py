"""Fetching one account: plan, call, store, reconcile, publish.

Each slice is stored in a transaction of its own together with its row in ``fetches``, so that whatever happens later,
what is stored is stored and what is owed is known. A failing slice is recorded too; the ones after it are still tried,
unless the failure concerns the whole account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pandas as pd

from aae.deadline import NEVER, Deadline
from aae.errors import AaeError, Bug, Reauthorize, Retry, Skip, Throttled
from aae.frames import AccountFrames
from aae.jobs import tokens
from aae.jobs.context import Context, Stores
from aae.jobs.planning import plan_account
from aae.model import METRIC_COLUMNS, Account, Granularity, Slice, Token, Totals
from aae.platforms.base import Connector
from aae.storage import accounts, fetches, metrics
from aae.storage.engine import reading

DRIFT_ALARM = 0.01
"""Leaf sums further than this from the platform's own totals are said aloud (requirement: error below 1 %)."""

HOT_DAILY_DAYS = 70
HOT_HOURLY_DAYS = 36
"""What detection (28 days of history behind the judged ones) and reports (28-day trends) look back on."""

FRAMES_TTL_SECONDS = 24 * 3600
"""Longer than the gap between two fetches; a frame whose version is old is never used anyway."""

_OUTCOMES: tuple[tuple[type[AaeError], str], ...] = (
    (Throttled, "throttled"),
    (Retry, "failed"),
    (Reauthorize, "reauthorize"),
    (Skip, "skipped"),
    (Bug, "failed"),
)


@dataclass(frozen=True, slots=True)
class AccountOutcome:
    """What one account's fetch came to; JSON-safe, no secret.

    ``outcome``: ``stored`` (nothing owed), ``partial`` (some slices owed), ``failed``, ``throttled``, ``reauthorize``,
    ``skipped`` or ``planned`` (dry run). ``drift`` is the largest distance from the platform's own totals, as a share.
    ``retry`` says that trying again soon may help; ``throttled_until`` (ISO, UTC) when.
    """

    account_id: int
    account: str
    name: str
    platform: str
    outcome: str
    slices: int = 0
    owed: int = 0
    rows: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    calls: int = 0
    drift: float | None = None
    detail: str | None = None
    retry: bool = False
    throttled_until: str | None = None
    seconds: float = 0.0

    @property
    def owes(self) -> bool:
        """Whether numbers are missing that a later run can bring; a paused account owes nothing."""
        return self.outcome in {"partial", "failed", "throttled"}


async def fetch_account(
    context: Context,
    account: Account,
    *,
    clock: Callable[[], datetime],
    run_id: str | None,
    pieces: Sequence[Slice] | None = None,
    deadline: Deadline = NEVER,
) -> AccountOutcome:
    """Bring the tables up to date for one account.

    ``pieces`` overrides the plan (a backfill). ``deadline`` is asked between slices: what is done stays, the rest is
    owed. Failures of the account come back in the outcome, never as an exception: other accounts must not care.
    """
    return await _AccountFetch(context, account, clock, run_id).run(pieces, deadline)


def plan(stores: Stores, account: Account, connector: Connector, *, now: datetime, run_id: str | None) -> list[Slice]:
    """What the account owes at ``now``, by what is recorded in ``fetches``."""
    horizon = now - timedelta(days=stores.settings.fetch.first_days + 2)
    with reading(stores.engine) as connection:
        stored = {
            granularity: fetches.stored_windows(connection, account.id, granularity, since=horizon.date())
            for granularity in Granularity
        }
    return plan_account(account, connector.rules, stored, stores.settings.fetch, now=now, run_id=run_id)


def publish(stores: Stores, account: Account, now: datetime, *, complete: bool) -> int:
    """Move the account's data version and put its hot window into the cache; returns the new version.

    The version moves in the database first: a frame of an older version is never used. ``complete`` says that the
    numbers reach up to ``now``.
    """
    with stores.engine.begin() as connection:
        version = accounts.bump_data_version(connection, account.id, through=now if complete else None, now=now)
    read_hot_frames(stores, account, now=now, version=None)
    return version


def read_hot_frames(stores: Stores, account: Account, *, now: datetime, version: int | None) -> AccountFrames:
    """The account's hot window: from the cache if it holds exactly ``version``, else from the tables (and cached)."""
    if version is not None and (cached := stores.cache.get_frames(account, version)) is not None:
        return cached
    today = account.local_day(now)
    with reading(stores.engine) as connection:
        frames = metrics.read_frames(
            connection,
            account.id,
            daily_since=today - timedelta(days=HOT_DAILY_DAYS),
            hourly_since=today - timedelta(days=HOT_HOURLY_DAYS),
        )
    stores.cache.put_frames(frames, ttl=FRAMES_TTL_SECONDS)
    return frames


class _AccountFetch:
    """One account's fetch under way: what stays the same from slice to slice, and the outcome as it grows."""

    def __init__(self, context: Context, account: Account, clock: Callable[[], datetime], run_id: str | None) -> None:
        self._context = context
        self._account = account
        self._connector = context.connectors[account.platform]
        self._clock = clock
        self._run_id = run_id
        self._outcome = AccountOutcome(account.id, str(account), account.name, account.platform, "stored")

    async def run(self, pieces: Sequence[Slice] | None, deadline: Deadline) -> AccountOutcome:
        begun, calls = self._clock(), self._calls()
        if pieces is None:
            todo = plan(self._context, self._account, self._connector, now=begun, run_id=self._run_id)
        else:
            todo = _not_done_by(self._context, self._account, pieces, self._run_id)
        self._outcome = replace(self._outcome, slices=len(todo))
        try:
            await self._fetch_all(todo, deadline, begun)
        except AaeError as error:
            await asyncio.to_thread(self._give_up, error)
        if self._stored_something or not self._outcome.owes:
            await asyncio.to_thread(
                publish, self._context, self._account, begun, complete=self._outcome.outcome == "stored"
            )
        seconds = round((self._clock() - begun).total_seconds(), 3)
        return replace(self._outcome, calls=self._calls() - calls, seconds=seconds)

    async def _fetch_all(self, pieces: Sequence[Slice], deadline: Deadline, begun: datetime) -> None:
        token = await tokens.usable_token(self._context, self._account, now=begun, run_id=self._run_id)
        listing = await self._connector.list_entities(self._account, token)
        await asyncio.to_thread(_store_entities, self._context, self._account, listing, begun)
        for number, piece in enumerate(pieces):
            if deadline.passed:
                self._owe(len(pieces) - number, "The soft time limit was reached; the rest is owed.", retry=False)
                return
            await self._fetch_slice(token, piece)

    async def _fetch_slice(self, token: Token, piece: Slice) -> None:
        """One slice, stored and recorded; a failure that concerns only this slice is recorded and owed."""
        started, calls = self._clock(), self._calls()
        try:
            pages = [page async for page in self._connector.fetch_metrics(self._account, token, piece)]
            frame = pd.concat(pages, ignore_index=True) if pages else empty_metrics()
            truth = None
            if piece.granularity is Granularity.DAILY:
                truth = await self._connector.fetch_totals(self._account, token, piece)
        except (Retry, Skip, Bug) as error:
            await asyncio.to_thread(self._record_failure, piece, error, started)
            if isinstance(error, Throttled):
                raise
            self._owe(1, str(error), retry=isinstance(error, Retry))
            return
        await asyncio.to_thread(self._store, piece, frame, truth, started=started, calls=self._calls() - calls)

    def _store(self, piece: Slice, frame: pd.DataFrame, truth: Totals | None, *, started: datetime, calls: int) -> None:
        sums = totals_of(frame)
        drift = reconcile(sums, truth)
        rules = self._connector.rules
        with self._context.engine.begin() as connection:
            stored = metrics.store_slice(
                connection,
                self._account,
                piece,
                frame,
                attribution=rules.attribution,
                run_id=self._run_id,
                now=self._clock(),
            )
            fetches.record(
                connection,
                account_id=self._account.id,
                piece=piece,
                started_at=started,
                finished_at=self._clock(),
                outcome="stored",
                rows_fetched=len(frame),
                rows_inserted=stored.inserted,
                rows_updated=stored.updated,
                rows_deleted=stored.deleted,
                api_calls=calls,
                totals=sums,
                platform_totals=truth,
                drift=drift,
                run_id=self._run_id,
            )
        known = [each for each in (drift, self._outcome.drift) if each is not None]
        self._outcome = replace(
            self._outcome,
            rows=self._outcome.rows + len(frame),
            inserted=self._outcome.inserted + stored.inserted,
            updated=self._outcome.updated + stored.updated,
            deleted=self._outcome.deleted + stored.deleted,
            drift=max(known, default=None),
        )

    def _record_failure(self, piece: Slice, error: AaeError, started: datetime) -> None:
        with self._context.engine.begin() as connection:
            fetches.record(
                connection,
                account_id=self._account.id,
                piece=piece,
                started_at=started,
                finished_at=self._clock(),
                outcome=outcome_of(error),
                error_code=error.code,
                detail=str(error),
                run_id=self._run_id,
            )

    def _give_up(self, error: AaeError) -> None:
        """The whole account failed: say how, and pause it if only its owner can help."""
        if isinstance(error, Reauthorize):
            with reading(self._context.engine) as connection:
                token = accounts.read_token(connection, self._context.vault, self._account.id)
                active = accounts.list_accounts(connection, ids=[self._account.id])
            if active:
                now = self._clock()
                tokens.declare_dead(self._context, self._account, token, error, now=now, run_id=self._run_id)
        self._outcome = replace(
            self._outcome,
            outcome=outcome_of(error),
            owed=max(self._outcome.owed, 1),
            detail=str(error),
            retry=isinstance(error, Retry) and not isinstance(error, Throttled),
            throttled_until=error.until.isoformat() if isinstance(error, Throttled) else None,
        )

    def _owe(self, slices: int, why: str, *, retry: bool) -> None:
        so_far = self._outcome
        self._outcome = replace(
            so_far,
            outcome="partial",
            owed=so_far.owed + slices,
            detail=so_far.detail or why,
            retry=so_far.retry or retry,
        )

    def _calls(self) -> int:
        return self._context.transport.calls_for(self._account).total

    @property
    def _stored_something(self) -> bool:
        return bool(self._outcome.inserted or self._outcome.updated or self._outcome.deleted)


def totals_of(frame: pd.DataFrame) -> Totals:
    """The sums over a frame of ``METRIC_COLUMNS``; delivery and spend only."""
    return Totals(
        impressions=int(frame["impressions"].sum()),
        clicks=int(frame["clicks"].sum()),
        spend_micros=int(frame["spend_micros"].sum()),
    )


def reconcile(leaves: Totals, platform: Totals | None) -> float | None:
    """How far the sum of the leaves is from the platform's own total: the larger share of impressions and spend.

    ``None`` where there is no total to compare with; 1 where the platform says zero and the leaves do not.
    """
    if platform is None:
        return None
    pairs = ((leaves.impressions, platform.impressions), (leaves.spend_micros, platform.spend_micros))
    return max(_apart(ours, theirs) for ours, theirs in pairs)


def _apart(ours: int, theirs: int) -> float:
    if ours == theirs:
        return 0.0
    # The column holds three digits before the point; a thousandfold error needs no more precision.
    return min(abs(ours - theirs) / abs(theirs), 999.0) if theirs else 1.0


def empty_metrics() -> pd.DataFrame:
    """A frame of ``METRIC_COLUMNS`` without rows."""
    return pd.DataFrame({name: pd.Series([], dtype=dtype) for name, dtype in METRIC_COLUMNS.items()})


def _store_entities(stores: Stores, account: Account, listing: pd.DataFrame, now: datetime) -> None:
    with stores.engine.begin() as connection:
        metrics.upsert_entities(connection, account.id, listing, now=now)


def _not_done_by(stores: Stores, account: Account, pieces: Sequence[Slice], run_id: str | None) -> list[Slice]:
    """A run that starts over does not repeat what it has stored itself."""
    if run_id is None or not pieces:
        return list(pieces)
    with reading(stores.engine) as connection:
        done = {
            (granularity, window.since, window.until)
            for granularity in Granularity
            for window in fetches.stored_windows(
                connection, account.id, granularity, since=min(p.since for p in pieces)
            )
            if window.run_id == run_id
        }
    return [piece for piece in pieces if (piece.granularity, piece.since, piece.until) not in done]


def outcome_of(error: AaeError) -> str:
    """The word for an error in ``fetches.outcome``."""
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
