"""Calibration: adapters fitted in closed form on unlabelled images, and what steps beyond that teach a new backbone."""

from autoadapt.calibration.calibrations import calibrate
from autoadapt.calibration.distillations import Distillation
from autoadapt.calibration.distilling import distil
from autoadapt.calibration.results import Calibration
from autoadapt.calibration.solvers import Recipe

__all__ = ["Calibration", "Distillation", "Recipe", "calibrate", "distil"]
