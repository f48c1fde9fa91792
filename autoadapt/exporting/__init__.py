"""Exporting: adapted modules as ONNX, `torch.export` and TorchScript files, with the sizes at which they hold."""

from autoadapt.exporting.exports import export
from autoadapt.exporting.ranges import SizeRange, size_ranges
from autoadapt.exporting.results import Exported
from autoadapt.exporting.shapes import dynamic_shapes

__all__ = ["Exported", "SizeRange", "dynamic_shapes", "export", "size_ranges"]
