"""Frames: clips for a module of images, frame by frame, and images for a module of clips, as clips of one frame."""

from __future__ import annotations

from collections.abc import Iterable

from autoadapt.adapting.operations import Rearrange, Resize
from autoadapt.adapting.planning.plans import InputRoute
from autoadapt.contracts.signature import Signature, TensorSpec


def is_image_or_clip(left: TensorSpec, right: TensorSpec) -> bool:
    """Whether one of two inputs is an image and the other a clip or volume."""
    return {len(left.dims), len(right.dims)} == {4, 5}


def of_rank(spec: TensorSpec, given: TensorSpec) -> tuple[Rearrange, ...]:
    """The step from a given clip or image to the other: frames merged into the batch, or an axis of one frame added.

    Example:
        >>> image, clip = (TensorSpec.parse(text) for text in ("f32[B, 3, H, W]", "f32[B, 3, T, H, W]"))
        >>> of_rank(image, clip)[0].pattern, of_rank(clip, image)[0].pattern
        ('b c t h w -> (b t) c h w', 'b c h w -> b c 1 h w')
    """
    if not is_image_or_clip(spec, given):
        return ()
    frames, sides = frames_of(given), iter("chw")
    if not frames:
        frames = next((axis for axis, dim in enumerate(given.dims) if str(dim) == "T"), 2)
        leading = {frames: "t", int(frames == 0): "b"}
        names = [leading.get(axis) or next(sides) for axis in range(5)]
        return (
            Rearrange(pattern=f"{' '.join(names)} -> (b t) {' '.join(name for name in names if name not in 'bt')}"),
        )
    names = ["b", *("chw" if frames == 2 else "hwc")]
    return (Rearrange(pattern=f"{' '.join(names)} -> {' '.join([*names[:frames], '1', *names[frames:]])}"),)


def frames_of(image: TensorSpec) -> int:
    """The axis that an image gets for its one frame, before height and width; 0 for other tensors."""
    if len(image.dims) != 4:
        return 0
    return 1 if str(image.dims[1])[0] in "HW" else 2


def frame_remarks(source: Signature, target: Signature, routes: Iterable[InputRoute]) -> list[str]:
    """Remarks on clips that are read frame by frame, and on images that are read as clips."""
    said = []
    for route in routes:
        spec, given = source.inputs[route.source], target.inputs[route.target]
        if not is_image_or_clip(spec, given):
            continue
        if len(given.dims) == 5:
            said.append(f"{source.name} reads each frame of {route.target} as an image: nothing is seen across frames")
        else:
            said.append(f"{source.name} reads {route.target} as a clip of {_count(route)}: it sees nothing move")
    return said


def _count(route: InputRoute) -> str:
    """The number of frames that an image becomes, as text."""
    resized = [step.dims for step in route.steps if isinstance(step, Resize) and len(step.dims) == 3]
    count = resized[-1][0] if resized else 1
    return "one frame" if count == 1 else f"{count} frames that are all it"
