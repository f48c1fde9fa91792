"""Exporting: adapted modules as ONNX, `torch.export` and TorchScript files, with the sizes at which they hold."""

from autoadapt.saving.exporting.exports import export
from autoadapt.saving.exporting.ranges import SizeRange, size_ranges
from autoadapt.saving.exporting.results import Exported
from autoadapt.saving.exporting.shapes import dynamic_shapes

__all__ = ["Exported", "SizeRange", "dynamic_shapes", "export", "size_ranges"]
