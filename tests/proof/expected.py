"""What has to come of each fault of the sandbox's catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aae.model import Platform


@dataclass(frozen=True)
class Expected:
    """``once`` and ``lasting``: the account's outcome in the run that meets the fault once, and in the one in which it
    stays. ``kind``, ``code``: the class of the latter's error, and the code in the log. ``then``: what it takes to have
    everything that is owed."""

    once: str
    lasting: str
    kind: str | None = None
    code: str | None = None
    then: str = "next run"


def expected(name: str, platform: Platform) -> Expected:
    """What has to come of a fault on a platform."""
    found = EXPECTED[name]
    return found if isinstance(found, Expected) else found[platform]


def _retry(code: str) -> Expected:
    """A blip costs a call; trouble that stays costs the slices that it strikes, until the next run."""
    return Expected("stored", "partial", "Retry", code)


def _bug(code: str) -> Expected:
    """Asking again would not help, so nothing is asked again."""
    return Expected("partial", "partial", "Bug", code)


def _skip(code: str) -> Expected:
    return Expected("partial", "partial", "Skip", code)


def _wait(code: str | None, *, then: str = "next run") -> Expected:
    """Nothing more is asked of the account, not even once."""
    return Expected("throttled", "throttled", "Throttled", code, then)


def _brief(code: str) -> Expected:
    """A pause of a second or five is waited for; ever longer ones are not."""
    return Expected("stored", "throttled", "Throttled", code)


def _owner(code: str) -> Expected:
    return Expected("reauthorize", "reauthorize", "Reauthorize", code, "connected again")


_FINE: Final = Expected("stored", "stored")

EXPECTED: Final[Mapping[str, Expected | Mapping[Platform, Expected]]] = {
    "hang": _retry("timeout"),
    "drip": _retry("timeout"),
    "slow": _FINE,
    "drop": _retry("connection"),
    "drop_after": _retry("connection"),
    "drop_midway": _retry("connection"),
    "truncated_json": _retry("not-json"),
    "html": _retry("not-json"),
    "empty_body": _retry("not-json"),
    "restated": _FINE,
    "no_rows": _FINE,
    "clock_change": _FINE,
    "pages_overlap": _FINE,
    "unlisted": _FINE,
    "http_500": _retry("500"),
    "http_502": _retry("502"),
    "http_503": _retry("503"),
    "http_504": _retry("504"),
    "redirect": _bug("302"),
    "echo": {
        Platform.META: _bug("100"),
        Platform.TIKTOK: _bug("40002"),
        Platform.GOOGLE: _bug("UNRECOGNIZED_FIELD"),
    },
    "meta_token_expired": _owner("190/463"),
    "meta_token_revoked": _owner("190/458"),
    "meta_throttled": _wait("80000/2446079"),
    "meta_management_throttled": _wait("80004/2446079"),
    "meta_app_throttled": _wait("4/1504022"),
    "meta_user_throttled": _wait("17/2446079"),
    "meta_custom_throttled": _wait("613/1487742"),
    "meta_transient": _retry("2"),
    "meta_error_in_200": _retry("2"),
    "meta_unavailable_in_200": _retry("not-json"),
    "meta_no_permission": _skip("200"),
    "meta_deprecated_version": _bug("2635"),
    "meta_summary_param": _retry("100"),
    "meta_reduce_data": _retry("1"),
    "meta_job_failed": _retry("run-failed"),
    "meta_job_skipped": _retry("run-failed"),
    "meta_job_incomplete": _retry("run-too-slow"),
    "meta_job_stuck": _retry("run-too-slow"),
    "meta_run_not_found": _retry("100/33"),
    "meta_empty_page": _FINE,
    "meta_refuses": _retry("999"),
    "meta_other_version": _FINE,
    "meta_mixed_attribution": _FINE,
    "meta_requires_proof": _FINE,
    "meta_page_too_large": _FINE,
    "meta_cursor_circle": Expected("stored", "partial", "Bug", "malformed"),
    "meta_next_elsewhere": _FINE,
    "meta_windows_without_value": _FINE,
    "meta_job_slow": _FINE,
    "meta_usage_elsewhere": _FINE,
    # Our own patience, before Meta says anything: no code.
    "meta_usage_high": _wait(None),
    "tiktok_throttled": _brief("40100"),
    "tiktok_advertiser_throttled": _brief("40133"),
    "tiktok_token_expired": _owner("40102"),
    "tiktok_token_revoked": _owner("40105"),
    "tiktok_no_permission": _skip("40001"),
    "tiktok_not_found": _bug("404"),
    "tiktok_range_refused": _bug("40002"),
    "tiktok_system_error": _retry("50000"),
    "tiktok_busy": _retry("50002"),
    "tiktok_internal_timeout": _retry("timeout"),
    "tiktok_refuses": _retry("40700"),
    "tiktok_maintenance": _retry("60001"),
    "tiktok_dash_metrics": _FINE,
    "tiktok_truncated_page_info": _FINE,
    "tiktok_truncated_report": _FINE,
    "tiktok_zero_rows": _FINE,
    # Read again by the next run, not at once: what is cut now is still cut a moment later.
    "tiktok_cut_listing": Expected("partial", "partial", "Retry", "cut"),
    "tiktok_slow_report": _retry("timeout"),
    "tiktok_no_parents": _FINE,
    "tiktok_lifetime_budgets": _FINE,
    "google_removed": _FINE,
    "google_shared_budgets": _FINE,
    "google_period_budgets": _FINE,
    "google_unnamed_ads": _FINE,
    "google_zeros_absent": _FINE,
    "google_large_ids": _FINE,
    "google_stream_error": _retry("INTERNAL_ERROR"),
    "google_cut_stream": _retry("not-json"),
    "google_two_managers": _FINE,
    "google_rotates": _FINE,
    "google_invalid_grant": _owner("invalid_grant"),
    # A new token is had once; if that one has ended too, something else is wrong.
    "google_token_expired": _retry("OAUTH_TOKEN_EXPIRED"),
    "google_plain_401": _retry("OAUTH_TOKEN_EXPIRED"),
    "google_throttled": _wait("RESOURCE_EXHAUSTED", then="after the pause"),
    "google_account_throttled": _wait("RESOURCE_EXHAUSTED"),
    "google_internal": _retry("INTERNAL_ERROR"),
    "google_transient": _retry("TRANSIENT_ERROR"),
    "google_customer_not_enabled": _skip("CUSTOMER_NOT_ENABLED"),
    "google_no_permission": _skip("USER_PERMISSION_DENIED"),
    "google_manager_metrics": _skip("REQUESTED_METRICS_FOR_MANAGER"),
    "google_refuses": _bug("UNKNOWN"),
    "google_expired_page_token": _retry("EXPIRED_PAGE_TOKEN"),
}
