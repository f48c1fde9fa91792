"""Assembly: backbone, neck, head and loss from a config, with the numbers between them found."""

from autoadapt.assembly.assembling import assemble, describe
from autoadapt.assembly.cifar import ResNetCIFAR
from autoadapt.assembly.comparisons import Comparison, compare
from autoadapt.assembly.configs import Config, write_yaml
from autoadapt.assembly.dialects import read_dialect
from autoadapt.assembly.heads import (
    DenseHead,
    FCNHead,
    LinearClsHead,
    MLPHead,
    StackedLinearClsHead,
    VisionTransformerClsHead,
)
from autoadapt.assembly.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    L1Loss,
    LabelSmoothLoss,
    SmoothL1Loss,
)
from autoadapt.assembly.mmengine import share_with_mmengine
from autoadapt.assembly.models import AssembledModel
from autoadapt.assembly.necks import FPN, ChannelMapper, GlobalAveragePooling, Identity
from autoadapt.assembly.preprocessors import ImagePreprocessor
from autoadapt.assembly.registry import PARTS, Registry, register
from autoadapt.assembly.results import Assembly

__all__ = [
    "FPN",
    "PARTS",
    "AssembledModel",
    "Assembly",
    "ChannelMapper",
    "Comparison",
    "Config",
    "CrossEntropyLoss",
    "DenseHead",
    "DiceLoss",
    "FCNHead",
    "FocalLoss",
    "GlobalAveragePooling",
    "Identity",
    "ImagePreprocessor",
    "L1Loss",
    "LabelSmoothLoss",
    "LinearClsHead",
    "MLPHead",
    "Registry",
    "ResNetCIFAR",
    "SmoothL1Loss",
    "StackedLinearClsHead",
    "VisionTransformerClsHead",
    "assemble",
    "compare",
    "describe",
    "read_dialect",
    "register",
    "share_with_mmengine",
    "write_yaml",
]
