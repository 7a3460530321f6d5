"""The control API under ``/_sandbox/``: the clock, the faults, the accounts to import and the truth to compare with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aae.errors import UserError
from aae.model import Platform
from aae.sandbox.clock import Clock
from aae.sandbox.entities import AdAccount
from aae.sandbox.faults import CATALOGUE, Fault, Faults
from aae.sandbox.world import World


@dataclass(frozen=True, slots=True)
class Bench:
    """A world with its clock, its faults and the count of calls by (platform, purpose, path)."""

    world: World
    clock: Clock
    faults: Faults
    calls: Counter[tuple[str, str, str]]


Handler = Callable[[Request], Awaitable[Any]]


def routes(bench: Bench) -> list[Route]:
    """The routes of the control API."""
    desk = _Desk(bench)
    return [
        Route("/health", _json(desk.health)),
        Route("/settings", _json(desk.settings)),
        Route("/settings.env", desk.settings_file),
        Route("/accounts", _json(desk.accounts)),
        Route("/account", _json(desk.account), methods=["POST"]),
        Route("/reauthorize", _json(desk.reauthorize), methods=["POST"]),
        Route("/clock", _json(desk.clock), methods=["GET", "POST"]),
        Route("/faults", _json(desk.faults), methods=["GET", "POST", "DELETE"]),
        Route("/incidents", _json(desk.incidents)),
        Route("/traps", _json(desk.traps)),
        Route("/ledger", _json(desk.ledger)),
        Route("/calls", _json(desk.calls), methods=["GET", "DELETE"]),
    ]


def _json(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            status, value = 200, await handler(request)
        except (UserError, ValueError, KeyError, TypeError) as error:
            status, value = 400, {"error": f"{type(error).__name__}: {error}"}
        return Response(orjson.dumps(value), status, media_type="application/json")

    return respond


class _Desk:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def health(self, _: Request) -> dict[str, Any]:
        world = self.bench.world
        return {"status": "ok", "seed": world.seed, "anchor": world.anchor, "now": self.bench.clock.now()}

    async def settings(self, request: Request) -> dict[str, str]:
        """The environment that points the project at this sandbox."""
        url, app = f"http://{request.headers['host']}", self.bench.world.app
        return {
            "AAE_META__BASE_URL": url,
            "AAE_META__APP_ID": app.meta_app_id,
            "AAE_META__APP_SECRET": app.meta_app_secret,
            "AAE_TIKTOK__BASE_URL": url,
            "AAE_TIKTOK__APP_ID": app.tiktok_app_id,
            "AAE_TIKTOK__SECRET": app.tiktok_secret,
            "AAE_GOOGLE__BASE_URL": url,
            "AAE_GOOGLE__TOKEN_URL": f"{url}/token",
            "AAE_GOOGLE__CLIENT_ID": app.google_client_id,
            "AAE_GOOGLE__CLIENT_SECRET": app.google_client_secret,
            "AAE_GOOGLE__DEVELOPER_TOKEN": app.google_developer_token,
        }

    async def settings_file(self, request: Request) -> Response:
        """The same as lines for ``.env``."""
        lines = (f"{name}={value}\n" for name, value in (await self.settings(request)).items())
        return Response("".join(lines), media_type="text/plain")

    async def accounts(self, _: Request) -> list[dict[str, Any]]:
        """Every connected account, ready to be imported."""
        world = self.bench.world
        return [_import(world, account, world.credentials(account)) for account in world.connected]

    async def account(self, request: Request) -> dict[str, Any]:
        """Describe ``{"account": "platform:id"}`` differently from now on: name, currency, timezone, manager."""
        body = await request.json()
        changed = self.bench.world.change(self._account(body.pop("account")), **body)
        return _import(self.bench.world, changed, self.bench.world.credentials(changed))

    async def reauthorize(self, request: Request) -> dict[str, Any]:
        """The user connects ``{"account": "platform:id"}`` again: new tokens, not revoked."""
        account = self._account((await request.json())["account"])
        return _import(self.bench.world, account, self.bench.world.reauthorized(account, self.bench.clock.now()))

    async def clock(self, request: Request) -> dict[str, Any]:
        """POST ``{"now": ISO}``, ``{"advance_seconds": n}`` and ``{"frozen": bool}``, alone or together."""
        clock = self.bench.clock
        if request.method == "POST":
            body = await request.json()
            if "now" in body:
                clock.set(_moment(body["now"]))
            clock.advance(timedelta(seconds=float(body.get("advance_seconds", 0))))
            if "frozen" in body:
                clock.set(clock.now(), frozen=bool(body["frozen"]))
        return {"now": clock.now(), "frozen": clock.frozen}

    async def faults(self, request: Request) -> dict[str, Any]:
        """POST one fault or a list of them; DELETE switches all off."""
        faults = self.bench.faults
        if request.method == "DELETE":
            faults.clear()
        if request.method == "POST":
            body = await request.json()
            for one in [Fault(**item) for item in (body if isinstance(body, list) else [body])]:
                faults.add(one)
        return {"active": faults.as_list(), "known": {name: kind.description for name, kind in CATALOGUE.items()}}

    async def incidents(self, request: Request) -> list[dict[str, Any]]:
        """The labels of the incidents that have begun by now; ``?all=1`` also of those to come."""
        now, everything = self.bench.clock.now(), request.query_params.get("all") == "1"
        return [asdict(one) for one in self.bench.world.incidents if everything or one.since <= now]

    async def traps(self, _: Request) -> list[dict[str, Any]]:
        """What looks like an incident and is none."""
        return [asdict(one) for one in self.bench.world.traps]

    async def ledger(self, request: Request) -> dict[str, Any]:
        """The truth as of the clock: ``?account=platform:id&granularity=daily|hourly&since=&until=``."""
        query = request.query_params
        account = self._account(query["account"])
        since, until = date.fromisoformat(query["since"]), date.fromisoformat(query["until"])
        hourly = {"daily": False, "hourly": True}[query.get("granularity", "daily")]
        facts = account.leaf_facts(since, until, self.bench.clock.now(), hourly=hourly)
        rows = [_truth(account, row) for row in facts.rows()]
        return {"account": query["account"], "currency": account.currency, "rows": rows}

    async def calls(self, request: Request) -> list[dict[str, Any]]:
        """What was asked so far; DELETE forgets it."""
        if request.method == "DELETE":
            self.bench.calls.clear()
        names = ("platform", "purpose", "path", "count")
        return [dict(zip(names, (*key, count), strict=True)) for key, count in sorted(self.bench.calls.items())]

    def _account(self, key: str) -> AdAccount:
        platform, _, external_id = key.partition(":")
        account = self.bench.world.account(Platform(platform), external_id)
        if account is None:
            raise UserError(f"There is no account {key}.")
        return account


def _import(world: World, account: AdAccount, credentials: tuple[str, str | None, datetime | None]) -> dict[str, Any]:
    access, refresh, expires = credentials
    user = world.users[account.user]
    return {
        "user_email": user.email,
        "user_name": user.name,
        "platform": account.platform,
        "external_id": account.external_id,
        "name": account.name,
        "currency": account.currency,
        "timezone": account.timezone,
        "access_token": access,
        "refresh_token": refresh,
        "expires_at": None if expires is None else expires.isoformat(),
        "login_customer_id": account.manager,
    }


def _truth(account: AdAccount, row: tuple[int, ...]) -> dict[str, Any]:
    group, day, hour, impressions, clicks, spend, conversions, revenue = row
    leaf = account.leaves[group]
    entity = account.leaf_entity(leaf)
    known = entity.tells_conversions
    return {
        "level": entity.level,
        "external_id": entity.external_id,
        "ad_set_external_id": None if leaf.ad_set is None else account.ad_sets[leaf.ad_set].external_id,
        "campaign_external_id": account.campaigns[leaf.campaign].external_id,
        "local_date": date.fromordinal(day).isoformat(),
        "local_hour": None if hour < 0 else hour,
        "impressions": impressions,
        "clicks": clicks,
        "spend_micros": spend,
        "conversions_micros": conversions if known else None,
        "revenue_micros": revenue if known else None,
    }


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
