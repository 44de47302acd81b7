"""The HTML report and its figures."""

from genome_lm.report.page import write_report

__all__ = ["write_report"]
