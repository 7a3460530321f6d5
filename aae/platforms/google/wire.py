"""How the Google Ads API (REST) is addressed and understood when it says no.

Every query goes to ``searchStream``: one call, no page tokens that could expire. Its answer is an array of batches, and
its errors may come wrapped in an array too. Error names: the ``*ErrorEnum`` messages of Google Ads API v26. A throttle
may last hours, and one of scope DEVELOPER stops every account that uses the same developer token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from aae.errors import AaeError, Bug, Reauthorize, Retry, Skip, Throttled
from aae.model import Platform
from aae.platforms.reading import Reader
from aae.platforms.shapes import Shape
from aae.platforms.transport import Advice, Answer, Blip, Call, Caller, Purpose, Transport, unjudged
from aae.settings import GoogleSettings

read: Final = Reader(Platform.GOOGLE)

EXPIRED: Final = frozenset({"OAUTH_TOKEN_EXPIRED", "OAUTH_TOKEN_INVALID"})
"""The access token has ended, which is its fate every hour: refresh it, then ask again."""

_REAUTHORIZE: Final = frozenset(
    {
        *("OAUTH_TOKEN_REVOKED", "OAUTH_TOKEN_DISABLED", "GOOGLE_ACCOUNT_DELETED", "NOT_ADS_USER"),
        *("TWO_STEP_VERIFICATION_NOT_ENROLLED", "ADVANCED_PROTECTION_NOT_ENROLLED"),
    }
)
_SKIP: Final = frozenset(
    {
        *("USER_PERMISSION_DENIED", "CUSTOMER_NOT_ENABLED", "CUSTOMER_NOT_FOUND", "METRIC_ACCESS_DENIED"),
        *("INVALID_LOGIN_CUSTOMER_ID_SERVING_CUSTOMER_ID_COMBINATION", "ACTION_NOT_PERMITTED_FOR_SUSPENDED_ACCOUNT"),
        "REQUESTED_METRICS_FOR_MANAGER",
    }
)
_TRANSIENT: Final = frozenset({"INTERNAL_ERROR", "TRANSIENT_ERROR", "DEADLINE_EXCEEDED", "EXPIRED_PAGE_TOKEN"})
_OPERATOR: Final = re.compile(r"DEVELOPER_TOKEN_.*|ORGANIZATION_.*|CLOUD_PROJECT_.*|PROJECT_DISABLED|MISSING_TOS")
_DELAY: Final = re.compile(r"(\d{1,9})(?:\.\d{1,9})?s")


R = TypeVar("R")


class Batch(Shape, Generic[R]):
    """One part of a stream. Whatever else Google sends beside an ``error``, it is no batch."""

    results: list[R] = msgspec.field(default_factory=list)
    error: UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Ads:
    """The Google Ads API: queries, and the list of what a token reaches."""

    settings: GoogleSettings
    transport: Transport

    async def search(
        self, query: str, caller: Caller, purpose: Purpose, *, row: type[R], fresh: bool = False
    ) -> Iterator[list[R]]:
        """The batches of a query in Google's query language, asked of ``caller.account``; none is empty.

        ``row`` is the shape of their rows.
        """
        path = f"customers/{quote(caller.account, safe='')}/googleAds:searchStream"
        shape = list[Batch[row]]  # type: ignore[valid-type]
        call = self._call("POST", path, caller, purpose, body={"query": query}, fresh=fresh, shape=shape)
        batches: list[Batch[R]] = (await self.transport.request(call)).data
        return (batch.results for batch in batches if batch.results)

    async def reachable(self, caller: Caller, purpose: Purpose) -> list[str]:
        """The ids of the customers that the token reaches directly: accounts, managers, also disabled ones."""
        call = self._call("GET", "customers:listAccessibleCustomers", caller, purpose, fresh=True)
        answer = read.record((await self.transport.request(call)).data, "an answer")
        names = read.items(answer.get("resourceNames", []), "resourceNames")
        return [read.id(str(name).removeprefix("customers/"), "resourceNames") for name in names]

    def _call(self, method: str, path: str, caller: Caller, purpose: Purpose, **more: Any) -> Call:
        return Call(
            platform=Platform.GOOGLE,
            account=caller.account,
            owner=caller.owner,
            purpose=purpose,
            method=method,
            url=f"{self.settings.base_url}/{self.settings.version}/{path}",
            judge=partial(judge, caller),
            scopes=("google:app", "google:developer", f"google:{caller.scope}"),
            headers={"login-customer-id": caller.login.replace("-", "")} if caller.login else {},
            secret_headers={
                "Authorization": f"Bearer {caller.token.get_secret_value()}",
                "developer-token": self.settings.developer_token.get_secret_value(),
            },
            **more,
        )


def judge(caller: Caller, answer: Answer) -> Advice:
    """What an answer to ``caller`` means.

    Raises:
        AaeError: by the first error of the failure, or by the HTTP status where there is none.
    """
    failure = _failure(answer.data)
    if failure is not None:
        raise _meaning(failure, caller, answer)
    if answer.status == 401:
        raise _expired("no reason given", "OAUTH_TOKEN_EXPIRED")
    if answer.status == 404:  # as of a version that is over
        raise Bug("Google knows no such address; check AAE_GOOGLE__VERSION and AAE_GOOGLE__BASE_URL.", code="404")
    unjudged(Platform.GOOGLE, answer)
    return {}


def _failure(data: object) -> dict[str, Any] | None:
    """The ``error`` object of an answer, alone or anywhere in a stream's array."""
    for part in data if isinstance(data, list) else [data]:
        if isinstance(part, dict) and isinstance(error := part.get("error"), dict):
            return error
    return None


def _meaning(failure: Mapping[str, Any], caller: Caller, answer: Answer) -> AaeError:
    first = _first_error(failure)
    kind, name = _name(first)
    status = failure.get("status")
    if name is None:
        name = status if isinstance(status, str) else str(answer.status)
    name = answer.quote(name)[:64]
    said = f"{answer.quote(first.get('message', failure.get('message')))} ({name})"

    if kind == "quotaError" or name == "RESOURCE_EXHAUSTED":
        return _throttled(first, said, name, caller, answer)
    if name in EXPIRED or (kind is None and answer.status == 401):
        return _expired(said, name if name in EXPIRED else "OAUTH_TOKEN_EXPIRED")
    if name in _REAUTHORIZE:
        return Reauthorize(f"Google no longer accepts this token: {said}", code=name)
    if name in _TRANSIENT or (kind is None and answer.status >= 500):
        return Blip(f"Google hiccuped: {said}", code=name)
    return _refusal(name, said)


def _refusal(name: str, said: str) -> AaeError:
    if name in _SKIP:
        return Skip(f"Google does not give this account: {said}", code=name)
    if _OPERATOR.fullmatch(name):
        return Bug(f"Google does not accept our developer token; check AAE_GOOGLE__DEVELOPER_TOKEN: {said}", code=name)
    if name == "UNSUPPORTED_VERSION":
        return Bug(f"Google serves this version no more; set AAE_GOOGLE__VERSION to a later one: {said}", code=name)
    return Bug(f"Google refused the request: {said}", code=name)


def _expired(said: str, code: str) -> Retry:
    return Retry(f"The Google access token has ended and must be refreshed first: {said}", code=code)


def _first_error(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The first error of the GoogleAdsFailure in ``details``; empty where there is none."""
    details = failure.get("details")
    for detail in details if isinstance(details, list) else []:
        errors = detail.get("errors") if isinstance(detail, dict) else None
        for error in errors if isinstance(errors, list) else []:
            if isinstance(error, dict):
                return error
    return {}


def _name(error: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The kind and the name of an error: ``{"errorCode": {"quotaError": "RESOURCE_EXHAUSTED"}}``."""
    code = error.get("errorCode")
    if isinstance(code, dict):
        for kind, name in code.items():
            if isinstance(name, str):
                return kind, name
    return None, None


def _throttled(error: Mapping[str, Any], said: str, name: str, caller: Caller, answer: Answer) -> Throttled:
    """As long as Google says, which may be hours; else from 5 seconds up, doubling each time in a row."""
    details = error.get("details")
    quota = details.get("quotaErrorDetails") if isinstance(details, dict) else None
    quota = quota if isinstance(quota, dict) else {}
    told = quota.get("retryDelay")
    match = _DELAY.fullmatch(told) if isinstance(told, str) else None
    seconds = int(match[1]) + 1 if match else 5 * 2 ** min(answer.throttled_before, 10)
    scope = "google:developer" if quota.get("rateScope") == "DEVELOPER" else f"google:{caller.scope}"
    until = answer.pause(timedelta(seconds=seconds))
    return Throttled(f"Google asks for patience: {said}", until=until, scope=scope, code=name)
