"""A token is refreshed once, whoever wants it, and never lost: over real processes, HTTP and databases.

The sandbox counts the calls and plays what platforms do: refresh tokens that rotate, answers that are lost after the
deed, refusals.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select, update

from aae.errors import Retry, UserError
from aae.jobs import tokens
from aae.jobs.context import open_context, open_stores
from aae.jobs.tokens import TokenResult, check_account
from aae.model import Account, AccountStatus, Platform, Process, Token
from aae.operate.processes import is_alive, this_process
from aae.platforms.base import TokenCheck, TokenState
from aae.sandbox import World
from aae.settings import Settings
from aae.storage import accounts, notifications, token_checks
from aae.storage.engine import reading
from aae.storage.schema import ad_accounts, api_calls, token_refreshes
from aae.storage.token_checks import Busy, Check
from aae.vault import Vault
from tests.integration.bench import Bench, bench

ANCHOR = datetime(2026, 11, 22, 13, 20, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
PLATFORMS = [Platform.META, Platform.GOOGLE]


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(11, ANCHOR, days=3, users=2, big_campaigns=1, ads_per_ad_set=1)


@pytest.fixture
def product(world: World, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with bench(world, engine, redis_url, monkeypatch) as it:
        it.connect()
        # For Meta, too, minutes before the end; Google's live an hour.
        it.clock.advance(timedelta(hours=9, minutes=55))
        yield it


def expiring(product: Bench, platform: Platform) -> Account:
    """An account whose token ends within minutes, or has just ended where that is no harm."""
    with reading(product.engine) as connection:
        soon = product.now() + timedelta(minutes=10)
        ends = {row.account.id: row.expires_at for row in accounts.token_overview(connection)}
    return next(each for each in product.accounts(platforms=[platform]) if (ends[each.id] or soon) < soon)


def check(product: Bench, account: Account, run_id: str = "check") -> TokenResult:
    async def once() -> TokenResult:
        async with open_context(product.settings, product.now) as context:
            return await check_account(context, account, now=product.now(), run_id=run_id)

    return asyncio.run(once())


def stored(product: Bench, account: Account) -> Token:
    with reading(product.engine) as connection:
        return accounts.read_token(connection, open_stores(product.settings).vault, account.id)


def status(product: Bench, account: Account) -> str:
    with reading(product.engine) as connection:
        return str(connection.scalar(select(ad_accounts.c.status).where(ad_accounts.c.id == account.id)))


def log(product: Bench, account: Account) -> list[str]:
    with reading(product.engine) as connection:
        query = select(token_refreshes.c.outcome).where(token_refreshes.c.account_id == account.id)
        return list(connection.scalars(query.order_by(token_refreshes.c.id)))


def told(product: Bench, account: Account) -> list[str]:
    with reading(product.engine) as connection:
        return [each.kind for each in notifications.list_for(connection, account.user_id)]


def refreshes(product: Bench) -> int:
    """How many refresh calls the platforms have seen."""
    calls = product.control("calls")
    return sum(call["count"] for call in calls if call["path"] in {"/token", "/v26.0/oauth/access_token"})


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    """Has imported everything, and forks the processes that a test wants."""
    command = [sys.executable, "-m", "tests.integration.token_checker"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


Start = Callable[[Account, Sequence[str]], list["Wanting"]]


@dataclass(frozen=True)
class Wanting:
    """A process that will want an account's token."""

    path: Path

    @property
    def pid(self) -> int:
        return int(self.path.with_suffix(".ready").read_text())

    def go(self) -> None:
        self.path.with_suffix(".go").touch()

    def answer(self) -> dict[str, Any]:
        until(self.path.with_suffix(".answer").exists, 120)
        return dict(json.loads(self.path.with_suffix(".answer").read_text()))


@pytest.fixture
def start(zygote: subprocess.Popen[str], product: Bench, tmp_path: Path) -> Iterator[Start]:
    """Starts one process per machine; all are ready then."""
    started: list[Wanting] = []

    def begin(account: Account, machines: Sequence[str]) -> list[Wanting]:
        folder = tmp_path / f"processes-{len(started)}"
        folder.mkdir()
        order = {"account": account.id, "machines": machines, "now": product.now().isoformat(), "folder": str(folder)}
        assert zygote.stdin is not None
        zygote.stdin.write(json.dumps(order | {"environment": dict(os.environ)}) + "\n")
        zygote.stdin.flush()
        new = [Wanting(folder / str(number)) for number in range(len(machines))]
        started.extend(new)
        until(lambda: all(one.path.with_suffix(".ready").exists() for one in new), 120)
        return new

    yield begin
    for one in started:
        with suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


CHECKS = [
    (Platform.META, None, "refreshed"),
    (Platform.TIKTOK, None, "still_valid"),
    (Platform.META, "meta_token_revoked", "permanent_failure"),
    (Platform.GOOGLE, "google_invalid_grant", "permanent_failure"),
    (Platform.TIKTOK, "http_500", "transient_failure"),
]


@pytest.mark.parametrize(("platform", "fault", "found"), CHECKS)
def test_the_calls_of_a_check_are_on_record_whatever_it_finds(
    product: Bench, platform: Platform, fault: str | None, found: str
) -> None:
    account = product.accounts(platforms=[platform])[0]
    if fault is not None:
        product.order("faults", name=fault, purpose="auth")
    with pytest.raises(Retry) if found == "transient_failure" else nullcontext():
        result = check(product, account)
        assert result.calls == calls_on_record(product)[0][2]
    assert log(product, account) == [found]
    seen = sum(call["count"] for call in product.control("calls"))
    assert calls_on_record(product) == [(account.id, "auth", seen, "check")]


def calls_on_record(product: Bench) -> list[tuple[Any, ...]]:
    columns = (api_calls.c.account_id, api_calls.c.purpose, api_calls.c.calls, api_calls.c.run_id)
    with reading(product.engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns))]


# -- one at a time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS)
def test_processes_of_several_machines_that_want_a_token_at_once_refresh_it_once(
    product: Bench, start: Start, platform: Platform
) -> None:
    account = expiring(product, platform)
    before = stored(product, account)
    # Long enough that all of them find the old token.
    product.order("faults", name="slow", purpose="auth", value=1.5)
    all_of_them = start(account, ["here", "here", "machine-b", "machine-b", "machine-c"])
    for process in all_of_them:
        process.go()
    answers = [process.answer() for process in all_of_them]
    assert {each.get("version") for each in answers} == {before.version + 1}, answers
    assert len({each["token"] for each in answers}) == 1
    assert refreshes(product) == 1
    assert log(product, account) == ["refreshed"]


def test_when_redis_is_wiped_or_away_a_token_is_still_refreshed_once(
    product: Bench, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = expiring(product, Platform.GOOGLE)
    monkeypatch.setenv("AAE_REDIS_URL", "redis://127.0.0.1:1/0")
    product.order("faults", name="slow", purpose="auth", value=1)
    both = start(account, ["here", "machine-b"])
    for process in both:
        process.go()
    assert len({process.answer()["token"] for process in both}) == 1
    assert refreshes(product) == 1


def test_a_refresher_that_is_killed_is_taken_over_at_once_from_its_own_machine(product: Bench, start: Start) -> None:
    account = expiring(product, Platform.GOOGLE)
    product.order("faults", name="google_rotates")
    product.order("faults", name="hang", purpose="auth", times=1)
    dies, far, near = start(account, ["here", "machine-b", "here"])
    dies.go()
    until(lambda: refreshes(product) == 1)
    far.go()
    time.sleep(1)
    assert refreshes(product) == 1, "the lease of somebody who may live was broken"
    os.kill(dies.pid, signal.SIGKILL)
    near.go()
    assert "token" in near.answer()
    assert near.answer() == far.answer()
    assert refreshes(product) == 2
    assert log(product, account) == ["unanswered", "refreshed"]


def test_a_lease_that_is_out_can_be_taken_by_another_machine(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    begin_elsewhere(product, account)
    with product.engine.begin() as connection:
        out = {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
        connection.execute(update(token_refreshes).values(**out))
    assert check(product, account).outcome == "refreshed"
    assert log(product, account) == ["unanswered", "refreshed"]


def begin_elsewhere(product: Bench, account: Account) -> Check:
    with product.engine.begin() as connection:
        begun = token_checks.begin(
            connection,
            account.id,
            token_version=stored(product, account).version,
            process=Process("machine-b boot", 4711, 1),
            nonce=secrets.token_hex(4),
            is_alive=is_alive,
            now=product.now(),
            run_id=None,
        )
    assert isinstance(begun, Check)
    return begun


def test_begun_again_by_the_same_it_is_the_same_check_and_by_others_it_is_taken(engine: Engine, product: Bench) -> None:
    account = expiring(product, Platform.META)
    version = stored(product, account).version

    def begin(nonce: str, token_version: int = version) -> Check | Busy | None:
        with engine.begin() as connection:
            return token_checks.begin(
                connection,
                account.id,
                token_version=token_version,
                process=this_process(),
                nonce=nonce,
                is_alive=is_alive,
                now=product.now(),
                run_id=None,
            )

    mine = begin("a")
    assert isinstance(mine, Check)
    assert begin("a") == mine
    assert begin("b") == Busy(mine.id)
    assert begin("a", version - 1) is None


def test_who_waits_is_told_what_the_other_found(product: Bench) -> None:
    account = expiring(product, Platform.META)
    busy = begin_elsewhere(product, account)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(check, product, account)
        time.sleep(0.5)
        assert not waiting.done()
        with product.engine.begin() as connection:
            token_checks.conclude(
                connection,
                busy,
                outcome="transient_failure",
                token_version=stored(product, account).version,
                expires_at=None,
                error_code="503",
                detail="Meta answered with HTTP 503.",
            )
        with pytest.raises(Retry, match="HTTP 503"):
            waiting.result(30)
    assert refreshes(product) == 0


# -- lost answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop_after", "drop_midway", "truncated_json"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_refresh_whose_answer_is_lost_is_made_again_at_once(product: Bench, platform: Platform, fault: str) -> None:
    account = expiring(product, platform)
    if platform is Platform.GOOGLE:
        product.order("faults", name="google_rotates", value=30)
    product.order("faults", name=fault, purpose="auth", times=1)
    before = stored(product, account)
    assert check(product, account).outcome == "refreshed"
    after = stored(product, account)
    assert after.version == before.version + 1
    assert (after.refresh != before.refresh) == (platform is Platform.GOOGLE)
    assert refreshes(product) == 2
    # What is stored is good, also for the next time.
    product.clock.advance(timedelta(days=60 if platform is Platform.META else 1) - timedelta(hours=12))
    assert check(product, account).outcome == "refreshed"


def test_every_try_of_a_run_may_lose_its_answer_and_the_next_run_still_gets_a_pair(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    product.order("faults", name="google_rotates", value=300)
    product.order("faults", name="drop_after", purpose="auth", times=1)
    product.order("faults", name="drop", purpose="auth", after=1, times=2)
    with pytest.raises(Retry):
        check(product, account)
    assert status(product, account) == "active"
    product.clock.advance(timedelta(seconds=290))
    assert check(product, account).outcome == "refreshed"
    assert told(product, account) == []


def test_a_refusal_right_after_a_lost_answer_is_believed_only_when_it_is_repeated_a_retry_later(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    # The previous refresh token is taken for no time at all: the worst a platform can do.
    product.order("faults", name="google_rotates", value=0)
    product.order("faults", name="drop_after", purpose="auth", times=1)
    product.order("faults", name="drop", purpose="auth", after=1, times=2)
    with pytest.raises(Retry):
        check(product, account)
    product.clock.advance(timedelta(seconds=60))
    for _ in range(2):
        with pytest.raises(Retry, match="tried again before that is believed") as caught:
            check(product, account)
        assert caught.value.code == "in-doubt"
        product.clock.advance(timedelta(seconds=5))
    assert (status(product, account), told(product, account)) == ("active", [])
    product.clock.advance(timedelta(seconds=300))
    assert check(product, account).outcome == "permanent_failure"
    assert told(product, account) == ["token_expired"]


def test_without_a_lost_answer_a_refusal_is_believed_at_once(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    product.order("faults", name="google_invalid_grant")
    assert check(product, account).outcome == "permanent_failure"
    assert told(product, account) == ["token_expired"]


def test_a_call_that_never_left_the_house_raises_no_doubt(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    with product.engine.begin() as connection:
        accounts.log_refresh(
            connection,
            account_id=account.id,
            at=product.now(),
            outcome="transient_failure",
            token_version=stored(product, account).version,
            error_code="connect",
        )
    product.order("faults", name="google_invalid_grant")
    assert check(product, account).outcome == "permanent_failure"


def test_whoever_got_the_lost_answer_may_still_store_it_while_another_is_refused(product: Bench) -> None:
    account = expiring(product, Platform.GOOGLE)
    before = stored(product, account)
    slow = begin_elsewhere(product, account)  # has the new token, and a database that does not take it
    with product.engine.begin() as connection:
        connection.execute(update(token_refreshes).values(expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
    product.order("faults", name="google_invalid_grant", times=1)
    with pytest.raises(Retry, match="An earlier answer was lost"):
        check(product, account)
    keep(product, account, before, slow, "late")
    assert stored(product, account).access.get_secret_value() == "late"
    assert (status(product, account), told(product, account)) == ("active", [])


@pytest.mark.parametrize("order", ["older first", "newer first"])
def test_of_two_pairs_the_one_that_the_platform_gave_last_is_kept(product: Bench, order: str) -> None:
    account = expiring(product, Platform.GOOGLE)
    before = stored(product, account)
    older = begin_elsewhere(product, account)
    with product.engine.begin() as connection:
        connection.execute(update(token_refreshes).values(expires_at=datetime(2020, 1, 1, tzinfo=UTC)))
    newer = begin_elsewhere(product, account)
    assert newer.id > older.id
    outcomes = {}
    for which in ("older", "newer") if order == "older first" else ("newer", "older"):
        one = {"older": older, "newer": newer}[which]
        outcomes[which] = [keep(product, account, before, one, which) for _ in range(2)]  # a commit may be repeated
    assert outcomes["newer"] == ["refreshed"] * 2
    assert outcomes["older"] == ["refreshed" if order == "older first" else "lost_race"] * 2
    assert stored(product, account).access.get_secret_value() == "newer"


def keep(product: Bench, account: Account, before: Token, one: Check, access: str) -> str:
    fresh = Token(SecretStr(access), SecretStr("r"), product.now() + timedelta(hours=1))

    async def once() -> str:
        async with open_context(product.settings, product.now) as context:
            checked = TokenCheck(TokenState.REFRESHED, fresh)
            return tokens._keep(context, account, before, checked, one, now=product.now(), run_id="x").outcome

    return asyncio.run(once())


# -- keys ----------------------------------------------------------------------------------------------------------

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)


def test_keys_are_rotated_while_tokens_are_refreshed_and_none_is_lost(
    engine: Engine, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes with the old setting read what those with the new one write, and a rotation undoes no refresh."""
    before, during = Vault([OLD, NEW]), Vault([NEW, OLD])
    with engine.begin() as connection:
        owner = accounts.add_user(connection, email="a@example.com", name="A", now=now)
        ids = [connect(connection, before, owner, str(number), now) for number in range(4)]
    stop, wrote, failures = threading.Event(), dict.fromkeys(ids, 0), []

    def refresh(vault: Vault, account_id: int) -> None:
        try:
            while not stop.is_set():
                with engine.begin() as connection:
                    token = accounts.read_token(connection, vault, account_id)
                serial = int(token.access.get_secret_value())
                fresh = Token(SecretStr(str(serial + 1)), SecretStr(f"refresh {serial + 1}"))
                with engine.begin() as connection:
                    wrote[account_id] += accounts.replace_token(
                        connection, vault, account_id, fresh, expected_version=token.version, now=now
                    )
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    rotations = 0
    with ThreadPoolExecutor(8) as pool:
        for number, account_id in enumerate(ids):
            pool.submit(refresh, before if number % 2 else during, account_id)
        end = time.monotonic() + 4
        while time.monotonic() < end and not failures:
            with engine.begin() as connection:
                rotations += bool(accounts.rotate_tokens(connection, during) >= 0)
        stop.set()
    assert failures == []
    assert rotations > 1
    with engine.begin() as connection:
        accounts.rotate_tokens(connection, during)
    with reading(engine) as connection:
        for account_id in ids:
            token = accounts.read_token(connection, Vault([NEW]), account_id)
            # Every refresh that was told to have happened is there, and counted once.
            assert token.access.get_secret_value() == str(wrote[account_id])
            assert token.refresh is None or token.refresh.get_secret_value() == f"refresh {wrote[account_id]}"
            assert token.version == 1 + wrote[account_id] > 1


def connect(connection: Any, vault: Vault, owner: int, external_id: str, now: datetime) -> int:
    account_id, _ = accounts.connect_account(
        connection,
        vault,
        user_id=owner,
        platform=Platform.META,
        external_id=external_id,
        name="Shop",
        currency="EUR",
        timezone="Europe/Berlin",
        login_customer_id=None,
        access_token=SecretStr("0"),
        refresh_token=None,
        expires_at=None,
        now=now,
    )
    return account_id


def test_a_wrong_key_asks_no_platform_and_expires_nobody(product: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    account = expiring(product, Platform.META)
    monkeypatch.setenv("AAE_ENCRYPTION_KEYS", "test:" + "QUJD" * 10 + "QUI=")
    wrong = Bench(product.url, Settings(), product.engine, product.clock)
    with pytest.raises(UserError, match="does not open with the key 'test'") as caught:
        check(wrong, account)
    assert str(caught.value).count(". ") == 0
    (outcome,) = wrong.fetch("run", [account])
    assert (outcome.outcome, outcome.detail) == ("failed", str(caught.value))
    assert (status(product, account), told(product, account)) == (str(AccountStatus.ACTIVE), [])
    assert log(product, account) == []
    assert refreshes(product) == 0


@pytest.mark.parametrize("column", ["access_token", "refresh_token"])
def test_a_ciphertext_moved_to_another_row_or_column_does_not_open(product: Bench, column: str) -> None:
    one, two = product.accounts(platforms=[Platform.GOOGLE])[0], product.accounts(platforms=[Platform.META])[0]
    with product.engine.begin() as connection:
        row = connection.execute(select(ad_accounts).where(ad_accounts.c.id == one.id)).one()
        moved = row._mapping[column]
        connection.execute(update(ad_accounts).where(ad_accounts.c.id == two.id).values(access_token=moved))
    with pytest.raises(UserError, match="changed or moved"):
        check(product, two)
    assert (status(product, two), told(product, two)) == ("active", [])
