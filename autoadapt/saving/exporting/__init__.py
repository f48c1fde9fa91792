"""Exporting: adapted modules as ONNX, `torch.export` and TorchScript files, with the sizes at which they hold."""

from autoadapt.saving.exporting.dynamic_axes import dynamic_shapes
from autoadapt.saving.exporting.exports import export
from autoadapt.saving.exporting.ranges import SizeRange, size_ranges
from autoadapt.saving.exporting.results import Exported

__all__ = ["Exported", "SizeRange", "dynamic_shapes", "export", "size_ranges"]
