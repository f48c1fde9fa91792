"""Assembling: from a config to a model; the order of the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.adapting.building import build
from autoadapt.adapting.planning import Plan, plan
from autoadapt.assembly.accuracies import check_accuracies
from autoadapt.assembly.assembly_sessions import Argument, Session, said_by
from autoadapt.assembly.configs import Config, PartConfig, parse_config
from autoadapt.assembly.constructor_arguments import check_arguments, inferred_names
from autoadapt.assembly.documents import Document, read_document
from autoadapt.assembly.levels import channels_of, stride_of
from autoadapt.assembly.literal_form import literal_form
from autoadapt.assembly.models import AssembledModel, Feed, Pick, Step
from autoadapt.assembly.part_inputs import give, hold_expected, infer_channels
from autoadapt.assembly.producers import Producer, meta_inputs, pinned
from autoadapt.assembly.published_backbones import PublishedBackbone
from autoadapt.assembly.references import Reference, Wiring, keys_of, wire
from autoadapt.assembly.registry import PARTS, Part, Registry
from autoadapt.assembly.resolving import report_of, resolved_config, resolved_part
from autoadapt.assembly.scopes import Scopes
from autoadapt.contracts.capturing import capture, told_inputs
from autoadapt.contracts.signature import AxisSizes, Signature, TensorSpec
from autoadapt.contracts.trees import rebuild
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.sources.size_limits import CONFIG_LIMITS, made_within
from autoadapt.weights import transfer

__all__ = ["assemble", "assemble_document", "describe"]


def assemble(
    config: Mapping[str, Any] | Config | str | Path,
    *,
    allow: Sequence[str | Path] = (),
    registry: Registry = PARTS,
) -> AssembledModel:
    """Make a model from a config: a backbone, and what follows it, with the numbers between them found.

    Args:
        config: A mapping, a YAML, JSON or Python file, a YAML text, or the config of another model.
        allow: Packages and files that `type` may name by python path; their code runs.
        registry: Where parts without a scope are looked up.

    Returns:
        A module: `model(x)` predicts, `model(x, targets)` gives the losses by name. `model.config` assembles to the
        same model, `print(model.report)` shows what was found and put between.

    Raises:
        AssemblyError: With every fault of the config that was found, each with its path, its line and what to do.

    Example:
        >>> model = assemble('''
        ...     input: f32[B, 3, 32, 32]
        ...     backbone: {type: ResNet_CIFAR, depth: 18}
        ...     neck: GlobalAveragePooling
        ...     head: {type: LinearClsHead, num_classes: 10}
        ...     loss: CrossEntropyLoss
        ... ''')
        >>> model.config.head[""].arguments
        {'num_classes': 10, 'in_channels': 512}
        >>> model(torch.zeros(2, 3, 32, 32), torch.tensor([3, 4]))["loss"].shape
        torch.Size([])
    """
    document = Document(config.flat()) if isinstance(config, Config) else read_document(config)
    return assemble_document(document, allow, registry)


def assemble_document(document: Document, allow: Sequence[str | Path], registry: Registry) -> AssembledModel:
    """As `assemble`, from a config that was read already."""
    scopes, remarks, faults = Scopes(registry, tuple(allow)), list[str](), list[Mismatch]()
    document = literal_form(document, scopes, allow, remarks, faults)
    session = Session(parse_config(document, faults), document, remarks=remarks)
    parts, wiring = _look_up(session, scopes)
    return _Assembling(session, parts, wiring).model()


def describe(model: AssembledModel) -> dict[str, Any]:
    """The resolved config of a model as plain data, ready for `yaml.safe_dump`; it assembles to the same model."""
    return model.config.flat()


def _look_up(session: Session, scopes: Scopes) -> tuple[dict[str, Part], Wiring]:
    """Every part by its type, as far as it is without fault before anything is made."""
    config = session.config
    if len(config.backbone) != 1:
        where = session.where("backbone")
        session.fault(where, "one backbone", f"a list of {len(config.backbone)}", "aa.compare(config)")
    found: dict[str, Part] = {}
    named = [*(("backbone", part) for part in config.backbone), *config.parts()]
    for name, part in named:
        looked_up = scopes.find(config.group(name), part.type, session.where(name, "type"))
        if isinstance(looked_up, Part):
            faults = check_arguments(looked_up, part.arguments, keys_of(name), session.document)
        else:
            faults = [looked_up]
        if isinstance(looked_up, Part) and not faults:
            found[name] = looked_up
            if looked_up.name != part.type and scopes.registry.get(config.group(name), part.type) is not None:
                session.remarks.append(f"`{part.type}` is {looked_up.name} of mmengine's registry, not ours")
        session.faults += faults
    return found, wire(config, session.document, session.faults)


class _Assembling:
    """One model in the making: parts are built in order, each tried on what it is given."""

    def __init__(self, session: Session, parts: Mapping[str, Part], wiring: Wiring) -> None:
        self._session = session
        self._parts = parts
        self._wiring = wiring
        self._configs = dict(session.config.parts())
        self._modules: dict[str, nn.Module] = {}
        self._given: dict[str, list[Argument]] = {}
        self._resolved: dict[str, PartConfig] = {}
        self._plans: dict[str, Plan] = {}

    def model(self) -> AssembledModel:
        """Build part by part what is without fault, put adapters between, load weights."""
        if "backbone" in self._parts and len(self._session.config.backbone) == 1:
            self._build_backbone()
        for name, references in self._wiring.takes.items():
            built = all(reference.producer in self._session.producers for reference in references)
            if built and name in self._parts:
                self._build_part(name, references)
        check_accuracies(self._session, self._wiring)
        self._session.check()
        self._adapt()
        self._session.check()
        self._load_weights()
        self._session.check()
        return self._finished()

    def _build_backbone(self) -> None:
        session = self._session
        config = session.config.backbone[0]
        spec = TensorSpec.parse(session.config.input)
        part, arguments = self._parts["backbone"], dict(config.arguments)
        channels = channels_of(spec)
        if channels is not None:
            arguments = dict.fromkeys(inferred_names(part), channels) | arguments
        if part.channels_option and len(spec.dims) == 4 and channels not in (None, 3):
            arguments.setdefault(part.channels_option, channels)
        module = self._made("backbone", part, arguments)
        if module is None:
            return
        before = len(session.faults)
        like = self._contract()
        if len(session.faults) > before:
            return
        try:
            producer = self._captured_backbone(module, spec, like)
            self._refuse_input(producer.signature, spec)
            session.producers["backbone"] = producer
        except AdaptError as error:
            session.note(error, ("backbone",), f"a backbone that takes {spec}", "another `input`, or another backbone")
        self._modules["backbone"] = module
        changes = {"type": _full_name(part, config), "arguments": arguments}
        self._resolved["backbone"] = config.model_copy(update=changes)

    def _contract(self) -> Signature | None:
        """What the backbone must speak, where the config says it."""
        like, folder = self._session.config.adapt.like, self._session.document.folder
        if like is None:
            return None
        try:
            return as_signature(folder / like if isinstance(like, str) and "[" not in like else like)
        except AdaptError as error:
            self._session.note(error, ("adapt", "like"))
            return None

    def _captured_backbone(self, module: nn.Module, spec: TensorSpec, like: Signature | None) -> Producer:
        if like is not None:
            self._plans["backbone (adapt.like)"] = made = plan(_captured(module, spec, inner=True), like)
            module, signature = build(module, made), made.target
        else:
            signature = _captured(module, spec)
            published = isinstance(module, PublishedBackbone)  # returns vectors only where it was asked to
            if not published and not any(stride_of(leaf) for leaf in signature.outputs.leaves):
                signature = _captured(module, spec, inner=True)
        return Producer("backbone", module, signature, dict(signature.outputs.items()), _legal(signature, spec))

    def _refuse_input(self, signature: Signature, spec: TensorSpec) -> None:
        """An input of another rank or other channels than the backbone takes; sizes are brought in."""
        own = signature.inputs.leaves[0]
        channels = {channels_of(own), channels_of(spec)} - {None}
        if len(own.dims) != len(spec.dims) or len(channels) > 1:
            where, remedy = self._session.where("input"), f"input: {own}"
            self._session.fault(where, f"{own}, as the backbone takes", str(spec), remedy)

    def _build_part(self, name: str, references: Sequence[Reference]) -> None:
        session, part, config = self._session, self._parts[name], self._configs[name]
        is_loss = session.config.group(name) == "loss"
        before, arguments = len(session.faults), dict(config.arguments)
        given = give(session, name, part, config, references)
        if not is_loss and len(session.faults) == before:
            infer_channels(session, name, part, arguments, given)
            hold_expected(session, name, config, given)
        module = self._made(name, part, arguments) if len(session.faults) == before else None
        if module is None:
            return
        for taken in (taken for argument in given for taken in argument.taken):
            taken.key = taken.producer.demand(taken.level, taken.spec)
        self._given[name], self._modules[name] = given, module
        target = self._wiring.targets.get(name, "")
        config = config.model_copy(update={"type": _full_name(part, config)})
        self._resolved[name] = resolved_part(config, arguments, references, given, target)
        if is_loss:
            self._try_loss(name, module, given, target)
        else:
            self._capture_part(name, module, given)

    def _capture_part(self, name: str, module: nn.Module, given: Sequence[Argument]) -> None:
        specs = [taken.spec for argument in given for taken in argument.taken]
        try:
            signature = capture(module, self._tried(given))
        except AdaptError as error:
            said = ", ".join(f"{taken.source} {taken.spec}" for argument in given for taken in argument.taken)
            remedy = f"another `from`, or a part before `{name}` that gives what it takes"
            self._session.note(error, keys_of(name), f"a part that takes {said}", remedy)
            return
        self._session.producers[name] = pinned(name, module, signature, specs, self._session.sizes)

    def _try_loss(self, name: str, module: nn.Module, given: Sequence[Argument], target: str) -> None:
        """Where the config says what the target is, see whether the loss takes it."""
        text = self._session.config.targets.get(target)
        if not text:
            return
        try:
            module(*self._tried(given), *meta_inputs([TensorSpec.parse(text)], self._session.sizes))
        except Exception as error:
            specs = ", ".join(str(taken.spec) for argument in given for taken in argument.taken)
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            where, expected = self._session.where(name, "target"), f"a target that fits {specs}"
            self._session.fault(where, expected, f"{target} {text}", "mend `targets` or `from`", said)

    def _tried(self, given: Sequence[Argument]) -> tuple[Any, ...]:
        """The arguments of a part on the meta device."""

        def argument(one: Argument) -> Any:
            tensors = meta_inputs([taken.spec for taken in one.taken], self._session.sizes)
            if one.whole is not None:
                return rebuild(one.whole.signature.outputs.tree, tensors)
            values = {str(i): tensor for i, tensor in enumerate(tensors)}
            return _feed(one, tuple(map(Pick, values))).take(values)

        return tuple(argument(one) for one in given)

    def _made(self, name: str, part: Part, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Call the constructor; whatever it raises is a fault of the config."""
        session = self._session
        try:
            made: object = made_within(CONFIG_LIMITS, part.make, arguments)
        except AdaptError as error:
            first = error.mismatches[0].where if error.mismatches else ""
            session.note(error, (*keys_of(name), first if first in arguments else "type"))
            return None
        except Exception as error:
            said = said_by(error)
            shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            session.fault(session.where(name), f"{part.name}({shown}) to be made", said, "mend its arguments")
            return None
        if not isinstance(made, nn.Module):
            where = session.where(name, "type")
            session.fault(where, "a torch.nn.Module", f"{part.name} gives a {type(made).__name__}", "return a module")
            return None
        return made

    def _adapt(self) -> None:
        for producer in self._session.producers.values():
            try:
                producer.adapt()
            except AdaptError as error:
                expected = f"{producer.name} to give what the parts after it take"
                self._session.note(error, keys_of(producer.name), expected)
                continue
            if producer.plan is not None:
                self._plans[producer.name] = producer.plan
                if not self._session.config.adapt.enabled:
                    self._refuse_adapter(producer.name, producer.plan)

    def _refuse_adapter(self, name: str, made: Plan) -> None:
        """With `adapt: false` only what leaves the values alone may stand between: a layout, an inner output."""
        for route in made.routes:
            if any(step.op not in ("rearrange", "drop", "cast") for step in route.steps):
                expected = f"{name} to give {route.target} as {route.specs[-1]}"
                found = f"{route.source} {route.specs[0]}"
                remedy = "leave `adapt: false` out, or take another level"
                self._session.fault(self._session.where("adapt"), expected, found, remedy)

    def _load_weights(self) -> None:
        session = self._session
        for i, entry in enumerate(session.config.weights):
            target = self._modules.get(entry.to) if entry.to else _by_group(self._modules)
            if target is None:
                where = session.where("weights", i, "to")
                session.fault(where, f"one of {', '.join(self._modules)}", f"`{entry.to}`", "to: backbone")
                continue
            try:
                transfer(
                    session.document.folder / entry.path,
                    target,
                    scope=entry.scope,
                    include=entry.include,
                    exclude=entry.exclude,
                    min_coverage=entry.min_coverage,
                )
            except AdaptError as error:
                session.note(error, ("weights", i))

    def _finished(self) -> AssembledModel:
        session, targets = self._session, self._wiring.targets
        steps = tuple(
            Step(name, tuple(_wired(argument) for argument in given), targets.get(name, ""))
            for name, given in self._given.items()
        )
        built = {name: producer.module for name, producer in session.producers.items()}
        parts = {name: built.get(name, module) for name, module in self._modules.items()}
        config = resolved_config(session, self._resolved)
        types = {"backbone": config.backbone[0].type} | {name: part.type for name, part in config.parts()}
        return AssembledModel(parts, steps, config, report_of(session, types, parts, self._given, self._plans))


def _full_name(part: Part, config: PartConfig) -> str:
    """The type with the scope in which it was found, so that the resolved config finds it anywhere."""
    return part.name if part.name.startswith("mm:") else config.type


def _wired(argument: Argument) -> Feed:
    producer = argument.whole
    if producer is not None and producer.plan is None:
        return Feed((Pick(producer.name),))
    picks = tuple(taken.producer.pick(taken.key) for taken in argument.taken)
    return _feed(argument, picks) if producer is None else Feed(picks, tree=producer.signature.outputs.tree)


def _feed(argument: Argument, picks: tuple[Pick, ...]) -> Feed:
    container = "one" if argument.container == "any" else argument.container
    names = tuple(taken.level.name for taken in argument.taken)
    return Feed(picks, container, names if container == "dict" else ())


def _by_group(modules: Mapping[str, nn.Module]) -> nn.Module:
    """The parts as they are before they are adapted, under the names that they have in the model."""
    root = nn.Module()
    for name, module in _nested(modules):
        parent = root.get_submodule(name.rpartition(".")[0])
        parent.add_module(name.rpartition(".")[2], module)
    return root


def _nested(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    yield from ((group, nn.Module()) for group in dict.fromkeys(n.partition(".")[0] for n in modules if "." in n))
    yield from modules.items()


def _captured(module: nn.Module, spec: TensorSpec, *, inner: bool = False) -> Signature:
    """The module's signature at the config's input, or where it refuses that, at the input it tells itself."""
    shape = [2 if str(dim) == "B" else dim.constant or _FREE for dim in spec.dims]
    inputs = torch.empty(shape, dtype=spec.torch_dtype, device="meta")
    try:
        return capture(module, inputs, inner=inner)
    except AdaptError as error:
        try:
            return capture(module, told_inputs(module), inner=inner)
        except AdaptError:
            raise error from None


_FREE = 224
"""At which size an axis is looked at that the config leaves free."""


def _legal(signature: Signature, spec: TensorSpec) -> dict[str, AxisSizes]:
    """The sizes of the backbone's input axes that the config asks for."""
    axes = [(str(own), dim.constant) for own, dim in zip(signature.inputs.leaves[0].dims, spec.dims, strict=False)]
    return {
        axis: AxisSizes(step=0 if size else 1, example=size or _FREE)
        for axis, size in axes
        if axis in signature.axes and axis != "B"
    }
