"""An order knows on whose behalf it is worked on, wherever that is, and a cluster that fails says so in a sentence."""

from __future__ import annotations

import asyncio
import pickle
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from aae import logs
from aae.errors import AaeError, Bug, Reauthorize, Reduce, Retry, Skip, Superseded, Throttled, UserError
from aae.model import Platform
from aae.settings import FetchSettings, load
from aae.storage import attempts
from tasks import cluster, limits
from tasks.cluster import Answer, Order, carried_out, carry_out
from tasks.limits import deadline
from tasks.resources import run_id
from tests.clusters import needs_dask
from tests.unit.platforms.support import account


async def known() -> dict[str, Any]:
    """What a piece of work can learn of its run."""
    return {
        "run": run_id(),
        "attempt": attempts.held(),
        "in a thread": await asyncio.to_thread(attempts.held),
        "told": logs.fields().get("account"),
        "late": deadline().passed,
    }


async def failing() -> None:
    raise Throttled("patience", until=datetime(2026, 1, 1, tzinfo=UTC), scope="meta:app")


async def hanging() -> None:
    await asyncio.sleep(60)


def order(function: Any, **more: Any) -> Order:
    return Order(function, (), **({"run_id": None, "attempt": None, "about": {}, "doing": "a test"} | more))


def test_the_work_knows_its_run_its_attempt_its_account_and_its_limit() -> None:
    answer = carry_out(order(known, run_id="r-1", attempt=41, about={"account": "meta:1001"}))
    assert answer.error is None
    expected = {"run": "r-1", "attempt": 41, "in a thread": 41, "told": "meta:1001", "late": False}
    assert answer.value == expected


def test_orders_side_by_side_keep_their_own_attempts_and_leave_none_behind() -> None:
    first, second = (carry_out(order(known, attempt=number)).value["attempt"] for number in (1, 2))
    assert (first, second) == (1, 2)
    assert attempts.held() is None


def test_the_hard_limit_holds_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIMITS", limits.LIMITS.model_copy(update={"soft_seconds": 0.01, "hard_seconds": 0.05}))
    assert isinstance(carry_out(order(hanging)).error, TimeoutError)


def test_an_error_of_the_work_comes_back_as_it_is() -> None:
    answer = pickle.loads(pickle.dumps(carry_out(order(failing))))
    assert isinstance(answer.error, Throttled)
    assert (str(answer.error), answer.error.scope) == ("patience", "meta:app")


@pytest.mark.parametrize("kind", [UserError, Retry, Reduce, Reauthorize, Skip, Superseded, Bug])
def test_every_error_of_ours_survives_the_way(kind: type[AaeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a sentence", code="190/463")))
    assert (type(error), str(error), error.code) == (kind, "a sentence", "190/463")


def test_what_travels_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AAE_META__APP_SECRET", "s3cret-of-the-app")
    monkeypatch.setenv("AAE_REDIS_URL", "redis://:s3cret-of-redis@localhost/0")
    load.cache_clear()
    sent = []

    async def send(one: Order) -> Answer:
        sent.append(pickle.dumps(one))
        return Answer("done")

    async def step() -> Any:
        cluster._send.set(send)
        return await carried_out(echo, account(Platform.META))

    assert asyncio.run(step()) == "done"
    assert b"s3cret" not in sent[0]


async def echo(value: Any) -> Any:
    return value


async def test_a_cluster_that_loses_the_work_is_worth_another_try() -> None:
    async def send(_: Order) -> Answer:
        raise ConnectionError("the scheduler is gone\nand more")

    cluster._send.set(send)
    with pytest.raises(Retry, match=r"^The cluster did not do its part \(ConnectionError: the scheduler is gone\)\.$"):
        await carried_out(echo, 1)


async def test_without_a_cluster_the_work_is_done_here() -> None:
    async with cluster.cluster(FetchSettings()):
        assert await carried_out(echo, 1) == 1


async def test_packages_that_are_missing_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError) as caught:
        async with cluster.cluster(FetchSettings(runner="dask")):
            pass
    assert "make dask" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_dask
async def test_a_cluster_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(
        UserError, match=r"^The cluster at tcp://127.0.0.1:9 \(AAE_FETCH__RUNNER=dask\) cannot be reach"
    ):
        async with cluster.cluster(FetchSettings(runner="dask", cluster="tcp://127.0.0.1:9")):
            pass
