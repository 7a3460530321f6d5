"""The report's charts as PNG: drawn by Vega-Lite inside this process, with no browser and no network.

PNG because mail clients drop SVG; twice the shown size, so that it is sharp on phones. Light background in every
theme, text large enough to survive scaling to a phone's width, no meaning carried by colour alone.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import altair as alt
import vl_convert

from aae.display import clean, currency_decimals, money
from aae.reporting.numbers import NOTHING, WEEK_DAYS
from aae.reporting.report import CampaignLine, Report, Section, TrendPoint

WIDTH: Final = 624
"""Shown width in CSS pixels: the report's column."""
MAX_CURRENCIES: Final = 4
"""More would make a mail too heavy; the tables have them all."""
_BARS: Final = 8
_INK, _MUTED, _GRID, _LINE, _PAST, _SHADE = "#111827", "#4b5563", "#e5e7eb", "#1d4ed8", "#93b4f5", "#fef3c7"
_SCALE: Final = 2.0
_BAR_FROM, _BAR_TO = 230, WIDTH - 120

Layers = alt.LayerChart | alt.FacetChart  # what altair says that layering returns


def charts(report: Report) -> dict[str, bytes]:
    """PNG images by name: ``trend-EUR`` and ``spend-EUR`` for each of the first currencies with something to show."""
    drawn: dict[str, bytes] = {}
    for section in report.sections[:MAX_CURRENCIES]:
        makers: dict[str, Callable[[Section], Layers | alt.VConcatChart | None]] = {"trend": _trend, "spend": _spend}
        for name, make in makers.items():
            chart = make(section)
            if chart is not None:
                drawn[f"{name}-{section.currency}"] = _png(chart)
    return drawn


def describe(name: str, report: Report) -> str:
    """What a chart shows, in words, for those who do not see it."""
    kind, _, currency = name.partition("-")
    section = next(section for section in report.sections if section.currency == currency)
    if kind == "spend":
        top = [line for line in section.campaigns if line.week.spend_micros][:3]
        told = "; ".join(f"{clean(line.name, limit=40)} {money(line.week.spend, currency)}" for line in top)
        return f"Bar chart: spend by campaign in 7 days. Largest: {told}."
    week = section.trend[-WEEK_DAYS:]
    told = ", ".join(f"{money(point.sums.cpa, currency)}" for point in week)
    return f"Line charts: ROAS and CPA by day over {len(section.trend)} days. CPA of the last {len(week)}: {told}."


def _trend(section: Section) -> alt.VConcatChart | None:
    """ROAS above CPA, by day; the last 7 days stand out, days whose conversions still arrive are shaded."""
    panels: list[Layers] = []
    unit = section.currency
    wanted: list[tuple[str, Callable[[TrendPoint], Decimal | None], str]] = [
        ("ROAS (revenue per spend)", lambda point: point.sums.roas, ".1f"),
        (f"CPA ({unit} per conversion)", lambda point: point.sums.cpa, f",.{min(2, currency_decimals(unit))}f"),
    ]
    for title, value, number_format in wanted:
        points = [
            {
                "day": point.day.isoformat(),
                "value": float(found),
                "recent": place >= len(section.trend) - WEEK_DAYS,
                "last": place == len(section.trend) - 1,
            }
            for place, point in enumerate(section.trend)
            if (found := value(point)) is not None
        ]
        if len(points) >= 2:
            panels.append(_panel(section, title, points, number_format))
    return alt.vconcat(*panels, spacing=18) if panels else None


def _panel(section: Section, title: str, points: list[dict[str, Any]], number_format: str) -> Layers:
    first, last = section.trend[0].day.isoformat(), section.trend[-1].day.isoformat()
    x = alt.X(
        "day:T",
        title=None,
        scale=alt.Scale(domain=[first, last], padding=8),
        axis=alt.Axis(format="%-d %b", grid=False, tickCount=7, labelFlush=True, labelOverlap=True),
    )
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(domain=_span([point["value"] for point in points])),
        axis=alt.Axis(tickCount=4, format=number_format, domain=False, ticks=False, minExtent=56),
    )
    base = _over(points).encode(x=x, y=y)
    recent = alt.datum.recent
    layers: list[alt.Chart] = [
        base.mark_line(color=_PAST, strokeWidth=2.5, interpolate="linear"),
        base.transform_filter(recent).mark_line(color=_LINE, strokeWidth=3),
        base.transform_filter(recent).mark_point(color=_LINE, filled=True, size=60, opacity=1),
        base.transform_filter(alt.datum.last)
        .mark_text(align="left", dx=10, fontSize=16, fontWeight="bold", color=_INK, clip=False)
        .encode(text=alt.Text("value:Q", format=number_format)),
    ]
    young = [point.day.isoformat() for point in section.trend if point.young]
    if len(young) >= 2:
        shade = _over([{"from": young[0], "to": young[-1]}])
        layers.insert(0, shade.mark_rect(color=_SHADE).encode(x=alt.X("from:T"), x2="to:T"))
    layered = alt.layer(*layers)
    return layered.properties(width=WIDTH - 72 - 64, height=135, title=title)


def _span(values: list[float]) -> list[float]:
    """From zero where the line comes near it; otherwise a window wide enough that small moves look small."""
    low, high = min(values), max(values)
    return [0 if low < high / 2 else low * 0.7, high * 1.1 or 1]


def _spend(section: Section) -> Layers | None:
    """Spend of the last 7 days by campaign, the largest first, the small ones together."""
    spending = [line for line in section.campaigns if line.week.spend_micros]
    if not spending:
        return None
    bars = [_bar(n, _label(line, spending), line.week.spend, section) for n, line in enumerate(spending[:_BARS])]
    if others := spending[_BARS:]:
        rest = sum((line.week for line in others), NOTHING).spend
        bars.append(_bar(_BARS, f"{len(others)} more campaigns", rest, section))
    widest = max(bar["spend"] for bar in bars)
    for bar in bars:
        bar["end"] = _BAR_FROM + (_BAR_TO - _BAR_FROM) * bar["spend"] / widest
    pixels = alt.Scale(domain=[0, WIDTH], range=[0, WIDTH], nice=False)
    base = _over(bars).encode(
        y=alt.Y("place:O", axis=None, sort=None, scale=alt.Scale(paddingInner=0.4, paddingOuter=0.2)),
        x=alt.X("end:Q", axis=None, scale=pixels),
    )
    text: dict[str, Any] = {"align": "left", "baseline": "middle", "fontSize": 15, "color": _INK}
    layered = alt.layer(
        base.mark_bar(color=_LINE, cornerRadiusEnd=3).encode(x2=alt.datum(_BAR_FROM)),
        base.mark_text(**text, limit=_BAR_FROM - 10).encode(x=alt.value(0), text="name:N"),
        base.mark_text(**text, dx=8, fontWeight="bold").encode(text="shown:N"),
    )
    return layered.properties(width=WIDTH, height=34 * len(bars), title="Spend by campaign, last 7 days")


def _bar(place: int, name: str, spend: Decimal, section: Section) -> dict[str, Any]:
    return {"place": place, "name": name, "spend": float(spend), "shown": money(spend, section.currency)}


def _label(line: CampaignLine, among: list[CampaignLine]) -> str:
    """The name; where another account has the same, the account as well."""
    name = clean(line.name, limit=34)
    twins = sum(clean(other.name, limit=34) == name for other in among)
    return name if twins == 1 else f"{clean(line.name, limit=20)} ({clean(line.account.name, limit=12)})"


def _over(values: list[dict[str, Any]]) -> alt.Chart:
    """A chart over plain records."""
    return alt.Chart(alt.Data(values=values))  # type: ignore[no-untyped-call]  # altair leaves it untyped


def _png(chart: Layers | alt.VConcatChart) -> bytes:
    """Drawn with the fonts that the renderer brings; ``allowed_base_urls=[]`` keeps it from ever opening a socket."""
    themed = chart.configure(
        font="Liberation Sans",
        background="white",
        padding=4,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelFontSize=14, labelColor=_MUTED, gridColor=_GRID, domainColor=_GRID, tickColor=_GRID, labelPadding=6
        ),
        title=alt.TitleConfig(anchor="start", fontSize=16, fontWeight="bold", color=_INK, offset=12),
    )
    spec = themed.to_dict(validate=False)  # its parts were validated as they were made; the whole takes as long again
    return squeeze(vl_convert.vegalite_to_png(spec, scale=_SCALE, allowed_base_urls=[]))


def squeeze(png: bytes) -> bytes:
    """The same picture in fewer bytes: the renderer compresses for speed, a mail wants it small."""
    pieces, body, at = [png[:8]], b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            body += data
        else:
            if kind == b"IEND":
                # Level 9 takes four times as long for a tenth of a percent.
                pieces.append(_chunk(b"IDAT", zlib.compress(zlib.decompress(body), 6)))
            pieces.append(_chunk(kind, data))
        at += 12 + size
    return b"".join(pieces)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
