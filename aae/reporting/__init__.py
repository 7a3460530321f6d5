"""Reporting: one user's day in numbers, reasons and recommendations, as HTML, CSV and Markdown.

Pure: frames and incidents in, a report out; nothing here opens a connection or asks for the time.
"""

from aae.reporting.charts import charts
from aae.reporting.render import render_csv, render_html, render_markdown
from aae.reporting.report import IncidentNote, Report, build_report, usual_day

__all__ = [
    "IncidentNote",
    "Report",
    "build_report",
    "charts",
    "render_csv",
    "render_html",
    "render_markdown",
    "usual_day",
]
