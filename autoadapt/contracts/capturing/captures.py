"""Captures: a module run at a few sizes, written down as its signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, bind, told_inputs
from autoadapt.contracts.capturing.given_grids import given_grids
from autoadapt.contracts.capturing.in_place import arguments_in_place, find_submodule
from autoadapt.contracts.capturing.meant_inputs import with_meant_inputs
from autoadapt.contracts.capturing.refusals import refuse_empty
from autoadapt.contracts.capturing.regions import RegionModule, RegionPath, find_region, region_text, traces_of
from autoadapt.contracts.capturing.runs import OneSizeError, ValuesNeededError
from autoadapt.contracts.capturing.sessions import Session
from autoadapt.contracts.capturing.solving import UnexplainedError
from autoadapt.contracts.capturing.without_heads import asks_for_a_size
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.unfit import without_autocast
from autoadapt.contracts.views import within_wrapper
from autoadapt.errors import CaptureError, InputError
from autoadapt.errors.given import check_type
from autoadapt.showing.progress import Tell, telling


def capture(
    model: nn.Module,
    inputs: object = None,
    *,
    at: str = "",
    region: RegionPath | None = None,
    inner: bool = False,
    grid: Mapping[str, tuple[int, ...]] | None = None,
    confirm: bool = True,
) -> Signature:
    """Run a module at a few sizes and write down what goes in and what comes out.

    Only a copy runs, without weights where it runs on the meta device. Mode, buffers, hooks, caches and random
    generators are afterwards as they were.

    Args:
        model: The module.
        inputs: A tensor, a tuple of positional or a dict of keyword arguments. May be left out where the model's
            config has its input size.
        at: Path of a submodule to capture in place, while the whole model runs on `inputs`.
        region: Several modules to capture together in place: a list of paths, or a span in order of calls,
            `conv1:layer4`. The outputs are what the rest of the model reads of them. With `at`, paths are relative to
            that submodule.
        inner: Note what inner modules return, for taps.
        grid: For modules of one image size whose token axes cannot be read: rows, columns, leading tokens, and trailing
            tokens if there are any, by output path or module path. For clips and volumes, frames or slices come first:
            `(8, 14, 14, 1)`.
        confirm: Run a copy with values as well, where there are any and a pass is affordable: at the example, at a
            usual size (224, 256, 384, 512 or 640) and at the example again, with one sample or two. Where these runs
            disagree is in the signature's `contradictions`, and why there were none in `unconfirmed`.

    Returns:
        The signature: every axis as an exact function of the input axes, checked at sizes that it was not
        fitted on.

    Raises:
        CaptureError: The model raises at the given input, an axis has no explanation, or a tensor is not dense.

    Example:
        >>> import torch
        >>> print(capture(nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.zeros(1, 3, 32, 32)))
        Conv2d
         input   input  f32[B, 3, H, W]
         output  f32[B, 8, ceil(H/2), ceil(W/2)]
    """
    try:
        return capture_as_given(model, inputs, at=at, region=region, inner=inner, grid=grid, confirm=confirm)
    except InputError as error:
        raise with_meant_inputs(error, model, inputs) from error


@without_autocast()
def capture_as_given(
    model: nn.Module,
    inputs: object = None,
    *,
    at: str = "",
    region: RegionPath | None = None,
    inner: bool = False,
    grid: Mapping[str, tuple[int, ...]] | None = None,
    confirm: bool = True,
) -> Signature:
    """As `capture`, but without searching for the inputs that the caller may have meant where the model raises.

    Raises:
        CaptureError: As by `capture`.
    """
    check_module(model, "model", CaptureError)
    check_type("" if at is None else at, str, "at", 'at="backbone"  # or region=["conv1", "layer4"]', CaptureError)
    arguments = bind(model, told_inputs(model) if inputs is None else inputs)
    refuse_empty(arguments)
    module: nn.Module = model
    if at:
        model, at = within_wrapper(model, at)
        module = find_submodule(model, at)
        arguments = arguments_in_place(model, arguments, at)
    if region is not None:
        part = _region_module(module, arguments, region)
        captured = capture_as_given(part, part.call, inner=inner, grid=grid, confirm=confirm)
        return captured.model_copy(update={"name": region_text(region)})
    grids = given_grids(grid, of_clip=arguments.of_clip)
    with telling("capture") as tell:
        return _captured(module, arguments, tell, {"inner": inner, "grid": grids, "confirm": confirm})


def _captured(module: nn.Module, arguments: Arguments, tell: Tell, options: Mapping[str, Any]) -> Signature:
    """The signature, from runs on the meta device where those work, else from real runs."""
    name = type(module).__name__
    tell(f"running {name} at several sizes")
    session = Session(module, arguments, **options)
    try:
        found = session.signature()
    except OneSizeError:
        return _captured(module, arguments, tell, {**options, "one_size": True})
    except ValuesNeededError:
        tell(f"running {name} with values")
        return Session(module, arguments, **options, real=True).signature()
    except UnexplainedError as error:
        trunk = session.trunk()
        if trunk is None:
            drawn = f"{name} is not deterministic: it draws random numbers, and {error.summary}"
            raise CaptureError(drawn if session.draws else error.summary, error.mismatches) from error
        return trunk
    return found.model_copy(update={"trunk": session.trunk()}) if asks_for_a_size(found) else found


def _region_module(model: nn.Module, arguments: Arguments, path: RegionPath) -> RegionModule:
    """A region as a module of its own, which returns what the rest of the model reads."""
    model, path = within_wrapper(model, path)
    region = find_region(model, traces_of(model, arguments.call), path)
    return RegionModule(model, region, arguments.call, region.read)
