"""One self-contained HTML page about a run, or about several runs side by side."""

from pipeline.reporting.comparison import render_comparison
from pipeline.reporting.page import Report, render_report
from pipeline.reporting.run_facts import RunFacts, run_from_json

__all__ = ["Report", "RunFacts", "render_comparison", "render_report", "run_from_json"]
