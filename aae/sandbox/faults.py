"""Trouble on demand: every way in which the platforms are known to fail, each under a name.

A :class:`Fault` says which trouble, where (platform, account, path, purpose) and when (the next N calls, after the
first M, with a probability, between two moments, every hour anew). What each one does is in ``CATALOGUE``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import orjson

from aae.errors import UserError
from aae.model import Platform
from aae.sandbox import google, graph, tiktok
from aae.sandbox.wire import Answer, Call, Subject


class Stage(StrEnum):
    """Where a fault takes hold."""

    TRANSPORT = "transport"  # of the connection; the server does it
    ANSWER = "answer"  # instead of the platform's answer
    SHAPE = "shape"  # the platform's handler answers differently
    BODY = "body"  # on the bytes of a good answer


Reply = Callable[[Call, Subject, "Fault"], Answer]
Damage = Callable[[Answer], Answer]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A named trouble. ``platforms`` is where it can happen; ``value`` in words, where it takes one."""

    name: str
    description: str
    stage: Stage
    platforms: tuple[Platform, ...]
    value: str = ""
    reply: Reply | None = None
    damage: Damage | None = None


@dataclass(slots=True)
class Fault:
    """A trouble switched on. None means any; ``path`` is a part of the path.

    It skips the first ``after`` calls that fit, then strikes ``times`` times (None: for ever), each with
    ``probability``. ``since`` and ``until``, moments of the sandbox's clock, bound when it may strike; ``every`` so
    many seconds that span comes again. ``value`` is what the kind makes of it (seconds, minutes, rows). ``code`` and
    ``message`` are those of a refusal in the platform's own form, for the kinds that play any.
    """

    name: str
    platform: Platform | None = None
    account: str | None = None
    path: str | None = None
    purpose: str | None = None
    times: int | None = None
    after: int = 0
    probability: float = 1.0
    since: datetime | None = None
    until: datetime | None = None
    every: float | None = None
    value: float | None = None
    code: str | None = None
    message: str | None = None
    struck: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.name not in CATALOGUE:
            raise UserError(f"There is no fault named {self.name!r}; GET /_sandbox/faults lists all of them.")
        if self.platform is not None:
            self.platform = Platform(self.platform)
        self.since, self.until = _moment(self.since), _moment(self.until)
        if self.every is not None and not (
            self.since and self.until and self.since < self.until <= self.since + timedelta(seconds=self.every)
        ):
            raise UserError("every: needs since and until, no further apart than that many seconds.")
        if self.code is not None or self.message is not None:
            form = _CODES.get(self.name)
            if form is None:
                raise UserError(f"{self.name} has a code and a message of its own; {', '.join(_CODES)} take any.")
            if self.code is not None and not (isinstance(self.code, str) and form.fullmatch(self.code)):
                raise UserError(f"code: {self.name} cannot play {self.code!r}; GET /_sandbox/faults says what it can.")

    @property
    def kind(self) -> FaultKind:
        """What it does."""
        return CATALOGUE[self.name]

    def fits(self, platform: Platform, path: str, subject: Subject, now: datetime) -> bool:
        """Whether a call is one that it is meant for."""
        return (
            self._due(now)
            and platform in self.kind.platforms
            and self.platform in (None, platform)
            and self.account in (None, subject.account)
            and (self.path is None or self.path in path)
            and self.purpose in (None, subject.purpose)
        )

    def _due(self, now: datetime) -> bool:
        if self.since and self.every is not None and now >= self.since:
            now = self.since + (now - self.since) % timedelta(seconds=self.every)
        return (self.since is None or self.since <= now) and (self.until is None or now < self.until)


class Faults:
    """The faults switched on, in order; random ones are drawn from the seed."""

    def __init__(self, seed: int = 0, faults: tuple[Fault, ...] = ()) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable trouble, not secrets
        self._faults: list[Fault] = list(faults)

    def add(self, fault: Fault) -> None:
        """Switch one on."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Switch all off."""
        self._faults.clear()

    def striking(self, platform: Platform, path: str, subject: Subject, now: datetime) -> list[Fault]:
        """The faults that strike this call; counts them."""
        return [fault for fault in self._faults if fault.fits(platform, path, subject, now) and self._strikes(fault)]

    def _strikes(self, fault: Fault) -> bool:
        if fault.after > 0:
            fault.after -= 1
            return False
        if fault.times == 0 or (fault.probability < 1 and self._random.random() >= fault.probability):
            return False
        fault.times = None if fault.times is None else fault.times - 1
        fault.struck += 1
        return True

    def as_list(self) -> list[dict[str, Any]]:
        """For the control API."""
        return [asdict(fault) for fault in self._faults]


def _moment(given: datetime | str | None) -> datetime | None:
    """Aware; without a zone it is UTC."""
    moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


# -- what each one answers --------------------------------------------------------------------------------------------


def _graph(code: int, message: str, **more: Any) -> Reply:
    return lambda call, subject, fault: graph.error(code, message, **more)


def _meta_throttled(code: int, use_case: str) -> Reply:
    """The account's own limit for a use case, with the minutes until it is lifted in the header."""

    def reply(call: Call, subject: Subject, fault: Fault) -> Answer:
        minutes = 5 if fault.value is None else int(fault.value)
        usage = {"type": use_case, "call_count": 100, "total_cputime": 40, "total_time": 60}
        tier = {"estimated_time_to_regain_access": minutes, "ads_api_access_tier": "standard_access"}
        header = {"x-business-use-case-usage": orjson.dumps({subject.account or "0": [{**usage, **tier}]}).decode()}
        message = f"(#{code}) There have been too many calls from this ad-account. Wait a bit and try again."
        return graph.error(code, message, subcode=2446079, headers=header)

    return reply


def _meta_user_throttled(call: Call, subject: Subject, fault: Fault) -> Answer:
    """Without a number of seconds it does not say how long."""
    usage = {
        "acc_id_util_pct": 100,
        "reset_time_duration": int(fault.value or 0),
        "ads_api_access_tier": "standard_access",
    }
    header = {"x-ad-account-usage": orjson.dumps(usage).decode()} if fault.value else None
    return graph.error(17, "(#17) User request limit reached", subcode=2446079, headers=header)


def _meta_app_throttled(call: Call, subject: Subject, fault: Fault) -> Answer:
    header = {"x-app-usage": '{"call_count":100,"total_time":80,"total_cputime":80}'}
    return graph.error(4, "(#4) Application request limit reached", subcode=1504022, headers=header, status=403)


def _meta_error_in_200(call: Call, subject: Subject, fault: Fault) -> Answer:
    message = "An unexpected error has occurred. Please retry your request later."
    return graph.error(2, message, status=200, transient=True)


def _meta_refuses(call: Call, subject: Subject, fault: Fault) -> Answer:
    """Any code and subcode, as in ``190/463``."""
    code, _, subcode = (fault.code or "999").partition("/")
    return graph.error(
        int(code),
        fault.message or f"(#{code}) Sandbox refuses this.",
        subcode=int(subcode) if subcode else None,
        status=int(fault.value or 400),
        transient=fault.code is None,
        data="Text that is no JSON, at which Meta's own SDK stumbles",
    )


def _tiktok_refuses(call: Call, subject: Subject, fault: Fault) -> Answer:
    return tiktok.error(
        int(fault.code or 40700), fault.message or "Sandbox refuses this.", status=int(fault.value or 200)
    )


def _google_refuses(call: Call, subject: Subject, fault: Fault) -> Answer:
    """Any error of any kind, as in ``quotaError.RESOURCE_EXHAUSTED``; the status is the kind's own."""
    kind, _, name = (fault.code or "requestError.UNKNOWN").partition(".")
    status = int(fault.value or _GOOGLE_STATUS.get(kind, 400))
    return google.error(call, status, fault.message or "Sandbox refuses this.", code=(kind, name))


_GOOGLE_STATUS: Final = {"authenticationError": 401, "authorizationError": 403, "quotaError": 429, "internalError": 500}


def _envelope(code: int, message: str) -> Reply:
    return lambda call, subject, fault: tiktok.error(code, message)


def _ads(status: int, message: str, key: str, value: str) -> Reply:
    return lambda call, subject, fault: google.error(call, status, message, code=(key, value))


def _google_throttled(scope: str, default: int) -> Reply:
    def reply(call: Call, subject: Subject, fault: Fault) -> Answer:
        seconds = default if fault.value is None else int(fault.value)
        quota = {"rateScope": scope, "rateName": "Number of operations", "retryDelay": f"{seconds}s"}
        code = ("quotaError", "RESOURCE_EXHAUSTED")
        message = f"Too many requests. Retry in {seconds} seconds."
        return google.error(call, 429, message, code=code, details={"quotaErrorDetails": quota})

    return reply


def _google_plain_401(call: Call, subject: Subject, fault: Fault) -> Answer:
    return google.error(call, 401, "Request had invalid authentication credentials.", code=None)


def _google_invalid_grant(call: Call, subject: Subject, fault: Fault) -> Answer:
    return Answer.of({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, 400)


def _status(status: int, body: bytes, media_type: str = "text/html") -> Reply:
    return lambda call, subject, fault: Answer(body, status, media_type=media_type)


def _reply_with(answer: Answer) -> Reply:
    return lambda call, subject, fault: answer


def _redirect(call: Call, subject: Subject, fault: Fault) -> Answer:
    return Answer(b"", 302, {"location": f"{call.base_url}/elsewhere{call.path}"}, "text/plain")


def _echo(call: Call, subject: Subject, fault: Fault) -> Answer:
    """A refusal that repeats every secret of the request, as it came and cut short, in the platform's own form."""
    sent = [*call.query.values(), *call.form().values(), *call.json().values()]
    sent += [call.headers.get(name, "") for name in ("authorization", "access-token", "developer-token")]
    words = [word for text in sent if isinstance(text, str) for word in text.split() if len(word) > 12]
    message = f"Invalid request: {', '.join(words)}; begins with {', '.join(f'{word[:20]}...' for word in words)}"
    if call.path.startswith("/open_api"):
        return tiktok.error(40002, message)
    if google.is_token_call(call.path):
        return Answer.of({"error": "invalid_request", "error_description": message}, 400)
    if call.path.strip("/").split("/")[0][1:].isdigit():
        return google.error(call, 400, message, code=("queryError", "UNRECOGNIZED_FIELD"))
    return graph.error(100, message)


_HTML: Final = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body>Something went wrong.</body></html>"


def _truncate(answer: Answer) -> Answer:
    return Answer(answer.body[: max(1, len(answer.body) * 2 // 3)], answer.status, answer.headers, answer.media_type)


def _to_html(answer: Answer) -> Answer:
    return Answer(_HTML, 200, answer.headers, "text/html")


def _to_nothing(answer: Answer) -> Answer:
    return Answer(b"", answer.status, answer.headers, answer.media_type)


def _to_removed(answer: Answer) -> Answer:
    return _with_entities(answer, lambda entity: entity | ({"status": "REMOVED"} if "status" in entity else {}))


def _to_shared_budgets(answer: Answer) -> Answer:
    return _with_entities(answer, lambda one: one | ({"explicitlyShared": True} if "explicitlyShared" in one else {}))


def _to_period_budgets(answer: Answer) -> Answer:
    """What ``amount_micros`` is of a budget for a period is said nowhere; here it is the period's, so that it shows."""
    return _with_entities(answer, lambda one: one | ({"period": "CUSTOM_PERIOD"} if "period" in one else {}))


def _without_names(answer: Answer) -> Answer:
    """Only some kinds of ads have names; what is not set is not there."""

    def nameless(ad: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in ad.items() if name != "name"}

    return _with_entities(answer, nameless, frozenset({"ad"}))


def _without_zeros(answer: Answer) -> Answer:
    """As proto3's JSON has it by default: what is zero is not there."""

    def telling(entity: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in entity.items() if value not in (0, "0", "") or isinstance(value, bool)}

    return _with_entities(answer, telling, frozenset({"metrics", "segments"}))


def _to_large_ids(answer: Answer) -> Answer:
    """Ids and the names made of them, so that children still find their parents."""

    def larger(entity: dict[str, Any]) -> dict[str, Any]:
        texts = {name: value for name, value in entity.items() if isinstance(value, str)}
        return entity | {
            name: _GOOGLE_ID.sub(_beyond_float, text) if name == "id" else _GOOGLE_NAME.sub(_beyond_float, text)
            for name, text in texts.items()
        }

    return _with_entities(answer, larger)


def _beyond_float(match: re.Match[str]) -> str:
    return match[1] + "~".join(str(int(part) + 2**53) for part in match[2].split("~"))


_GOOGLE_ENTITIES: Final = frozenset({"campaign", "campaignBudget", "adGroup", "adGroupAd", "ad"})


def _with_entities(
    answer: Answer, change: Callable[[dict[str, Any]], dict[str, Any]], parts: frozenset[str] = _GOOGLE_ENTITIES
) -> Answer:
    """Google's rows with ``parts`` of each changed; any other answer as it is."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(one) for one in value]
        if not isinstance(value, dict):
            return value
        walked = {name: walk(one) for name, one in value.items()}
        return {name: change(one) if name in parts and isinstance(one, dict) else one for name, one in walked.items()}

    try:
        return replace(answer, body=orjson.dumps(walk(orjson.loads(answer.body))))
    except orjson.JSONDecodeError:  # another fault was here before
        return answer


_GOOGLE_ID: Final = re.compile(r"^()(\d+)$")
_GOOGLE_NAME: Final = re.compile(r"^(customers/\d+/\w+/)(\d+(?:~\d+)?)$")


# -- the catalogue ----------------------------------------------------------------------------------------------------

_ALL: Final = tuple(Platform)
_M, _T, _G = (Platform.META,), (Platform.TIKTOK,), (Platform.GOOGLE,)
_REVOKED: Final = "Error validating access token: The user has not authorized the application."


def _answers(platforms: tuple[Platform, ...], kinds: Mapping[str, tuple[str, Reply, str]]) -> list[FaultKind]:
    return [
        FaultKind(name, description, Stage.ANSWER, platforms, value, reply=reply)
        for name, (description, reply, value) in kinds.items()
    ]


def _shapes(platforms: tuple[Platform, ...], kinds: Mapping[str, tuple[str, str]]) -> list[FaultKind]:
    return [FaultKind(name, text, Stage.SHAPE, platforms, value) for name, (text, value) in kinds.items()]


_KINDS: Final = [
    FaultKind("hang", "No answer for `value` seconds (default an hour)", Stage.TRANSPORT, _ALL, "seconds"),
    FaultKind("slow", "The right answer after `value` seconds (default 2)", Stage.TRANSPORT, _ALL, "seconds"),
    FaultKind("drop", "The connection is cut before any answer", Stage.TRANSPORT, _ALL),
    FaultKind("drop_after", "It is done, then the connection is cut before any answer", Stage.TRANSPORT, _ALL),
    FaultKind("drop_midway", "The connection is cut in the middle of the body", Stage.TRANSPORT, _ALL),
    FaultKind("drip", "The body comes a piece every `value` seconds (default 1)", Stage.TRANSPORT, _ALL, "seconds"),
    FaultKind("truncated_json", "The body ends too early, as if complete", Stage.BODY, _ALL, damage=_truncate),
    FaultKind("html", "A page for people with status 200 instead of JSON", Stage.BODY, _ALL, damage=_to_html),
    FaultKind("empty_body", "No body at all", Stage.BODY, _ALL, damage=_to_nothing),
    FaultKind("google_removed", "Every entity is REMOVED", Stage.BODY, _G, damage=_to_removed),
    FaultKind("google_shared_budgets", "Every budget is a shared one", Stage.BODY, _G, damage=_to_shared_budgets),
    FaultKind("google_period_budgets", "Every budget is for a period", Stage.BODY, _G, damage=_to_period_budgets),
    FaultKind("google_unnamed_ads", "No ad has a name", Stage.BODY, _G, damage=_without_names),
    FaultKind("google_zeros_absent", "Numbers that are zero are not there", Stage.BODY, _G, damage=_without_zeros),
    FaultKind("google_large_ids", "Ids of entities beyond 2^53", Stage.BODY, _G, damage=_to_large_ids),
    *_shapes(
        _ALL,
        {
            "restated": (
                "Past days' numbers are `value` times as high (default 2), as after a late restatement",
                "times",
            ),
            "no_rows": ("No row for any day, nor anything in the totals", ""),
            "clock_change": ("Hours as on a day of `value` hours, 23 or 25 (default 25)", "hours"),
            "pages_overlap": ("Every page but the first begins with the last row of the one before", ""),
        },
    ),
    *_shapes(
        (Platform.META, Platform.TIKTOK),
        {"unlisted": ("The listing leaves out a campaign and all in it, whose numbers are told", "")},
    ),
    *_answers(
        _ALL,
        {
            "http_500": ("HTTP 500 with a page for people", _status(500, _HTML), ""),
            "http_502": ("HTTP 502 from a gateway", _status(502, _HTML), ""),
            "http_503": ("HTTP 503, service unavailable", _status(503, b"Service Unavailable", "text/plain"), ""),
            "http_504": ("HTTP 504, gateway time-out", _status(504, _HTML), ""),
            "redirect": ("HTTP 302 to another address", _redirect, ""),
            "echo": ("A refusal whose message repeats the request's secrets", _echo, ""),
        },
    ),
    *_answers(
        _M,
        {
            "meta_token_expired": (
                "190/463: the session has expired",
                _graph(190, "Error validating access token: Session has expired", subcode=463, data="{}"),
                "",
            ),
            "meta_token_revoked": (
                "190/458: the user removed the app",
                _graph(190, _REVOKED, subcode=458, data={"blame_field_specs": [["access_token"]]}),
                "",
            ),
            "meta_throttled": (
                "80000/2446079, insights, with the minutes to wait in the header",
                _meta_throttled(80000, "ads_insights"),
                "minutes",
            ),
            "meta_management_throttled": (
                "80004/2446079, all but insights, with the minutes to wait in the header",
                _meta_throttled(80004, "ads_management"),
                "minutes",
            ),
            "meta_app_throttled": ("4/1504022: the whole app is over its limit", _meta_app_throttled, ""),
            "meta_user_throttled": (
                "17/2446079: the user is over its limit; with `value` a header says how many seconds for",
                _meta_user_throttled,
                "seconds",
            ),
            "meta_custom_throttled": (
                "613/1487742: too many calls from this ad account",
                _graph(613, "(#613) Calls to this api have exceeded the rate limit.", subcode=1487742),
                "",
            ),
            "meta_transient": (
                "Code 2, is_transient, HTTP 500",
                _graph(2, "An unexpected error has occurred. Please retry.", status=500, transient=True),
                "",
            ),
            "meta_error_in_200": ("An error envelope under HTTP 200", _meta_error_in_200, ""),
            "meta_unavailable_in_200": (
                "The text Service Unavailable under HTTP 200",
                _status(200, b"Service Unavailable", "text/plain"),
                "",
            ),
            "meta_no_permission": (
                "200: the user may not read this account",
                _graph(
                    200, "(#200) Ad account owner has NOT grant ads_read permission", status=403, data='{"blame": 1}'
                ),
                "",
            ),
            "meta_deprecated_version": (
                "2635: the version has been switched off",
                _graph(2635, "(#2635) You are calling a deprecated version of the Ads API."),
                "",
            ),
            "meta_refuses": (
                "Any `code` (as in 190/463; default one that nobody knows, said to be transient), HTTP status `value`",
                _meta_refuses,
                "status",
            ),
            "meta_summary_param": (
                "100: `Cannot include ... in summary param`, of a report run whose rows are not there yet",
                _graph(
                    100,
                    "(#100) Cannot include spend in summary param because they weren't there while creating the report "
                    "run. All available values are: ",
                ),
                "",
            ),
        },
    ),
    *_shapes(
        _M,
        {
            "meta_reduce_data": (
                "Code 1 `reduce the amount of data` above `value` rows by ad (default 0)",
                "rows",
            ),
            "meta_job_failed": ("The report run ends as Job Failed above `value` rows by ad (default 0)", "rows"),
            "meta_job_skipped": ("The report run ends as Job Skipped", ""),
            "meta_job_incomplete": ("Job Completed at 90 %", ""),
            "meta_job_stuck": ("The report run never gets beyond 40 %", ""),
            "meta_run_not_found": ("100/33 on a report run that was just made", ""),
            "meta_empty_page": ("A first page without rows that has a `next`", ""),
            "meta_other_version": ("Answered in the next version, as only a header says", ""),
            "meta_mixed_attribution": ("No actions above an ad set unless windows are named", ""),
            "meta_requires_proof": ("No call is taken without appsecret_proof", ""),
            "meta_endless_token": ("The exchanged token never ends: no expires_in", ""),
            "meta_page_too_large": (
                "Code 1 `reduce the amount of data` above `value` rows a page (default 100)",
                "rows",
            ),
            "meta_cursor_circle": ("The last page has a `next` that leads to the first one", ""),
            "meta_next_elsewhere": ("`next` leads to another host", ""),
            "meta_windows_without_value": ("Purchases counted by other windows than the ad set's own: no `value`", ""),
            "meta_unknown_zone": ("The account's time zone is one that nobody knows", ""),
            "meta_job_slow": ("A report run that is Not Started, Started, Running and at 99 % before it is done", ""),
            "meta_usage_elsewhere": ("The usage headers tell of another account that is used up", ""),
            "meta_usage_high": ("Usage headers at `value` percent (default 96), without an error", "percent"),
        },
    ),
    *_answers(
        _T,
        {
            "tiktok_throttled": ("40100 in HTTP 200", _envelope(40100, "Request too frequent."), ""),
            "tiktok_advertiser_throttled": ("40133: one advertiser's limit", _envelope(40133, "Too frequent."), ""),
            "tiktok_token_expired": ("40102: the token has expired", _envelope(40102, "Access token expired."), ""),
            "tiktok_token_revoked": (
                "40105: the token was revoked",
                _envelope(40105, "Access token is incorrect or has been revoked."),
                "",
            ),
            "tiktok_no_permission": ("40001 on one advertiser", _envelope(40001, "No permission."), ""),
            "tiktok_not_found": ("The plain 404 of a path without its slash", _reply_with(tiktok.PLAIN_404), ""),
            "tiktok_range_refused": (
                "40002: the time range is too long, whatever it is",
                _envelope(40002, "The time range is too long for this time dimension."),
                "",
            ),
            "tiktok_system_error": ("50000: internal error", _envelope(50000, "System error."), ""),
            "tiktok_busy": ("50002: service error", _envelope(50002, "Service error, retry later."), ""),
            "tiktok_internal_timeout": (
                "51010: internal time-out",
                _envelope(51010, "Internal service timed out."),
                "",
            ),
            "tiktok_refuses": (
                "Any `code` (as in 40105; default 40700), HTTP status `value` (default 200)",
                _tiktok_refuses,
                "status",
            ),
            "tiktok_maintenance": ("60001: under maintenance", _envelope(60001, "Service under maintenance."), ""),
        },
    ),
    *_shapes(
        _T,
        {
            "tiktok_dash_metrics": ("Conversion metrics answer `-`: not available", ""),
            "tiktok_truncated_page_info": ("page_info without its totals", ""),
            "tiktok_truncated_report": ("Half of the rows and X-Tt-Ads-Throttle, unless ids are named", ""),
            "tiktok_zero_rows": ("Rows of zeros for what did not deliver", ""),
            "tiktok_cut_listing": ("A page lacks its last row, which the totals count", ""),
            "tiktok_slow_report": ("51010 on a report of more than `value` rows (default 0)", "rows"),
            "tiktok_no_parents": ("Reports answer `-` for campaign and ad group", ""),
            "tiktok_lifetime_budgets": ("Every budget is for the whole lifetime", ""),
        },
    ),
    *_shapes(
        _G,
        {
            "google_stream_error": ("Half of a stream's rows and then an error, under HTTP 200", ""),
            "google_cut_stream": ("A stream of more than `value` rows (default 0) ends in the middle", "rows"),
            "google_no_batches": ("A stream without rows is an empty array", ""),
            "google_two_managers": ("Each client is reached through a second manager too", ""),
            "google_rotates": (
                "Each refresh gives a new refresh token; the one before is taken for `value` seconds (default 60)",
                "seconds",
            ),
        },
    ),
    *_answers(
        _G,
        {
            "google_invalid_grant": ("400 invalid_grant from the token endpoint", _google_invalid_grant, ""),
            "google_token_expired": (
                "401 OAUTH_TOKEN_EXPIRED",
                _ads(401, "OAuth token has expired.", "authenticationError", "OAUTH_TOKEN_EXPIRED"),
                "",
            ),
            "google_plain_401": ("401 without a GoogleAdsFailure", _google_plain_401, ""),
            "google_throttled": (
                "429 for everyone on the developer token, `value` seconds (default 12 h)",
                _google_throttled("DEVELOPER", 43_200),
                "seconds",
            ),
            "google_account_throttled": (
                "429 for one customer, `value` seconds (default 30)",
                _google_throttled("ACCOUNT", 30),
                "seconds",
            ),
            "google_internal": (
                "500 INTERNAL_ERROR",
                _ads(500, "Internal error encountered.", "internalError", "INTERNAL_ERROR"),
                "",
            ),
            "google_transient": (
                "503 TRANSIENT_ERROR",
                _ads(503, "A transient internal error has occurred.", "internalError", "TRANSIENT_ERROR"),
                "",
            ),
            "google_customer_not_enabled": (
                "403 CUSTOMER_NOT_ENABLED",
                _ads(403, "The customer account is not enabled.", "authorizationError", "CUSTOMER_NOT_ENABLED"),
                "",
            ),
            "google_no_permission": (
                "403 USER_PERMISSION_DENIED",
                _ads(403, "User doesn't have permission.", "authorizationError", "USER_PERMISSION_DENIED"),
                "",
            ),
            "google_manager_metrics": (
                "400 REQUESTED_METRICS_FOR_MANAGER",
                _ads(400, "Metrics of a manager.", "queryError", "REQUESTED_METRICS_FOR_MANAGER"),
                "",
            ),
            "google_refuses": (
                "Any `code` (as in quotaError.RESOURCE_EXHAUSTED; default requestError.UNKNOWN), HTTP status `value`",
                _google_refuses,
                "status",
            ),
            "google_expired_page_token": (
                "400 EXPIRED_PAGE_TOKEN",
                _ads(400, "Page token has expired.", "requestError", "EXPIRED_PAGE_TOKEN"),
                "",
            ),
        },
    ),
]

_CODES: Final = {
    "meta_refuses": re.compile(r"-?\d{1,9}(/\d{1,9})?"),
    "tiktok_refuses": re.compile(r"\d{1,9}"),
    "google_refuses": re.compile(r"[a-z]\w*\.[A-Z]\w*"),
}
"""How a code is written, for the kinds that play any."""

CATALOGUE: Final[Mapping[str, FaultKind]] = {kind.name: kind for kind in _KINDS}
"""Every fault by its name."""
