"""Assembly: backbone, neck, head and loss from a config, with the numbers between them found."""

from autoadapt.assembly.assembling import assemble, describe
from autoadapt.assembly.cifar import ResNetCIFAR
from autoadapt.assembly.comparisons import Comparison, compare
from autoadapt.assembly.configs import Config, write_yaml
from autoadapt.assembly.heads import DenseHead, LinearClsHead, MLPHead
from autoadapt.assembly.losses import CrossEntropyLoss, L1Loss, SmoothL1Loss
from autoadapt.assembly.mmengine import share_with_mmengine
from autoadapt.assembly.models import AssembledModel
from autoadapt.assembly.necks import FPN, GlobalAveragePooling, Identity
from autoadapt.assembly.registry import PARTS, Registry, register
from autoadapt.assembly.results import Assembly

__all__ = [
    "FPN",
    "PARTS",
    "AssembledModel",
    "Assembly",
    "Comparison",
    "Config",
    "CrossEntropyLoss",
    "DenseHead",
    "GlobalAveragePooling",
    "Identity",
    "L1Loss",
    "LinearClsHead",
    "MLPHead",
    "Registry",
    "ResNetCIFAR",
    "SmoothL1Loss",
    "assemble",
    "compare",
    "describe",
    "register",
    "share_with_mmengine",
    "write_yaml",
]
