"""Meta's own SDK at work; run by the environment of the clients (``make clients``), never imported by a test."""

from __future__ import annotations

from typing import Any

from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.adreportrun import AdReportRun
from facebook_business.adobjects.campaign import Campaign
from facebook_business.adobjects.user import User
from facebook_business.api import FacebookAdsApi
from facebook_business.exceptions import FacebookRequestError
from facebook_business.session import FacebookSession
from speaking import serve

Rows = list[dict[str, Any]]


def login(url: str, app_id: str, app_secret: str | None, token: str) -> str:
    """From now on as this user; the SDK signs with ``appsecret_proof`` where it knows the secret."""
    FacebookSession.GRAPH = url
    api = FacebookAdsApi.init(app_id, app_secret, token, crash_log=False)
    return str(api._api_version)


def accounts(fields: list[str]) -> Rows:
    return _all(User("me").get_ad_accounts(fields=fields, params={"limit": 1}))


def children(node: str, edge: str, fields: list[str], **params: Any) -> Rows:
    owner = AdAccount(node) if node.startswith("act_") else Campaign(node)
    listing = {"campaigns": "get_campaigns", "adsets": "get_ad_sets", "ads": "get_ads"}[edge]
    return _all(getattr(owner, listing)(fields=fields, params=params))


def insights(node: str, fields: list[str], **params: Any) -> Rows:
    return _all(AdAccount(node).get_insights(fields=fields, params=params))


def report(node: str, fields: list[str], most: int = 5, **params: Any) -> dict[str, Any]:
    """Orders a report run, looks at it until it is done (or ``most`` times), reads its rows."""
    run: AdReportRun = AdAccount(node).get_insights(fields=fields, params=params, is_async=True)
    looks: list[tuple[str, int]] = []
    while len(looks) < most and (not looks or looks[-1] != ("Job Completed", 100)):
        run.api_get()
        looks.append((run["async_status"], run["async_percent_completion"]))
        if looks[-1][0] in {"Job Failed", "Job Skipped"}:
            return {"looks": looks, "run": run.export_all_data()}
    return {"looks": looks, "rows": _all(run.get_insights(params={"limit": params["limit"]}))}


def batch(node: str) -> list[Any]:
    """The account and its campaigns in one call; what went wrong by its code."""
    api, answers = FacebookAdsApi.get_default_api(), []
    calls = api.new_batch()

    def keep(response: Any) -> None:
        answers.append(response.json())

    def fail(response: Any) -> None:
        answers.append(response.error().api_error_code())

    for target, fields in ((node, ["name"]), (f"{node}/campaigns", ["id"]), ("act_0", ["name"])):
        calls.add("GET", target.split("/"), params={"fields": ",".join(fields)}, success=keep, failure=fail)
    calls.execute()
    return answers


def _all(cursor: Any) -> Rows:
    return [row.export_all_data() for row in cursor]


def _described(error: Exception) -> dict[str, Any]:
    if not isinstance(error, FacebookRequestError):
        return {}
    return {
        "status": error.http_status(),
        "code": error.api_error_code(),
        "subcode": error.api_error_subcode(),
        "transient": error.api_transient_error(),
        "kind": error.api_error_type(),
        "headers": {name.lower(): value for name, value in error.http_headers().items()},
    }


if __name__ == "__main__":
    serve(
        {
            "login": login,
            "accounts": accounts,
            "children": children,
            "insights": insights,
            "report": report,
            "batch": batch,
        },
        _described,
    )
