"""How numbers and names are shown: money, percentages, and text that somebody else wrote."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

from aae.model import from_micros

DASH: Final = "\N{EN DASH}"
"""Shown for what is not known; never a zero."""
MINUS: Final = "\N{MINUS SIGN}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
NBSP: Final = "\N{NO-BREAK SPACE}"

# ISO 4217's minor units, where they are not two.
_DECIMALS: Final[Mapping[str, int]] = {
    "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0,
    "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
    "BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}  # fmt: skip
# Only signs that mean one currency to every reader of a report that names the currency above its tables.
_SIGNS: Final[Mapping[str, str]] = {
    "EUR": "€", "USD": "$", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩", "ILS": "₪", "UAH": "₴",
    "PHP": "₱", "VND": "₫", "NGN": "₦", "BRL": "R$", "CAD": "CA$", "AUD": "A$", "NZD": "NZ$", "HKD": "HK$",
    "CNY": "CN¥", "MXN": "MX$", "TWD": "NT$",
}  # fmt: skip
# Reorder text, hide in it, or break lines: bidi controls, zero-width marks, tags, line separators.
_DECEPTIVE: Final = re.compile("[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
# A no-break space keeps "12 %" together and harms nobody.
_GAPS: Final = re.compile(r"[^\S\u00a0]+")
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@=^$\"'/])")
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four: their full-width twins


# A change from next to nothing to the largest amount there is has more digits than the usual 28.
_ROOMY: Final = Context(prec=400)


def clean(value: str, *, limit: int = 120) -> str:
    """A name fit for one line of display: no control or bidi characters, single spaces, at most ``limit`` long."""
    visible = _DECEPTIVE.sub("", value)
    printable = "".join(" " if unicodedata.category(c) in {"Cc", "Cs", "Co", "Cn"} else c for c in visible)
    line = _GAPS.sub(" ", printable).strip()
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    return line or "(no name)"


def csv_text(value: str) -> str:
    """A textual CSV cell that no spreadsheet takes for a formula.

    Source: OWASP, CSV injection: a cell that begins with ``= + - @``, a tab or a line break is prefixed with a quote.
    """
    line = clean(value, limit=1000) if value else ""
    return f"'{line}" if line.startswith(_FORMULA) else line


def markdown_text(value: str, *, limit: int = 120) -> str:
    """Text that Markdown shows as it is: no table cell, link, image, heading, HTML or bare address comes of it."""
    line = clean(value, limit=limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)


def currency_decimals(currency: str) -> int:
    """Decimals of a currency's smallest coin (ISO 4217): 0 for JPY, 3 for KWD, 2 for most."""
    return _DECIMALS.get(currency, 2)


def money(amount: Decimal | int | None, currency: str) -> str:
    """``1234.5`` in EUR is ``€1,234.50``; an ``int`` is micros; unknown is a dash."""
    if amount is None:
        return DASH
    value = from_micros(amount) if isinstance(amount, int) else amount
    rounded = _rounded(value, currency_decimals(currency))
    sign = _SIGNS.get(currency, f"{clean(currency, limit=3)}{NBSP}")
    return f"{MINUS if rounded < 0 else ''}{sign}{abs(rounded):,f}"


def number(value: Decimal | int | None, *, decimals: int = 0) -> str:
    """A count with thousands separators; decimals only where there are any; unknown is a dash."""
    if value is None:
        return DASH
    rounded = _rounded(Decimal(value), decimals)
    whole = rounded.to_integral_value()
    shown = f"{abs(whole if rounded == whole else rounded):,f}"
    return f"{MINUS if rounded < 0 else ''}{shown}"


def ratio(value: Decimal | None) -> str:
    """A ROAS: two decimals and a multiplication sign; unknown is a dash."""
    return DASH if value is None else f"{_rounded(value, 2):,f}{TIMES}"


def percent(value: Decimal | float | None, *, signed: bool = False) -> str:
    """``0.123`` is ``12 %``; below ten percent one decimal; ``signed`` shows plus and minus; unknown is a dash."""
    if value is None:
        return DASH
    hundredfold = Decimal(value) * 100
    rounded = _rounded(hundredfold, 1)
    if abs(rounded) >= 10 or rounded == rounded.to_integral_value():
        rounded = _rounded(hundredfold, 0)
    sign = MINUS if rounded < 0 else "+" if signed and rounded > 0 else ""
    return f"{sign}{abs(rounded):,f}{NBSP}%"


def _rounded(value: Decimal, decimals: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP, context=_ROOMY)
