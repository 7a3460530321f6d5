"""Each fault does what its name says, where and when it was told to, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aae.errors import UserError
from aae.model import Level, Platform
from aae.sandbox import APP, CATALOGUE, Fault, Faults, World, google
from aae.sandbox.entities import AdAccount
from aae.sandbox.faults import Stage
from aae.sandbox.wire import Answer, Call, Purpose, Subject
from tests.unit.sandbox.wires import NOW, Wire, first, read

METRICS = Subject(Purpose.METRICS, "1001")
LISTING = Subject(Purpose.LISTING, "1001")


def call(path: str = "/v26.0/act_1001/insights") -> Call:
    return Call("GET", path, {}, {}, b"", "http://sandbox", NOW)


def reply(name: str, *, path: str = "/v26.0/act_1001/insights", **more: Any) -> Answer:
    kind = CATALOGUE[name]
    assert kind.reply is not None
    return kind.reply(call(path), METRICS, Fault(name, **more))


def strikes(faults: Faults, platform: Platform, subject: Subject = METRICS, path: str = "/x") -> list[str]:
    return [one.name for one in faults.striking(platform, path, subject, NOW)]


def test_every_fault_has_a_one_line_description_and_a_way_to_work() -> None:
    assert len(CATALOGUE) > 40
    for name, kind in CATALOGUE.items():
        assert kind.name == name
        assert kind.description
        assert "\n" not in kind.description
        assert (kind.reply is not None) == (kind.stage is Stage.ANSWER)
        assert (kind.damage is not None) == (kind.stage is Stage.BODY)


@pytest.mark.parametrize(
    ("name", "status", "code", "subcode"),
    [
        ("meta_token_expired", 400, 190, 463),
        ("meta_token_revoked", 400, 190, 458),
        ("meta_throttled", 400, 80000, 2446079),
        ("meta_management_throttled", 400, 80004, 2446079),
        ("meta_app_throttled", 403, 4, 1504022),
        ("meta_user_throttled", 400, 17, 2446079),
        ("meta_custom_throttled", 400, 613, 1487742),
        ("meta_transient", 500, 2, None),
        ("meta_error_in_200", 200, 2, None),
        ("meta_no_permission", 403, 200, None),
        ("meta_deprecated_version", 400, 2635, None),
        ("meta_summary_param", 400, 100, None),
    ],
)
def test_meta_errors_have_their_codes(name: str, status: int, code: int, subcode: int | None) -> None:
    answer = reply(name)
    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["code"], error.get("error_subcode")) == (status, code, subcode)
    assert set(error) >= {"message", "type", "fbtrace_id", "is_transient"}


def test_a_throttled_meta_account_says_in_minutes_when_it_may_go_on() -> None:
    usage = json.loads(reply("meta_throttled", value=17).headers["x-business-use-case-usage"])
    assert usage["1001"][0]["estimated_time_to_regain_access"] == 17


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("tiktok_throttled", 40100),
        ("tiktok_advertiser_throttled", 40133),
        ("tiktok_token_expired", 40102),
        ("tiktok_token_revoked", 40105),
        ("tiktok_no_permission", 40001),
        ("tiktok_range_refused", 40002),
        ("tiktok_system_error", 50000),
        ("tiktok_busy", 50002),
        ("tiktok_internal_timeout", 51010),
        ("tiktok_maintenance", 60001),
    ],
)
def test_tiktok_errors_come_under_http_200(name: str, code: int) -> None:
    answer = reply(name)
    body = orjson.loads(answer.body)
    assert (answer.status, body["code"]) == (200, code)
    assert set(body) == {"code", "message", "request_id", "data"}


@pytest.mark.parametrize(
    ("name", "status", "key", "value"),
    [
        ("google_token_expired", 401, "authenticationError", "OAUTH_TOKEN_EXPIRED"),
        ("google_throttled", 429, "quotaError", "RESOURCE_EXHAUSTED"),
        ("google_account_throttled", 429, "quotaError", "RESOURCE_EXHAUSTED"),
        ("google_internal", 500, "internalError", "INTERNAL_ERROR"),
        ("google_transient", 503, "internalError", "TRANSIENT_ERROR"),
        ("google_customer_not_enabled", 403, "authorizationError", "CUSTOMER_NOT_ENABLED"),
        ("google_no_permission", 403, "authorizationError", "USER_PERMISSION_DENIED"),
        ("google_manager_metrics", 400, "queryError", "REQUESTED_METRICS_FOR_MANAGER"),
        ("google_expired_page_token", 400, "requestError", "EXPIRED_PAGE_TOKEN"),
    ],
)
def test_google_errors_are_failures_and_arrays_on_streams(name: str, status: int, key: str, value: str) -> None:
    for path in ("/v26/customers/1/googleAds:search", "/v26/customers/1/googleAds:searchStream"):
        answer = reply(name, path=path)
        body = orjson.loads(answer.body)
        assert isinstance(body, list) == path.endswith("Stream")
        error = body[0]["error"] if isinstance(body, list) else body["error"]
        assert (answer.status, error["code"]) == (status, status)
        assert error["details"][0]["errors"][0]["errorCode"] == {key: value}


def test_google_says_how_long_and_for_whom_it_is_throttled() -> None:
    def details(name: str, value: float | None = None) -> dict[str, Any]:
        error = orjson.loads(reply(name, path="/v26/x", value=value).body)["error"]
        found: dict[str, Any] = error["details"][0]["errors"][0]["details"]["quotaErrorDetails"]
        return found

    assert (details("google_throttled")["retryDelay"], details("google_throttled")["rateScope"]) == (
        "43200s",
        "DEVELOPER",
    )
    assert details("google_account_throttled", 7)["retryDelay"] == "7s"
    assert details("google_account_throttled")["rateScope"] == "ACCOUNT"
    assert "details" not in orjson.loads(reply("google_plain_401", path="/v26/x").body)["error"]
    assert orjson.loads(reply("google_invalid_grant").body)["error"] == "invalid_grant"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_plain_http_failures(status: int) -> None:
    answer = reply(f"http_{status}")
    assert answer.status == status
    assert answer.media_type != "application/json"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v26.0/me", {"authorization": "Bearer token-of-a-user"}),
        ("/open_api/v1.3/campaign/get/", {"access-token": "token-of-a-user"}),
        ("/v26/customers/1/googleAds:search", {"authorization": "Bearer token-of-a-user"}),
        ("/token", {}),
    ],
)
def test_an_echo_repeats_what_is_secret_whole_and_cut_short(path: str, headers: dict[str, str]) -> None:
    kind = CATALOGUE["echo"]
    assert kind.reply is not None
    query = {} if headers else {"refresh_token": "token-of-a-user"}
    asked = Call("GET", path, query, headers, b"client_secret=secret-of-the-app-itself", "http://sandbox", NOW)
    body = kind.reply(asked, LISTING, Fault("echo")).body.decode()
    assert "token-of-a-user" in body
    assert "begins with" in body
    assert "secret-of-the-app-it..." in body


def test_a_fault_strikes_the_next_calls_only() -> None:
    faults = Faults(faults=(Fault("http_500", times=2, after=1),))
    assert [len(strikes(faults, Platform.META)) for _ in range(5)] == [0, 1, 1, 0, 0]
    assert faults.as_list()[0]["struck"] == 2


def test_a_fault_strikes_only_what_it_is_meant_for() -> None:
    faults = Faults()
    faults.add(Fault("http_500", platform=Platform.META, account="1001", path="insights", purpose="metrics"))
    assert strikes(faults, Platform.META, path="/v26.0/act_1001/insights") == ["http_500"]
    assert strikes(faults, Platform.GOOGLE, path="/v26.0/act_1001/insights") == []
    assert strikes(faults, Platform.META, path="/v26.0/act_1001/ads") == []
    assert strikes(faults, Platform.META, LISTING, "/v26.0/act_1001/insights") == []
    assert strikes(faults, Platform.META, Subject(Purpose.METRICS, "2"), "/v26.0/act_2/insights") == []
    faults.clear()
    assert strikes(faults, Platform.META, path="/v26.0/act_1001/insights") == []


def test_a_platforms_own_fault_never_strikes_another() -> None:
    faults = Faults(faults=tuple(Fault(name) for name in CATALOGUE))
    assert not [name for name in strikes(faults, Platform.META) if name.startswith(("tiktok", "google"))]


def test_random_faults_follow_the_seed() -> None:
    def run(seed: int) -> list[int]:
        faults = Faults(seed, (Fault("http_500", probability=0.3),))
        return [len(strikes(faults, Platform.META)) for _ in range(300)]

    assert run(1) == run(1) != run(2)
    assert 50 < Counter(run(1))[1] < 130


EVERY = [(name, platform) for name, kind in CATALOGUE.items() for platform in kind.platforms]

SECTION_E = {
    Platform.META: {
        "190/463": "meta_token_expired",
        "80000 with BUC header": "meta_throttled",
        "code 1 'reduce data' above N rows": "meta_reduce_data",
        "Job Failed": "meta_job_failed",
        "Job Completed at <100 %": "meta_job_incomplete",
        "200-with-error": "meta_error_in_200",
        "empty page with next": "meta_empty_page",
    },
    Platform.TIKTOK: {
        "40100 in HTTP 200": "tiktok_throttled",
        "40105": "tiktok_token_revoked",
        "-": "tiktok_dash_metrics",
        "truncated page_info": "tiktok_truncated_page_info",
        "404 without trailing slash": "tiktok_not_found",
        "hour range >1 day -> 40002": "tiktok_range_refused",
    },
    Platform.GOOGLE: {
        "invalid_grant": "google_invalid_grant",
        "429 with a 12-hour delay": "google_throttled",
        "searchStream error array": "google_stream_error",
        "REMOVED entities": "google_removed",
        "manager metrics error": "google_manager_metrics",
        "ids >= 2^53": "google_large_ids",  # those of the others always are
    },
}
"""The faults that docs/platform-apis.md names in its section E, beside those of all platforms."""

EVERYWHERE = {"late restatement": "restated", "DST days": "clock_change", "zero-row days": "no_rows"}


@pytest.mark.parametrize("platform", Platform)
def test_every_fault_of_the_platforms_checklist_has_a_switch(platform: Platform) -> None:
    for named, switch in {**SECTION_E[platform], **EVERYWHERE}.items():
        assert platform in CATALOGUE[switch].platforms, named


@pytest.mark.parametrize(("name", "platform"), EVERY)
def test_every_fault_strikes_singly_at_random_by_seed_and_by_schedule(name: str, platform: Platform) -> None:
    def struck(seed: int = 0, **when: Any) -> list[int]:
        faults = Faults(seed, (Fault(name, platform=platform, **when),))
        minutes = [NOW + timedelta(minutes=minute) for minute in range(120)]
        return [at for at, now in enumerate(minutes) if faults.striking(platform, "/x", METRICS, now)]

    assert struck(after=3, times=1) == [3]
    assert struck(1, probability=0.5) == struck(1, probability=0.5) != struck(2, probability=0.5)
    assert struck(since=NOW + timedelta(minutes=10), until=NOW + timedelta(minutes=12)) == [10, 11]
    hourly: dict[str, Any] = {"since": NOW + timedelta(minutes=10), "until": NOW + timedelta(minutes=12), "every": 3600}
    assert struck(**hourly) == [10, 11, 70, 71]
    assert not [one for one in Platform if one not in CATALOGUE[name].platforms and strikes(_only(name), one)]


def _only(name: str) -> Faults:
    return Faults(faults=(Fault(name),))


@given(
    since=st.integers(-500, 500),
    length=st.integers(1, 300),
    every=st.integers(1, 600),
    minute=st.integers(-1000, 5000),
)
def test_a_schedule_comes_again_after_every_period_and_never_before_it_begins(
    since: int, length: int, every: int, minute: int
) -> None:
    span = {"since": NOW + timedelta(minutes=since), "until": NOW + timedelta(minutes=since + length)}
    if length > every:
        with pytest.raises(UserError, match="no further apart"):
            Fault("http_500", **span, every=every * 60)
        return
    fault = Fault("http_500", **span, every=every * 60)
    due = fault.fits(Platform.META, "/x", METRICS, NOW + timedelta(minutes=minute))
    assert due == (minute >= since and (minute - since) % every < length)


def test_a_schedule_is_read_from_iso_moments_and_needs_both_ends_to_come_again() -> None:
    fault = Fault("http_500", since="2026-11-04T15:00:00", until="2026-11-04T16:00:00+01:00")  # type: ignore[arg-type]
    assert (fault.since, fault.until) == (NOW.replace(minute=0), NOW.replace(minute=0))
    with pytest.raises(UserError, match="since and until"):
        Fault("http_500", every=60)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="gremlins"):
        Fault("gremlins")


# -- faults of shape, through the platforms' own handlers ----------------------------------------------------------


def troubled(world: World, platform: Platform, name: str, value: float | None = None) -> tuple[Wire, AdAccount]:
    return Wire(world, platform, NOW, {name: value}), first(world, platform)


def test_reduce_data_strikes_above_a_number_of_rows(world: World) -> None:
    for rows, refused in ((3, True), (10_000, False)):
        wire, account = troubled(world, Platform.META, "meta_reduce_data", rows)
        body = wire.get(account, f"/v26.0/act_{account.external_id}/insights", level="ad", date_preset="last_7d")
        assert ("error" in body) == refused
        assert not refused or (body["error"]["code"], "reduce the amount" in body["error"]["message"]) == (1, True)


def test_an_empty_page_may_come_first_and_nothing_is_lost(world: World) -> None:
    wire, account = troubled(world, Platform.META, "meta_empty_page")
    path = f"/v26.0/act_{account.external_id}/campaigns"
    page = wire.get(account, path, limit="100")
    assert page["data"] == []
    assert "next" in page["paging"]
    rest = wire.get(account, path, limit="100", after=page["paging"]["cursors"]["after"])
    calm = Wire(world, Platform.META).get(account, path, limit="100")
    assert rest["data"] == calm["data"]


@pytest.mark.parametrize(
    ("name", "status", "percent"),
    [
        ("meta_job_failed", "Job Failed", 70),
        ("meta_job_skipped", "Job Skipped", 0),
        ("meta_job_incomplete", "Job Completed", 90),
        ("meta_job_stuck", "Job Running", 40),
    ],
)
def test_report_runs_go_wrong(world: World, name: str, status: str, percent: int) -> None:
    wire, account = troubled(world, Platform.META, name)
    run = wire.post_form(account, f"/v26.0/act_{account.external_id}/insights", level="ad")["report_run_id"]
    for _ in range(3):
        body = wire.get(account, f"/v26.0/{run}")
    assert (body["async_status"], body["async_percent_completion"]) == (status, percent)
    assert ("error_code" in body) == (name == "meta_job_failed")


def test_a_fresh_report_run_may_not_be_found_yet(world: World) -> None:
    wire, account = troubled(world, Platform.META, "meta_run_not_found")
    run = wire.post_form(account, f"/v26.0/act_{account.external_id}/insights", level="ad")["report_run_id"]
    failed = wire.get(account, f"/v26.0/{run}")["error"]
    assert (failed["code"], failed["error_subcode"]) == (100, 33)
    wire.troubles = {}
    assert wire.get(account, f"/v26.0/{run}")["id"] == run


def test_usage_headers_can_be_high_without_an_error(world: World) -> None:
    wire, account = troubled(world, Platform.META, "meta_usage_high")
    path = f"/v26.0/act_{account.external_id}/insights"
    answer = wire.ask("GET", path, {"date_preset": "yesterday"}, wire.headers(account))
    assert answer.status == 200
    assert json.loads(answer.headers["x-fb-ads-insights-throttle"])["acc_id_util_pct"] == 96
    assert json.loads(answer.headers["x-app-usage"])["call_count"] == 96


def test_meta_may_answer_in_another_version_than_it_was_asked_in(world: World) -> None:
    wire, account = troubled(world, Platform.META, "meta_other_version")
    answer = wire.ask("GET", "/v26.0/me", {}, wire.headers(account))
    assert (answer.status, answer.headers["facebook-api-version"]) == (200, "v27.0")


@pytest.mark.parametrize(("level", "told"), [("account", False), ("campaign", False), ("adset", True), ("ad", True)])
def test_meta_may_withhold_actions_where_ad_sets_differ_unless_windows_are_named(
    world: World, level: str, told: bool
) -> None:
    wire, account = troubled(world, Platform.META, "meta_mixed_attribution")

    def tells(**more: Any) -> bool:
        query = {"level": level, "fields": "spend,actions,action_values,purchase_roas", "date_preset": "last_7d"}
        rows = wire.get(account, f"/v26.0/act_{account.external_id}/insights", **query, **more)["data"]
        assert rows
        return any({"actions", "action_values", "purchase_roas"} & set(row) for row in rows)

    assert tells() == told
    assert tells(action_attribution_windows=["7d_click"])


@pytest.mark.parametrize("platform", [Platform.META, Platform.TIKTOK])
def test_a_listing_may_leave_out_what_has_numbers(world: World, platform: Platform) -> None:
    wire, account = troubled(world, platform, "unlisted")
    hidden, campaign_of = account.campaigns[0].external_id, "campaign_id"
    for kind in ("campaign", "adgroup", "ad"):
        if platform is Platform.META:
            edge = f"{kind}s".replace("adgroup", "adset")
            body = wire.get(account, f"/v26.0/act_{account.external_id}/{edge}", fields="campaign_id", limit="500")
            rows, campaign_of = body["data"], "id" if kind == "campaign" else "campaign_id"
        else:
            path = f"/open_api/v1.3/{kind}/get/"
            rows = wire.get(account, path, advertiser_id=account.external_id, page_size="1000")["data"]["list"]
        assert rows
        assert hidden not in {row[campaign_of] for row in rows}
    day = NOW.date() - timedelta(days=2)
    assert (hidden, str(day), None) in read(wire, account, Level.CAMPAIGN, day, day, hourly=False)


@pytest.mark.parametrize("platform", Platform)
def test_pages_may_begin_with_the_last_row_of_the_one_before(
    world: World, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google, "PAGE_ROWS", 3)
    account = first(world, platform)

    def pages(wire: Wire) -> list[list[Any]]:
        if platform is Platform.GOOGLE:
            batches = wire.gaql(account, "SELECT campaign.id FROM campaign", method="searchStream")
            return [batch["results"] for batch in batches]
        if platform is Platform.TIKTOK:
            query = {"advertiser_id": account.external_id, "page_size": "3"}
            path = "/open_api/v1.3/campaign/get/"
            return [wire.get(account, path, **query, page=str(page))["data"]["list"] for page in (1, 2)]
        path = f"/v26.0/act_{account.external_id}/campaigns"
        page = wire.get(account, path, limit="3")
        after = page["paging"]["cursors"]["after"]
        return [page["data"], wire.get(account, path, limit="3", after=after)["data"]]

    calm, odd = pages(Wire(world, platform)), pages(Wire(world, platform, NOW, {"pages_overlap": None}))
    assert odd[0] == calm[0]
    assert odd[1] == [calm[0][-1], *calm[1]]


def test_googles_pages_of_a_search_may_overlap_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google, "PAGE_ROWS", 3)
    wire, account = troubled(world, Platform.GOOGLE, "pages_overlap")
    page = wire.gaql(account, "SELECT campaign.id FROM campaign")
    following = wire.gaql(account, "SELECT campaign.id FROM campaign", pageToken=page["nextPageToken"])
    assert following["results"][0] == page["results"][-1]


def tiktok_report(world: World, name: str, value: float | None = None) -> dict[str, Any]:
    wire, account = troubled(world, Platform.TIKTOK, name, value)
    body = wire.get(
        account,
        "/open_api/v1.3/report/integrated/get/",
        advertiser_id=account.external_id,
        data_level="AUCTION_AD",
        dimensions=["ad_id", "stat_time_day"],
        metrics=["spend", "complete_payment", "total_complete_payment_rate", "campaign_id", "adgroup_id", "ad_name"],
        start_date="2026-11-02",
        end_date="2026-11-02",
        page_size="1000",
        filtering=[{"field_name": "ad_status", "filter_type": "IN", "filter_value": '["STATUS_ALL"]'}],
    )
    assert (body["code"], body["data"] == {}) in {(0, False), (51010, True)}
    data: dict[str, Any] = body["data"]
    return data


def test_tiktok_may_cut_a_page_of_what_it_counts(world: World) -> None:
    calm, odd = tiktok_report(world, ""), tiktok_report(world, "tiktok_cut_listing")
    assert odd == {**calm, "list": calm["list"][:-1]}
    assert odd["page_info"]["total_number"] == len(odd["list"]) + 1


def test_tiktok_may_not_tell_what_an_ad_is_in(world: World) -> None:
    rows = [row["metrics"] for row in tiktok_report(world, "tiktok_no_parents")["list"]]
    assert {(row["campaign_id"], row["adgroup_id"]) for row in rows} == {("-", "-")}
    assert "-" not in {row["ad_name"] for row in rows}


def test_tiktok_may_take_too_long_for_a_large_report(world: World) -> None:
    rows = len(tiktok_report(world, "")["list"])
    assert tiktok_report(world, "tiktok_slow_report") == tiktok_report(world, "tiktok_slow_report", rows - 1) == {}
    assert len(tiktok_report(world, "tiktok_slow_report", rows)["list"]) == rows


def test_tiktoks_budgets_may_be_for_a_lifetime(world: World) -> None:
    def budgets(name: str) -> list[tuple[str, float]]:
        wire, account = troubled(world, Platform.TIKTOK, name)
        rows = wire.get(account, "/open_api/v1.3/campaign/get/", advertiser_id=account.external_id)["data"]["list"]
        return [(row["budget_mode"], row["budget"]) for row in rows]

    calm, odd = budgets(""), budgets("tiktok_lifetime_budgets")
    assert {mode for mode, _ in odd} == {"BUDGET_MODE_TOTAL", "BUDGET_MODE_INFINITE"}
    assert [(mode.replace("TOTAL", "DAY"), budget) for mode, budget in odd] == calm


def test_tiktok_may_not_tell_conversions(world: World) -> None:
    rows = tiktok_report(world, "tiktok_dash_metrics")["list"]
    assert {row["metrics"]["complete_payment"] for row in rows} == {"-"}
    assert "-" not in {row["metrics"]["spend"] for row in rows}


def test_tiktok_may_leave_out_its_totals(world: World) -> None:
    assert set(tiktok_report(world, "tiktok_truncated_page_info")["page_info"]) == {"page", "page_size"}


def test_tiktok_may_fill_up_with_zeros(world: World) -> None:
    data = tiktok_report(world, "tiktok_zero_rows")
    ads = {one.external_id for one in first(world, Platform.TIKTOK).ads}
    assert {row["dimensions"]["ad_id"] for row in data["list"]} == ads
    zero = [row for row in data["list"] if row["metrics"]["spend"] == "0.00"]
    assert zero
    assert {row["dimensions"]["stat_time_day"] for row in data["list"]} == {"2026-11-02 00:00:00"}


def test_tiktok_may_cut_a_report_that_names_no_campaigns(world: World) -> None:
    wire, account = troubled(world, Platform.TIKTOK, "tiktok_truncated_report")
    query: dict[str, Any] = {
        "advertiser_id": account.external_id,
        "data_level": "AUCTION_CAMPAIGN",
        "dimensions": ["campaign_id", "stat_time_day"],
        "start_date": "2026-11-02",
        "end_date": "2026-11-02",
    }

    def ask() -> tuple[int, bool]:
        answer = wire.ask("GET", "/open_api/v1.3/report/integrated/get/", query, wire.headers(account))
        return len(orjson.loads(answer.body)["data"]["list"]), "x-tt-ads-throttle" in answer.headers

    cut = ask()
    ids = json.dumps([one.external_id for one in account.campaigns])
    query["filtering"] = [{"field_name": "campaign_ids", "filter_type": "IN", "filter_value": ids}]
    whole = ask()
    assert (cut[1], whole[1]) == (True, False)
    assert 0 < cut[0] < whole[0]


def test_the_other_platforms_ids_are_beyond_what_a_float_can_tell(world: World) -> None:
    for platform in (Platform.META, Platform.TIKTOK):
        account = first(world, platform)
        assert all(int(one.external_id) > 2**53 for one in [*account.campaigns, *account.ad_sets, *account.ads])


def test_googles_ids_can_be_so_large_too_and_still_fit_together() -> None:
    kind = CATALOGUE["google_large_ids"]
    assert kind.damage is not None
    row = {
        "campaign": {"resourceName": "customers/5/campaigns/22", "id": "22", "name": "22"},
        "adGroup": {"resourceName": "customers/5/adGroups/33", "campaign": "customers/5/campaigns/22", "id": "33"},
        "adGroupAd": {"resourceName": "customers/5/adGroupAds/33~44", "ad": {"id": "44"}, "status": "ENABLED"},
        "campaignBudget": {"amountMicros": "5000000"},
        "customer": {"resourceName": "customers/5", "id": "5"},
        "metrics": {"clicks": "7"},
    }
    odd = orjson.loads(kind.damage(Answer.of([{"results": [row]}])).body)[0]["results"][0]
    campaign, group, ad = (str(number + 2**53) for number in (22, 33, 44))
    assert odd == {
        "campaign": {**row["campaign"], "resourceName": f"customers/5/campaigns/{campaign}", "id": campaign},
        "adGroup": {
            "resourceName": f"customers/5/adGroups/{group}",
            "campaign": f"customers/5/campaigns/{campaign}",
            "id": group,
        },
        "adGroupAd": {
            "resourceName": f"customers/5/adGroupAds/{group}~{ad}",
            "ad": {"id": ad},
            "status": "ENABLED",
        },
        "campaignBudget": row["campaignBudget"],
        "customer": row["customer"],
        "metrics": row["metrics"],
    }


def test_googles_budgets_may_all_be_shared(world: World) -> None:
    kind, (wire, account) = CATALOGUE["google_shared_budgets"], troubled(world, Platform.GOOGLE, "")
    assert kind.damage is not None
    calm = wire.gaql(account, "SELECT campaign_budget.explicitly_shared, campaign_budget.amount_micros FROM campaign")
    odd = orjson.loads(kind.damage(Answer.of(calm)).body)["results"]
    assert {row["campaignBudget"]["explicitlyShared"] for row in odd} == {True}
    assert {row["campaignBudget"]["explicitlyShared"] for row in calm["results"]} == {False}


def test_googles_budgets_may_all_be_for_a_period(world: World) -> None:
    kind, (wire, account) = CATALOGUE["google_period_budgets"], troubled(world, Platform.GOOGLE, "")
    assert kind.damage is not None
    calm = wire.gaql(account, "SELECT campaign_budget.period, campaign_budget.amount_micros FROM campaign")
    odd = orjson.loads(kind.damage(Answer.of(calm)).body)["results"]
    assert {row["campaignBudget"]["period"] for row in odd} == {"CUSTOM_PERIOD"}
    assert {row["campaignBudget"]["period"] for row in calm["results"]} == {"DAILY"}


def test_googles_ads_may_have_no_names_and_all_else_has() -> None:
    kind = CATALOGUE["google_unnamed_ads"]
    assert kind.damage is not None
    row = {"campaign": {"name": "C"}, "adGroup": {"name": "G"}, "adGroupAd": {"ad": {"id": "4", "name": "A"}}}
    odd = orjson.loads(kind.damage(Answer.of([{"results": [row]}])).body)[0]["results"][0]
    assert odd == {**row, "adGroupAd": {"ad": {"id": "4"}}}


def test_a_stream_of_google_without_rows_may_have_no_batch(world: World) -> None:
    wire, account = troubled(world, Platform.GOOGLE, "google_no_batches")
    assert wire.gaql(account, "SELECT campaign.id FROM campaign WHERE campaign.id = 1", method="searchStream") == []
    (batch,) = wire.gaql(account, "SELECT campaign.id FROM campaign", method="searchStream")
    assert batch["results"]


def test_googles_zeros_may_be_absent_and_nothing_else_is() -> None:
    kind = CATALOGUE["google_zeros_absent"]
    assert kind.damage is not None
    row = {
        "campaign": {"id": "0", "name": ""},
        "metrics": {"clicks": "0", "conversions": 0.0, "impressions": "10"},
        "segments": {"date": "2026-11-02", "hour": 0},
    }
    odd = orjson.loads(kind.damage(Answer.of([{"results": [row]}])).body)[0]["results"][0]
    assert odd == {
        "campaign": row["campaign"],
        "metrics": {"impressions": "10"},
        "segments": {"date": "2026-11-02"},
    }


@pytest.mark.parametrize(("rows", "cut"), [(None, True), (0, True), (3, True), (10_000, False)])
def test_a_stream_of_google_may_end_in_the_middle(world: World, rows: float | None, cut: bool) -> None:
    wire, account = troubled(world, Platform.GOOGLE, "google_cut_stream", rows)
    path, query = f"/v26/customers/{account.external_id}/googleAds:searchStream", "SELECT campaign.id FROM campaign"
    answer = wire.ask("POST", path, {}, wire.headers(account), orjson.dumps({"query": query}))
    whole = Wire(world, Platform.GOOGLE).ask("POST", path, {}, wire.headers(account), orjson.dumps({"query": query}))
    assert answer.status == 200
    assert (answer.body != whole.body) == cut
    assert whole.body.startswith(answer.body)


def test_a_client_of_google_may_be_reached_through_two_managers(world: World) -> None:
    account = next(one for one in world.connected if one.manager)
    wire = Wire(world, Platform.GOOGLE, NOW, {"google_two_managers": None})
    roots = wire.get(account, "/v26/customers:listAccessibleCustomers")["resourceNames"]
    managers = [name.removeprefix("customers/") for name in roots]
    assert managers[0] == account.manager
    assert len(set(managers)) == 2
    for manager in managers:
        headers = {**wire.headers(account), "login-customer-id": manager}
        for customer, resource in ((manager, "customer_client"), (account.external_id, "customer")):
            body = orjson.dumps({"query": f"SELECT {resource}.id FROM {resource}"})
            answer = wire.ask("POST", f"/v26/customers/{customer}/googleAds:search", {}, headers, body)
            told = {row[resource.replace("_c", "C")]["id"] for row in orjson.loads(answer.body)["results"]}
            assert account.external_id in told


@pytest.mark.parametrize("platform", Platform)
def test_past_days_may_be_restated_and_today_not(world: World, platform: Platform) -> None:
    account, today = first(world, platform), NOW.astimezone(ZoneInfo(first(world, platform).timezone)).date()
    span = (today - timedelta(days=1), today)
    calm = read(Wire(world, platform), account, Level.CAMPAIGN, *span, hourly=False)
    odd = read(Wire(world, platform, NOW, {"restated": 3}), account, Level.CAMPAIGN, *span, hourly=False)
    assert set(odd) == set(calm)
    for key, numbers in odd.items():
        factor = 1 if key[1] == str(today) else 3
        assert numbers == tuple(None if one is None else one * factor for one in calm[key])
    assert {key[1] for key in odd} == {str(day) for day in span}


@pytest.mark.parametrize("platform", Platform)
def test_days_may_have_no_row_at_all(world: World, platform: Platform) -> None:
    wire, account = troubled(world, platform, "no_rows")
    for level in (None, Level.CAMPAIGN, Level.AD):
        assert read(wire, account, level, NOW.date() - timedelta(days=3), NOW.date(), hourly=False) == {}


@pytest.mark.parametrize("hours", [23, 25])
@pytest.mark.parametrize("platform", Platform)
def test_hours_may_be_as_on_the_day_of_a_clock_change(world: World, platform: Platform, hours: int) -> None:
    wire, account = troubled(world, platform, "clock_change", hours)
    day = NOW.date() - timedelta(days=2)
    calm = read(Wire(world, platform), account, None, day, day, hourly=True)
    odd = read(wire, account, None, day, day, hourly=True)
    told, told_odd = ({key[2]: numbers[:3] for key, numbers in rows.items()} for rows in (calm, odd))
    assert set(told) == set(range(24))
    assert set(told) - set(told_odd) == {2 if hours == 23 else 23}
    folded = (2, 3) if hours == 23 else (1, 2)
    assert told_odd[3 if hours == 23 else 1] == tuple(map(sum, zip(*(told[hour] for hour in folded), strict=True)))
    assert [sum(column) for column in zip(*told.values(), strict=True)] == [
        sum(column) for column in zip(*told_odd.values(), strict=True)
    ]


def test_late_conversions_need_no_fault(world: World) -> None:
    account = first(world, Platform.TIKTOK, timezone="Europe/London")
    day = (NOW - timedelta(days=3)).date()
    now, later = (account.facts(None, day, day, NOW + timedelta(days=days), hourly=False) for days in (0, 6))
    assert now.spend_micros.tolist() == later.spend_micros.tolist()
    assert now.conversions_micros.sum() < later.conversions_micros.sum()


def test_google_may_rotate_refresh_tokens_and_takes_the_one_before_for_a_while(world: World) -> None:
    wire, account = troubled(world, Platform.GOOGLE, "google_rotates", 30)
    first_token = str(world.credentials(account)[1])

    def refresh(token: str, *, after: int = 0) -> str | None:
        wire.now = NOW + timedelta(seconds=after)
        form = {
            "grant_type": "refresh_token",
            "client_id": APP.google_client_id,
            "client_secret": APP.google_client_secret,
            "refresh_token": token,
        }
        body = orjson.loads(wire.ask("POST", "/token", {}, {}, urlencode(form).encode()).body)
        assert ("refresh_token" in body) != (body.get("error") == "invalid_grant"), body
        return body.get("refresh_token")

    lost = refresh(first_token)
    assert lost not in {None, first_token}
    second = refresh(first_token, after=30)  # nobody heard of the lost one
    assert second not in {None, first_token, lost}
    assert refresh(first_token, after=31) is None
    third = refresh(str(second), after=500)
    assert third is not None
    assert refresh(str(lost), after=501) is None  # two behind
    assert refresh(third, after=531) is not None
    assert refresh(str(second), after=532) is None


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("meta_refuses", {"code": 10}),
        ("meta_refuses", {"code": "x"}),
        ("tiktok_refuses", {"code": "40105/1"}),
        ("google_refuses", {"code": "RESOURCE_EXHAUSTED"}),
        ("http_500", {"code": "500"}),
        ("http_500", {"message": "no"}),
    ],
)
def test_a_code_that_cannot_be_played_is_refused_before_any_call(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Fault(name, **more)


@pytest.mark.parametrize(
    ("name", "code", "value", "status", "found"),
    [
        ("meta_refuses", "190/463", None, 400, (190, 463)),
        ("meta_refuses", "-2/2490547", 500, 500, (-2, 2490547)),
        ("tiktok_refuses", "40105", None, 200, 40105),
        ("tiktok_refuses", "50002", 500, 500, 50002),
        ("google_refuses", "quotaError.RESOURCE_EXHAUSTED", None, 429, {"quotaError": "RESOURCE_EXHAUSTED"}),
        ("google_refuses", "internalError.DEADLINE_EXCEEDED", 504, 504, {"internalError": "DEADLINE_EXCEEDED"}),
    ],
)
def test_any_code_is_played_in_the_platforms_own_form(
    name: str, code: str, value: float | None, status: int, found: object
) -> None:
    answer = reply(name, code=code, value=value, message="So it is.", path="/v26/x")
    body = orjson.loads(answer.body)
    told = {
        "meta_refuses": lambda: (body["error"]["code"], body["error"]["error_subcode"]),
        "tiktok_refuses": lambda: body["code"],
        "google_refuses": lambda: body["error"]["details"][0]["errors"][0]["errorCode"],
    }[name]()
    assert (answer.status, told) == (status, found)
    assert b"So it is." in answer.body
