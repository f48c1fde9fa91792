"""Native sizes: views of modules of one image size that take images of other sizes, as by resampled positions."""

from autoadapt.contracts.native import timm_models, torchvision_models, transformers_models
from autoadapt.contracts.native.found_tables import tables_of
from autoadapt.contracts.native.lifts import Lift, lift_of, lift_reader
from autoadapt.contracts.native.proofs import unproven

__all__ = [
    "Lift",
    "lift_of",
    "lift_reader",
    "tables_of",
    "timm_models",
    "torchvision_models",
    "transformers_models",
    "unproven",
]
