"""The HTML reports and their figures."""

from genome_lm.report.page import watch_report, write_report
from genome_lm.report.suite import write_suite_report
from genome_lm.report.tuning import write_finetune_report
from genome_lm.report.variant_benchmark import write_benchmark_report

__all__ = [
    "watch_report",
    "write_benchmark_report",
    "write_finetune_report",
    "write_report",
    "write_suite_report",
]
