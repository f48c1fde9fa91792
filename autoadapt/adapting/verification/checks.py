"""Checks: each runs a module in one way and says what it found; `CHECKS` and `THOROUGH_CHECKS` list them in order."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification.centres import known_axes, misplaced_cells
from autoadapt.adapting.verification.route_steps import axis_order, broken_chain, misread_rows
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.capturing import Arguments, capture
from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import Mismatch

__all__ = ["CHECKS", "THOROUGH_CHECKS", "Findings", "any_size_program"]


@dataclass(frozen=True)
class Findings:
    """What a check that ran to its end has to say."""

    faults: list[Mismatch] = field(default_factory=list)
    detail: str = ""


Run: TypeAlias = Callable[[nn.Module, Arguments], Any]


def signature_again(session: Session) -> Findings:
    """Capture the module again and compare."""
    arguments = session.arguments(session.at())
    values = arguments.values
    inputs: object = values if arguments.positional < len(values) else tuple(values.values())
    return Findings(session.signature.diff(capture(session.net, inputs, confirm=False)), "captured again and compared")


def plan_follows(session: Session) -> Findings:
    """Whether the steps of a plan follow from one another, and end in the contract."""
    plan = session.plan
    if plan is None:
        raise NotApplicableError("the module was not built from a plan")
    contract = dict(plan.target.outputs.items())
    order = axis_order(plan.target)
    faults = [
        fault
        for route in plan.routes
        for fault in (*broken_chain(route, contract[route.target]), *misread_rows(route, order))
    ]
    return Findings(faults, f"{sum(len(route.steps) for route in plan.routes)} steps follow from one another")


def cells_in_place(session: Session) -> Findings:
    """Whether cells lie where those of the contract lie."""
    plan, sizes = session.plan, session.at()
    if plan is None or not known_axes(plan, session.signature, sizes):
        raise NotApplicableError("where cells lie is not known of both modules")
    faults, away = misplaced_cells(session.copy(), plan, session.signature, session.arguments(sizes), sizes)
    return Findings(faults, f"at most {away:.3g} pixels from the old ones")


def sizes_and_batches(session: Session) -> Findings:
    """Run at several sizes and batch sizes."""
    copied, faults = session.copy(), list[Mismatch]()
    noted = _watch_backbone(copied, session.plan)
    for sizes in session.sizes:
        for batch in session.batches:
            full = session.at(**sizes, B=batch)
            arguments = session.arguments(full)
            try:
                faults += session.compare(arguments, arguments.call(copied), full)
            except Exception as error:
                faults.append(Mismatch("x".join(map(str, full.values())), "outputs", said(error)))
            else:
                faults += _other_sources(session.plan, noted, full)
    return Findings(faults, _spread(session))


def _spread(session: Session) -> str:
    shown = [" x ".join(str(size) for name, size in one.items() if name != "B") for one in session.sizes]
    spread = f"{shown[0]} .. {shown[-1]}" if shown and shown[0] else "the one legal size"
    return f"{len(session.sizes)} sizes ({spread}) x batch {', '.join(map(str, session.batches))}"


def _watch_backbone(net: nn.Module, plan: Plan | None) -> dict[str, tuple[int, ...]]:
    """The shapes that the backbone of a copy returned last, by the names that a plan gives to its sources."""
    noted: dict[str, tuple[int, ...]] = {}
    if plan is not None:
        names = tuple(plan.taps) or plan.source.outputs.paths

        def note(module: nn.Module, args: Any, returned: Any) -> None:
            noted.update(zip(names, (tuple(tensor.shape) for tensor in flatten(returned)[1]), strict=False))

        backbone = net.get_submodule("backbone")
        if not isinstance(backbone, torch.jit.ScriptModule):  # it takes no hooks
            backbone.register_forward_hook(note)
    return noted


def _other_sources(plan: Plan | None, noted: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> list[Mismatch]:
    """Sources that are not as large as the plan takes them to be."""
    faults = []
    for route in plan.routes if plan is not None else ():
        found, expected = noted.get(route.source), route.specs[0].shape(sizes)
        if found is not None and found != expected and not route.same_as:
            faults.append(Mismatch(f"source {route.source}", str(list(expected)), str(list(found)), "plan again"))
    return faults


def training(session: Session) -> Findings:
    """Run in train mode."""
    sizes = session.at(B=3)
    arguments = session.arguments(sizes)
    try:
        returned = arguments.call(in_train_mode(session.copy()))
    except Exception:
        session.excuse(lambda bare: bare.arguments(bare.at()).call(in_train_mode(bare.copy())), "in train mode")
        raise
    return Findings(session.compare(arguments, returned, sizes))


def gradients(session: Session) -> Findings:
    """Whether gradients reach every output of features, and every trainable parameter."""
    copied = session.copy()
    trainable = {name: p for name, p in copied.named_parameters() if p.requires_grad}
    if not trainable:
        raise NotApplicableError("no parameter is trainable")
    with torch.enable_grad():
        leaves = session.leaves(session.arguments(session.at(B=2)).call(copied))
        wanted = {
            path: leaves[path]
            for path, spec in session.signature.outputs.items()
            if spec.is_floating and spec.role == "feature" and not spec.same_as
        }
        loose = [path for path, tensor in wanted.items() if not tensor.requires_grad]
        if loose:
            return Findings([Mismatch(path, "a gradient", "none: it is detached") for path in loose])
        _backward(wanted.values())
    unused = [name for name, p in trainable.items() if p.grad is None]
    excused = _unused_in_backbone(session) if unused else set()
    faults = [Mismatch(name, "a gradient", "none: it is not used") for name in unused if name not in excused]
    detail = f"{len(unused)} parameters that the backbone itself does not use" if unused else "no unused parameter"
    return Findings(faults, detail)


def _unused_in_backbone(session: Session) -> set[str]:
    """Parameters that get no gradient when all outputs of the bare backbone are used."""
    bare = session.backbone()
    if bare is None:
        return set()
    copied = bare.copy()
    with torch.enable_grad():
        _backward(flatten(bare.arguments(bare.at()).call(copied))[1])
    return {f"backbone.{name}" for name, p in copied.named_parameters() if p.grad is None}


def _backward(tensors: Any) -> None:
    live = [tensor.float().square().mean() for tensor in tensors if tensor.requires_grad]
    if live:
        torch.autograd.backward(torch.stack(live).sum())


def bfloat16(session: Session) -> Findings:
    """Run after a cast to bfloat16."""

    def run(one: Session, sizes: Mapping[str, int]) -> tuple[Arguments, Any]:
        arguments = one.arguments(sizes, dtype=torch.bfloat16)
        return arguments, arguments.call(one.copy().to(torch.bfloat16))

    sizes = session.at(B=2)
    try:
        arguments, returned = run(session, sizes)
    except Exception:
        session.excuse(lambda bare: run(bare, bare.at()), "in bfloat16")
        raise
    return Findings(session.compare(arguments, returned, sizes, dtype=torch.bfloat16))


def autocast(session: Session) -> Findings:
    """Run under autocast; outputs may have either dtype, as those of the old module may."""

    def run(one: Session) -> Any:
        with torch.autocast(one.device.type, dtype=torch.bfloat16):
            return one.arguments(one.at(B=2)).call(one.copy())

    try:
        returned = run(session)
    except Exception:
        session.excuse(run, "under autocast")
        raise
    faults, leaves = [], session.leaves(returned)
    for path, spec in session.signature.outputs.items():
        fine = (torch.bfloat16, spec.torch_dtype) if spec.is_floating else (spec.torch_dtype,)
        if leaves[path].dtype not in fine:
            faults.append(Mismatch(path, " or ".join(map(str, fine)), str(leaves[path].dtype)))
    return Findings(faults)


def copies(session: Session) -> Findings:
    """Whether deepcopy and pickle give the same module back."""
    original = session.net
    try:
        made = {"deepcopy": copy.deepcopy(original), "pickle": _pickled(original)}
    except Exception:
        session.excuse(lambda bare: _pickled(copy.deepcopy(bare.net)), "to be copied and pickled")
        raise
    expected = _seeded_outputs(session, original)
    faults = []
    for how, twin in made.items():
        faults += _differences(how, original, twin)
        found = _seeded_outputs(session, twin)
        if len(found) != len(expected) or not all(map(torch.equal, expected, found)):
            faults.append(Mismatch(f"outputs after {how}", "the same values", "other values"))
    return Findings(faults, "type, keys, attributes, hooks and outputs")


def _pickled(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    pickle.dump(module, buffer)
    buffer.seek(0)
    made: nn.Module = pickle.load(buffer)
    return made


def _seeded_outputs(session: Session, module: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(0)  # for modules that draw numbers; put back by the caller
    return flatten(session.arguments(session.at()).call(in_eval_mode(copy_module(module, clone_buffers))))[1]


def _differences(how: str, original: nn.Module, twin: nn.Module) -> list[Mismatch]:
    facts: dict[str, Callable[[nn.Module], object]] = {
        "type": lambda m: type(m).__qualname__,
        "state-dict keys": lambda m: list(m.state_dict()),
        "attributes": lambda m: sorted(name for name in vars(m) if not name.startswith("_")),
        "hooks": lambda m: [(len(x._forward_hooks), len(x._forward_pre_hooks)) for x in m.modules()],
        "mode": lambda m: [x.training for x in m.modules()],
    }
    return [
        Mismatch(f"{fact} after {how}", str(say(original))[:80], str(say(twin))[:80])
        for fact, say in facts.items()
        if say(original) != say(twin)
    ]


def channels_last(session: Session) -> Findings:
    """Run with images and weights in channels-last memory."""
    sizes = session.at(B=2)
    arguments = session.arguments(sizes)
    tree, tensors = flatten(arguments.values)
    if not any(tensor.dim() == 4 for tensor in tensors):
        raise NotApplicableError("no input is an image")
    last = [_last(tensor) if tensor.dim() == 4 else tensor for tensor in tensors]
    changed = Arguments(rebuild(tree, last), arguments.positional)
    module = session.copy().to(memory_format=torch.channels_last)
    return Findings(session.compare(changed, changed.call(module), sizes))


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def checkpointing(session: Session) -> Findings:
    """Run forward and backward with gradient checkpointing."""
    copied = session.copy()
    method = getattr(copied, "set_grad_checkpointing", None)
    if method is None:
        raise NotApplicableError("the backbone has none")
    try:
        method(True)
    except (AssertionError, NotImplementedError) as error:
        raise NotApplicableError(f"the backbone refuses it: {said(error)[:60]}") from error
    sizes = session.at(B=2)
    arguments = session.arguments(sizes)
    with torch.enable_grad():
        returned = arguments.call(in_train_mode(copied))
        _backward(flatten(returned)[1])
    return Findings(session.compare(arguments, returned, sizes))


def compiled(session: Session) -> Findings:
    """Compile without graph breaks, for any size, and run at three."""

    def run(one: Session, sizes: Sequence[Mapping[str, int]]) -> list[Mismatch]:
        torch._dynamo.reset()
        module: Any = torch.compile(one.copy(), fullgraph=True, dynamic=True, backend="eager")
        faults = []
        try:
            for full in sizes:
                arguments = one.arguments(full)
                faults += session.compare(arguments, arguments.call(module), full) if one is session else []
        finally:
            torch._dynamo.reset()
        return faults

    try:
        faults = run(session, [session.at(**sizes, B=3) for sizes in session.sizes[:3]])
    except Exception:
        session.excuse(lambda bare: run(bare, [bare.at()]), "to compile")
        raise
    return Findings(faults, "fullgraph, dynamic, backend eager")


def exported(session: Session) -> Findings:
    """Export with dynamic axes and run the program at two other sizes."""
    if session.signature.filled:
        raise NotApplicableError("torch.export allows no argument to be filled in")
    try:
        program = any_size_program(session)
    except Exception:
        session.excuse(any_size_program, "to export")
        raise
    faults = []
    steps = session.plan.coarse_steps if session.plan else {}
    for sizes in session.sizes[-2:]:
        full = session.at(**_within(session, steps, sizes), B=3)
        arguments = session.arguments(full)
        found = session.compare(arguments, arguments.call(program), full)
        faults += [fault for fault in found if "itself" not in fault.expected]  # a program copies what it hands through
    within = f" within a step of {', '.join(map(str, sorted(set(steps.values()))))}" if steps else ""
    return Findings(faults, f"dynamic dims, run at other sizes{within}")


def _within(session: Session, steps: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """Legal sizes in the upper half of the coarse step that the example lies in, where any axis goes by such steps."""
    found = dict(sizes)
    for name, step in steps.items():
        middle = (session.at()[name] - 1) // step * step + step // 2
        found[name] = session.signature.axes[name].near(middle + sizes.get(name, 0) % (step // 4))
    return found


def any_size_program(session: Session) -> nn.Module:
    """The program of `torch.export`, dynamic along every axis that torch does not find to be fixed."""
    arguments = session.arguments(session.at(B=2))
    values = arguments.values
    positional = tuple(list(values.values())[: arguments.positional])
    keywords = dict(list(values.items())[arguments.positional :])
    shapes = {name: torch.utils._pytree.tree_map(_auto_dims, value) for name, value in values.items()}
    program = torch.export.export(session.copy(), positional, keywords, dynamic_shapes=shapes, strict=False)
    return program.module()


def _auto_dims(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)


CHECKS: dict[str, Callable[[Session], Findings]] = {
    "signature": signature_again,
    "plan": plan_follows,
    "centres": cells_in_place,
    "sizes": sizes_and_batches,
    "train mode": training,
    "gradients": gradients,
    "bfloat16": bfloat16,
    "autocast": autocast,
    "deepcopy, pickle": copies,
    "channels_last": channels_last,
    "checkpointing": checkpointing,
}
THOROUGH_CHECKS: dict[str, Callable[[Session], Findings]] = {
    "compile": compiled,
    "export": exported,
}
