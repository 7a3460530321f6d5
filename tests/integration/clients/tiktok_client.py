"""TikTok's own SDK at work; run by the environment of the clients (``make clients``), never imported by a test."""

from __future__ import annotations

import re
from typing import Any

import business_api_client as sdk
from business_api_client.rest import ApiException
from business_api_client.tiktok_business.tiktok_exceptions import TiktokSDKError
from speaking import serve

_session: dict[str, Any] = {}


def login(url: str, app_id: str, secret: str, token: str) -> None:
    """From now on as this user."""
    configuration = sdk.Configuration()
    configuration.host = url
    _session.update(client=sdk.ApiClient(configuration=configuration), app=(app_id, secret), token=token)


def advertisers() -> Any:
    return sdk.AuthenticationApi(_session["client"]).oauth2_advertiser_get(*_session["app"], _session["token"])


def info(ids: list[str], fields: list[str]) -> Any:
    return sdk.AccountManagementApi(_session["client"]).advertiser_info(ids, _session["token"], fields=fields)


def listing(level: str, advertiser: str, **more: Any) -> Any:
    """Every page of one level's entities."""
    get = {
        "campaign": sdk.CampaignCreationApi(_session["client"]).campaign_get,
        "adgroup": sdk.AdgroupApi(_session["client"]).adgroup_get,
        "ad": sdk.AdApi(_session["client"]).ad_get,
    }[level]
    return _pages(lambda page: get(advertiser, _session["token"], page=page, **more))


def report(**query: Any) -> Any:
    """Every page of a report."""
    api = sdk.ReportingApi(_session["client"])
    return _pages(lambda page: api.report_integrated_get("BASIC", _session["token"], page=page, **query))


def _pages(ask: Any) -> dict[str, Any]:
    rows, page, pages = [], 1, 1
    while page <= pages:
        data = ask(page)["data"]
        rows += data["list"]
        pages, page = data["page_info"]["total_page"], page + 1
    return {"rows": rows, "pages": pages}


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, TiktokSDKError):  # which keeps the code in its text alone
        return {"code": int(re.match(r"Error Code: (-?\d+), ", str(error))[1])}
    return {"status": error.status} if isinstance(error, ApiException) else {}


if __name__ == "__main__":
    serve(
        {"login": login, "advertisers": advertisers, "info": info, "listing": listing, "report": report},
        _described,
    )
