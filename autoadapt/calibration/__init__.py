"""Calibration: adapters fitted in closed form, without labels, on unlabelled images."""

from autoadapt.calibration.calibrations import calibrate
from autoadapt.calibration.results import Calibration
from autoadapt.calibration.solvers import Recipe

__all__ = ["Calibration", "Recipe", "calibrate"]
