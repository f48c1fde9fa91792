"""Steps: `adapt`, which is the order of capturing, planning and building."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from autoadapt.adapting.asked_options import check_asked
from autoadapt.adapting.building import AdaptedModule, built
from autoadapt.adapting.given_contracts import as_signature, settled_already, with_given_inputs
from autoadapt.adapting.operations import Projecting, Thinning
from autoadapt.adapting.planning import (
    CONVERSIONS,
    Conversion,
    Fit,
    ToldChannels,
    ToldStatistics,
    plan,
    with_channels_told,
    with_statistics,
)
from autoadapt.contracts.capturing import Resolution, capture_native, capture_source, check_taps, told_inputs
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.unfit import without_autocast
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.sources import as_module


@without_autocast()
def adapt(
    new: nn.Module | str,
    *,
    like: nn.Module | Signature | Mapping[str, object] | Sequence[object] | str | Path,
    inputs: object = None,
    pairs: Mapping[str, str] | None = None,
    taps: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    project: Projecting = "needed",
    indices: Literal["refuse", "recover"] = "refuse",
    thin: Thinning = "farthest",
    grid: Mapping[str, tuple[int, ...]] | None = None,
    convert_inputs: Collection[Conversion] = CONVERSIONS,
    input_statistics: ToldStatistics | None = None,
    channels: ToldChannels | None = None,
    resolution: Resolution | None = None,
    fit: Fit | None = None,
    nondeterministic: Literal["refuse", "allow"] = "refuse",
    project_bias: bool = True,
    share: bool = True,
) -> AdaptedModule:
    """Give a module the output signature of another, exactly, at every input size.

    Args:
        new: The module to adapt, which is not changed; or its name, as `timm:vit_small_patch16_224`, which is loaded
            with random weights.
        like: The specification: a module, a `Signature`, texts in containers, a saved signature file, or the
            name of a model, `timm:resnet101`.
        inputs: An example call of the old module: a tensor, a tuple of positional or a dict of keyword arguments.
            May be left out where a module tells its input size. Further arguments of the old module, such as a mask,
            are passed to `new` where it has one of the same name; elsewhere any value but the default is refused.
        pairs: Outputs of `new` chosen by hand, by target path: `{"c4": "2"}`.
        taps: Inner modules chosen by hand, by target path: `{"c4": "layer3"}`. Others are those that `new` lists as its
            levels (timm's `feature_info`), else the last block of each stride.
        outputs: Serve only these outputs.
        project: `always` puts a projection on every feature output, also where the channels agree; `places` does so,
            too, with a map of its own at each place where there are 2 to 16 places at every input size.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        thin: How points are chosen where the new module has more than are wanted: `farthest`, `first`, `even`,
            `random`; `repeat` also where it has fewer.
        grid: For a `new` of one image size: rows, columns, leading and trailing tokens of token axes that cannot be
            read, by the path of the output or module: `{"blocks.11": (14, 14, 1)}`, or `(14, 14, 1, 4)`. Of
            clips and volumes with the frames or slices first: `(8, 14, 14, 1)`.
        convert_inputs: What may be changed of an input that `new` would refuse: `layout` (the order of its axes),
            `channels` (its first convolution reads others), `size` (resized to the nearest legal one); `()` refuses.
            And `statistics`: values normalised otherwise are converted, where what both modules expect is known.
            Left out, they stay as they are, and a remark says so.
        input_statistics: What the old module is given: `aa.Statistics(mean=..., std=..., order="bgr", range=255)`; or
            what each module expects, by `old` and `new`. Overrides what the modules themselves tell: the statistics of
            their published weights, even where these are not loaded.
        channels: What is in the channels of the old module's image: `("b", "g", "r", "nir")`; or in those of each, by
            `old` and `new`, whose 3 channels are red, green and blue where that is left out. Weights of the first
            layer are matched by colour, and channels without a match start from their mean; `other` stands for
            anything that has no name here.
        resolution: For a `new` that was built for one image size, such as a plain vision transformer. Left out, it
            reads images at their own size where that can be made exact at its size, by resampling position
            embeddings, and otherwise images are resized to its size. `fixed` always resizes them, `native` never
            does, and refuses instead.
        fit: How images are brought to a size that `new` takes: `pad` adds zeros below and to the right, so that cells
            stay where they are, `resize` interpolates. Left out, `pad` for modules that read images at their own
            size, where it is known where the old one's cells lie (a contract in texts does not say), else `resize`.
        nondeterministic: `allow` takes modules of which two equal runs returned other values, or a run at a usual size
            other shapes than the signature says.
        project_bias: False makes projections without offset, which `fold` merges into layers that pad with zeros as
            they are; `calibrate` then fits weights alone.
        share: Use the storage of `new`'s weights; otherwise copy them.

    Returns:
        A `torch.fx.GraphModule` that holds `new`'s weights; `.plan` says what was done, `.verify()` proves it.

    Raises:
        AdaptError: Nothing was changed; the error says what was expected, what was found and what to do.

    Example:
        >>> old, new = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2)
        >>> net = adapt(new, like=old, inputs=torch.zeros(1, 3, 64, 64))
        >>> net(torch.zeros(1, 3, 96, 32)).shape
        torch.Size([1, 8, 24, 8])
    """
    choices = {"project": project, "indices": indices, "thin": thin, "nondeterministic": nondeterministic}
    check_asked(AdaptError, pairs=pairs, taps=taps, outputs=outputs, grid=grid, convert_inputs=convert_inputs)
    check_asked(AdaptError, project_bias=project_bias, **choices)
    new = as_module(new, "new")
    _check_devices(new, like)
    given = _inputs(new, like, inputs)
    target = as_signature(like, given)
    capturing = partial(capture_source, target=target, inputs=given, inner=True, grid=grid)
    source = capture_native(new, target, capturing, resolution=resolution)
    target = with_given_inputs(target, source, new, given)
    check_taps(new, source, taps or {})
    chosen = {**(pairs or {}), **(taps or {})} or settled_already(new, source, target)
    source, target = with_statistics(source, target, input_statistics)
    source, target = with_channels_told(source, target, channels)
    made = plan(
        source,
        target,
        pairs=chosen,
        outputs=outputs,
        project=project,
        indices=indices,
        thin=thin,
        convert_inputs=convert_inputs,
        fit=fit,
        nondeterministic=nondeterministic,
        project_bias=project_bias,
    )
    return built(new, made, like=like if isinstance(like, nn.Module) else None, share=share)


def _inputs(new: nn.Module, like: object, inputs: object) -> object:
    """The caller's inputs, or those of the size in the old or the new module's configuration."""
    if inputs is not None or isinstance(like, (Signature, str, Path)):
        return inputs
    told = [module for module in (like, new) if isinstance(module, nn.Module)]
    for module in told[:-1]:
        try:
            return told_inputs(module)
        except AdaptError:
            continue
    return told_inputs(told[-1])


def _check_devices(new: nn.Module, like: object) -> None:
    """Refuse two modules on different devices; the meta device goes with any."""
    if not isinstance(like, nn.Module):
        return
    left, right = ({p.device for p in module.parameters()} - {torch.device("meta")} for module in (like, new))
    if left and right and left != right:
        one = str(next(iter(left)))
        fault = Mismatch("new", one, ", ".join(sorted(map(str, right))), f'new.to("{one}")')
        raise AdaptError("the two modules are on different devices", [fault])
