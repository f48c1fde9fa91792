"""Reports: how results look in a notebook, in a rich terminal, and as one HTML file."""

from autoadapt.reports.assemblies import assembly_section, comparison_section, config_section
from autoadapt.reports.calibrations import calibration_section
from autoadapt.reports.pages import html_report, write_html
from autoadapt.reports.plans import plan_section, plan_svg
from autoadapt.reports.rankings import ranking_section
from autoadapt.reports.signatures import signature_section
from autoadapt.reports.swaps import swap_section
from autoadapt.reports.transfers import transfer_section
from autoadapt.reports.verifications import verification_section

__all__ = [
    "assembly_section",
    "calibration_section",
    "comparison_section",
    "config_section",
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
