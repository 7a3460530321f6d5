"""Fetching one account: plan, call, store, reconcile, publish.

Each slice is stored in a transaction of its own together with its row in ``fetches``, so that whatever happens later,
what is stored is stored and what is owed is known. A failing slice is recorded too; the ones after it are still tried,
unless the failure concerns the whole account. The calls that were made go into the log with what came of them.

While a slice is being stored the next one is asked for. So the rows of two slices are in memory and never more, about
150 bytes a row and at most ``MOST_ROWS`` each, however many slices and however large the account: days that are more
than that together are fetched in halves.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from aae.deadline import NEVER, Deadline
from aae.errors import AaeError, Bug, Reauthorize, Retry, Skip, Superseded, Throttled
from aae.frames import AccountFrames
from aae.jobs import access, tokens
from aae.jobs.calls import Calls, on_record
from aae.jobs.context import Context, Stores
from aae.jobs.planning import due_for_a_look, plan_account, settled
from aae.model import METRIC_COLUMNS, Account, Granularity, Slice, Token, Totals
from aae.platforms.base import Connector
from aae.platforms.google.wire import EXPIRED
from aae.platforms.reading import MOST_ROWS
from aae.storage import accounts, entities, fetches, metrics
from aae.storage.fetches import StoredWindow
from aae.storage.transact import look, transact

R = TypeVar("R")

DRIFT_ALARM = 0.01
"""Leaf sums further than this from the platform's own totals are said aloud (requirement: error below 1 %)."""

HOT_DAILY_DAYS = 70
HOT_HOURLY_DAYS = 36
"""What detection (28 days of history behind the judged ones) and reports (28-day trends) look back on."""

MOST_HOT_ROWS = 1_000_000
"""A hot window of more rows, some 75 MB of columns, is not published: whoever wants it reads the tables. So neither the
memory of a fetch nor what is sent to the cache at once grows with an account."""

LARGEST_SUM = 10**18
"""In micros: what ``DECIMAL(18,6)`` does not hold any more."""

LARGEST_COUNT = 2**63
"""What ``BIGINT`` does not hold any more."""

WORTH_WAITING_SECONDS = 900
"""A throttle that ends within a step's retries (3 x 300 s) is waited for; a longer one is left to a later run."""

FRAMES_TTL_SECONDS = 24 * 3600
"""Longer than the gap between two fetches; a frame whose version is old is never used anyway."""

_OUTCOMES: tuple[tuple[type[AaeError], str], ...] = (
    (Throttled, "throttled"),
    (Retry, "failed"),
    (Reauthorize, "reauthorize"),
    (Skip, "skipped"),
    (Bug, "failed"),
)
_FAILURES: Final = (Retry, Skip, Bug, Reauthorize)
"""What the log of fetches keeps of a try."""


class _TooManyRows(Exception):
    """Several days have more rows together than are held in memory."""


@dataclass(frozen=True, slots=True)
class AccountOutcome:
    """What one account's fetch came to; JSON-safe, no secret.

    ``outcome``: ``stored`` (nothing owed), ``partial`` (some slices owed), ``failed``, ``throttled``, ``reauthorize``,
    ``skipped`` or ``planned`` (dry run). ``drift`` is the largest distance from the platform's own totals, as a share.
    ``calls_by`` are the API calls made, by purpose. ``retry`` says that trying again soon may help; ``throttled_until``
    (ISO, UTC) when, ``again`` the same for people.
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
    calls_by: dict[str, int] = field(default_factory=dict)
    drift: float | None = None
    detail: str | None = None
    retry: bool = False
    throttled_until: str | None = None
    again: str | None = None
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        """All API calls that were made."""
        return sum(self.calls_by.values())

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
    stored = _stored(stores, account, connector, now)
    return plan_account(account, connector.rules, stored, stores.settings.fetch, now=now, run_id=run_id)


def publish(stores: Stores, account: Account, now: datetime, *, complete: bool) -> int:
    """Move the account's data version and put its hot window, unless it is a huge one, into the cache.

    Returns the new version.

    The version moves in the database first: a frame of an older version is never used. Of the window published before
    only what has changed since is read again. ``complete`` says that the numbers reach up to ``now``.
    """
    version = transact(
        stores.engine, accounts.bump_data_version, account.id, through=now if complete else None, now=now
    )
    window = _hot_window(account, now)
    rows = look(stores.engine, metrics.hot_rows, account.id, **window, at_most=MOST_HOT_ROWS + 1)
    if rows <= MOST_HOT_ROWS:
        _publish_frames(stores, account, now, stores.cache.get_frames(account, version - 1))
    return version


def read_hot_frames(stores: Stores, account: Account, *, now: datetime, version: int) -> AccountFrames:
    """The account's hot window: from the cache if it holds exactly ``version``, else from the tables (and cached)."""
    cached = stores.cache.get_frames(account, version)
    return _publish_frames(stores, account, now, None) if cached is None else cached


def _publish_frames(stores: Stores, account: Account, now: datetime, before: AccountFrames | None) -> AccountFrames:
    frames = look(stores.engine, metrics.read_frames, account.id, **_hot_window(account, now), before=before)
    if len(frames.daily) + len(frames.hourly) <= MOST_HOT_ROWS:
        stores.cache.put_frames(frames, ttl=FRAMES_TTL_SECONDS)
    return frames


def _hot_window(account: Account, now: datetime) -> dict[str, date]:
    today = account.local_day(now)
    return {
        "daily_since": today - timedelta(days=HOT_DAILY_DAYS),
        "hourly_since": today - timedelta(days=HOT_HOURLY_DAYS),
    }


class _AccountFetch:
    """One account's fetch under way: what stays the same from slice to slice, and the outcome as it grows."""

    def __init__(self, context: Context, account: Account, clock: Callable[[], datetime], run_id: str | None) -> None:
        self._context = context
        self._account = account
        self._connector = context.connectors[account.platform]
        self._clock = clock
        self._run_id = run_id
        self._token: Token | None = None
        self._remaining = 0
        self._calls = Calls(Counter())
        self._made_again = False
        self._errors: list[AaeError] = []
        self._outcome = AccountOutcome(account.id, str(account), account.name, account.platform, "stored")

    async def run(self, pieces: Sequence[Slice] | None, deadline: Deadline) -> AccountOutcome:
        begun = self._clock()
        async with on_record(self._context, self._account, clock=self._clock, run_id=self._run_id) as self._calls:
            await self._or_give_up(self._fetch(pieces, deadline, begun))
        complete = self._outcome.outcome == "stored" and pieces is None
        # A run that is made again may have died when it was about to publish.
        if self._stored_something or self._made_again or complete:
            publishing = asyncio.to_thread(publish, self._context, self._account, begun, complete=complete)
            await self._or_give_up(publishing)
        if pieces is None and access.only_refusals(self._errors):
            await self._or_give_up(asyncio.to_thread(self._give_up_for_good, self._errors[0]))
        seconds = round((self._clock() - begun).total_seconds(), 3)
        return replace(self._outcome, calls_by=dict(self._calls.made), seconds=seconds)

    async def _or_give_up(self, work: Awaitable[object]) -> None:
        try:
            await work
        except Superseded:
            raise
        except (AaeError, SQLAlchemyError) as error:
            await asyncio.to_thread(self._give_up, _meaning(error))

    async def _fetch(self, pieces: Sequence[Slice] | None, deadline: Deadline, begun: datetime) -> None:
        if pieces is None:
            todo = await self._plan(begun)
        else:
            todo = await asyncio.to_thread(_not_done_by, self._context, self._account, pieces, self._run_id)
            self._made_again = len(todo) < len(pieces)
        self._outcome = replace(self._outcome, slices=len(todo))
        if todo:
            await self._fetch_all(todo, deadline, begun)

    async def _plan(self, begun: datetime) -> list[Slice]:
        """What the account owes; once a day after a look at the account itself, whose zone may be another one now."""
        read = partial(_stored, self._context, self._account, self._connector, begun)
        stored = await asyncio.to_thread(read)
        windows = chain.from_iterable(stored.values())
        self._made_again = self._run_id is not None and any(window.run_id == self._run_id for window in windows)
        if due_for_a_look(stored, begun):
            await self._look_at_the_account(begun)
            stored = await asyncio.to_thread(read)
        if await asyncio.to_thread(self._read_in_another_zone, stored[Granularity.DAILY], begun):
            stored = {}
        settings = self._context.settings.fetch
        return plan_account(self._account, self._connector.rules, stored, settings, now=begun, run_id=self._run_id)

    async def _look_at_the_account(self, begun: datetime) -> None:
        """Accounts are renamed, moved to another manager, and sometimes told to count in another zone."""
        try:
            await self._describe(begun)
        except _FAILURES as error:
            today = self._account.local_day(begun)
            piece = Slice(self._account.id, Granularity.DAILY, today, today)
            await asyncio.to_thread(self._record_failure, piece, error, begun, self._calls.left)
            raise

    async def _describe(self, begun: datetime) -> None:
        """Keep what the platform says of the account now.

        Raises:
            Skip: it counts in another currency than the amounts that are stored.
        """
        account = self._account
        remote = await self._with_token(lambda token: access.described(self._connector, account, token))
        self._account = await asyncio.to_thread(
            transact,
            self._context.engine,
            accounts.redescribe,
            account,
            name=remote.name,
            timezone=remote.timezone,
            login_customer_id=remote.login_customer_id,
            now=begun,
        )
        await asyncio.to_thread(self._take_back, account.local_day(begun), begun)

    def _read_in_another_zone(self, windows: Sequence[StoredWindow], now: datetime) -> bool:
        """Whether somebody else has changed the zone where it is stored; then all days are owed again."""
        last = look(self._context.engine, metrics.last_of_other_zone, self._account, windows)
        if last is None:
            return False
        zone = self._account.timezone
        transact(self._context.engine, fetches.record_new_zone, self._account.id, "another one", zone, now=now)
        self._take_back(last, now)
        return True

    def _take_back(self, until: date, now: datetime) -> None:
        """Days that were told already and, in the account's new zone, have not begun."""
        since = self._account.local_day(now) + timedelta(days=1)
        for granularity in Granularity if since <= until else ():
            piece = Slice(self._account.id, granularity, since, until)
            # In the log too, for it tells the published frames what is no longer there.
            self._store(piece, empty_metrics(), None, started=now, calls=self._calls.left)

    async def _listing(self, begun: datetime) -> pd.DataFrame:
        """What is in the account; where there is no way to it any more, by the way that there is now."""

        def ask(token: Token) -> Awaitable[pd.DataFrame]:
            return self._connector.list_entities(self._account, token)

        before = self._account
        try:
            return await self._with_token(ask)
        except Skip:
            if before.login_customer_id is None:
                raise
            await self._describe(begun)
            if self._account == before:
                raise
            return await self._with_token(ask)

    async def _fetch_all(self, pieces: Sequence[Slice], deadline: Deadline, begun: datetime) -> None:
        self._remaining = len(pieces)
        try:
            listing = await self._listing(begun)
        except _FAILURES as error:
            # The log of fetches says why there is nothing of today.
            await asyncio.to_thread(self._record_failure, pieces[0], error, begun, self._calls.left)
            raise
        await asyncio.to_thread(self._store_entities, listing, begun)
        before: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before.set_result(None)
        todo = deque(pieces)
        try:
            while todo and not deadline.passed:
                try:
                    before = await self._fetch_slice(todo[0], before)
                except _TooManyRows:
                    todo = self._in_halves(todo)
                else:
                    todo.popleft()
            await before
        finally:
            before.cancel()
        if self._remaining:
            self._owe(self._remaining, "The soft time limit was reached; the rest is owed.", retry=False)

    def _in_halves(self, todo: Sequence[Slice]) -> deque[Slice]:
        """The first slice as two, and all that are as long: what is too much in one week is too much in the next."""
        first = todo[0]
        halves = deque[Slice]()
        for piece in todo:
            as_much = piece.granularity is first.granularity and len(piece) >= len(first)
            halves += piece.halves if as_much else [piece]
        more = len(halves) - len(todo)
        self._remaining += more
        self._outcome = replace(self._outcome, slices=self._outcome.slices + more)
        return halves

    async def _fetch_slice(self, piece: Slice, before: asyncio.Future[None]) -> asyncio.Future[None]:
        """Ask for one slice, and begin to store it when the one ``before`` is settled; what is then under way."""
        started = self._clock()
        try:
            frame, truth = await self._with_token(lambda token: self._ask(token, piece))
        except (*_FAILURES, SQLAlchemyError) as error:
            await before
            await self._note_failure(piece, error, started, self._calls.left)
            return before
        except Exception:
            await before
            raise
        await before
        calls = self._calls.left  # while this is stored, the next slice's are made
        store = partial(self._store, piece, frame, truth, started=started, calls=calls)
        return asyncio.create_task(self._settle(piece, store, started, calls))

    async def _settle(self, piece: Slice, store: Callable[[], None], started: datetime, calls: Counter[str]) -> None:
        try:
            await asyncio.to_thread(store)
        except (Retry, Skip, Bug, SQLAlchemyError) as error:
            await self._note_failure(piece, error, started, calls)
        else:
            self._remaining -= 1

    async def _note_failure(
        self, piece: Slice, error: AaeError | SQLAlchemyError, started: datetime, calls: Counter[str]
    ) -> None:
        """Record and owe a slice whose failure concerns only itself.

        Raises:
            Throttled, Reauthorize: it concerns the account.
        """
        meaning = _meaning(error)
        await asyncio.to_thread(self._record_failure, piece, meaning, started, calls)
        if isinstance(meaning, Throttled | Reauthorize):
            raise meaning
        self._errors.append(meaning)
        self._owe(1, str(meaning), retry=isinstance(meaning, Retry))
        self._remaining -= 1

    async def _ask(self, token: Token, piece: Slice) -> tuple[pd.DataFrame, Totals | None]:
        """The slice's rows, and by day the platform's own totals to hold them against.

        Raises:
            _TooManyRows: there are more than fit in memory, and fewer days would have fewer.
        """
        pages, rows = [], 0
        async for page in self._connector.fetch_metrics(self._account, token, piece):
            pages.append(page)
            rows += len(page)
            if rows > MOST_ROWS:
                if len(piece) > 1:
                    raise _TooManyRows
                raise Bug(f"{self._account.platform.capitalize()} sent more than {MOST_ROWS:,} rows for {piece}.")
        frame = pages[0] if len(pages) == 1 else pd.concat(pages or [empty_metrics()], ignore_index=True)
        check_sums(frame, self._account)
        if piece.granularity is Granularity.HOURLY:
            return frame, None
        truth = await self._connector.fetch_totals(self._account, token, piece)
        if max(truth.impressions, truth.clicks) >= LARGEST_COUNT or abs(truth.spend_micros) >= LARGEST_SUM:
            raise Bug(f"{self._account.platform.capitalize()} sent totals that are too much.", code="malformed")
        return frame, truth

    async def _with_token(self, ask: Callable[[Token], Awaitable[R]]) -> R:
        """Ask with a token that lasts; once more with a new one if the platform has ended it early."""
        context, account = self._context, self._account
        self._token = await tokens.usable_token(context, account, now=self._clock(), run_id=self._run_id)
        try:
            return await ask(self._token)
        except Retry as error:
            if error.code not in EXPIRED:
                raise
            self._token = None
            self._token = await tokens.renewed_token(context, account, now=self._clock(), run_id=self._run_id)
            return await ask(self._token)

    def _store(
        self,
        piece: Slice,
        frame: pd.DataFrame,
        truth: Totals | None,
        *,
        started: datetime,
        calls: Counter[str],
    ) -> None:
        sums = totals_of(frame)
        drift = (
            self._apart_from_days(piece, frame) if piece.granularity is Granularity.HOURLY else reconcile(sums, truth)
        )
        rules = self._connector.rules

        def work(connection: Connection) -> metrics.StoreResult:
            before = fetches.find(connection, piece, started_at=started, run_id=self._run_id)
            if before is not None:
                return metrics.StoreResult(
                    before.rows_fetched, before.rows_inserted, before.rows_updated, before.rows_deleted
                )
            try:
                stored = metrics.store_slice(
                    connection,
                    self._account,
                    piece,
                    frame,
                    attribution=rules.attribution,
                    run_id=self._run_id,
                    now=self._clock(),
                )
            except ValueError as error:
                raise Bug(
                    f"The {self._account.platform} connector gave rows that cannot be stored: {error}."
                ) from error
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
                calls_by=calls,
                totals=sums,
                platform_totals=truth,
                drift=drift,
                run_id=self._run_id,
            )
            return stored

        stored = transact(self._context.engine, work)
        self._calls.logged += calls
        known = [each for each in (drift, self._outcome.drift) if each is not None]
        self._outcome = replace(
            self._outcome,
            rows=self._outcome.rows + len(frame),
            inserted=self._outcome.inserted + stored.inserted,
            updated=self._outcome.updated + stored.updated,
            deleted=self._outcome.deleted + stored.deleted,
            drift=max(known, default=None),
        )

    def _apart_from_days(self, piece: Slice, frame: pd.DataFrame) -> float | None:
        """How far a day's hours are from the day, at most; it costs no call.

        Looked at are days that are over and that this run has read by the day too, and held against the platform's own
        totals then. Of a day that goes on, more has happened in between.
        """
        sums, windows = look(self._context.engine, _by_day, self._account, piece)
        own = [window for window in windows if window.run_id == self._run_id]
        apart = [
            reconcile(totals_of(frame[frame["local_date"] == pd.Timestamp(day)]), sums.get(day, Totals()))
            for day in piece.days
            if settled(day, self._account, own)
        ]
        return max((each for each in apart if each is not None), default=None)

    def _store_entities(self, listing: pd.DataFrame, now: datetime) -> None:
        calls, batch = self._calls.left, fetches.new_batch()

        def work(connection: Connection) -> None:
            metrics.upsert_entities(connection, self._account.id, listing, now=now)
            if len(listing):  # nothing at all says nothing
                entities.retire(connection, self._account.id, now=now)
            fetches.record_calls(
                connection, self._account.id, calls, at=self._clock(), run_id=self._run_id, batch=batch
            )

        transact(self._context.engine, work)
        self._calls.logged += calls

    def _record_failure(self, piece: Slice, error: AaeError, started: datetime, calls: Counter[str]) -> None:
        transact(
            self._context.engine,
            fetches.record,
            account_id=self._account.id,
            piece=piece,
            started_at=started,
            finished_at=self._clock(),
            outcome=outcome_of(error),
            calls_by=calls,
            error_code=error.code,
            detail=str(error),
            run_id=self._run_id,
        )
        self._calls.logged += calls

    def _give_up_for_good(self, refusal: AaeError) -> None:
        """The account is refused: pause it if nothing of it could be had in the run before either."""
        if self._token is None or not access.give_up(
            self._context, self._account, self._token, refusal, now=self._clock(), run_id=self._run_id
        ):
            return
        told = f"{refusal} The account is paused and its owner told."
        self._outcome = replace(self._outcome, outcome=outcome_of(refusal), detail=told, retry=False)

    def _give_up(self, error: AaeError) -> None:
        """The whole account failed: say how, and pause it if only its owner can help."""
        self._errors.append(error)
        now = self._clock()
        # Without a token in hand the check that failed has declared it dead already.
        if isinstance(error, Reauthorize) and self._token is not None:
            tokens.declare_dead(self._context, self._account, self._token, error, now=now, run_id=self._run_id)
        soon = not isinstance(error, Throttled) or (error.until - now).total_seconds() < WORTH_WAITING_SECONDS
        self._outcome = replace(
            self._outcome,
            outcome=outcome_of(error),
            owed=self._outcome.owed + max(self._remaining, 1),
            detail=str(error),
            retry=isinstance(error, Retry) and soon,
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

    @property
    def _stored_something(self) -> bool:
        return bool(self._outcome.inserted or self._outcome.updated or self._outcome.deleted)


def totals_of(frame: pd.DataFrame) -> Totals:
    """The sums over a frame of ``METRIC_COLUMNS`` (see :func:`check_sums`); delivery and spend only."""
    return Totals(
        impressions=int(frame["impressions"].sum()),
        clicks=int(frame["clicks"].sum()),
        spend_micros=int(frame["spend_micros"].sum()),
    )


def check_sums(frame: pd.DataFrame, account: Account) -> None:
    """See that every sum over rows of the frame can be stored, whichever rows and in whichever order.

    Raises:
        Bug: one cannot; each number fits its column, all of them together do not.
    """
    for name in ("spend", "conversions", "revenue"):
        if _sum_of_sizes(frame[f"{name}_micros"].to_numpy("int64", na_value=0)) >= LARGEST_SUM:
            raise Bug(f"{account.platform.capitalize()} sent numbers that add up to too much {name}.", code="malformed")


def _sum_of_sizes(numbers: npt.NDArray[np.int64]) -> int:
    """The exact sum of the absolute values. In halves: a sum of 64 bits would silently begin again from below."""
    sizes = np.abs(numbers).astype(np.uint64)
    return (int((sizes >> np.uint64(32)).sum()) << 32) + int((sizes & np.uint64(0xFFFFFFFF)).sum())


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


def _stored(
    stores: Stores, account: Account, connector: Connector, now: datetime
) -> dict[Granularity, list[StoredWindow]]:
    asked = stores.settings.fetch
    # As far back as any day is asked for: one whose fetch is not seen would be fetched again and again.
    farthest = max(asked.first_days, asked.first_hourly_days, connector.rules.restatement_days)
    return look(stores.engine, _stored_windows, account, since=(now - timedelta(days=farthest + 2)).date())


def _stored_windows(connection: Connection, account: Account, since: date) -> dict[Granularity, list[StoredWindow]]:
    return {each: fetches.stored_windows(connection, account.id, each, since=since) for each in Granularity}


def _by_day(connection: Connection, account: Account, piece: Slice) -> tuple[dict[date, Totals], list[StoredWindow]]:
    """The sums of each of the slice's days that has any rows by the day, and what was read by the day."""
    windows = fetches.stored_windows(connection, account.id, Granularity.DAILY, since=piece.since)
    return metrics.daily_totals(connection, account.id, piece.since, piece.until), windows


def _not_done_by(stores: Stores, account: Account, pieces: Sequence[Slice], run_id: str | None) -> list[Slice]:
    """A run that starts over does not repeat what it has stored itself."""
    if run_id is None or not pieces:
        return list(pieces)
    stored = look(stores.engine, _stored_windows, account, since=min(p.since for p in pieces))
    own = {each: [window for window in windows if window.run_id == run_id] for each, windows in stored.items()}
    return [
        piece
        for piece in pieces
        if not all(any(window.covers(day) for window in own[piece.granularity]) for day in piece.days)
    ]


def _meaning(error: AaeError | SQLAlchemyError) -> AaeError:
    """Trouble with the database is worth another try; its own words may hold values, so only its kind is told."""
    if isinstance(error, AaeError):
        return error
    return Retry(f"The database did not do its part ({type(error).__name__}).")


def outcome_of(error: AaeError) -> str:
    """The word for an error in ``fetches.outcome``."""
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
