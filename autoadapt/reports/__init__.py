"""Reports: how results look in a notebook, in a rich terminal, and as one HTML file."""

from autoadapt.reports.assembly_section import assembly_section, comparison_section, config_section
from autoadapt.reports.calibration_section import calibration_section, distillation_section
from autoadapt.reports.pages import html_report, write_html
from autoadapt.reports.plan_section import plan_section, plan_svg
from autoadapt.reports.ranking_section import ranking_section
from autoadapt.reports.signature_section import signature_section
from autoadapt.reports.swap_section import swap_section
from autoadapt.reports.transfer_section import transfer_section
from autoadapt.reports.verification_section import verification_section

__all__ = [
    "assembly_section",
    "calibration_section",
    "comparison_section",
    "config_section",
    "distillation_section",
    "html_report",
    "plan_section",
    "plan_svg",
    "ranking_section",
    "signature_section",
    "swap_section",
    "transfer_section",
    "verification_section",
    "write_html",
]
