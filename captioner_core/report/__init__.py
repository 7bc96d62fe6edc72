"""The HTML report of a finished run: one page that needs no network."""

from captioner_core.report.page import write_report

__all__ = ["write_report"]
