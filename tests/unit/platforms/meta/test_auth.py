"""Meta tokens are exchanged shortly before their end and left alone otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from aae.errors import Bug, Reauthorize, Retry
from aae.model import Platform
from aae.platforms.base import TokenCheck, TokenState
from tests.unit.platforms.support import NOW, SECRETS, TOKEN, Network, Script, account, ok, token, use


def check(script: Script, **more: Any) -> tuple[TokenCheck, Network]:
    found, network, _ = use(
        Platform.META,
        script,
        lambda meta: meta.check_token(account(Platform.META), token(**more), NOW, within_hours=24),
    )
    return found, network


@pytest.mark.parametrize("expires_at", [None, NOW + timedelta(hours=24, seconds=1)])
def test_a_token_with_time_left_is_probed(expires_at: Any) -> None:
    found, network = check([ok({"id": "222"})], expires_at=expires_at)
    assert (found.state, found.token) == (TokenState.STILL_VALID, token(expires_at=expires_at))
    assert network.requests[0].url.path == "/v26.0/me"


@pytest.mark.parametrize("expires_at", [NOW + timedelta(hours=24), NOW - timedelta(days=1)])
def test_a_token_near_its_end_is_exchanged(expires_at: Any) -> None:
    found, network = check([ok({"access_token": "NEW", "expires_in": 5183944})], expires_at=expires_at)
    assert found.state is TokenState.REFRESHED
    assert found.token.access.get_secret_value() == "NEW"
    assert found.token.expires_at == NOW + timedelta(seconds=5183944)
    assert found.token.version == 3
    asked = network.asked()
    assert asked["grant_type"] == "fb_exchange_token"
    assert (asked["client_id"], asked["client_secret"]) == ("111", SECRETS["meta app"])
    assert asked["fb_exchange_token"] == TOKEN


def test_a_token_without_end_may_come_of_it() -> None:
    found, _ = check([ok({"access_token": "NEW"})], expires_at=NOW)
    assert found.token.expires_at is None


@pytest.mark.parametrize("expires_at", [None, NOW])
def test_a_dead_token_needs_its_owner_and_a_blip_does_not(expires_at: Any) -> None:
    dead = httpx.Response(400, json={"error": {"code": 190, "error_subcode": 463, "message": "expired"}})
    with pytest.raises(Reauthorize) as caught:
        check([dead], expires_at=expires_at)
    assert caught.value.code == "190/463"
    with pytest.raises(Retry):
        check([httpx.Response(502)] * 3, expires_at=expires_at)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"access_token": ""},
        {"access_token": "a\nb"},
        {"access_token": 5},
        {"access_token": "x", "expires_in": "soon"},
    ],
)
def test_a_malformed_exchange_never_becomes_a_token(answer: Any) -> None:
    with pytest.raises(Bug):
        check([ok(answer)], expires_at=NOW)
