"""The Google Ads API over REST: managers, GAQL by page and by stream, and Google's token endpoint."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from aae.model import Level, Platform
from aae.sandbox.days import told
from aae.sandbox.entities import AdAccount, Entity, Status
from aae.sandbox.gaql import Condition, Query, QueryError, parse
from aae.sandbox.tokens import Grant, Kind
from aae.sandbox.wire import Answer, Call, Purpose, Subject
from aae.sandbox.world import GOOGLE_TOKEN_SECONDS, World

VERSIONS: Final = ("v23", "v24", "v25", "v26")
PAGE_ROWS: Final = 10_000
"""The fixed size of a page of ``search`` and of a batch of ``searchStream``."""

_STREAM_FIELDS: Final = frozenset({"query", "summaryRowSetting"})
"""What ``searchStream`` can be asked; it has no pages."""

_MONTHS_KEPT: Final = 37
_TOKEN_PATHS: Final = ("/token", "/oauth2/v4/token", "/oauth2/token")
_REQUEST_ID: Final = "SandboxRequest01"
_GRACE_SECONDS: Final = 60


class GoogleError(Exception):
    """Leaves the handler as a GoogleAdsFailure: ``key`` and ``value`` are the errorCode."""

    def __init__(self, key: str, value: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.key, self.value, self.status = key, value, status


_GRPC: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def error(
    call: Call, status: int, message: str, *, code: tuple[str, str] | None, details: Mapping[str, Any] | None = None
) -> Answer:
    """An error in Google's shape, in an array if the call was a stream; ``code`` None leaves out the failure."""
    inner: dict[str, Any] = {"code": status, "message": message, "status": _GRPC[status]}
    if code is not None:
        version = call.path.strip("/").split("/")[0]
        version = version if version in VERSIONS else VERSIONS[-1]
        one: dict[str, Any] = {"errorCode": {code[0]: code[1]}, "message": message}
        if details:
            one["details"] = details
        kind = f"type.googleapis.com/google.ads.googleads.{version}.errors.GoogleAdsFailure"
        inner["details"] = [{"@type": kind, "errors": [one], "requestId": _REQUEST_ID}]
    body: Any = {"error": inner}
    return Answer.of([body] if call.path.endswith(":searchStream") else body, status, {"request-id": _REQUEST_ID})


def is_token_call(path: str) -> bool:
    """Whether a path is Google's token endpoint."""
    return path in _TOKEN_PATHS


class GoogleApi:
    """Answers for every Google customer of a world. Only the rotation of refresh tokens, a fault, is remembered."""

    platform = Platform.GOOGLE

    def __init__(self, world: World) -> None:
        self.world = world
        self._rotations: dict[tuple[int, int], tuple[int, int]] = {}

    def subject(self, call: Call) -> Subject:
        """Metrics of the resource ``customer`` are totals; queries without metrics list."""
        if is_token_call(call.path):
            return Subject(Purpose.AUTH)
        match = re.search(r"/customers/(\d+)/", call.path)
        text = str(call.json().get("query", ""))
        if "metrics." not in text:
            return Subject(Purpose.LISTING, match[1] if match else None)
        totals = re.search(r"\bFROM\s+customer\b", text, re.IGNORECASE)
        return Subject(Purpose.TOTALS if totals else Purpose.METRICS, match[1] if match else None)

    def answer(self, call: Call) -> Answer:
        """Any call."""
        if is_token_call(call.path):
            return self._token(call)
        try:
            return self._route(call)
        except QueryError as failure:
            return error(call, 400, str(failure), code=("queryError", failure.code))
        except GoogleError as failure:
            return error(call, failure.status, str(failure), code=(failure.key, failure.value))

    def _route(self, call: Call) -> Answer:
        version, _, rest = call.path.lstrip("/").partition("/")
        if version not in VERSIONS:
            if version[1:].isdigit() and int(version[1:]) < int(VERSIONS[0][1:]):
                message = f"Version {version} is deprecated. Requests to this version will be blocked."
                raise GoogleError("requestError", "UNSUPPORTED_VERSION", message)
            return _not_found()
        if call.method == "GET" and rest == "customers:listAccessibleCustomers":
            grant = self._authorize(call)
            mine = self.world.accounts_of(grant.user, Platform.GOOGLE)
            ids = dict.fromkeys(way for one in mine for way in _ways(one, call) or [one.external_id])
            return _reply({"resourceNames": [f"customers/{customer}" for customer in ids]})
        match = re.fullmatch(r"customers/([^/]+)/googleAds:(search|searchStream)", rest)
        if match is None or call.method != "POST":
            return _not_found()
        grant = self._authorize(call)
        target = self._target(call, match[1], grant)
        return self._search(call, target) if match[2] == "search" else self._stream(call, target)

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _token(self, call: Call) -> Answer:
        """Google's token endpoint; the refresh token stays the same, unless the fault makes it rotate."""
        form = dict(parse_qsl(call.body.decode(errors="replace"), keep_blank_values=True))
        app = self.world.app
        if call.method != "POST":
            return _oauth_error(405, "invalid_request", "Only POST is allowed.")
        if (form.get("client_id"), form.get("client_secret")) != (app.google_client_id, app.google_client_secret):
            return _oauth_error(401, "invalid_client", "The OAuth client was not found.")
        if form.get("grant_type") != "refresh_token":
            return _oauth_error(400, "unsupported_grant_type", "Invalid grant_type.")
        grant = self.world.mint.read(form.get("refresh_token", ""))
        if grant is None or grant.kind is not Kind.GOOGLE_REFRESH:
            return _oauth_error(400, "invalid_grant", "Bad Request")
        refresh = self._after(grant, call)
        if self.world.is_revoked(grant, Platform.GOOGLE) or refresh is None:
            return _oauth_error(400, "invalid_grant", "Token has been expired or revoked.")
        now = int(call.now.timestamp())
        fresh = Grant(Kind.GOOGLE_ACCESS, grant.user, now + GOOGLE_TOKEN_SECONDS, grant.generation, now)
        return Answer.of(
            {
                "access_token": self.world.mint.issue(fresh),
                "expires_in": GOOGLE_TOKEN_SECONDS,
                "scope": "https://www.googleapis.com/auth/adwords",
                "token_type": "Bearer",
                **refresh,
            }
        )

    def _after(self, grant: Grant, call: Call) -> dict[str, str] | None:
        """What follows this refresh token in the answer; None if another one followed it too long ago."""
        if "google_rotates" not in call.troubles:
            return {}
        whose, now = (grant.user, grant.generation), int(call.now.timestamp())
        newest, since = self._rotations.get(whose, (grant.serial, now))
        grace = call.troubles["google_rotates"]
        late = now - since > (_GRACE_SECONDS if grace is None else grace)
        if grant.serial != newest and (grant.serial != newest - 1 or late):
            return None
        self._rotations[whose] = (newest + 1, now)
        return {"refresh_token": self.world.mint.issue(replace(grant, serial=newest + 1))}

    def _authorize(self, call: Call) -> Grant:
        developer = call.headers.get("developer-token")
        if not developer:
            raise GoogleError("requestError", "DEVELOPER_TOKEN_PARAMETER_MISSING", "The developer token is missing.")
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            message = "Request is missing required authentication credential."
            raise GoogleError("authenticationError", "OAUTH_TOKEN_HEADER_INVALID", message, 401)
        grant = self.world.mint.read(token)
        if grant is None or grant.kind is not Kind.GOOGLE_ACCESS:
            raise GoogleError("authenticationError", "OAUTH_TOKEN_INVALID", "The OAuth token is invalid.", 401)
        if call.now.timestamp() >= grant.expires:
            raise GoogleError("authenticationError", "OAUTH_TOKEN_EXPIRED", "OAuth token has expired.", 401)
        if self.world.is_revoked(grant, Platform.GOOGLE):
            raise GoogleError("authenticationError", "OAUTH_TOKEN_REVOKED", "OAuth token has been revoked.", 401)
        if developer != self.world.app.google_developer_token:
            message = "The developer token is not valid."
            raise GoogleError("authenticationError", "DEVELOPER_TOKEN_INVALID", message, 401)
        return grant

    def _target(self, call: Call, customer: str, grant: Grant) -> AdAccount | _Manager:
        """The customer asked about, if the token reaches it the way the headers say."""
        login = call.headers.get("login-customer-id")
        if not customer.isdigit() or (login is not None and not login.isdigit()):
            raise GoogleError("requestError", "INVALID_CUSTOMER_ID", f"Invalid customer ID '{customer}'.")
        mine = self.world.accounts_of(grant.user, Platform.GOOGLE)
        clients = [account for account in mine if customer in _ways(account, call)]
        if clients and login in (None, customer):
            return _Manager(customer, clients)
        account = next((one for one in mine if one.external_id == customer), None)
        through = account is not None and login in (_ways(account, call) or {None, customer})
        if account is None or not through:
            message = (
                "User doesn't have permission to access customer. Note: If you're accessing a client customer, the "
                "manager's customer id must be set in the 'login-customer-id' header."
            )
            raise GoogleError("authorizationError", "USER_PERMISSION_DENIED", message, 403)
        if not account.enabled:
            message = "The customer account can't be accessed because it is not yet enabled or has been deactivated."
            raise GoogleError("authorizationError", "CUSTOMER_NOT_ENABLED", message, 403)
        return account

    # -- queries ----------------------------------------------------------------------------------------------------

    def _search(self, call: Call, target: AdAccount | _Manager) -> Answer:
        body = call.json()
        if "pageSize" in body or "page_size" in body:
            message = "Setting the page size is not supported. Search Responses will have fixed page size of 10,000."
            raise GoogleError("requestError", "PAGE_SIZE_NOT_SUPPORTED", message)
        query = parse(str(body.get("query", "")))
        rows = _rows(query, target, call)
        start = _page_start(body.get("pageToken"))
        page = rows[call.first_of_page(start) : start + PAGE_ROWS]
        reply = _batch(query, page)
        if start + PAGE_ROWS < len(rows):
            reply["nextPageToken"] = base64.urlsafe_b64encode(f"p{start + PAGE_ROWS}".encode()).decode()
        settings = body.get("searchSettings") or {}
        if settings.get("returnTotalResultsCount"):
            reply["totalResultsCount"] = str(len(rows))
        if settings.get("omitResults"):
            reply.pop("results", None)
        return _reply(reply)

    def _stream(self, call: Call, target: AdAccount | _Manager) -> Answer:
        body = call.json()
        unknown = [name for name in body if name not in _STREAM_FIELDS]
        if unknown:
            # No failure of the Ads API: it is not even asked.
            message = f'Invalid JSON payload received. Unknown name "{unknown[0]}": Cannot find field.'
            return error(call, 400, message, code=None)
        query = parse(str(body.get("query", "")))
        rows = _rows(query, target, call)
        if not rows and "google_no_batches" in call.troubles:
            return _reply([])
        broken = "google_stream_error" in call.troubles
        rows = rows[: len(rows) // 2] if broken else rows
        starts = range(0, max(len(rows), 1), PAGE_ROWS)
        parts = [rows[call.first_of_page(at) : at + PAGE_ROWS] for at in starts]
        batches = [_batch(query, part) | {"requestId": _REQUEST_ID} for part in parts]
        if "google_cut_stream" in call.troubles and len(rows) > (call.troubles["google_cut_stream"] or 0):
            whole = _reply(batches)
            return replace(whole, body=whole.body[: len(whole.body) // 2])
        if broken:
            end = error(call, 500, "Internal error encountered.", code=("internalError", "INTERNAL_ERROR"))
            batches += orjson.loads(end.body)
        return _reply(batches)


def _ways(account: AdAccount, call: Call) -> list[str]:
    """The managers through which there is access to an account."""
    if account.manager is None:
        return []
    second = [f"5{account.manager[1:]}"] if "google_two_managers" in call.troubles else []
    return [account.manager, *second]


@dataclass(frozen=True, slots=True)
class _Manager:
    """A manager customer and its clients."""

    external_id: str
    clients: Sequence[AdAccount]


@dataclass(slots=True)
class _Source:
    """One row before its fields are read: the account, an entity or a client, and the numbers."""

    account: AdAccount | _Manager
    entity: Entity | None = None
    day: int = 0
    hour: int = -1
    numbers: tuple[int, ...] = (0, 0, 0, 0, 0)
    level: int = 0

    @property
    def customer(self) -> str:
        return self.account.external_id

    def above(self, level: Level) -> Entity:
        """The entity of a level at or above this row's own."""
        entity = self.entity
        if entity is None or isinstance(self.account, _Manager):
            raise LookupError("this row is of no entity")
        while entity.level is not level and entity.parent is not None:
            entity = self.account.by_id[entity.parent]
        return entity


Read = Callable[[_Source], Any]

_GOOGLE_STATUS: Final = {
    Status.ACTIVE: "ENABLED",
    Status.PAUSED: "PAUSED",
    Status.DELETED: "REMOVED",
    Status.ARCHIVED: "REMOVED",
}


def _entity_fields(prefix: str, level: Level) -> dict[str, Read]:
    return {
        f"{prefix}.id": lambda row: int(row.above(level).external_id),
        f"{prefix}.name": lambda row: row.above(level).name,
    }


def _status(level: Level) -> Read:
    return lambda row: _GOOGLE_STATUS[row.above(level).status]


def _resource(kind: str, level: Level) -> Read:
    return lambda row: f"customers/{row.customer}/{kind}/{row.above(level).external_id}"


def _budget(row: _Source) -> int:
    return row.above(Level.CAMPAIGN).daily_budget_micros or 0


_CUSTOMER: Final[dict[str, Read]] = {
    "customer.id": lambda row: int(row.customer),
    "customer.resource_name": lambda row: f"customers/{row.customer}",
    "customer.descriptive_name": lambda row: _name(row.account),
    "customer.currency_code": lambda row: _plain(row.account).currency,
    "customer.time_zone": lambda row: _plain(row.account).timezone,
    "customer.manager": lambda row: isinstance(row.account, _Manager),
    "customer.test_account": lambda row: False,
    "customer.status": lambda row: "ENABLED",
}
_CLIENT: Final[dict[str, Read]] = {
    "customer_client.id": lambda row: int(row.customer),
    "customer_client.resource_name": lambda row: f"customers/{row.customer}/customerClients/{row.customer}",
    "customer_client.client_customer": lambda row: f"customers/{row.customer}",
    "customer_client.descriptive_name": lambda row: _name(row.account),
    "customer_client.currency_code": lambda row: _plain(row.account).currency,
    "customer_client.time_zone": lambda row: _plain(row.account).timezone,
    "customer_client.manager": lambda row: isinstance(row.account, _Manager),
    "customer_client.status": lambda row: "ENABLED" if _plain(row.account).enabled or row.level == 0 else "CANCELED",
    "customer_client.level": lambda row: row.level,
    "customer_client.test_account": lambda row: False,
    "customer_client.hidden": lambda row: False,
}
_CAMPAIGN: Final[dict[str, Read]] = {
    **_entity_fields("campaign", Level.CAMPAIGN),
    "campaign.resource_name": _resource("campaigns", Level.CAMPAIGN),
    "campaign.status": _status(Level.CAMPAIGN),
    "campaign.serving_status": lambda row: "SERVING",
    "campaign.advertising_channel_type": lambda row: row.above(Level.CAMPAIGN).channel,
    "campaign_budget.id": lambda row: int(row.above(Level.CAMPAIGN).external_id) + 1_000_000,
    "campaign_budget.resource_name": lambda row: (
        f"customers/{row.customer}/campaignBudgets/{int(row.above(Level.CAMPAIGN).external_id) + 1_000_000}"
    ),
    "campaign_budget.amount_micros": _budget,
    "campaign_budget.period": lambda row: "DAILY",
    "campaign_budget.explicitly_shared": lambda row: False,
}
_AD_GROUP: Final[dict[str, Read]] = {
    **_entity_fields("ad_group", Level.AD_SET),
    "ad_group.resource_name": _resource("adGroups", Level.AD_SET),
    "ad_group.status": _status(Level.AD_SET),
    "ad_group.type": lambda row: "SEARCH_STANDARD",
    "ad_group.campaign": _resource("campaigns", Level.CAMPAIGN),
}
_AD: Final[dict[str, Read]] = {
    **_entity_fields("ad_group_ad.ad", Level.AD),
    "ad_group_ad.resource_name": lambda row: (
        f"customers/{row.customer}/adGroupAds/{row.above(Level.AD_SET).external_id}~{row.above(Level.AD).external_id}"
    ),
    "ad_group_ad.ad.resource_name": _resource("ads", Level.AD),
    "ad_group_ad.ad.type": lambda row: "RESPONSIVE_SEARCH_AD",
    "ad_group_ad.status": _status(Level.AD),
    "ad_group_ad.ad_group": _resource("adGroups", Level.AD_SET),
}
_METRICS: Final[dict[str, Read]] = {
    "metrics.impressions": lambda row: row.numbers[0],
    "metrics.clicks": lambda row: row.numbers[1],
    "metrics.interactions": lambda row: row.numbers[1],
    "metrics.cost_micros": lambda row: row.numbers[2],
    "metrics.conversions": lambda row: row.numbers[3] / 1_000_000,
    "metrics.conversions_value": lambda row: row.numbers[4] / 1_000_000,
    "metrics.all_conversions": lambda row: row.numbers[3] / 1_000_000,
    "metrics.all_conversions_value": lambda row: row.numbers[4] / 1_000_000,
    "metrics.ctr": lambda row: row.numbers[1] / row.numbers[0] if row.numbers[0] else 0.0,
    "metrics.average_cpc": lambda row: row.numbers[2] / row.numbers[1] if row.numbers[1] else 0.0,
    "metrics.average_cpm": lambda row: 1000 * row.numbers[2] / row.numbers[0] if row.numbers[0] else 0.0,
}
_SEGMENTS: Final[dict[str, Read]] = {
    "segments.date": lambda row: date.fromordinal(row.day).isoformat(),
    "segments.hour": lambda row: row.hour,
}
_INT64: Final = frozenset(
    {
        *(f"metrics.{name}" for name in ("impressions", "clicks", "interactions", "cost_micros")),
        *("customer.id", "customer_client.id", "customer_client.level", "campaign.id", "campaign_budget.id"),
        *("campaign_budget.amount_micros", "ad_group.id", "ad_group_ad.ad.id"),
    }
)
"""int64 fields, which are strings in JSON."""

_RESOURCES: Final[dict[str, tuple[Level | None, dict[str, Read]]]] = {
    "customer": (None, {**_CUSTOMER, **_METRICS, **_SEGMENTS}),
    "customer_client": (None, {**_CLIENT, **_CUSTOMER}),
    "campaign": (Level.CAMPAIGN, {**_CAMPAIGN, **_CUSTOMER, **_METRICS, **_SEGMENTS}),
    "ad_group": (Level.AD_SET, {**_AD_GROUP, **_CAMPAIGN, **_CUSTOMER, **_METRICS, **_SEGMENTS}),
    "ad_group_ad": (Level.AD, {**_AD, **_AD_GROUP, **_CAMPAIGN, **_CUSTOMER, **_METRICS, **_SEGMENTS}),
}


def _plain(account: AdAccount | _Manager) -> AdAccount:
    """The account, or for a manager one of its clients, whose currency and time zone it shares."""
    return account.clients[0] if isinstance(account, _Manager) else account


def _name(account: AdAccount | _Manager) -> str:
    return f"Manager {account.external_id}" if isinstance(account, _Manager) else account.name


def _rows(query: Query, target: AdAccount | _Manager, call: Call) -> list[_Source]:
    """The rows of a query, filtered, sorted and cut."""
    if query.resource not in _RESOURCES:
        raise QueryError("BAD_RESOURCE_TYPE_IN_FROM_CLAUSE", f"Unknown resource '{query.resource}'.")
    level, fields = _RESOURCES[query.resource]
    for name in query.used:
        if name not in fields:
            raise QueryError("UNRECOGNIZED_FIELD", f"Unrecognized field in the query: '{name}'.")
    for name, _ in query.order:
        if name not in query.fields and not name.startswith(query.resource):
            raise QueryError("EXPECTED_REFERENCED_FIELD_IN_SELECT_CLAUSE", f"'{name}' must be in the SELECT clause.")
    conditions = [one for one in query.conditions if one.field != "segments.date"]  # those chose the days already
    rows = [row for row in _source(query, target, call, level) if _meets(row, conditions, fields)]
    for name, descending in reversed(query.order):
        rows.sort(key=fields[name], reverse=descending)
    return rows[: query.limit]


def _meets(row: _Source, conditions: Sequence[Condition], fields: Mapping[str, Read]) -> bool:
    return all(condition.holds(fields[condition.field](row)) for condition in conditions)


def _source(query: Query, target: AdAccount | _Manager, call: Call, level: Level | None) -> list[_Source]:
    measured = any(name.startswith("metrics.") for name in query.used)
    segmented = any(name.startswith("segments.") for name in query.fields)
    if query.resource == "customer_client":
        clients = target.clients if isinstance(target, _Manager) else []
        return [_Source(target), *(_Source(client, level=1) for client in clients)]
    if isinstance(target, _Manager):
        if measured:
            message = "Metrics cannot be requested for a manager account."
            raise QueryError("REQUESTED_METRICS_FOR_MANAGER", message)
        return [_Source(target)] if query.resource == "customer" else []
    whole = [_Source(target)] if level is None else [_Source(target, entity) for entity in target.entities(level)]
    if not measured and not segmented:
        return whole
    with_numbers = _measured(query, target, call, level)
    if segmented:
        return with_numbers
    found = {row.entity.external_id if row.entity else "": row for row in with_numbers}
    return [found.get(row.entity.external_id if row.entity else "", row) for row in whole]


def _measured(query: Query, target: AdAccount, call: Call, level: Level | None) -> list[_Source]:
    """Rows with numbers; days and hours that no field asks for are added up."""
    today = call.now.astimezone(ZoneInfo(target.timezone)).date()
    span = query.dates(today)
    if span is None:
        if any(name.startswith("segments.") for name in query.fields):
            raise QueryError("EXPECTED_FILTERS_ON_DATE_RANGE", "Core date segments need a finite date range.")
        span = date.fromordinal(int(target.ledger.day[0])), today
    elif (today.year - span[0].year) * 12 + today.month - span[0].month > _MONTHS_KEPT:
        message = "Data by day is kept for 37 months."
        raise GoogleError("dateRangeError", "REQUESTED_DATE_GRANULARITY_NOT_SUPPORTED", message)
    if span[1] < span[0]:
        raise GoogleError("dateRangeError", "START_DATE_AFTER_END_DATE", "The start date is after the end date.")
    facts = told(target, level, *span, call, hourly="segments.hour" in query.used)
    keep = [all(one.holds(str(date.fromordinal(day))) for one in query.on_dates) for day in facts.day.tolist()]
    facts = facts.take(np.array(keep, np.bool_))
    if "segments.date" not in query.fields:
        facts = facts.merged(np.zeros(len(facts), np.int64))
    entities = () if level is None else target.entities(level)
    return [_Source(target, entities[row[0]] if entities else None, row[1], row[2], row[3:]) for row in facts.rows()]


# -- JSON -----------------------------------------------------------------------------------------------------------


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _path(field: str) -> tuple[str, ...]:
    return tuple(_camel(part) for part in field.split("."))


def _batch(query: Query, rows: Sequence[_Source]) -> dict[str, Any]:
    """Rows as JSON; ``results`` is missing where there are none."""
    fields = _RESOURCES[query.resource][1]
    names = list(query.fields)
    for name in query.fields:
        # The name of each selected resource comes along unasked.
        owner = name.rpartition(".")[0] + ".resource_name"
        if owner in fields and owner not in names:
            names.append(owner)
    main = f"{query.resource}.resource_name"
    if main in fields and main not in names:
        names.append(main)
    plan = [(_path(name), fields[name], name in _INT64) for name in names]
    batch: dict[str, Any] = {}
    if rows:
        batch["results"] = [_row(row, plan) for row in rows]
    batch["fieldMask"] = ",".join(".".join(_path(name)) for name in query.fields)
    batch["queryResourceConsumption"] = str(len(rows) + 100)
    return batch


def _row(row: _Source, plan: Sequence[tuple[tuple[str, ...], Read, bool]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, read, as_text in plan:
        place = out
        for part in path[:-1]:
            place = place.setdefault(part, {})
        value = read(row)
        place[path[-1]] = str(value) if as_text else value
    return out


def _page_start(token: Any) -> int:
    if not token:
        return 0
    try:
        text = base64.urlsafe_b64decode(str(token)).decode()
        if text.startswith("p"):
            return int(text[1:])
    except ValueError:
        pass
    raise GoogleError("requestError", "INVALID_PAGE_TOKEN", "Page token is invalid.")


def _reply(value: Any) -> Answer:
    return Answer(orjson.dumps(value), headers={"request-id": _REQUEST_ID})


def _oauth_error(status: int, code: str, description: str) -> Answer:
    return Answer.of({"error": code, "error_description": description}, status)


def _not_found() -> Answer:
    page = b"<!DOCTYPE html><html><title>Error 404 (Not Found)!!1</title><p>The requested URL was not found.</html>"
    return Answer(page, 404, media_type="text/html")
