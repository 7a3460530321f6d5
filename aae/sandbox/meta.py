"""The Meta Marketing API: Graph paths, cursors, insights with their overlapping actions, report runs, batches."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo

import orjson

from aae.model import Level, Platform
from aae.sandbox.entities import GONE, WHOLE_UNITS, AdAccount, Entity
from aae.sandbox.graph import GraphError, as_json, as_list, asked_fields, cursor, offset
from aae.sandbox.insights import InsightsQuery
from aae.sandbox.ledger import Facts
from aae.sandbox.tokens import Grant, Kind
from aae.sandbox.wire import Answer, Call, Purpose, Subject
from aae.sandbox.world import META_TOKEN_SECONDS, World

VERSIONS: Final = ("v25.0", "v26.0")
"""Versions whose Marketing endpoints still answer; older ones fail with 2635."""

_VERSION_AFTER: Final = "v27.0"
"""What serves a version of the Graph API that is over."""

_EDGES: Final = {"campaigns": Level.CAMPAIGN, "adsets": Level.AD_SET, "ads": Level.AD}


_DONE: Final = ("Job Completed", 100)
_USUALLY: Final = (("Job Running", 40), _DONE)
_SLOWLY: Final = {1: ("Job Not Started", 0), 2: ("Job Started", 0), 3: ("Job Running", 60), 4: ("Job Completed", 99)}
"""What a report run says at each look: usually, and under ``meta_job_slow``."""

Pageable = Sequence[Any] | Facts


@dataclass(slots=True)
class _Run:
    """An asynchronous report run: whose, what, and how often it was asked for."""

    user: int
    account: AdAccount
    params: dict[str, str]
    started: datetime
    polls: int = 0


class MetaApi:
    """Answers for every Meta account of a world. Report runs live in memory; all else follows from the world."""

    platform = Platform.META

    def __init__(self, world: World) -> None:
        self.world = world
        self._runs: dict[str, _Run] = {}
        self._calls = 0

    # -- what the call is about -------------------------------------------------------------------------------------

    def subject(self, call: Call) -> Subject:
        """Insights at account level are totals; a report run is polled; the rest lists."""
        parts = _split(call.path)[1]
        params = call.form()
        account = next((part.removeprefix("act_") for part in parts if part.startswith("act_")), None)
        if parts[:1] in (["oauth"], ["debug_token"]):
            return Subject(Purpose.AUTH)
        if account is None and parts and parts[0] in self._runs:
            account = self._runs[parts[0]].account.external_id
        if parts[-1:] == ["insights"]:
            level = params.get("level", "account")
            return Subject(
                Purpose.TOTALS if level == "account" and parts[0][:4] == "act_" else Purpose.METRICS, account
            )
        return Subject(Purpose.POLL if parts and parts[0] in self._runs else Purpose.LISTING, account)

    # -- routes -----------------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> Answer:
        """Any Graph call; a trailing slash is tolerated."""
        try:
            version, parts = _split(call.path)
            self._check_version(version)
            if not parts and call.method == "POST":
                return self._batch(call, version)
            answer = self._route(call, parts, call.form() if call.method == "POST" else dict(call.query))
        except GraphError as failure:
            answer = failure.answer
            version = _split(call.path)[0]
        served = _VERSION_AFTER if "meta_other_version" in call.troubles else version
        return replace(answer, headers={"facebook-api-version": served, **answer.headers})

    def _route(self, call: Call, parts: list[str], params: dict[str, str]) -> Answer:
        public = {("oauth", "access_token"): self._exchange, ("debug_token",): self._debug}
        if tuple(parts) in public:
            return public[tuple(parts)](call, params)
        grant = self._authorize(call, params)
        if len(parts) == 1:
            return self._node(call, params, grant, parts[0])
        if len(parts) == 2:
            return self._edge(call, params, grant, *parts)
        raise GraphError(2500, f"Unknown path components: /{'/'.join(parts[2:])}")

    def _node(self, call: Call, params: dict[str, str], grant: Grant, node: str) -> Answer:
        """One object by its id."""
        if node == "me":
            return Answer.of({"id": _user_id(grant), "name": self.world.users[grant.user].name})
        if node in self._runs:
            return self._poll(call, node, grant)
        if node.startswith("act_"):
            return Answer.of(_account(call, self._account(node, grant), asked_fields(params) or ["id", "account_id"]))
        account, entity = self._entity(node, grant)
        return Answer.of(_entity(account, entity, asked_fields(params) or ["id"]))

    def _edge(self, call: Call, params: dict[str, str], grant: Grant, node: str, edge: str) -> Answer:
        """What hangs on an object: its accounts, its children, its insights."""
        if (node, edge) == ("me", "adaccounts"):
            accounts = self.world.accounts_of(grant.user, Platform.META)
            fields = asked_fields(params) or ["id", "account_id"]
            return self._page(call, params, [_account(call, account, fields) for account in accounts])
        if edge == "insights":
            answer = self._results if node in self._runs else self._insights
            return answer(call, params, node, grant)
        if edge not in _EDGES:
            raise GraphError(2500, f"Unknown path components: /{edge}")
        if node.startswith("act_"):
            return self._children(call, params, self._account(node, grant), _EDGES[edge], None)
        account, entity = self._entity(node, grant)
        return self._children(call, params, account, _EDGES[edge], entity)

    def _check_version(self, version: str) -> None:
        if version in VERSIONS:
            return
        if re.fullmatch(r"v\d+\.\d+", version) and float(version[1:]) < float(VERSIONS[0][1:]):
            message = f"(#2635) You are calling a deprecated version of the Ads API. Please update to {VERSIONS[-1]}."
            raise GraphError(2635, message)
        raise GraphError(2500, f"Unknown path components: /{version}")

    def _batch(self, call: Call, version: str) -> Answer:
        """Up to 50 calls in one; each is answered as if it had come alone."""
        form = call.form()
        try:
            items = orjson.loads(form.get("batch", ""))
        except orjson.JSONDecodeError:
            raise GraphError(100, "(#100) param batch must be an array") from None
        if not isinstance(items, list) or len(items) > 50:
            raise GraphError(100, "(#100) Too many requests in batch message. Maximum batch size is 50")
        return Answer.of([self._item(call, version, form, item) for item in items])

    def _item(self, call: Call, version: str, form: dict[str, str], item: dict[str, Any]) -> dict[str, Any]:
        target = urlsplit(str(item.get("relative_url", "")))
        path = re.sub(r"^/?(v\d+\.\d+/)?", "", target.path)
        query = dict(parse_qsl(target.query, keep_blank_values=True))
        shared: dict[str, str] = {
            name: value for name, value in form.items() if name in {"access_token", "appsecret_proof"}
        }
        single = replace(
            call,
            method=str(item.get("method", "GET")).upper(),
            path=f"/{version}/{path}",
            query={**shared, **query},
            body=str(item.get("body", "")).encode(),
        )
        answer = self.answer(single)
        headers = [{"name": name, "value": value} for name, value in answer.headers.items()]
        return {"code": answer.status, "headers": headers, "body": answer.body.decode()}

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _authorize(self, call: Call, params: Mapping[str, str]) -> Grant:
        token = _bearer(call) or params.get("access_token", "")
        if not token:
            raise GraphError(104, "An access token is required to request this resource.")
        grant = self._checked(token, call.now)
        proof = params.get("appsecret_proof")
        if proof is not None and not hmac.compare_digest(proof, _proof(self.world.app.meta_app_secret, token)):
            raise GraphError(100, "Invalid appsecret_proof provided in the API argument", kind="GraphMethodException")
        if proof is None and "meta_requires_proof" in call.troubles:
            message = "API calls from the server require an appsecret_proof argument"
            raise GraphError(100, message, kind="GraphMethodException")
        return grant

    def _checked(self, token: str, now: datetime) -> Grant:
        grant = self.world.mint.read(token)
        if grant is None or grant.kind is not Kind.META:
            raise GraphError(190, "Invalid OAuth access token - Cannot parse access token", status=400)
        if self.world.is_revoked(grant, Platform.META):
            message = "Error validating access token: The session was invalidated because the password was changed"
            raise GraphError(190, message, subcode=460)
        if grant.expires and now.timestamp() >= grant.expires:
            raise GraphError(190, "Error validating access token: Session has expired", subcode=463)
        return grant

    def _check_app(self, app_id: str, secret: str) -> None:
        app = self.world.app
        if app_id != app.meta_app_id:
            raise GraphError(101, "Error validating application. Cannot get application info due to a system error.")
        if not hmac.compare_digest(secret.encode(), app.meta_app_secret.encode()):
            raise GraphError(1, "Error validating client secret.")

    def _exchange(self, call: Call, params: Mapping[str, str]) -> Answer:
        """A new token for one that is still valid; the old one lives on until its own end."""
        self._check_app(params.get("client_id", ""), params.get("client_secret", ""))
        if params.get("grant_type") != "fb_exchange_token":
            raise GraphError(1, "Unsupported grant type")
        grant = self._checked(params.get("fb_exchange_token", ""), call.now)
        now, endless = int(call.now.timestamp()), "meta_endless_token" in call.troubles
        fresh = Grant(Kind.META, grant.user, 0 if endless else now + META_TOKEN_SECONDS, grant.generation, now)
        token = {"access_token": self.world.mint.issue(fresh), "token_type": "bearer"}
        return Answer.of(token if endless else token | {"expires_in": META_TOKEN_SECONDS})

    def _debug(self, call: Call, params: Mapping[str, str]) -> Answer:
        app = self.world.app
        caller = _bearer(call) or params.get("access_token", "")
        if caller != f"{app.meta_app_id}|{app.meta_app_secret}":
            self._checked(caller, call.now)
        data: dict[str, Any] = {"app_id": app.meta_app_id, "type": "USER", "application": "Sandbox"}
        grant = self.world.mint.read(params.get("input_token", ""))
        if grant is None:
            failure = {"code": 190, "message": "Invalid OAuth access token"}
            return Answer.of({"data": {**data, "is_valid": False, "error": failure, "scopes": []}})
        accounts = [account.external_id for account in self.world.accounts_of(grant.user, Platform.META)]
        data |= {
            "data_access_expires_at": grant.expires + 30 * 86_400 if grant.expires else 0,
            "expires_at": grant.expires,
            "is_valid": True,
            "issued_at": grant.serial or int(self.world.anchor.timestamp()),
            "scopes": ["ads_read", "business_management"],
            "granular_scopes": [{"scope": "ads_read", "target_ids": accounts}],
            "user_id": _user_id(grant),
        }
        try:
            self._checked(params.get("input_token", ""), call.now)
        except GraphError as failed:
            inner = orjson.loads(failed.answer.body)["error"]
            problem = {"code": inner["code"], "message": inner["message"], "subcode": inner.get("error_subcode", 0)}
            data |= {"is_valid": False, "error": problem}
        return Answer.of({"data": data})

    # -- listing ----------------------------------------------------------------------------------------------------

    def _account(self, node: str, grant: Grant) -> AdAccount:
        account = self.world.account(Platform.META, node.removeprefix("act_"))
        if account is None or account.user != grant.user:
            raise _missing(node)
        return account

    def _entity(self, node: str, grant: Grant) -> tuple[AdAccount, Entity]:
        for account in self.world.accounts_of(grant.user, Platform.META):
            if node in account.by_id:
                return account, account.by_id[node]
        raise _missing(node)

    def _children(
        self, call: Call, params: dict[str, str], account: AdAccount, level: Level, above: Entity | None
    ) -> Answer:
        """Entities of one level; deleted and archived ones only when ``effective_status`` names them."""
        wanted, hidden = _statuses(params), account.campaigns[0] if "unlisted" in call.troubles else None
        found = []
        for entity in account.entities(level):
            status = account.effective_statuses[entity.external_id]
            shown = status in wanted if wanted else status not in GONE
            inside = above is None or entity.parent == above.external_id or account.campaign_of(entity) is above
            if shown and inside and account.campaign_of(entity) is not hidden:
                found.append(entity)
        fields = asked_fields(params) or ["id"]
        return self._page(call, params, [_entity(account, entity, fields) for entity in found], account=account)

    def _page(
        self,
        call: Call,
        params: dict[str, str],
        rows: Pageable,
        *,
        account: AdAccount | None = None,
        render: Callable[[Any], list[Any]] = list,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One page after the cursor; the last one has cursors but no ``next``."""
        try:
            limit = min(int(params.get("limit", 25)), 5000)
            start = offset(params["after"]) if params.get("after") else 0
        except ValueError:
            raise GraphError(100, "(#100) Invalid cursors or limit parameter") from None
        if limit < 1:
            raise GraphError(100, "(#100) param limit must be positive")
        empty = "meta_empty_page" in call.troubles and not params.get("after")
        stop = start if empty else min(start + limit, len(rows))
        span = slice(call.first_of_page(start), stop)
        body: dict[str, Any] = {"data": render(rows.take(span) if isinstance(rows, Facts) else rows[span])}
        if len(rows):
            paging: dict[str, Any] = {"cursors": {"before": cursor(start), "after": cursor(stop)}}
            circle = stop >= len(rows) and "meta_cursor_circle" in call.troubles
            if circle:
                paging["cursors"]["after"] = cursor(0)
            if stop < len(rows) or circle:
                # The token is in it even if it came in the header.
                asked = {"access_token": _bearer(call)} | {
                    name: value for name, value in params.items() if name != "after"
                }
                host = "http://elsewhere.invalid" if "meta_next_elsewhere" in call.troubles else call.base_url
                after = paging["cursors"]["after"]
                paging["next"] = f"{host}{call.path}?{urlencode({**asked, 'after': after})}"
            body["paging"] = paging
        if params.get("summary") == "true":
            body["summary"] = {"total_count": len(rows)}
        return Answer.of(body, headers={**self._usage(call, account), **(headers or {})})

    def _usage(self, call: Call, account: AdAccount | None) -> dict[str, str]:
        """The usage headers; as high as the fault says while there is one."""
        self._calls += 1
        high = "meta_usage_high" in call.troubles
        share = _usage_of(call) or min(70, self._calls // 20)
        usage = {"call_count": share, "total_time": share, "total_cputime": share // 2}
        headers = {"x-app-usage": orjson.dumps(usage).decode()}
        if account is not None:
            regain = {"estimated_time_to_regain_access": 0, "ads_api_access_tier": "standard_access"}
            use_case = {account.external_id: [{"type": "ads_insights", **usage, **regain}]}
            if "meta_usage_elsewhere" in call.troubles:
                used_up = {"call_count": 100, "total_time": 100, "estimated_time_to_regain_access": 60}
                use_case["9" * 15] = [{"type": "ads_insights", **usage, **regain, **used_up}]
            headers["x-business-use-case-usage"] = orjson.dumps(use_case).decode()
            per_account = {"acc_id_util_pct": share, "reset_time_duration": 100 if high else 0}
            headers["x-ad-account-usage"] = orjson.dumps(per_account).decode()
        return headers

    # -- performance ------------------------------------------------------------------------------------------------

    def _insights(self, call: Call, params: dict[str, str], node: str, grant: Grant) -> Answer:
        if node.startswith("act_"):
            account, above = self._account(node, grant), None
            default = "account"
        else:
            account, above = self._entity(node, grant)
            default = {Level.CAMPAIGN: "campaign", Level.AD_SET: "adset", Level.AD: "ad"}[above.level]
        params = {"level": default, **params} if above is None else {"level": default, "_above": node, **params}
        query = InsightsQuery(account, params, call)
        if call.method == "POST":
            run = str(6_000_000 + len(self._runs) + 1)
            self._runs[run] = _Run(grant.user, account, params, call.now)
            return Answer.of({"report_run_id": run}, headers=self._usage(call, account))
        return self._rows(call, params, query)

    def _rows(self, call: Call, params: dict[str, str], query: InsightsQuery) -> Answer:
        rows = query.facts()
        if _too_much(call, "meta_reduce_data", query) or _page_too_large(call, params, rows):
            message = "Please reduce the amount of data you're asking for, then retry your request"
            raise GraphError(1, message, status=500)
        share = float(_usage_of(call) or 1)
        throttle = {"app_id_util_pct": share, "acc_id_util_pct": share, "ads_api_access_tier": "standard_access"}
        headers = {"x-fb-ads-insights-throttle": orjson.dumps(throttle).decode()}
        return self._page(call, params, rows, account=query.account, render=query.render, headers=headers)

    def _poll(self, call: Call, node: str, grant: Grant) -> Answer:
        """Not done at the first look, done at the second."""
        run = self._own_run(call, node, grant)
        run.polls += 1
        query = InsightsQuery(run.account, run.params, call)
        status, percent = _SLOWLY.get(run.polls, _DONE) if "meta_job_slow" in call.troubles else _USUALLY[run.polls > 1]
        if "meta_job_stuck" in call.troubles:
            status, percent = "Job Running", 40
        elif "meta_job_incomplete" in call.troubles:
            status, percent = "Job Completed", 90
        body: dict[str, Any] = {"id": node, "account_id": run.account.external_id}
        if _too_much(call, "meta_job_failed", query):
            status, percent = "Job Failed", 70
            body |= {"error_code": -2, "error_message": "The job failed.", "error_subcode": 2490547}
        elif "meta_job_skipped" in call.troubles:
            status, percent = "Job Skipped", 0
        body |= {
            "time_ref": int(run.started.timestamp()),
            "async_status": status,
            "async_percent_completion": percent,
            "date_start": query.since.isoformat(),
            "date_stop": query.until.isoformat(),
        }
        if status == "Job Completed":
            body["time_completed"] = int(call.now.timestamp())
        return Answer.of(body, headers=self._usage(call, run.account))

    def _results(self, call: Call, params: dict[str, str], node: str, grant: Grant) -> Answer:
        run = self._own_run(call, node, grant)
        if run.polls < 2:
            raise GraphError(2601, "(#2601) Please wait for the report run to finish.", transient=True)
        page: dict[str, str] = {name: value for name, value in params.items() if name in {"limit", "after"}}
        return self._rows(call, page, InsightsQuery(run.account, run.params, call))

    def _own_run(self, call: Call, node: str, grant: Grant) -> _Run:
        run = self._runs[node]
        if run.user != grant.user or "meta_run_not_found" in call.troubles:
            raise _missing(node)
        return run


# -- small parts ----------------------------------------------------------------------------------------------------


def _too_much(call: Call, trouble: str, query: InsightsQuery) -> bool:
    """Whether a trouble that strikes above a number of rows by ad strikes here; without a number always.

    What only asks for ids is not much work.
    """
    if trouble not in call.troubles:
        return False
    most = call.troubles[trouble]
    works = query.level is Level.AD and not all(name.endswith("_id") for name in query.fields)
    return not most or (works and len(query.facts()) > most)


def _page_too_large(call: Call, params: Mapping[str, str], rows: Pageable) -> bool:
    """Whether more rows are asked for at a time than a trouble allows."""
    if "meta_page_too_large" not in call.troubles:
        return False
    return min(int(params.get("limit", 25)), len(rows)) > (call.troubles["meta_page_too_large"] or 100)


def _usage_of(call: Call) -> int:
    """The usage that a fault tells, in percent; 0 without one."""
    return int(call.troubles["meta_usage_high"] or 96) if "meta_usage_high" in call.troubles else 0


def _user_id(grant: Grant) -> str:
    return str(222_000_000 + grant.user)


def _split(path: str) -> tuple[str, list[str]]:
    version, *parts = path.strip("/").split("/")
    return version, parts


def _bearer(call: Call) -> str:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() in {"bearer", "oauth"} else ""


def _proof(secret: str, token: str) -> str:
    return hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()


def _missing(node: str) -> GraphError:
    message = (
        f"Unsupported get request. Object with ID '{node}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation"
    )
    return GraphError(100, message, subcode=33, kind="GraphMethodException")


def _statuses(params: Mapping[str, str]) -> set[str]:
    """The statuses asked for, by ``effective_status`` or by ``filtering``."""
    wanted = set(as_list(params.get("effective_status", "")))
    for condition in as_json(params, "filtering") if params.get("filtering") else []:
        if str(condition.get("field", "")).endswith("effective_status"):
            wanted |= set(condition.get("value", []))
    return wanted


def _minor(micros: int, currency: str) -> str:
    """Budgets travel in the currency's smallest unit, by Meta's own table."""
    return str(micros // 1_000_000 if currency in WHOLE_UNITS else micros // 10_000)


def _account(call: Call, account: AdAccount, fields: Sequence[str]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": f"act_{account.external_id}",
        "account_id": account.external_id,
        "name": account.name,
        "currency": account.currency,
        "timezone_name": "Mars/Olympus_Mons" if "meta_unknown_zone" in call.troubles else account.timezone,
        "timezone_id": 1,
        "account_status": 1,
        "amount_spent": _minor(int(account.ledger.spend_micros.sum()), account.currency),
        "balance": "0",
        "spend_cap": "0",
        "min_daily_budget": 100,
    }
    return _pick(whole, fields, always="id")


def _entity(account: AdAccount, entity: Entity, fields: Sequence[str]) -> dict[str, Any]:
    created = entity.created.astimezone(ZoneInfo(account.timezone)).strftime("%Y-%m-%dT%H:%M:%S%z")
    whole: dict[str, Any] = {
        "id": entity.external_id,
        "account_id": account.external_id,
        "name": entity.name,
        "status": entity.status.upper(),
        "configured_status": entity.status.upper(),
        "effective_status": account.effective_statuses[entity.external_id],
        "created_time": created,
        "updated_time": created,
    }
    if entity.daily_budget_micros is not None:
        budget = _minor(entity.daily_budget_micros, account.currency)
        whole |= {"daily_budget": budget, "budget_remaining": budget}
    if entity.level is Level.CAMPAIGN:
        whole["objective"] = entity.channel
    else:
        whole["campaign_id"] = account.campaign_of(entity).external_id
    if entity.level is Level.AD:
        whole["adset_id"] = entity.parent
    return _pick(whole, fields, always="id")


_KNOWN_FIELDS: Final = frozenset(
    {"id", "account_id", "name", "status", "configured_status", "effective_status", "created_time", "updated_time"}
    | {"daily_budget", "lifetime_budget", "budget_remaining", "objective", "campaign_id", "adset_id", "start_time"}
    | {"currency", "timezone_name", "timezone_id", "timezone_offset_hours_utc", "account_status", "amount_spent"}
    | {"balance", "spend_cap", "min_daily_budget", "stop_time", "buying_type", "bid_strategy", "optimization_goal"}
    | {"special_ad_categories", "creative", "business"}
)
"""Fields that exist. Those without a value in the sandbox are absent, as Meta leaves out what has none."""


def _pick(whole: Mapping[str, Any], fields: Sequence[str], *, always: str) -> dict[str, Any]:
    """The fields asked for; those without a value are absent, those that do not exist are refused."""
    for name in fields:
        if name not in _KNOWN_FIELDS:
            raise GraphError(100, f"(#100) Tried accessing nonexisting field ({name})")
    return {name: whole[name] for name in [*fields, *([] if always in fields else [always])] if name in whole}
