"""Assembling: from a config to a model; the order of the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.assembly.arguments import check_arguments, inferred_names, wanted_strides
from autoadapt.assembly.configs import Config, PartConfig, parse_config
from autoadapt.assembly.documents import Document, Keys, read_document
from autoadapt.assembly.levels import Level, cells, channels_of, distinct, stride_of
from autoadapt.assembly.models import AssembledModel, Feed, Pick, Step
from autoadapt.assembly.producers import Producer, composed, meta_inputs
from autoadapt.assembly.references import Reference, Wiring, keys_of, wire
from autoadapt.assembly.registry import PARTS, Part, Registry, Takes
from autoadapt.assembly.reports import Assembly, Given, PartReport, changed
from autoadapt.assembly.scopes import Scopes
from autoadapt.building import build
from autoadapt.capturing import capture, told_inputs
from autoadapt.errors import AdaptError, AssemblyError, Mismatch
from autoadapt.planning import Plan, plan
from autoadapt.signature import AxisSizes, Signature, TensorSpec
from autoadapt.weights import transfer

__all__ = ["assemble", "describe"]


def assemble(
    config: Mapping[str, Any] | Config | str | Path,
    *,
    allow: Sequence[str | Path] = (),
    registry: Registry = PARTS,
) -> AssembledModel:
    """Make a model from a config: a backbone, and what follows it, with the numbers between them found.

    Args:
        config: A mapping, a YAML or JSON file, a YAML text, or the config of another model.
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
    return _Assembling(parse_config(document), document, Scopes(registry, tuple(allow))).model()


def describe(model: AssembledModel) -> dict[str, Any]:
    """The resolved config of a model as plain data, ready for `yaml.safe_dump`; it assembles to the same model."""
    return model.config.flat()


@dataclass
class _Taken:
    """What a part is given, before adapters are built: from which producer, under which key, as what."""

    producer: Producer
    key: str
    level: Level
    spec: TensorSpec


@dataclass
class _Argument:
    """One argument of a part: the tensors in it and their container."""

    taken: list[_Taken]
    container: Takes
    whole: Producer | None = None
    """Where all that a producer returns is handed on as it is."""


@dataclass
class _Assembling:
    """One model in the making."""

    config: Config
    document: Document
    scopes: Scopes
    faults: list[Mismatch] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    producers: dict[str, Producer] = field(default_factory=dict)
    arguments: dict[str, list[_Argument]] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    resolved: dict[str, PartConfig] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)

    def model(self) -> AssembledModel:
        """Look everything up, build part by part, put adapters between, load weights."""
        parts, wiring = self._looked_up()
        self._check()
        self._build_backbone(parts["backbone"])
        for name, references in wiring.takes.items():
            if all(reference.producer in self.producers for reference in references):
                self._build_part(name, parts[name], references, wiring)
        self._check()
        self._adapt()
        self._load_weights()
        self._check()
        return self._finished(wiring)

    def _check(self) -> None:
        if self.faults:
            count = len(self.faults)
            raise AssemblyError("the config has a fault" if count == 1 else f"the config has {count} faults", self.faults)

    def _looked_up(self) -> tuple[dict[str, Part], Wiring]:
        """Every part by its type, its arguments checked as far as that goes without making anything."""
        if len(self.config.backbone) != 1:
            count = len(self.config.backbone)
            where = self.document.where(("backbone",))
            self.faults.append(Mismatch(where, "one backbone", f"a list of {count}", "aa.compare(config)"))
        found: dict[str, Part] = {}
        for name, part in [("backbone", self.config.backbone[0]), *self.config.parts()] if self.config.backbone else []:
            keys = keys_of(name)
            group: Any = keys[0]
            part_or_fault = self.scopes.find(group, part.type, self.document.where((*keys, "type")))
            if isinstance(part_or_fault, Mismatch):
                self.faults.append(part_or_fault)
                continue
            found[name] = part_or_fault
            self.faults += check_arguments(part_or_fault, part.arguments, keys, self.document)
        return found, wire(self.config, self.document, self.faults)

    # The backbone

    def _build_backbone(self, part: Part) -> None:
        config = self.config.backbone[0]
        spec = TensorSpec.parse(self.config.input)
        arguments = dict(config.arguments)
        channels = channels_of(spec)
        for name in inferred_names(part):
            if channels is not None:
                arguments.setdefault(name, channels)
        if part.channels_option and channels not in (None, 3):
            arguments.setdefault(part.channels_option, channels)
        module = self._made("backbone", part, arguments)
        if module is None:
            return
        self.modules["backbone"] = module
        try:
            producer = self._captured_backbone(module, spec)
        except AdaptError as error:
            self._note(error, ("backbone",), f"a backbone that takes {spec}")
            return
        self.producers["backbone"] = producer
        self.resolved["backbone"] = config.model_copy(update={"arguments": arguments})

    def _captured_backbone(self, module: nn.Module, spec: TensorSpec) -> Producer:
        signature = _captured(module, spec)
        contract = _contract(signature, spec)
        like = self.config.adapt.like
        if like is not None:
            target = as_signature(str(self.document.folder / like) if isinstance(like, str) else like)
            made = plan(_captured(module, spec, inner=True), target)
            self.plans["adapt.like"] = made
            module, signature = build(module, made), target
        elif not any(stride_of(leaf) for leaf in signature.outputs.leaves):
            signature = _captured(module, spec, inner=True)
        return Producer("backbone", module, signature, dict(signature.outputs.items()), contract)

    @property
    def _sizes(self) -> dict[str, int]:
        """Sizes of the input axes at which parts are tried and cells counted."""
        producer = self.producers["backbone"]
        return producer.signature.sizes() | {name: sizes.example for name, sizes in producer.contract.items()}

    # The parts that follow

    def _build_part(self, name: str, part: Part, references: Sequence[Reference], wiring: Wiring) -> None:
        config = dict(self.config.parts())[name]
        count = len(self.faults)
        given = self._arguments_of(name, part, config, references)
        if len(self.faults) > count:
            return
        is_loss = keys_of(name)[0] == "loss"
        arguments = dict(config.arguments)
        if not is_loss:
            self._infer(name, part, arguments, given)
            self._expect(name, config, given)
        if len(self.faults) > count:
            return
        module = self._made(name, part, arguments)
        if module is None:
            return
        for argument in given:
            for taken in argument.taken:
                taken.key = taken.producer.demand(taken.level, taken.spec)
        self.arguments[name] = given
        self.modules[name] = module
        self.resolved[name] = self._resolved_part(name, config, arguments, references, given, wiring)
        if is_loss:
            self._try_loss(name, module, given, wiring.targets[name])
        else:
            self._capture_part(name, module, given)

    def _arguments_of(
        self, name: str, part: Part, config: PartConfig, references: Sequence[Reference]
    ) -> list[_Argument]:
        """What every argument of the part's `forward` is given."""
        takes = part.takes[:-1] if keys_of(name)[0] == "loss" and len(part.takes) > 1 else part.takes
        if len(references) == 1:
            return [self._argument(name, part, config, takes[0], references[0])]
        taken = [self._level(name, reference) for reference in references]
        if len(takes) == 1 and takes[0] in ("list", "tuple", "dict"):
            return [_Argument([found for found in taken if found is not None], takes[0])]
        if takes != ("any",) and len(takes) != len(references):
            where = self.document.where((*keys_of(name), "from"))
            expected = f"{len(takes)} to take, as {part.name}.forward does"
            remedy = f"from: {references[0]}" if len(takes) == 1 else f"name {len(takes)} levels"
            self.faults.append(Mismatch(where, expected, f"{len(references)}", remedy))
        return [_Argument([found], "one") for found in taken if found is not None]

    def _argument(self, name: str, part: Part, config: PartConfig, takes: Takes, reference: Reference) -> _Argument:
        producer = self.producers[reference.producer]
        if reference.level:
            level = self._level(name, reference)
            return _Argument([level] if level else [], "one" if takes in ("one", "any") else takes)
        levels = producer.levels
        if takes == "any":
            taken = [_Taken(producer, "", level, level.spec) for level in levels if not level.is_tap]
            return _Argument(taken, "one", whole=producer)
        if takes == "one":
            return self._one(name, part, producer)
        strides = wanted_strides(part, config.arguments)
        made = [producer.at_stride(stride) for stride in strides] if strides and producer.name == "backbone" else []
        chosen = [level for level in made if level is not None] or distinct(levels) or levels
        return _Argument([_Taken(producer, "", level, level.natural) for level in chosen], takes)

    def _one(self, name: str, part: Part, producer: Producer) -> _Argument:
        levels = producer.levels
        floating = [level for level in levels if level.spec.is_floating]
        if keys_of(name)[0] == "loss" and len(levels) > 1:
            where = self.document.where((*keys_of(name), "from"))
            options = ", ".join(level.path for level in levels)
            remedy = "\n".join(f"from: {producer.name}.{level.path}" for level in levels[:3])
            self.faults.append(Mismatch(where, "one tensor", f"{producer.name} gives several: {options}", remedy))
            return _Argument([], "one")
        level = producer.default() if floating else None
        return _Argument([_Taken(producer, "", level, level.natural)] if level else [], "one")

    def _level(self, name: str, reference: Reference) -> _Taken | None:
        producer = self.producers[reference.producer]
        level = producer.find(reference.level) if reference.level else producer.default()
        if level is None:
            where = self.document.where((*keys_of(name), "from"))
            self.faults.append(producer.unknown(reference.level, where))
            return None
        return _Taken(producer, "", level, level.natural)

    def _infer(self, name: str, part: Part, arguments: dict[str, Any], given: list[_Argument]) -> None:
        """Fill the channels in that were left out; where they were typed, adapt or refuse what differs."""
        taken = [found for argument in given for found in argument.taken]
        for parameter in inferred_names(part):
            if parameter not in arguments:
                self._fill(name, part, parameter, arguments, taken)
            elif isinstance(arguments[parameter], int):
                self._project(name, parameter, [arguments[parameter]] * len(taken), taken)
            elif isinstance(arguments[parameter], list) and len(arguments[parameter]) == len(taken):
                self._project(name, parameter, arguments[parameter], taken)
            else:
                where = self.document.where((*keys_of(name), parameter))
                found = [channels_of(each.spec) for each in taken]
                remedy = f"{parameter}: {found}"
                self.faults.append(Mismatch(where, f"{len(taken)} values", repr(arguments[parameter]), remedy))

    def _fill(
        self, name: str, part: Part, parameter: str, arguments: dict[str, Any], taken: Sequence[_Taken]
    ) -> None:
        found = [channels_of(each.spec) for each in taken]
        where = self.document.where((*keys_of(name), parameter))
        if not found or None in found:
            specs = ", ".join(str(each.spec) for each in taken) or "nothing"
            self.faults.append(Mismatch(where, "an input with channels", specs, f"{parameter}: 256"))
            return
        if _is_many(part, parameter):
            arguments[parameter] = found
        elif len(set(found)) == 1:
            arguments[parameter] = found[0]
        else:
            levels = "\n".join(f"from: {each.producer.name}.{each.level.name}" for each in reversed(taken))
            said = ", ".join(f"{each.level.name} {channels_of(each.spec)}" for each in taken)
            self.faults.append(Mismatch(where, "one number of channels", said, levels))

    def _project(self, name: str, parameter: str, wanted: Sequence[int], taken: Sequence[_Taken]) -> None:
        for each, channels in zip(taken, wanted, strict=True):
            found = channels_of(each.spec)
            if found == channels or found is None:
                continue
            said = f"`{name}` asks for {channels} channels, {each.producer.name}.{each.level.name} has {found}"
            if not self.config.adapt.enabled:
                where = self.document.where((*keys_of(name), parameter))
                remedy = f"{parameter}: {found}  # or leave it out; or leave `adapt: false` out"
                self.faults.append(Mismatch(where, f"{found}, as {each.producer.name} has", str(channels), remedy))
                continue
            axis = next(i for i, dim in enumerate(each.spec.dims) if dim.constant == found)
            dims = (*each.spec.dims[:axis], each.spec.dims[axis] - found + channels, *each.spec.dims[axis + 1 :])
            each.spec = each.spec.model_copy(update={"dims": dims, "same_as": ""})
            self.remarks.append(f"{said}: an adapter projects")

    def _expect(self, name: str, config: PartConfig, given: list[_Argument]) -> None:
        """Hold what the config pins; adapt or refuse what differs."""
        taken = [found for argument in given for found in argument.taken]
        where = self.document.where((*keys_of(name), "expects"))
        if config.expects and len(config.expects) != len(taken):
            remedy = f"expects: {[str(each.spec) for each in taken]}"
            self.faults.append(Mismatch(where, f"{len(taken)} tensor specs", str(len(config.expects)), remedy))
            return
        for each, text in zip(taken, config.expects, strict=False):
            expected = TensorSpec.parse(text)
            pinned, found = (self._given(each, spec) for spec in (expected, each.level.natural))
            difference = changed(f"`{name}` ({each.level.name})", pinned, found)
            for fault in difference:
                if self.config.adapt.enabled and each.producer.name == "backbone":
                    why = f"; {fault.why}" if fault.why else ""
                    self.remarks.append(f"{fault.where} expects {fault.expected}, there is {fault.found}: adapted{why}")
                else:
                    self.faults.append(Mismatch(where, fault.expected, fault.found, fault.remedy, fault.why))
            each.spec = expected

    def _given(self, taken: _Taken, spec: TensorSpec) -> Given:
        source = f"{taken.producer.name}.{taken.level.name}"
        return Given(source=source, spec=spec, cells=cells(spec, self._sizes))

    def _capture_part(self, name: str, module: nn.Module, given: Sequence[_Argument]) -> None:
        specs = [taken.spec for argument in given for taken in argument.taken]
        tensors = iter(meta_inputs(specs, self._sizes))
        inputs = tuple(self._call_argument(argument, tensors) for argument in given)
        try:
            signature = capture(module, inputs)
        except AdaptError as error:
            said = ", ".join(f"{taken.producer.name}.{taken.level.name} {taken.spec}" for a in given for taken in a.taken)
            self._note(error, keys_of(name), f"a part that takes {said}")
            return
        self.producers[name] = Producer(name, module, signature, composed(signature, specs))

    def _call_argument(self, argument: _Argument, tensors: Any) -> Any:
        from autoadapt.trees import rebuild

        if argument.whole is not None:
            return rebuild(argument.whole.signature.outputs.tree, [next(tensors) for _ in argument.taken])
        picks = tuple(Pick(str(i)) for i in range(len(argument.taken)))
        values = {str(i): next(tensors) for i in range(len(argument.taken))}
        return self._feed(argument, picks).take(values)

    def _try_loss(self, name: str, module: nn.Module, given: Sequence[_Argument], target: str) -> None:
        """Where the config says what the target is, see whether the loss takes it."""
        text = self.config.targets.get(target)
        if not text:
            return
        specs = [taken.spec for argument in given for taken in argument.taken]
        tensors = iter(meta_inputs(specs, self._sizes))
        predictions = [self._call_argument(argument, tensors) for argument in given]
        try:
            (value,) = meta_inputs([TensorSpec.parse(text)], self._sizes)
            module(*predictions, value)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            where = self.document.where((*keys_of(name), "target"))
            expected = f"a target that fits {', '.join(map(str, specs))}"
            self.faults.append(Mismatch(where, expected, f"{target} {text}", "check `targets`, or `from`", said))

    def _made(self, name: str, part: Part, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Call the constructor; whatever it raises is a fault of the config."""
        keys = keys_of(name)
        try:
            made = part.make(**arguments)
        except AdaptError as error:
            self._note(error, (*keys, "type"), "")
            return None
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            fault = Mismatch(self.document.where(keys), f"{part.name}({shown}) to be made", said, "check its arguments")
            self.faults.append(fault)
            return None
        if not isinstance(made, nn.Module):
            where = self.document.where((*keys, "type"))
            fault = Mismatch(where, "a torch.nn.Module", f"{part.name} gives a {type(made).__name__}", "return a module")
            self.faults.append(fault)
            return None
        return made

    def _note(self, error: AdaptError, keys: Keys, expected: str) -> None:
        """An error of another step as a fault of the config, at its place."""
        where = self.document.where(keys)
        faults = error.mismatches or (Mismatch(where, expected, error.summary),)
        for fault in faults:
            why = fault.why or (error.summary if expected else "")
            self.faults.append(Mismatch(where, expected or fault.expected, fault.found, fault.remedy, why))

    # Putting it together

    def _adapt(self) -> None:
        for producer in self.producers.values():
            try:
                producer.adapt()
            except AdaptError as error:
                self._note(error, keys_of(producer.name), f"{producer.name} to give what the parts after it take")
                continue
            if producer.plan is not None:
                self.plans[producer.name] = producer.plan
                if not self.config.adapt.enabled:
                    self._refuse_adapter(producer)

    def _refuse_adapter(self, producer: Producer) -> None:
        """With `adapt: false` only what costs nothing may stand between parts: another layout, an inner output."""
        made = producer.plan
        assert made is not None, "only called where there is a plan"
        routes = [r for r in made.routes if any(step.op not in ("rearrange", "drop", "cast") for step in r.steps)]
        for route in routes:
            source = made.source.outputs[route.source] if route.source in made.source.outputs.paths else route.specs[0]
            fault = Mismatch(
                self.document.where(("adapt",)),
                f"{producer.name} to give {route.target} as {route.specs[-1]}",
                f"{route.source} {source}",
                "leave `adapt: false` out, or take another level",
            )
            self.faults.append(fault)

    def _load_weights(self) -> None:
        if self.faults:
            return
        for i, entry in enumerate(self.config.weights):
            target = self.modules.get(entry.to) if entry.to else nn.ModuleDict(self._by_group())
            where = ("weights", i)
            if target is None:
                near = ", ".join(self.modules)
                fault = Mismatch(self.document.where((*where, "to")), f"one of {near}", f"`{entry.to}`", "to: backbone")
                self.faults.append(fault)
                continue
            path = self.document.folder / entry.path
            try:
                transfer(
                    path,
                    target,
                    scope=entry.scope,
                    include=entry.include,
                    exclude=entry.exclude,
                    min_coverage=entry.min_coverage,
                )
            except AdaptError as error:
                self._note(error, where, "")

    def _by_group(self) -> dict[str, nn.Module]:
        """The raw parts, named as in the assembled model."""
        found: dict[str, nn.Module] = {}
        for name, module in self.modules.items():
            group, _, own = name.partition(".")
            if own:
                found.setdefault(group, nn.Module()).add_module(own, module)
            else:
                found[group] = module
        return found

    def _finished(self, wiring: Wiring) -> AssembledModel:
        steps = tuple(
            Step(name, tuple(self._wired(argument) for argument in given), wiring.targets.get(name, ""))
            for name, given in self.arguments.items()
        )
        parts = {name: self.producers[name].module if name in self.producers else m for name, m in self.modules.items()}
        return AssembledModel(parts, steps, self._resolved_config(), self._report(parts))

    def _wired(self, argument: _Argument) -> Feed:
        producer = argument.whole
        if producer is not None and producer.plan is None:
            return Feed((Pick(producer.name),))
        picks = tuple(taken.producer.pick(taken.key) for taken in argument.taken)
        if producer is not None:
            return Feed(picks, tree=producer.signature.outputs.tree)
        return self._feed(argument, picks)

    def _feed(self, argument: _Argument, picks: tuple[Pick, ...]) -> Feed:
        container = "one" if argument.container == "any" else argument.container
        names = tuple(taken.level.name for taken in argument.taken)
        return Feed(picks, container, names if container == "dict" else ())

    def _resolved_part(
        self,
        name: str,
        config: PartConfig,
        arguments: Mapping[str, Any],
        references: Sequence[Reference],
        given: Sequence[_Argument],
        wiring: Wiring,
    ) -> PartConfig:
        """The part with everything said that was found."""
        changes: dict[str, Any] = {"arguments": dict(arguments)}
        taken = [found for argument in given for found in argument.taken]
        if any(argument.whole for argument in given):
            changes["takes"] = tuple(map(str, references))
        else:
            changes["takes"] = tuple(_reference_text(each) for each in taken)
            if keys_of(name)[0] != "loss":
                changes["expects"] = tuple(str(each.spec) for each in taken)
        if name in wiring.targets:
            changes["target"] = wiring.targets[name]
        return config.model_copy(update=changes)

    def _resolved_config(self) -> Config:
        groups: dict[str, dict[str, PartConfig]] = {"neck": {}, "head": {}, "loss": {}}
        for name, _ in self.config.parts():
            group, _, own = name.partition(".")
            groups[group][own] = self.resolved[name]
        folder = self.document.folder
        weights = tuple(w.model_copy(update={"path": str(folder / w.path)}) for w in self.config.weights)
        adapt = self.config.adapt
        if isinstance(adapt.like, str):
            adapt = adapt.model_copy(update={"like": str(folder / adapt.like)})
        changes = {"backbone": (self.resolved["backbone"],), "weights": weights, "adapt": adapt, **groups}
        return self.config.model_copy(update=changes)

    def _report(self, parts: Mapping[str, nn.Module]) -> Assembly:
        rows = []
        types = {"backbone": self.config.backbone[0].type} | {name: part.type for name, part in self.config.parts()}
        for name, module in parts.items():
            taken = [each for argument in self.arguments.get(name, ()) for each in argument.taken]
            given = tuple(self._given(each, each.spec) for each in taken)
            count = sum(parameter.numel() for parameter in module.parameters())
            rows.append(PartReport(name=name, type=types[name], given=given, parameters=count))
        single = [_single_cell(row.name, given, self._sizes) for row in rows for given in row.given]
        remarks = (*self.remarks, *dict.fromkeys(filter(None, single)))
        return Assembly(sizes=self._sizes, parts=tuple(rows), plans=self.plans, remarks=remarks)


def _captured(module: nn.Module, spec: TensorSpec, *, inner: bool = False) -> Signature:
    """The module's signature at the config's input, or where it refuses that, at the input it tells itself."""
    shape = [2 if str(dim) == "B" else dim.constant or 224 for dim in spec.dims]
    inputs = torch.empty(shape, dtype=spec.torch_dtype, device="meta")
    try:
        return capture(module, inputs, inner=inner)
    except AdaptError as error:
        try:
            return capture(module, told_inputs(module), inner=inner)
        except AdaptError:
            raise error from None


def _contract(signature: Signature, spec: TensorSpec) -> dict[str, AxisSizes]:
    """The sizes of the backbone's input axes that the config asks for."""
    found = {}
    for own, dim in zip(signature.inputs.leaves[0].dims, spec.dims, strict=False):
        axis = str(own)
        if axis in signature.axes and axis != "B":
            example = dim.constant or 224
            found[axis] = AxisSizes(step=0 if dim.constant else 1, example=example)
    return found


def _is_many(part: Part, parameter: str) -> bool:
    """Whether a parameter for channels takes one number for each level."""
    text = str(part.parameters[parameter].annotation)
    return parameter.endswith("_list") or any(word in text for word in ("list", "Sequence", "tuple", "List", "Tuple"))


def _reference_text(taken: _Taken) -> str:
    name = taken.level.name
    return taken.producer.name if name == "output" else f"{taken.producer.name}.{name}"


def _single_cell(name: str, given: Given, sizes: Mapping[str, int]) -> str:
    if given.cells and set(given.cells.split("x")) == {"1"}:
        size = "x".join(str(size) for axis, size in sizes.items() if axis != "B")
        return f"`{name}` is given a single cell ({given.source}, stride {given.stride}, at {size}): no detail is left"
    return ""
