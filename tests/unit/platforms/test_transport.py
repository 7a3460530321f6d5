"""The door keeps its promises: few and quick tries, shared patience, exact and bounded answers, no secret outside."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from aae.errors import AaeError, Bug, Reduce, Retry, Throttled
from aae.model import Platform
from aae.patience import LocalState, Pause
from aae.platforms import transport as module
from aae.platforms.transport import Answer, Call, Purpose, counting, unjudged
from tests.unit.platforms.support import NOW, TOKEN, Clock, Network, Script, door, keeping, ok


def plain(answer: Answer) -> Mapping[str, datetime]:
    unjudged(Platform.META, answer)
    return {}


def a_call(**more: Any) -> Call:
    usual = {
        "platform": Platform.META,
        "account": "1001",
        "owner": 1,
        "purpose": Purpose.METRICS,
        "method": "GET",
        "url": "http://meta.test/v26.0/act_1001/insights",
        "judge": plain,
        "scopes": ("meta:app", "meta:account:1001"),
        "params": {"level": "ad"},
        "secret_params": {"appsecret_proof": "proof-0123456789abcdef"},
        "secret_headers": {"Authorization": f"Bearer {TOKEN}"},
    }
    return Call(**{**usual, **more})


async def send(script: Script, call: Call | None = None, **more: Any) -> tuple[Answer, Network, Clock]:
    clock, network = Clock(), Network(script)
    async with door(network, clock, **more) as transport:
        return await transport.request(call or a_call()), network, clock


BOOM = httpx.Response(503, text="busy")


async def test_a_blip_is_tried_again_soon() -> None:
    answer, network, clock = await send([BOOM, httpx.ReadError("cut"), ok({"x": 1})])
    assert answer.data == {"x": 1}
    assert len(network.requests) == 3
    assert sum(clock.slept) < 5


@pytest.mark.parametrize(
    ("trouble", "tries"),
    [
        (BOOM, 3),
        (httpx.ConnectError("refused"), 3),
        (httpx.ReadTimeout("slow"), 2),
        (httpx.RemoteProtocolError("peer closed"), 3),
        (httpx.Response(200, text="Service Unavailable"), 3),
        (httpx.Response(200, text='[{"results": ['), 3),
        (httpx.Response(400, json={}), 1),
        (httpx.Response(302, headers={"location": "http://elsewhere.test"}), 1),
    ],
)
async def test_tries_are_bounded(trouble: httpx.Response | Exception, tries: int) -> None:
    network = Network([trouble] * 5)
    async with door(network, Clock()) as transport:
        with pytest.raises(AaeError):
            await transport.request(a_call())
    assert len(network.requests) == tries


@pytest.mark.parametrize(
    ("trouble", "tries"), [(BOOM, 1), (httpx.ReadTimeout("slow"), 1), (httpx.ConnectError("refused"), 3)]
)
async def test_what_must_not_be_repeated_is_only_sent_again_if_it_never_arrived(
    trouble: httpx.Response | Exception, tries: int
) -> None:
    network = Network([trouble] * 5)
    async with door(network, Clock()) as transport:
        with pytest.raises(Retry):
            await transport.request(a_call(method="POST", repeatable=False))
    assert len(network.requests) == tries


async def test_a_body_that_drips_is_ended_by_the_time_limit() -> None:
    async def drip(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return ok({})

    transport = module.Transport(0.05, Clock(), Clock().sleep, handler=httpx.MockTransport(drip))
    async with transport:
        with pytest.raises(Retry, match=r"did not answer within 0\.05 s"):
            await transport.request(a_call())


async def test_calls_to_a_platform_that_tells_no_usage_are_spaced() -> None:
    clock, network = Clock(), Network(lambda _: ok({}))
    async with door(network, clock) as transport:
        await asyncio.gather(*(transport.request(a_call(paces={"meta:app": 0.1})) for _ in range(4)))
        await transport.request(a_call(platform=Platform.GOOGLE))
    assert clock.slept == pytest.approx([0.1, 0.2, 0.3], abs=0.05)


async def test_calls_are_spaced_as_soon_as_an_answer_asks_for_it_and_each_scope_has_its_own_line() -> None:
    clock, network = Clock(), Network(lambda _: ok({}))
    lines: dict[str, Any] = {
        "scopes": ("meta:app", "meta:account:1001"),
        "paces": {"meta:app": 0.0, "meta:account:1001": 0.0},
    }
    slowly = a_call(**lines, judge=lambda _: {"meta:account:1001": timedelta(seconds=5)})
    async with door(network, clock) as transport:
        for _ in range(4):
            await transport.request(slowly)
        assert clock.slept == pytest.approx([5, 10], abs=0.1), "fake sleep: the line moves in real time"
        await transport.request(a_call(account="1002", paces={"meta:app": 0.0, "meta:account:1002": 0.0}))
    assert len(clock.slept) == 2


async def test_who_is_far_back_in_a_slow_line_comes_again_later_without_taking_a_turn() -> None:
    clock, network = Clock(), Network(lambda _: ok({}))
    slowly = a_call(paces={"meta:app": 0.0}, judge=lambda _: {"meta:app": timedelta(seconds=25)})
    async with door(network, clock) as transport:
        for _ in range(4):
            await transport.request(slowly)
        for _ in range(3):
            with pytest.raises(Throttled, match="near its limit") as caught:
                await transport.request(slowly)
            assert timedelta(seconds=60) < caught.value.until - clock.now <= timedelta(seconds=75)
    assert len(network.requests) == 4


async def test_a_pause_that_began_while_a_call_stood_in_line_stops_it() -> None:
    clock, network = Clock(), Network(lambda _: ok({}))
    store = LocalState(clock)
    async with door(network, clock, store) as transport:
        await transport.request(a_call(paces={"meta:app": 5.0}))

        async def meanwhile(seconds: float) -> None:
            await store.block("meta:app", clock.now + timedelta(hours=1), now=clock.now)
            clock.now += timedelta(seconds=seconds)

        transport.sleep = meanwhile
        with pytest.raises(Throttled):
            await transport.request(a_call(paces={"meta:app": 5.0}))
    assert len(network.requests) == 1


async def test_a_request_that_timed_out_is_sent_again_by_nobody_for_as_long_as_the_platform_wants() -> None:
    clock, network = Clock(), Network([httpx.ReadTimeout("slow"), ok({}), ok({})])
    store, rest = LocalState(clock), {"not_again": timedelta(minutes=10)}
    async with door(network, clock, store) as first, door(network, clock, store) as second:
        for transport, owner in ((first, 1), (second, 2)):
            with pytest.raises(Reduce) as caught:
                await transport.request(a_call(owner=owner, **rest))
            assert caught.value.code == "timeout"
        await second.request(a_call(params={"level": "campaign"}, **rest))
        clock.now += timedelta(minutes=10)
        await second.request(a_call(**rest))
    assert len(network.requests) == 3


def throttles(seconds: float, scope: str = "meta:account:1001") -> Any:
    def judge(answer: Answer) -> Mapping[str, datetime]:
        if answer.status == 429:
            raise Throttled("patience", until=answer.pause(timedelta(seconds=seconds)), scope=scope)
        return {}

    return judge


async def test_a_short_pause_is_waited_for() -> None:
    _, network, clock = await send([httpx.Response(429), ok({})], a_call(judge=throttles(5)))
    assert len(network.requests) == 2
    assert clock.slept == [5.0]


async def test_a_long_pause_is_raised_and_stops_every_other_caller_of_its_scope_without_a_request() -> None:
    clock, network = Clock(), Network([httpx.Response(429), ok({})])
    store = LocalState(clock)
    async with door(network, clock, store) as first, door(network, clock, store) as second:
        with pytest.raises(Throttled) as hit:
            await first.request(a_call(judge=throttles(600)))
        assert hit.value.until == NOW + timedelta(seconds=600)
        with pytest.raises(Throttled) as told:
            await second.request(a_call())
        assert (told.value.until, told.value.scope) == (hit.value.until, "meta:account:1001")
        await second.request(a_call(account="1002", scopes=("meta:app", "meta:account:1002")))
    assert len(network.requests) == 2
    assert clock.slept == []


async def test_a_pause_can_be_asked_for_by_a_good_answer() -> None:
    clock, network = Clock(), Network([ok({}), ok({})])
    async with door(network, clock) as transport:
        await transport.request(a_call(judge=lambda answer: {"meta:app": answer.pause(timedelta(minutes=2))}))
        with pytest.raises(Throttled):
            await transport.request(a_call())
        clock.now += timedelta(minutes=2)
        await transport.request(a_call())


async def test_pauses_in_a_row_are_counted_until_an_answer_is_good() -> None:
    seen: list[int] = []

    def judge(answer: Answer) -> Mapping[str, datetime]:
        seen.append(answer.throttled_before)
        pauses: Mapping[str, datetime] = throttles(60)(answer)
        return pauses

    clock, network = Clock(), Network([])
    store, requests = LocalState(clock), network.requests
    network.script = lambda _: httpx.Response(429) if len(requests) <= 3 else ok({})
    for _ in range(3):  # each in a process of its own
        async with door(network, clock, store) as transport:
            with pytest.raises(Throttled):
                await transport.request(a_call(judge=judge))
        clock.now += timedelta(seconds=60)
    async with door(network, clock, store) as transport:
        await transport.request(a_call(judge=judge))
        await transport.request(a_call(judge=judge))
    assert seen == [0, 1, 2, 3, 0]


async def test_no_pause_is_longer_than_two_days() -> None:
    answer, _, _ = await send([ok({})])
    assert answer.pause(timedelta(days=900)) == NOW + timedelta(hours=48)


async def test_numbers_are_exact() -> None:
    answer, _, _ = await send([httpx.Response(200, text='{"a": 49.9, "b": 9007199254740993, "c": 0.1}')])
    assert answer.data == {"a": Decimal("49.9"), "b": 9007199254740993, "c": Decimal("0.1")}


@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\xff"])
async def test_what_is_not_strict_json_is_a_retry(text: str) -> None:
    with pytest.raises(Retry):
        await send(lambda _: httpx.Response(200, content=text.encode("latin-1")))


async def test_an_answer_too_large_asks_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 10_000)
    bomb = gzip.compress(b"[" + b" " * 1_000_000 + b"]")
    with pytest.raises(Reduce):
        await send([httpx.Response(200, content=bomb, headers={"content-encoding": "gzip"})])


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_a_compressed_answer_is_read(pack: Callable[[bytes], bytes]) -> None:
    headers = {"content-encoding": "gzip" if pack is gzip.compress else "deflate"}
    answer, network, _ = await send([httpx.Response(200, content=pack(b'{"a": 1}'), headers=headers)])
    assert answer.data == {"a": 1}
    assert network.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "gzip,deflate"])
async def test_what_was_not_to_be_compressed_like_this_is_not_decompressed(encoding: str) -> None:
    with pytest.raises(Retry, match="cannot be decompressed"):
        await send(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"x"), headers={"content-encoding": encoding}))


async def test_more_values_than_an_answer_ever_has_ask_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 1000)
    await send([httpx.Response(200, text=f"[{','.join('0' * 900)}]")])
    with pytest.raises(Reduce):
        await send([httpx.Response(200, text=f"[{','.join('0' * 1001)}]")])


async def test_a_good_answer_is_reused_for_its_account_and_time_only() -> None:
    clock, network = Clock(), Network(lambda _: ok({"n": "1.5"}))
    async with door(network, clock, keeping(clock)) as transport:
        first = await transport.request(a_call())
        assert (await transport.request(a_call())).data == first.data
        assert len(network.requests) == 1
        for other in [
            a_call(owner=2),
            a_call(params={"level": "campaign"}),
            a_call(method="POST", body={"query": "SELECT"}),
            a_call(headers={"login-customer-id": "5"}),
        ]:
            before = len(network.requests)
            await transport.request(other)
            assert len(network.requests) == before + 1
        clock.now += timedelta(seconds=300)
        before = len(network.requests)
        await transport.request(a_call())
        assert len(network.requests) == before + 1


@pytest.mark.parametrize("form", [TOKEN, "a%2Fb%2Bsecret%3D", "proof-0123456789abcdef"])
async def test_an_answer_that_repeats_a_secret_is_not_kept(form: str) -> None:
    clock, network = Clock(), Network(lambda _: ok({"next": f"http://meta.test/?access_token={form}&after=B"}))
    secret = a_call(secret_headers={"Authorization": f"Bearer {TOKEN}", "x": "a/b+secret="})
    async with door(network, clock, keeping(clock)) as transport:
        await transport.request(secret)
        await transport.request(secret)
    assert len(network.requests) == 2


@pytest.mark.parametrize(
    "more", [{"purpose": Purpose.AUTH}, {"purpose": Purpose.POLL}, {"fresh": True}, {"owner": None}]
)
async def test_some_answers_are_never_reused(more: dict[str, Any]) -> None:
    clock, network = Clock(), Network(lambda _: ok({}))
    async with door(network, clock, keeping(clock)) as transport:
        await transport.request(a_call(**more))
        await transport.request(a_call(**more))
    assert len(network.requests) == 2


async def test_an_answer_damaged_in_the_store_or_too_large_for_it_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, network = Clock(), Network(lambda _: ok({"x": 1}))
    store = keeping(clock)
    key = a_call().cache_key
    assert key is not None
    await store.put_answer(key, b'{"x": ')
    async with door(network, clock, store) as transport:
        assert (await transport.request(a_call())).data == {"x": 1}
        monkeypatch.setattr(module, "LARGEST_KEPT", 3)
        for _ in range(2):
            await transport.request(a_call(owner=2))
    assert len(network.requests) == 3


async def test_a_redirect_is_not_followed_with_our_token() -> None:
    clock, network = Clock(), Network([httpx.Response(302, headers={"location": "http://elsewhere.test/"}), ok({})])
    async with door(network, clock, keeping(clock)) as transport:
        with pytest.raises(Bug):
            await transport.request(a_call())
    assert [request.url.host for request in network.requests] == ["meta.test"]


async def test_a_bad_answer_is_never_kept() -> None:
    clock, network = Clock(), Network([httpx.Response(400, json={}), ok({})])
    async with door(network, clock, keeping(clock)) as transport:
        with pytest.raises(Bug):
            await transport.request(a_call())
        assert (await transport.request(a_call())).data == {}


def test_the_cache_key_does_not_depend_on_secrets() -> None:
    other = a_call(secret_headers={"Authorization": "Bearer other"}, secret_params={"appsecret_proof": "other"})
    assert a_call().cache_key == other.cache_key
    assert a_call().cache_key != a_call(account="1002").cache_key


async def test_every_request_sent_is_counted_by_purpose() -> None:
    clock, network = Clock(), Network([BOOM, ok({}), ok({}), ok({})])
    async with door(network, clock, keeping(clock)) as transport:
        with counting() as calls:
            await transport.request(a_call())
            await transport.request(a_call())
            await asyncio.create_task(transport.request(a_call(purpose=Purpose.POLL)))
        with counting() as others:
            await transport.request(a_call(purpose=Purpose.POLL, account="1002"))
    assert (calls, others) == ({"metrics": 2, "poll": 1}, {"poll": 1})


TROUBLES: list[httpx.Response | Exception] = [
    httpx.Response(400, json={"error": {"message": f"Malformed access token {TOKEN}", "code": 190}}),
    httpx.Response(500, text=f"trace {TOKEN}"),
    httpx.Response(200, text=f"not json {TOKEN}"),
    httpx.ConnectError(f"http://meta.test/?access_token={TOKEN}"),
    httpx.ReadTimeout(f"http://meta.test/?access_token={TOKEN}"),
    httpx.UnsupportedProtocol(f"http://meta.test/?access_token={TOKEN}"),
    httpx.TooManyRedirects(f"http://meta.test/?access_token={TOKEN}"),
    httpx.InvalidURL(f"http://meta.test/?access_token={TOKEN}"),
]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_no_secret_leaves_in_an_exception_or_a_log(
    trouble: httpx.Response | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx")
    caplog.set_level(logging.DEBUG, logger="httpcore")

    def judge(answer: Answer) -> Mapping[str, datetime]:
        if isinstance(answer.data, dict):
            raise Bug(answer.quote(answer.data["error"]["message"]))
        return plain(answer)

    with pytest.raises(AaeError) as caught:
        await send([trouble] * 3, a_call(judge=judge, secret_params={"access_token": TOKEN}))
    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in repr(error) + str(error)
        error = error.__cause__ or error.__context__
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(a_call())
    assert TOKEN not in repr(Answer(200, {"x": TOKEN}, {"access_token": TOKEN}, True, NOW, 0, (TOKEN,)))


async def test_the_words_of_a_platform_are_one_short_printable_line_without_tokens() -> None:
    answer, _, _ = await send([ok({})])
    said = answer.quote(f"bad\x1b[31m\n token {TOKEN} and ya29.A0ARrdaM-someOtherToken12345 " + "x" * 900)
    assert said.startswith("bad [31m token *** and *** x")
    assert len(said) <= 200
    assert answer.quote(None) == "no message"


@pytest.mark.parametrize(
    "told",
    [
        TOKEN,
        TOKEN[:12],
        TOKEN[5:20],
        f"{TOKEN[:14]}...",
        base64.b64encode(TOKEN.encode()).decode(),
        TOKEN.encode().hex(),
        TOKEN.encode().hex()[:24],
        f"x{TOKEN}y",
    ],
)
async def test_a_platform_that_repeats_a_piece_of_a_secret_is_not_quoted_with_it(told: str) -> None:
    answer = Answer(200, {}, None, False, NOW, 0, (TOKEN,))
    said = answer.quote(f"The value {told} is not one of ours.")
    assert "***" in said
    assert said.startswith("The value ")
    assert said.endswith("is not one of ours.")
    pieces = {TOKEN[start : start + 8] for start in range(len(TOKEN) - 7)}
    assert not [piece for piece in pieces if piece in said]


async def test_local_answers_are_bounded_in_memory() -> None:
    state = LocalState(Clock(), answer_ttl_seconds=300, largest=100)
    for number in range(10):
        await state.put_answer(str(number), b"x" * 40)
    assert [await state.get_answer(str(number)) is not None for number in range(10)] == [False] * 8 + [True] * 2
    await state.put_answer("huge", b"x" * 101)
    assert await state.get_answer("huge") is None
    assert await state.get_answer("9") == b"x" * 40


async def test_a_pause_is_never_shortened() -> None:
    state = LocalState(Clock())
    await state.block("a", NOW + timedelta(hours=1), now=NOW)
    await state.block("a", NOW + timedelta(minutes=1), now=NOW)
    assert await state.pauses(["a", "b"]) == {"a": Pause(NOW + timedelta(hours=1), 1)}
