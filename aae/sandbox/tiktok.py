"""The TikTok Business API: one envelope for everything, integrated reports, tokens without an expiry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, timedelta
from math import ceil
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from aae.model import Level, Platform
from aae.sandbox.days import told
from aae.sandbox.entities import AdAccount, Entity, Status
from aae.sandbox.ledger import NO_HOUR, Facts
from aae.sandbox.tokens import Grant, Kind
from aae.sandbox.wire import Answer, Call, Purpose, Subject, money_decimal, ratio
from aae.sandbox.world import World

VERSIONS: Final = ("v1.3",)
_MOST_DAYS: Final = {"stat_time_hour": 1, "stat_time_day": 30, None: 365}
"""The longest range of a report by its time dimension."""

_MOST_ADVERTISERS: Final = 5
"""So many can be asked for in one report."""

_LEVELS: Final[dict[str, Level | None]] = {
    "AUCTION_ADVERTISER": None,
    "AUCTION_CAMPAIGN": Level.CAMPAIGN,
    "AUCTION_ADGROUP": Level.AD_SET,
    "AUCTION_AD": Level.AD,
}
_NAMES: Final = {Level.CAMPAIGN: "campaign", Level.AD_SET: "adgroup", Level.AD: "ad"}
_STATUS: Final = {
    Status.ACTIVE: "ENABLE",
    Status.PAUSED: "DISABLE",
    Status.DELETED: "DELETE",
    Status.ARCHIVED: "DELETE",
}
PLAIN_404: Final = Answer(b"404 page not found\n", 404, media_type="text/plain")
_USER_TOKEN_SECONDS: Final = 86_400
_USER_REFRESH_SECONDS: Final = 31_536_000


class TikTokError(Exception):
    """Leaves the handler with an envelope whose code is not 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def error(code: int, message: str, *, status: int = 200) -> Answer:
    """The envelope of a failure: HTTP 200 all the same, as a rule."""
    return replace(_envelope(code, message, {}), status=status)


def _envelope(code: int, message: str, data: Any) -> Answer:
    return Answer.of({"code": code, "message": message, "request_id": "2026SANDBOX0000000001", "data": data})


class TikTokApi:
    """Answers for every TikTok account of a world. Only the rotation of creator refresh tokens is remembered."""

    platform = Platform.TIKTOK

    def __init__(self, world: World) -> None:
        self.world = world
        self._rotations: dict[int, int] = {}
        self._routes: dict[tuple[str, str], Callable[[Call, Mapping[str, str]], Any]] = {
            ("POST", "oauth2/revoke_token/"): self._revoke,
            ("GET", "oauth2/advertiser/get/"): self._advertisers,
            ("POST", "tt_user/oauth2/refresh_token/"): self._refresh_user,
            ("GET", "advertiser/info/"): self._info,
            ("GET", "campaign/get/"): lambda call, query: self._list(call, query, Level.CAMPAIGN),
            ("GET", "adgroup/get/"): lambda call, query: self._list(call, query, Level.AD_SET),
            ("GET", "ad/get/"): lambda call, query: self._list(call, query, Level.AD),
            ("GET", "report/integrated/get/"): self._report,
        }
        self._dead: set[str] = set()

    def subject(self, call: Call) -> Subject:
        """Reports at advertiser level are totals."""
        path, account = _split(call.path)[1], call.query.get("advertiser_id")
        if "oauth2/" in path:
            return Subject(Purpose.AUTH)
        if call.query.get("advertiser_ids"):
            account = next(map(str, _json(call.query, "advertiser_ids", [])), None)
        if path.startswith("report/"):
            totals = call.query.get("data_level") == "AUCTION_ADVERTISER"
            return Subject(Purpose.TOTALS if totals else Purpose.METRICS, account)
        return Subject(Purpose.LISTING, account)

    def answer(self, call: Call) -> Answer:
        """Any call; a path without its trailing slash does not exist."""
        version, path = _split(call.path)
        known = {method for method, route in self._routes if route == path}
        if not known:
            return PLAIN_404
        if call.method not in known:
            return Answer(b"405 method not allowed\n", 405, media_type="text/plain")
        try:
            if version not in VERSIONS:
                raise TikTokError(40006, f"The API version {version} is not supported")
            answer = _envelope(0, "OK", self._routes[call.method, path](call, call.query))
            return replace(answer, headers={"x-tt-ads-throttle": "1"}) if _is_cut(call) else answer
        except TikTokError as failure:
            return error(failure.code, str(failure))

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _authorize(self, call: Call) -> Grant:
        token = call.headers.get("access-token", "")
        if not token:
            raise TikTokError(40104, "Access token is empty.")
        return self._checked(token)

    def _checked(self, token: str) -> Grant:
        grant = self.world.mint.read(token)
        gone = grant is None or grant.kind is not Kind.TIKTOK or token in self._dead
        if grant is None or gone or self.world.is_revoked(grant, Platform.TIKTOK):
            raise TikTokError(40105, "Access token is incorrect or has been revoked.")
        return grant

    def _check_app(self, app_id: object, secret: object) -> None:
        if (app_id, secret) != (self.world.app.tiktok_app_id, self.world.app.tiktok_secret):
            raise TikTokError(40101, "App id or secret is incorrect.")

    def _advertisers(self, call: Call, query: Mapping[str, str]) -> Any:
        self._check_app(query.get("app_id"), query.get("secret"))
        accounts = self.world.accounts_of(self._authorize(call).user, Platform.TIKTOK)
        return {"list": [{"advertiser_id": one.external_id, "advertiser_name": one.name} for one in accounts]}

    def _revoke(self, call: Call, _: Mapping[str, str]) -> Any:
        body = call.json()
        self._check_app(body.get("app_id"), body.get("secret"))
        self._checked(str(body.get("access_token", "")))
        self._dead.add(str(body["access_token"]))
        return {}

    def _refresh_user(self, call: Call, _: Mapping[str, str]) -> Any:
        """The creator's token: its refresh token rotates, and a used one is dead."""
        body = call.json()
        self._check_app(body.get("client_id"), body.get("client_secret"))
        if body.get("grant_type") != "refresh_token":
            raise TikTokError(40108, "Grant type is incorrect.")
        grant = self.world.mint.read(str(body.get("refresh_token", "")))
        wrong = grant is None or grant.kind is not Kind.TIKTOK_USER_REFRESH
        if grant is None or wrong or grant.serial < self._rotations.get(grant.user, 0):
            raise TikTokError(40107, "Refresh token is incorrect or has been used.")
        now = int(call.now.timestamp())
        if now >= grant.expires:
            raise TikTokError(40103, "Refresh token has expired.")
        serial = grant.serial + 1
        self._rotations[grant.user] = serial
        access = Grant(Kind.TIKTOK_USER, grant.user, now + _USER_TOKEN_SECONDS, grant.generation, serial)
        refresh = Grant(Kind.TIKTOK_USER_REFRESH, grant.user, now + _USER_REFRESH_SECONDS, grant.generation, serial)
        return {
            "access_token": self.world.mint.issue(access),
            "token_type": "Bearer",
            "scope": "user.info.basic,video.list",
            "expires_in": _USER_TOKEN_SECONDS,
            "refresh_token": self.world.mint.issue(refresh),
            "refresh_token_expires_in": _USER_REFRESH_SECONDS,
            "open_id": f"o{grant.user}",
        }

    # -- listing ----------------------------------------------------------------------------------------------------

    def _account(self, call: Call, advertiser_id: str | None) -> AdAccount:
        grant = self._authorize(call)
        if not advertiser_id:
            raise TikTokError(40002, "advertiser_id: Missing data for required field.")
        account = self.world.account(Platform.TIKTOK, advertiser_id)
        if account is None or account.user != grant.user:
            raise TikTokError(40001, f"No permission to operate advertiser {advertiser_id}.")
        return account

    def _info(self, call: Call, query: Mapping[str, str]) -> Any:
        ids = _json(query, "advertiser_ids", [])
        if not isinstance(ids, list) or not 1 <= len(ids) <= 100:
            raise TikTokError(40002, "advertiser_ids: must have 1 to 100 items.")
        fields = _json(query, "fields", None)
        found = [_info(self._account(call, str(advertiser_id)), call) for advertiser_id in ids]
        return {"list": [_pick(one, fields, ("advertiser_id",)) for one in found]}

    def _list(self, call: Call, query: Mapping[str, str], level: Level) -> Any:
        account = self._account(call, query.get("advertiser_id"))
        filtering = _json(query, "filtering", {})
        shown, hidden = _shown(filtering), account.campaigns[0] if "unlisted" in call.troubles else None
        wanted = {str(item) for item in filtering.get(f"{_NAMES[level]}_ids", [])}
        found = [
            entity
            for entity in account.entities(level)
            if shown(_gone(account, entity))
            and (not wanted or entity.external_id in wanted)
            and account.campaign_of(entity) is not hidden
        ]
        fields = _json(query, "fields", None)
        keys = ("advertiser_id", *(f"{name}_id" for name in _NAMES.values()))
        day = "BUDGET_MODE_TOTAL" if "tiktok_lifetime_budgets" in call.troubles else "BUDGET_MODE_DAY"
        return _page(call, query, found, lambda some: [_pick(_entity(account, one, day), fields, keys) for one in some])

    # -- performance ------------------------------------------------------------------------------------------------

    def _report(self, call: Call, query: Mapping[str, str]) -> Any:
        several = _json(query, "advertiser_ids", [])
        if not isinstance(several, list) or len(several) > _MOST_ADVERTISERS:
            raise TikTokError(40002, f"advertiser_ids: must have 1 to {_MOST_ADVERTISERS} items.")
        wanted = list(map(str, several)) if several else [query.get("advertiser_id", "")]
        accounts = [self._account(call, one) for one in wanted]
        if query.get("report_type", "BASIC") != "BASIC" or query.get("service_type", "AUCTION") != "AUCTION":
            raise TikTokError(40002, "report_type: only BASIC reports of AUCTION are served.")
        if query.get("data_level") not in _LEVELS:
            raise TikTokError(40002, f"data_level: must be one of {', '.join(_LEVELS)}.")
        level = _LEVELS[query["data_level"]]
        time = _time_dimension(_json(query, "dimensions", []), level)
        metrics = _json(query, "metrics", ["spend", "impressions"])
        known = {*_METRICS, *_LABELS[level]}
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise TikTokError(40002, f"Invalid metric fields: {unknown}, no relation to the dimensions.")
        span = _range(query, time)
        found = [(account, self._facts(call, account, level, span, time)) for account in accounts]
        if _is_slow(call, sum(len(facts) for _, facts in found)):
            raise TikTokError(51010, "Internal service timed out.")
        if several:
            rows = [
                _rough(account, _row(call, account, level, row, time=time, metrics=metrics))
                for account, facts in found
                for row in facts.rows()
            ]
            return _page(call, query, rows, list)
        ((account, facts),) = found
        return _page(
            call,
            query,
            facts,
            lambda some: [_row(call, account, level, row, time=time, metrics=metrics) for row in some.rows()],
        )

    def _facts(
        self, call: Call, account: AdAccount, level: Level | None, span: tuple[date, date], time: str | None
    ) -> Facts:
        facts = self._told(call, account, level, span, time)
        if level is not None:
            filtering = _json(call.query, "filtering", [])
            facts = facts.take(np.array(_wanted(account, level, filtering), np.bool_)[facts.group])
        return facts.take(slice(0, len(facts) // 2)) if _is_cut(call) else facts

    def _told(
        self, call: Call, account: AdAccount, level: Level | None, span: tuple[date, date], time: str | None
    ) -> Facts:
        facts = told(account, level, *span, call, hourly=time == "stat_time_hour")
        if time is None:
            facts = facts.merged(np.full(len(facts), span[0].toordinal()))
        if "tiktok_zero_rows" in call.troubles and level is not None:
            facts = _with_zeros(facts, len(account.entities(level)), span[0], hourly=time == "stat_time_hour")
        return facts


def _is_cut(call: Call) -> bool:
    """Whether this report loses rows for spanning too many ids; naming campaigns keeps it whole."""
    troubled = "tiktok_truncated_report" in call.troubles and "report/" in call.path
    return troubled and not _wanted_ids(_json(call.query, "filtering", []))


def _is_slow(call: Call, rows: int) -> bool:
    """Whether a report has so many rows that it times out."""
    return "tiktok_slow_report" in call.troubles and rows > (call.troubles["tiktok_slow_report"] or 0)


def _with_zeros(facts: Facts, entities: int, day: date, *, hourly: bool) -> Facts:
    """The facts and a row of zeros, on the first day or hour asked for, for every entity without any row."""
    silent = np.setdiff1d(np.arange(entities), facts.group)
    zeros = np.zeros(len(silent), np.int64)
    extra = (silent, zeros + day.toordinal(), zeros + (0 if hourly else NO_HOUR), *[zeros] * 5)
    names = Facts.__slots__
    return Facts(*(np.append(getattr(facts, name), more) for name, more in zip(names, extra, strict=True)))


def _wanted(account: AdAccount, level: Level, filtering: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which entities of the level a report's filters leave; deleted ones only if asked for by the level's status."""
    shown = _shown_rows(filtering, f"{_NAMES[level]}_status")
    ids = _wanted_ids(filtering)
    return [
        shown(_gone(account, entity)) and all(_ancestor(account, entity, above) in wanted for above, wanted in ids)
        for entity in account.entities(level)
    ]


def _row(
    call: Call,
    account: AdAccount,
    level: Level | None,
    row: tuple[int, ...],
    *,
    time: str | None,
    metrics: Sequence[str],
) -> dict[str, Any]:
    group, day, hour, *numbers = row
    dimensions: dict[str, str] = {}
    entity = None if level is None else account.entities(level)[group]
    if level is None or entity is None:
        dimensions["advertiser_id"] = account.external_id
    else:
        dimensions[f"{_NAMES[level]}_id"] = entity.external_id
    if time is not None:
        dimensions[time] = f"{date.fromordinal(day).isoformat()} {max(hour, 0):02}:00:00"
    silent = "tiktok_dash_metrics" in call.troubles or (entity is not None and not entity.tells_conversions)
    labels = _labels(account, level, group)
    if "tiktok_no_parents" in call.troubles:
        labels |= {name: "-" for name in ("campaign_id", "adgroup_id") if name in labels}
    values = {}
    for name in metrics:
        if name in labels:
            values[name] = labels[name]
        else:
            values[name] = "-" if silent and name in _CONVERSION_METRICS else _METRICS[name](*numbers)
    return {"dimensions": dimensions, "metrics": values}


def _rough(account: AdAccount, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is told where several advertisers are asked for at once: of amounts only the whole units."""
    whole = {name: row["metrics"][name].partition(".")[0] for name in _AMOUNTS if name in row["metrics"]}
    told = {"currency": account.currency, "timezone": account.timezone}
    return {**row, "metrics": {**row["metrics"], **whole, **told}}


def _money_ratio(numerator: int, denominator: int, scale: int = 1) -> str:
    """A ratio with two decimals, 0.00 where it has none, as the platform does."""
    value = ratio(numerator, denominator, scale=scale)
    return "0.00" if value is None else f"{(value + 5000) // 10_000 / 100:.2f}"


_METRICS: Final[dict[str, Callable[[int, int, int, int, int], str]]] = {
    "spend": lambda i, c, s, n, v: money_decimal(s),
    "billed_cost": lambda i, c, s, n, v: money_decimal(s),
    "impressions": lambda i, c, s, n, v: str(i),
    "clicks": lambda i, c, s, n, v: str(c),
    "ctr": lambda i, c, s, n, v: _money_ratio(c, i, 100),
    "cpc": lambda i, c, s, n, v: _money_ratio(s, c * 1_000_000),
    "cpm": lambda i, c, s, n, v: _money_ratio(s, i * 1000),
    "reach": lambda i, c, s, n, v: str(i * 3 // 4),
    "conversion": lambda i, c, s, n, v: _count(n),
    "result": lambda i, c, s, n, v: _count(n),
    "cost_per_conversion": lambda i, c, s, n, v: _money_ratio(s, n),
    "real_time_conversion": lambda i, c, s, n, v: _count(n),
    "complete_payment": lambda i, c, s, n, v: _count(n),
    "total_complete_payment_rate": lambda i, c, s, n, v: money_decimal(v),
    "value_per_complete_payment": lambda i, c, s, n, v: _money_ratio(v, n),
    "complete_payment_roas": lambda i, c, s, n, v: _money_ratio(v, s),
}
"""Metrics by impressions, clicks, spend, conversions and value (the latter three in micros). Despite its name,
``total_complete_payment_rate`` is the value of the purchases."""

_CONVERSION_METRICS: Final = frozenset(name for name in _METRICS if "conversion" in name or "payment" in name)


_AMOUNTS: Final = frozenset({"spend", "billed_cost", "total_complete_payment_rate"})


def _count(micros: int) -> str:
    return str(micros // 1_000_000) if micros % 1_000_000 == 0 else money_decimal(micros)


_LABELS: Final = {
    level: ("advertiser_name", "currency", *(f"{name}_{part}" for name in names for part in ("name", "id")))
    for level, names in {
        None: (),
        Level.CAMPAIGN: ("campaign",),
        Level.AD_SET: ("campaign", "adgroup"),
        Level.AD: ("campaign", "adgroup", "ad"),
    }.items()
}
"""What may be asked for as a metric at each level, also of an account that has nothing yet."""


def _labels(account: AdAccount, level: Level | None, group: int) -> dict[str, str]:
    """Attributes that may be asked for as metrics: names and ids of the entity and those above it."""
    labels = {"advertiser_name": account.name, "currency": account.currency}
    if level is None:
        return labels
    entity: Entity | None = account.entities(level)[group]
    while entity is not None:
        name = _NAMES[entity.level]
        labels |= {f"{name}_name": entity.name, f"{name}_id": entity.external_id}
        entity = account.by_id[entity.parent] if entity.parent else None
    return labels


def _time_dimension(dimensions: Any, level: Level | None) -> str | None:
    """The time dimension; the id dimension must be the level's own."""
    wanted = "advertiser_id" if level is None else f"{_NAMES[level]}_id"
    times = [name for name in dimensions if name in ("stat_time_hour", "stat_time_day")]
    if wanted not in dimensions or len(times) > 1 or set(dimensions) - {wanted, *times}:
        raise TikTokError(40002, f"dimensions: must be {wanted} and at most one time dimension.")
    return times[0] if times else None


def _range(query: Mapping[str, str], time: str | None) -> tuple[date, date]:
    try:
        since, until = date.fromisoformat(query["start_date"]), date.fromisoformat(query["end_date"])
    except (KeyError, ValueError):
        raise TikTokError(40002, "start_date, end_date: must be YYYY-MM-DD.") from None
    most = _MOST_DAYS[time]
    if until < since or until - since >= timedelta(days=most):
        raise TikTokError(40002, f"The time range must be 1 to {most} days for this time dimension.")
    return since, until


def _shown(filtering: Mapping[str, Any]) -> Callable[[bool], bool]:
    """Which entities a listing shows, by whether they are deleted."""
    match filtering.get("primary_status", "STATUS_NOT_DELETE"):
        case "STATUS_ALL":
            return lambda gone: True
        case "STATUS_DELETE":
            return lambda gone: gone
        case "STATUS_NOT_DELETE":
            return lambda gone: not gone
    raise TikTokError(40002, "filtering.primary_status: unknown value.")


def _shown_rows(filtering: Sequence[Mapping[str, Any]], name: str) -> Callable[[bool], bool]:
    """The same for reports, where the filter must have the level's own name, or it does nothing."""
    for condition in filtering:
        if condition.get("field_name") == name:
            value = condition.get("filter_value", "[]")
            values = orjson.loads(value) if isinstance(value, str) and value.startswith("[") else [value]
            return _shown({"primary_status": values[0] if values else "STATUS_NOT_DELETE"})
    return _shown({})


def _wanted_ids(filtering: Sequence[Mapping[str, Any]]) -> list[tuple[Level, set[str]]]:
    """The campaign, ad group or ad ids that the filters name."""
    found = []
    for condition in filtering:
        for above, name in _NAMES.items():
            if condition.get("field_name") == f"{name}_ids":
                wanted = {str(item) for item in _json(condition, "filter_value", [])}
                if len(wanted) > 100:
                    raise TikTokError(40011, f"{name}_ids: at most 100 items.")
                found.append((above, wanted))
    return found


def _ancestor(account: AdAccount, entity: Entity, level: Level) -> str | None:
    current: Entity | None = entity
    while current is not None and current.level is not level:
        current = account.by_id[current.parent] if current.parent else None
    return None if current is None else current.external_id


def _gone(account: AdAccount, entity: Entity) -> bool:
    """Whether an entity, or one above it, is deleted."""
    if entity.status in (Status.DELETED, Status.ARCHIVED):
        return True
    return entity.parent is not None and _gone(account, account.by_id[entity.parent])


def _page(
    call: Call, query: Mapping[str, str], found: Sequence[Any] | Facts, render: Callable[[Any], list[dict[str, Any]]]
) -> dict[str, Any]:
    try:
        page, size = int(query.get("page", 1)), int(query.get("page_size", 10))
    except ValueError:
        raise TikTokError(40002, "page, page_size: Not a valid integer.") from None
    if page < 1 or not 1 <= size <= 1000:
        raise TikTokError(40002, "page_size: must be 1 to 1000.")
    span = slice(call.first_of_page((page - 1) * size), page * size)
    rows = render(found.take(span) if isinstance(found, Facts) else found[span])
    if "tiktok_cut_listing" in call.troubles:
        rows = rows[:-1]
    info = {"page": page, "page_size": size, "total_number": len(found), "total_page": ceil(len(found) / size)}
    if "tiktok_truncated_page_info" in call.troubles:
        info = {"page": page, "page_size": size}
    return {"list": rows, "page_info": info}


def _info(account: AdAccount, call: Call) -> dict[str, Any]:
    hours = call.now.astimezone(ZoneInfo(account.timezone)).replace(tzinfo=UTC) - call.now.astimezone(UTC)
    offset = round(hours.total_seconds() / 3600)
    return {
        "advertiser_id": account.external_id,
        "name": account.name,
        "currency": account.currency,
        # POSIX sign: west of Greenwich is positive, and no daylight saving.
        "timezone": f"Etc/GMT{-offset:+d}" if offset else "Etc/GMT",
        "display_timezone": account.timezone,
        "status": "STATUS_ENABLE",
        "country": "US",
        "balance": 0.0,
        "create_time": 1_700_000_000,
    }


def _entity(account: AdAccount, entity: Entity, budget_mode: str) -> dict[str, Any]:
    name, stamp = _NAMES[entity.level], entity.created.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    out: dict[str, Any] = {
        "advertiser_id": account.external_id,
        f"{name}_id": entity.external_id,
        f"{name}_name": entity.name,
        "operation_status": "ENABLE" if entity.status is Status.ACTIVE else "DISABLE",
        "secondary_status": _secondary(account, entity),
        "create_time": stamp,
        "modify_time": stamp,
    }
    if entity.level is Level.AD:
        out["adgroup_id"] = entity.parent
    if entity.level is not Level.CAMPAIGN:
        out["campaign_id"] = account.campaign_of(entity).external_id
    else:
        out["objective_type"] = entity.channel
    if entity.level is not Level.AD:
        budget = entity.daily_budget_micros
        out["budget"] = 0.0 if budget is None else budget / 1_000_000
        out["budget_mode"] = "BUDGET_MODE_INFINITE" if budget is None else budget_mode
    return out


def _secondary(account: AdAccount, entity: Entity) -> str:
    """The status in the level's own words, a parent's before its own."""
    prefix = _NAMES[entity.level].upper()
    if _gone(account, entity):
        return f"{prefix}_STATUS_DELETE"
    above = account.by_id[entity.parent] if entity.parent else None
    while above is not None:
        if above.status is not Status.ACTIVE:
            return f"{prefix}_STATUS_{_NAMES[above.level].upper()}_DISABLE"
        above = account.by_id[above.parent] if above.parent else None
    if entity.status is Status.ACTIVE and entity.level is not Level.CAMPAIGN:
        return f"{prefix}_STATUS_DELIVERY_OK"
    return f"{prefix}_STATUS_{_STATUS[entity.status]}"


def _split(path: str) -> tuple[str, str]:
    version, _, rest = path.removeprefix("/open_api/").partition("/")
    return version, rest


def _json(query: Mapping[str, str], name: str, default: Any) -> Any:
    """A JSON value in the query, of the default's type."""
    if name not in query:
        return default
    try:
        value = orjson.loads(query[name])
    except orjson.JSONDecodeError:
        raise TikTokError(40002, f"{name}: Not valid JSON.") from None
    if default is not None and not isinstance(value, type(default)):
        raise TikTokError(40002, f"{name}: Not a valid {type(default).__name__}.")
    return value


def _pick(whole: dict[str, Any], fields: Any, always: Sequence[str]) -> dict[str, Any]:
    """The fields asked for, beside the ids that always come."""
    if fields is None:
        return whole
    return {name: value for name, value in whole.items() if name in fields or name in always}
