"""The reader for torchvision's vision transformer, which is given the classes of `torchvision_forward`."""

from __future__ import annotations

from torch import nn

from autoadapt.contracts.native.lifts import Lift, lift_reader


@lift_reader
def _vision_transformer(part: nn.Module) -> Lift | None:
    if type(part).__module__ != "torchvision.models.vision_transformer" or type(part).__name__ != "VisionTransformer":
        return None
    size, patch = int(vars(part)["image_size"]), int(vars(part)["patch_size"])
    what = f"position embedding {size // patch}x{size // patch} resampled"
    return Lift((size, size), what, (("", _as_native),), steps=(patch, patch))


def _as_native(part: nn.Module) -> None:
    from autoadapt.contracts.native.torchvision_forward import NativeEncoder, NativeVisionTransformer

    part.__class__ = NativeVisionTransformer
    part.get_submodule("encoder").__class__ = NativeEncoder
