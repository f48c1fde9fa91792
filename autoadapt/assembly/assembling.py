"""Assembling: from a config to a model; the order of the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.assembly.assembly_sessions import Argument, Session, said_by
from autoadapt.assembly.backbone_building import build_backbone, fed, producer_of
from autoadapt.assembly.configs import Config, Group, PartConfig, parse_config
from autoadapt.assembly.constructor_arguments import check_arguments
from autoadapt.assembly.documents import Document, read_document
from autoadapt.assembly.levels import channels_of
from autoadapt.assembly.literal_form import literal_form
from autoadapt.assembly.making import full_name, made
from autoadapt.assembly.models import AssembledModel, Feed, Pick, Step
from autoadapt.assembly.part_inputs import give, hold_expected, infer_channels
from autoadapt.assembly.preprocessors import RegisteredPreprocessor
from autoadapt.assembly.producers import pinned
from autoadapt.assembly.references import Reference, Wiring, keys_of, wire
from autoadapt.assembly.registry import PARTS, Part, Registry
from autoadapt.assembly.resolving import report_of, resolved_config, resolved_part
from autoadapt.assembly.scopes import Scopes
from autoadapt.assembly.weight_files import load_weights
from autoadapt.assembly.whole_channels import check_channels
from autoadapt.assembly.wholes import adapt_to_whole, build_whole, taken_by
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.capturing.arguments import meta_tensors
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import rebuild
from autoadapt.errors import AdaptError, AssemblyError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.files.reading import one_line


def assemble(
    config: Mapping[str, Any] | Config | str | Path, *, allow: Sequence[str | Path] = (), registry: Registry = PARTS
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
    session = Session(parse_config(document, faults), document, remarks=remarks, allow=tuple(map(str, allow)))
    scopes = scopes.within(session.config.default_scope)
    parts, wiring = _look_up(session, scopes)
    return _Assembling(session, parts, wiring, scopes).model()


def describe(model: AssembledModel) -> dict[str, Any]:
    """The resolved config of a model as plain data, ready for `yaml.safe_dump`; it assembles to the same model.

    Raises:
        AssemblyError: It is no model that `assemble` made, or it was swapped, refitted or folded since.
    """
    check_type(model, AssembledModel, "model", "model = aa.assemble(config); aa.describe(model)", AssemblyError)
    changed = [path for path, one in model.named_modules() if vars(one).keys() & {"swapped", "folded"}]
    if changed:
        remedy = 'aa.save(model, "folder")  # and aa.restore("folder", model=aa.assemble(config), new=new)'
        expected, found = "as the config builds it", "another module or other layers"
        faults = [Mismatch(path, expected, found, remedy) for path in changed]
        raise AssemblyError("no config describes what was swapped, refitted or folded after the model was made", faults)
    return model.config.flat()


def _look_up(session: Session, scopes: Scopes) -> tuple[dict[str, Part], Wiring]:
    """Every part by its type, as far as it is without fault before anything is made."""
    config = session.config
    if len(config.backbone) != 1:
        where = session.where("backbone")
        session.fault(where, "one backbone", f"a list of {len(config.backbone)}", "autoadapt.assembly.compare(config)")
    found: dict[str, Part] = {}
    single = [("preprocessor", config.preprocessor), ("whole", config.whole)]
    named = [*(("backbone", part) for part in config.backbone), *config.parts()]
    for name, part in [*((name, part) for name, part in single if part is not None), *named]:
        looked_up = _found(scopes, name, part, session.where(name, "type"))
        if isinstance(looked_up, Mismatch):
            session.faults.append(looked_up)
            continue
        given = part.arguments | ({"backbone": {}} if name == "whole" else {})
        if faults := check_arguments(looked_up, given, keys_of(name), session.document):
            session.faults += faults
            continue
        found[name] = looked_up
        if looked_up.name != part.type and part.type in scopes.registry.names(_group(name)):
            session.remarks.append(f"`{part.type}` is {looked_up.name} of mmengine's registry, not ours")
    return found, wire(config, session.document, session.faults)


_TRIED = 512
"""The longest axis of the image that a preprocessor is tried on."""


def _found(scopes: Scopes, name: str, config: PartConfig, where: str) -> Part | Mismatch:
    if name == "whole":
        missing = Mismatch(where, "a model of mmengine's registry", f"`{config.type}`", "import what registers it")
        return scopes.whole(config.type, where) or missing
    return scopes.find(_group(name), config.type, where)


def _group(name: str) -> Group:
    return "preprocessor" if name == "preprocessor" else "backbone" if name == "whole" else Config.group(name)


class _Assembling:
    """One model in the making: parts are built in order, each tried on what it is given."""

    def __init__(self, session: Session, parts: Mapping[str, Part], wiring: Wiring, scopes: Scopes) -> None:
        self._scopes = scopes
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
        if "preprocessor" in self._parts:
            self._build_preprocessor(self._parts["preprocessor"])
        if "backbone" in self._parts and len(self._session.config.backbone) == 1:
            self._build_whole() if self._session.config.whole else self._build_backbone()
        for name, references in self._wiring.takes.items():
            built = all(reference.producer in self._session.producers for reference in references)
            if built and name in self._parts:
                self._build_part(name, references)
        check_accuracies(self._session, self._wiring)
        self._session.check()
        self._adapt()
        self._session.check()
        load_weights(self._session, self._modules, self._modules.get("whole") or _by_group(self._modules))
        self._session.check()
        return self._finished()

    def _build_preprocessor(self, part: Part) -> None:
        session, config = self._session, self._session.config.preprocessor
        assert config is not None, "its part was looked up"
        module = made(session, "preprocessor", part, config.arguments)
        if module is None:
            return
        module = RegisteredPreprocessor(module) if part.name.startswith("mm:") else module
        spec = TensorSpec.parse(session.config.input)
        try:
            module(torch.ones([min(dim.constant or 2, _TRIED) for dim in spec.dims], dtype=spec.torch_dtype))
        except Exception as error:
            where = session.where("preprocessor")
            session.fault(where, f"a preprocessor that takes {spec}", said_by(error), "mend it, or `input`")
            return
        self._modules["preprocessor"] = module
        self._resolved["preprocessor"] = config.model_copy(update={"type": full_name(part, config.type)})
        session.remarks.append(f"`preprocessor` is a part of the model: it takes the pixels as {part.name} does")

    def _build_backbone(self) -> None:
        found = build_backbone(self._session, self._parts["backbone"], self._scopes)
        if found is not None:
            self._modules["backbone"], self._resolved["backbone"] = found.module, found.config
            self._plans |= {"backbone (adapt.like)": found.plan} if found.plan else {}

    def _build_whole(self) -> None:
        """A model of a registry, with the registry's backbone, or with another one in its place."""
        session, part, config = self._session, self._parts.get("whole"), self._session.config
        backbone, described = self._parts["backbone"], config.backbone[0]
        if part is None or config.whole is None:
            return
        given: dict[str, Any] | nn.Module = {**described.arguments, "type": backbone.name.removeprefix("mm:")}
        is_theirs = backbone.name.startswith("mm:") and config.adapt.like is None
        if not is_theirs:
            self._build_backbone()
            if "backbone" not in session.producers or not self._adapt_to_whole():
                return
            given = session.producers["backbone"].module
        whole = build_whole(session, part, given)
        if whole is None:
            return
        if is_theirs:
            self._modules["backbone"] = module = whole.get_submodule("backbone")
            self._resolved["backbone"] = described.model_copy(update={"type": backbone.name})
            session.producers["backbone"] = producer_of(module, fed(session))
            check_channels(session, whole)
        self._modules["whole"] = whole
        self._resolved["whole"] = config.whole.model_copy(update={"type": full_name(part, config.whole.type)})
        self._given["whole"] = [Argument(taken_by(session.producers["backbone"]))]

    def _adapt_to_whole(self) -> bool:
        if self._session.config.adapt.like is not None:
            return True
        found = adapt_to_whole(self._session, self._session.producers["backbone"])
        if found is not None:
            self._keep_plan("backbone", found)
        return found is not None

    def _build_part(self, name: str, references: Sequence[Reference]) -> None:
        session, part, config = self._session, self._parts[name], self._configs[name]
        is_loss = session.config.group(name) == "loss"
        before, arguments = len(session.faults), dict(config.arguments)
        given = give(session, name, part, config, references)
        if not is_loss and len(session.faults) == before:
            infer_channels(session, name, part, arguments, given)
            hold_expected(session, name, config, given)
        module = made(session, name, part, arguments) if len(session.faults) == before else None
        if module is None:
            return
        for taken in (taken for argument in given for taken in argument.taken):
            taken.key = taken.producer.demand(taken.level, taken.spec)
        self._given[name], self._modules[name] = given, module
        target = self._wiring.targets.get(name, "")
        config = config.model_copy(update={"type": full_name(part, config.type)})
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
            module(*self._tried(given), *meta_tensors([TensorSpec.parse(text)], self._session.sizes))
        except Exception as error:
            specs = ", ".join(str(taken.spec) for argument in given for taken in argument.taken)
            where, expected = self._session.where(name, "target"), f"a target that fits {specs}"
            self._session.fault(where, expected, f"{target} {text}", "mend `targets` or `from`", one_line(error))

    def _tried(self, given: Sequence[Argument]) -> tuple[Any, ...]:
        """The arguments of a part on the meta device."""

        def argument(one: Argument) -> Any:
            tensors = meta_tensors([taken.spec for taken in one.taken], self._session.sizes)
            if one.whole is not None:
                return rebuild(one.whole.signature.outputs.tree, tensors)
            values = {str(i): tensor for i, tensor in enumerate(tensors)}
            return _feed(one, tuple(map(Pick, values))).take(values)

        return tuple(argument(one) for one in given)

    def _adapt(self) -> None:
        if self._session.config.whole is not None:
            return  # it has what it needs already
        for producer in self._session.producers.values():
            try:
                producer.adapt(self._session.config.adapt.fit)
            except AdaptError as error:
                expected = f"{producer.name} to give what the parts after it take"
                self._session.note(error, keys_of(producer.name), expected)
                continue
            if producer.plan is not None:
                self._keep_plan(producer.name, producer.plan)

    def _keep_plan(self, name: str, made: Plan) -> None:
        """With `adapt: false` only what leaves the values alone may stand between: a layout, an inner output."""
        self._plans[name] = made
        for route in made.routes if not self._session.config.adapt.enabled else ():
            if any(step.op not in ("rearrange", "drop", "cast") for step in route.steps):
                expected = f"{name} to give {route.target} as {route.specs[-1]}"
                found = f"{route.source} {route.specs[0]}"
                remedy = "leave `adapt: false` out, or take another level"
                self._session.fault(self._session.where("adapt"), expected, found, remedy)

    def _finished(self) -> AssembledModel:
        session, targets = self._session, self._wiring.targets
        steps = tuple(
            Step(name, tuple(_wired(argument) for argument in given), targets.get(name, ""))
            for name, given in self._given.items()
            if name != "whole"
        )
        built = {name: producer.module for name, producer in session.producers.items()}
        parts = {name: built.get(name, module) for name, module in self._modules.items()}
        config = resolved_config(session, self._resolved)
        single = {"preprocessor": config.preprocessor, "backbone": config.backbone[0], "whole": config.whole}
        types = {name: part.type for name, part in single.items() if part} | {n: p.type for n, p in config.parts()}
        report = report_of(session, types, parts, self._given, self._plans)
        if config.whole is not None:
            del parts["backbone"]  # it is a part of the whole
        return AssembledModel(parts, steps, config, report)


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


def check_accuracies(session: Session, wiring: Wiring) -> None:
    """Accuracies are of a head with a loss, whose target they share, and of no more classes than it has."""
    for name, counts in session.config.topk.items():
        head = f"head.{name}" if name else "head"
        where = session.where("topk", name)
        losses = [loss for loss in wiring.targets if wiring.takes.get(loss, ())[:1] == (Reference(head),)]
        if not losses:
            found = f"no loss of `{head}`"
            session.fault(where, "a head with a loss, to share its target", found, "loss: {type: CrossEntropyLoss}")
        elif head in session.producers:
            classes = channels_of(next(iter(session.producers[head].specs.values())))
            most = max(counts, default=1)
            if classes is not None and not 1 <= min(counts, default=1) <= most <= classes:
                remedy = f"topk: {[k for k in counts if 0 < k <= classes]}"
                session.fault(where, f"at most {classes}, one for each class", str(most), remedy)
