"""Backbone building: made from the config, run for its signature, adapted to a contract where the config has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.adapting.building import built
from autoadapt.adapting.planning import Plan, plan
from autoadapt.assembly.assembly_sessions import Session
from autoadapt.assembly.configs import FREE, PartConfig
from autoadapt.assembly.constructor_arguments import inferred_names
from autoadapt.assembly.levels import channels_of, stride_of
from autoadapt.assembly.making import full_name, made
from autoadapt.assembly.producers import Producer
from autoadapt.assembly.published_backbones import PublishedBackbone
from autoadapt.assembly.registry import Part
from autoadapt.assembly.scopes import Scopes
from autoadapt.contracts.capturing import Resolution, capture, capture_native, told_inputs
from autoadapt.contracts.signature import AxisSizes, Signature, TensorSpec
from autoadapt.errors import AdaptError, Mismatch


@dataclass
class Backbone:
    """A backbone as it was made.

    Args:
        module: Before it is adapted.
        config: With every argument.
        plan: To the contract of the config, where it has one.
    """

    module: nn.Module
    config: PartConfig
    plan: Plan | None = None


def fed(session: Session) -> TensorSpec:
    """What the backbone is given: the input, as floats where there is a preprocessor."""
    spec = TensorSpec.parse(session.config.input)
    floats = session.config.preprocessor is not None and not spec.is_floating
    return spec.model_copy(update={"dtype": "f32"}) if floats else spec


def build_backbone(session: Session, part: Part, scopes: Scopes) -> Backbone | None:
    """Make the backbone and note what it gives; none where a fault was noted.

    Args:
        session: What is known.
        part: What the backbone is.
        scopes: Where a backbone is looked up that the contract is taken from.
    """
    config, spec = session.config.backbone[0], fed(session)
    arguments = _with_channels(part, dict(config.arguments), spec)
    module = made(session, "backbone", part, arguments)
    before = len(session.faults)
    like = _contract(session, scopes, spec) if module is not None else None
    if module is None or len(session.faults) > before:
        return None
    changes = {"type": full_name(part, config.type), "arguments": arguments}
    found = Backbone(module, config.model_copy(update=changes))
    try:
        adapted, signature = module, None
        if like is not None:
            own = _captured(module, spec, inner=True, resolution=session.config.adapt.resolution)
            found.plan = plan(own, like, fit=session.config.adapt.fit)
            adapted, signature = built(module, found.plan), found.plan.target
        producer = producer_of(adapted, spec, signature, resolution=session.config.adapt.resolution)
        _refuse_input(session, producer.signature, spec)
        session.producers["backbone"] = producer
    except AdaptError as error:
        session.note(error, ("backbone",), f"a backbone that takes {spec}", "another `input`, or another backbone")
    return found


def producer_of(
    module: nn.Module, spec: TensorSpec, signature: Signature | None = None, *, resolution: Resolution | None = "fixed"
) -> Producer:
    """What a backbone gives to others.

    Args:
        module: The backbone.
        spec: What it is given.
        signature: Where it is known already.
        resolution: Whether it may be freed of the image size that it was built for; it is then built anew.
    """
    if signature is None:
        signature = _captured(module, spec, resolution=resolution)
        published = isinstance(module, PublishedBackbone)  # returns vectors only where it was asked to
        if not published and not any(stride_of(leaf) for leaf in signature.outputs.leaves):
            signature = _captured(module, spec, inner=True, resolution=resolution)
    return Producer("backbone", module, signature, dict(signature.outputs.items()), _legal(signature, spec))


def _with_channels(part: Part, arguments: dict[str, Any], spec: TensorSpec) -> dict[str, Any]:
    """The channels of the image filled in."""
    channels = channels_of(spec)
    if channels is not None:
        arguments = dict.fromkeys(inferred_names(part), channels) | arguments
    if part.channels_option and len(spec.dims) == 4 and channels not in (None, 3):
        arguments.setdefault(part.channels_option, channels)
    return arguments


def _contract(session: Session, scopes: Scopes, spec: TensorSpec) -> Signature | None:
    """What the backbone must speak, where the config says it: as a signature, or as another backbone."""
    like, folder = session.config.adapt.like, session.document.folder
    if like is None:
        return None
    try:
        if isinstance(like, Mapping) and isinstance(like.get("type"), str) and "[" not in like["type"]:
            return _spoken(session, scopes, like, spec)
        return as_signature(folder / like if isinstance(like, str) and "[" not in like else like)
    except AdaptError as error:
        session.note(error, ("adapt", "like"))
        return None


def _spoken(session: Session, scopes: Scopes, like: Mapping[str, Any], spec: TensorSpec) -> Signature | None:
    """What another backbone gives that the config describes; it is made for this only."""
    part = scopes.find("backbone", str(like["type"]), session.document.where(("adapt", "like", "type")))
    if isinstance(part, Mismatch):
        session.faults.append(part)
        return None
    arguments = {key: value for key, value in like.items() if key not in ("type", "init_cfg")}
    module = made(session, "adapt.like", part, _with_channels(part, arguments, spec))
    return None if module is None else _captured(module, spec)


def _refuse_input(session: Session, signature: Signature, spec: TensorSpec) -> None:
    """An input of another rank or other channels than the backbone takes; sizes are brought in."""
    own = signature.inputs.leaves[0]
    channels = {channels_of(own), channels_of(spec)} - {None}
    if len(own.dims) != len(spec.dims) or len(channels) > 1:
        where, remedy = session.where("input"), f"input: {own}"
        session.fault(where, f"{own}, as the backbone takes", str(spec), remedy)


def _captured(
    module: nn.Module, spec: TensorSpec, *, inner: bool = False, resolution: Resolution | None = "fixed"
) -> Signature:
    """The module's signature at the config's input, or where it refuses that, at the input it tells itself."""
    given = Signature.parse((), inputs=str(spec), name="the config")
    return capture_native(module, given, partial(_run, spec=spec, inner=inner), resolution=resolution)


def _run(module: nn.Module, spec: TensorSpec, *, inner: bool) -> Signature:
    shape = [2 if str(dim) == "B" else dim.constant or FREE for dim in spec.dims]
    inputs = torch.empty(shape, dtype=spec.torch_dtype, device="meta")
    try:
        return capture(module, inputs, inner=inner)
    except AdaptError as error:
        try:
            return capture(module, told_inputs(module), inner=inner)
        except AdaptError:
            raise error from None


def _legal(signature: Signature, spec: TensorSpec) -> dict[str, AxisSizes]:
    """The sizes of the backbone's input axes that the config asks for."""
    axes = [(str(own), dim.constant) for own, dim in zip(signature.inputs.leaves[0].dims, spec.dims, strict=False)]
    return {
        axis: AxisSizes(step=0 if size else 1, example=size or FREE)
        for axis, size in axes
        if axis in signature.axes and axis != "B"
    }
