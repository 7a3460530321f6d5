"""Detection: numbers in, findings out. Pure: no clock, no network, no database."""

from aae.detection.causes import Finding, LateAccount, detect, is_late, late_accounts
from aae.detection.incidents import Change, OpenIncident, reconcile
from aae.detection.series import ALERT_THRESHOLD, score_series

__all__ = [
    "ALERT_THRESHOLD",
    "Change",
    "Finding",
    "LateAccount",
    "OpenIncident",
    "detect",
    "is_late",
    "late_accounts",
    "reconcile",
    "score_series",
]
