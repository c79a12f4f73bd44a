"""Verdicts for people: one self-contained HTML page, and twenty lines of text for terminals and CI logs."""

from troth.verify.report.page import html, text

__all__ = ["html", "text"]
