"""Source files: the file that says in plain PyTorch what an adapted module does."""

from __future__ import annotations

import importlib.util
import inspect
import keyword
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import overload

import torch
from torch import nn

from autoadapt.adapting import layers, mask_layers, token_layers
from autoadapt.adapting.building import AdaptedModule, other_parts
from autoadapt.adapting.building.expressions import (
    INDENT,
    WIDTH,
    Expression,
    Text,
    constant,
    group,
    lines_of,
    prose,
    quoted,
)
from autoadapt.adapting.building.forward_arguments import arguments_of
from autoadapt.adapting.building.graphs import adapter_names, learned_steps
from autoadapt.adapting.building.printing import Printed, print_graph
from autoadapt.adapting.operations import Channels, Native
from autoadapt.adapting.planning import Plan
from autoadapt.contracts import leaves
from autoadapt.contracts.origins import origin_of
from autoadapt.contracts.trees import Container, Slot, container_type, rebuild, type_path
from autoadapt.errors import Mismatch, SavingError
from autoadapt.files.writing import check_place, write_file
from autoadapt.saving.module_states import facts_of, frozen_parts, hooked_parts
from autoadapt.saving.standalone.annotations import annotation, argument_annotation
from autoadapt.saving.standalone.inlining import import_lines, inlined, names_in
from autoadapt.saving.standalone.tap_lines import tap_constants, tap_hooks, tap_methods
from autoadapt.saving.wrappers import adapted_inside
from autoadapt.versions import VERSION


@overload
def to_source(net: nn.Module, path: None = None) -> str: ...
@overload
def to_source(net: nn.Module, path: str | Path) -> Path: ...


def to_source(net: nn.Module, path: str | Path | None = None) -> str | Path:
    """Write an adapted module as one file that needs torch alone, and whatever classes its outputs are of.

    The file has a class `Adapted`, whose only argument is the backbone as it was before it was adapted. It loads the
    state dict of the module and then gives the same bits.

    Args:
        net: The adapted module; it is not changed.
        path: Where to write the file.

    Returns:
        The path; without one the text: formatted, annotated, with the plan as its docstring.

    Raises:
        SavingError: It is no adapted module, its adapters are not those of its plan, or a class of its outputs cannot
            be imported.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> net = adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))
        >>> for line in to_source(net).splitlines()[-4:]:
        ...     print(line)
            def forward(self, input: torch.Tensor) -> torch.Tensor:
                features = self.backbone(input)
                output: torch.Tensor = self.adapters["output"](features)
                return output
    """
    if path is not None:
        check_place(path, "path")
    text = _File(adapted_inside(net, "aa.to_source")).text()
    if path is None:
        return text
    write_file(path, text)
    return Path(path)


class _File:
    """The parts of one file."""

    def __init__(self, net: AdaptedModule) -> None:
        self._net = net
        self._plan = net.plan
        self._printed: Printed = print_graph(net.graph, calls={"backbone": "self._tapped"} if net.plan.taps else {})
        self._native = _native_settings(net.plan)
        if faults := other_parts(net):
            raise SavingError("the adapters are not those of the plan", faults)
        _check_arguments(self._printed, net)

    def text(self) -> str:
        body = "\n".join(self._class())
        above, below = inlined(names_in(body))
        top = "\n".join(filter(None, ["\n".join(self._constants()), "\n\n".join(above)]))
        code = "\n\n\n".join([*below, body])
        imports = import_lines(f"{top}\n{code}", self._class_imports())
        head = f"{imports}\n\n{top}" if top else imports
        return f"{self._docstring()}\n\n{head}\n\n\n{code}\n"

    def _docstring(self) -> str:
        plan, kind = self._plan, self._backbone()
        title = f"{plan.source.title} in the contract of {plan.target.title}, as autoadapt {VERSION} built it."
        lines = [
            *textwrap.wrap(title, WIDTH - 3),  # behind the quotes
            "",
            "    net = Adapted(backbone)",
            "    net.load_state_dict(state)  # of the adapted module",
            "",
            f"The backbone is {kind}",
            "as it was before it was adapted; it becomes a part of the module and is changed.",
            "",
            *(f"    {line}".rstrip() for line in str(plan).splitlines()),
        ]
        left = [*facts_of(self._net)[1], *hooked_parts(self._net)]
        if left:
            lines += ["", f"Not in this file: {', '.join(left)}."]
        return f'"""{prose(chr(10).join(lines))}\n"""'

    def _backbone(self) -> str:
        backbone = self._net.get_submodule("backbone")
        origin, kind = origin_of(backbone), type_path(type(backbone)).replace(":", ".")
        return f"{origin.source} ({kind})" if origin is not None else f"a {kind}"

    def _constants(self) -> Iterator[str]:
        """What is tapped and what is cut, by name."""
        if self._plan.taps:
            yield from tap_constants(self._plan)
        if self._native:
            yield from lines_of("NATIVE = ", constant(self._native), "", WIDTH)
        if self._plan.cut:
            yield from lines_of("UNUSED = ", constant(self._plan.cut), "", WIDTH)

    def _class(self) -> Iterator[str]:
        plan = self._plan
        yield "class Adapted(nn.Module):"
        yield f'    """{prose(" ".join(f"{plan.source.name} with the signature of {plan.target.name}.".split()))}"""'
        yield ""
        yield "    def __init__(self, backbone: nn.Module) -> None:"
        yield "        super().__init__()"
        yield from (" " * 2 * INDENT + line if line else "" for line in self._init())
        if plan.taps:
            yield ""
            yield from tap_methods(plan)
        yield ""
        yield from self._forward()

    def _init(self) -> Iterator[str]:
        plan, room = self._plan, WIDTH - 2 * INDENT
        if self._native:
            yield "for path, name, value in NATIVE:  # images are read at their own size"
            yield "    setattr(backbone.get_submodule(path), name, value)"
        yield from _stems(self._net)
        if plan.cut:
            yield "for path in UNUSED:  # they only serve what is not read"
            yield "    is_stage = isinstance(backbone.get_submodule(path), nn.Sequential)"
            yield "    backbone.set_submodule(path, nn.Sequential() if is_stage else nn.Identity())"
        yield "self.backbone = backbone"
        adapters = list(_adapter_items(self._net))
        if adapters:
            call = group("nn.ModuleDict(", [("", group("{", adapters, "}"))], ")")
            yield from lines_of("self.adapters = ", call, "", room)
            yield from _cast(self._net)
        if plan.taps:
            yield from tap_hooks(plan)
        yield from _frozen(self._net, room)
        facts, _ = facts_of(self._net)
        for name, fact in facts.items():
            value = constant(rebuild(fact.value, []))
            if fact.form == "value" and _is_attribute(name):
                yield from lines_of(f"self.{name} = ", value, "", room)
            elif fact.form == "value":
                items = [("", Text("self")), ("", Text(quoted(name))), ("", value)]
                yield from lines_of("", group("setattr(", items, ")"), "", room)

    def _forward(self) -> Iterator[str]:
        tree = self._plan.target.outputs.tree
        trees = dict(arguments_of(self._plan.target))
        arguments = ["self"]
        for name, default in self._printed.arguments:
            kind = argument_annotation(trees[name], default, self._class_name) if name in trees else "Any"
            arguments.append(f"{name}: {kind}" + (f" = {default}" if default is not None else ""))
        returned = annotation(tree, self._class_name)
        items: list[tuple[str, Expression]] = [("", Text(argument)) for argument in arguments]
        head = group("forward(", items, ")")
        yield from ("    " + line for line in lines_of("def ", head, f" -> {returned}:", WIDTH - INDENT))
        if isinstance(tree, Container) and tree.kind == "model_output":
            yield from self._printed.body(indent=2 * INDENT, keywords="outputs")
        else:
            yield from self._printed.body(indent=2 * INDENT, result_type=returned if isinstance(tree, Slot) else "")

    def _class_name(self, container: Container) -> str:
        wanted = container_type(container)[0]
        return next((name for name, found in self._printed.objects.items() if found is wanted), "Any")

    def _class_imports(self) -> dict[str, str]:
        """The imports of classes that are not torch's, by the names that they have in the file."""
        lines, faults = {}, []
        for name, found in self._printed.objects.items():
            if found in [getattr(one, name, None) for one in (layers, mask_layers, token_layers, leaves)]:
                continue
            real = found.__qualname__.partition(".")[0]
            parts = [*found.__module__.split("."), *found.__qualname__.split(".")]
            if found.__module__ == "__main__" or not all(map(_is_attribute, parts)):
                remedy = "define it at the top of a module that can be imported"
                faults.append(Mismatch(found.__qualname__, "a class that a file can import", type_path(found), remedy))
                continue
            shown = real if real == name else f"{real} as {name}"
            lines[name] = f"from {found.__module__} import {shown}{_typing_note(found.__module__)}"
        if faults:
            raise SavingError("the outputs are of a class that no file can import", faults)
        return lines


def _is_attribute(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _typing_note(module: str) -> str:
    """What mypy wants to be told of a package without types."""
    name = module.partition(".")[0]
    package = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    folders = list(package.submodule_search_locations or []) if package is not None else []
    is_typed = not folders or any((Path(folder) / "py.typed").exists() for folder in folders)
    return "" if is_typed else "  # type: ignore[import-untyped]"


def _stems(net: AdaptedModule) -> Iterator[str]:
    """First convolutions that read another number of channels."""
    steps = [step for route in net.plan.inputs for step in route.steps if isinstance(step, Channels)]
    for step in (one for one in steps if one.stem):
        spatial = net.get_submodule(f"backbone.{step.stem}").weight.dim() - 2  # type: ignore[operator]
        yield f"stem = backbone.get_submodule({quoted(step.stem)})"
        yield f"assert isinstance(stem, nn.Conv{spatial}d)"
        yield f"weight = spread_channels(stem.weight.detach(), {step.met})"
        yield "stem.weight = nn.Parameter(weight)"
        yield f"stem.in_channels = {step.source}"


def _native_settings(plan: Plan) -> tuple[tuple[str, str, bool | str], ...]:
    """Attributes that free the backbone of its image size.

    Raises:
        SavingError: It was freed of it otherwise, which a file of torch alone cannot say.
    """
    sizes = next((step.sizes for route in plan.inputs for step in route.steps if isinstance(step, Native)), None)
    if sizes is not None and not sizes.settings:
        remedy = 'aa.save(net, "folder")\naa.adapt(new, like=old, resolution="fixed")'
        fault = Mismatch("backbone", "a module as it was built", f"native sizes: {sizes.what}", remedy)
        raise SavingError("native sizes are not written as plain PyTorch", [fault])
    return sizes.settings if sizes is not None else ()


def _check_arguments(printed: Printed, net: AdaptedModule) -> None:
    """Refuse names of arguments that stand for something else in `forward`."""
    taken = {"F", "OrderedDict", "nn", "torch"}
    taken |= {node.target.__name__ for node in net.graph.nodes if inspect.isfunction(node.target)}
    faults = [
        Mismatch(f"argument {name}", "a name that is free", name, "rename it")
        for name, _ in printed.arguments
        if name.lstrip("*") in taken
    ]
    if faults:
        raise SavingError("an argument has a name that the file needs", faults)


def _adapter_items(net: AdaptedModule) -> Iterator[tuple[str, Expression]]:
    """The adapters by name, as calls that make them."""
    for name, route in adapter_names(net.plan).items():
        made: list[tuple[str, Expression]] = []
        learned = learned_steps(route)
        for called, step, spec in learned:
            bias = "" if step.bias else ", bias=False"
            if step.form == "linear":
                text = f"linear({step.source}, {step.target}{bias})"
            else:
                channels = f"{step.groups * step.source}, {step.groups * step.target}"
                groups = f", groups={step.groups}" if step.groups > 1 else ""
                text = f"conv1x1({channels}, spatial={len(spec.dims) - 2}{bias}{groups})"
            made.append((f"{called}=" if len(learned) == 1 else f"{quoted(called)}: ", Text(text)))
        if len(made) == 1:
            yield f"{quoted(name)}: ", group("nn.Sequential(", [("", group("OrderedDict(", made, ")"))], ")")
        elif made:
            yield f"{quoted(name)}: ", group("nn.ModuleDict(", [("", group("{", made, "}"))], ")")


def _cast(net: AdaptedModule) -> Iterator[str]:
    """The adapters go where the backbone is, in its dtype; or in one of their own."""
    named = net.get_submodule("backbone").named_parameters()
    name, reference = next(((n, p) for n, p in named if p.is_floating_point()), ("", torch.empty(0)))
    own = next((p.dtype for p in net.get_submodule("adapters").parameters()), reference.dtype)
    if name and own == reference.dtype:
        items: list[tuple[str, Expression]] = [("", Text(f"backbone.get_parameter({quoted(name)})"))]
        yield from lines_of("", group("self.adapters.to(", items, ")"), "", WIDTH - 2 * INDENT)
    elif own != torch.float32:
        yield f"self.adapters.to({own})"


def _frozen(net: AdaptedModule, room: int) -> Iterator[str]:
    """What takes no gradient."""
    frozen = frozen_parts(net)
    modules = tuple(part for part in frozen if part in dict(net.named_modules()))
    parameters = tuple(part for part in frozen if part not in modules)
    if "" in modules:
        yield "self.requires_grad_(False)"
        return
    if modules:
        yield from lines_of("for path in ", constant(modules), ":", room)
        yield "    self.get_submodule(path).requires_grad_(False)"
    if parameters:
        yield from lines_of("for path in ", constant(parameters), ":", room)
        yield "    self.get_parameter(path).requires_grad_(False)"
