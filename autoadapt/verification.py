"""Verification: whether a module really keeps a signature, shown by running it."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from autoadapt.capturing import Arguments, bind, capture
from autoadapt.capturing.probing import quiet
from autoadapt.errors import AdaptError, Mismatch, VerificationError
from autoadapt.operations import after, parameters
from autoadapt.planning import Plan
from autoadapt.signature import AxisSizes, Signature, TensorSpec, dtype_name
from autoadapt.tables import columns
from autoadapt.trees import Container, Slot, Tree, flatten, path_text, paths, rebuild
from autoadapt.views import clone_buffers, copy_module

__all__ = ["Check", "Verification", "verify"]

Outcome: TypeAlias = Literal["passed", "failed", "not applicable", "not run"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(_Frozen):
    """A mismatch, in a report."""

    where: str
    expected: str
    found: str
    remedy: str = ""


class Check(_Frozen):
    """One row: what was checked, how it ended, and the faults."""

    name: str
    outcome: Outcome
    detail: str = ""
    faults: tuple[Fault, ...] = ()


class Verification(_Frozen):
    """All checks of one module. It passed when none failed and at least one passed."""

    schema_version: Literal[1] = 1
    name: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; a check that was not run never counts as passed."""
        outcomes = [check.outcome for check in self.checks]
        return "failed" not in outcomes and "passed" in outcomes

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def raise_if_failed(self) -> None:
        """Raise with every fault.

        Raises:
            VerificationError: A check failed.
        """
        failed = [check for check in self.checks if check.outcome == "failed"]
        if failed:
            faults = [
                Mismatch(f"{check.name}: {fault.where}", fault.expected, fault.found, fault.remedy)
                for check in failed
                for fault in check.faults
            ]
            raise VerificationError(f"{self.name} does not keep its signature", faults)

    def __str__(self) -> str:
        lines = [f"{self.name}: {'keeps its signature' if self.passed else 'DOES NOT keep its signature'}"]
        lines += columns([(check.name, check.outcome, check.detail) for check in self.checks])
        for check in self.checks:
            for fault in check.faults[:3]:
                lines.append(f"   {check.name}: {fault.where}: expected {fault.expected}, found {fault.found}")
        return "\n".join(lines)


def verify(
    net: nn.Module,
    signature: Signature,
    *,
    inputs: object = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
    batches: Sequence[int] = (1, 3),
    thorough: bool = False,
    seed: int = 0,
) -> Verification:
    """Run a module in many ways and compare with a signature.

    The module itself is not run; a copy over the same weights is.

    Args:
        net: The module.
        signature: What it should keep.
        inputs: An example call, as for `capture`; invented where left out.
        sizes: Sizes of the input axes to run at; chosen from the legal ones where left out.
        batches: Batch sizes to run at.
        thorough: Also compile and export, which takes seconds to minutes.
        seed: For the sizes and the invented inputs.

    Returns:
        A row for each check. One that the bare backbone fails as well is not applicable, with that reason.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> x = torch.zeros(2, 3, 32, 32)
        >>> verify(layer, capture(layer, x), inputs=x).passed
        True
    """
    session = _Session(net, signature, inputs, sizes, batches, seed)
    checks = [session.check(name, run) for name, run in _CHEAP.items()]
    for name, run in _THOROUGH.items():
        checks.append(
            session.check(name, run) if thorough else Check(name=name, outcome="not run", detail="thorough=True")
        )
    return Verification(name=signature.name, checks=tuple(checks))


class _NotApplicable(Exception):
    """Raised by a check that says nothing about this module."""


@dataclass(frozen=True)
class _Result:
    """What a check that ran to its end has to say."""

    faults: list[Mismatch]
    detail: str = ""


class _Session:
    """One verification: the module's copy, inputs at any size, and the comparison of what comes out."""

    def __init__(
        self,
        net: nn.Module,
        signature: Signature,
        inputs: object,
        sizes: Sequence[Mapping[str, int]] | None,
        batches: Sequence[int],
        seed: int,
    ) -> None:
        self.net = net
        self.signature = signature
        self.batches = batches
        self.device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self._generator = torch.Generator().manual_seed(seed)
        self._axes = _complete(signature)
        self._example = None if inputs is None else bind(net, inputs)
        self.sizes = [dict(one) for one in sizes] if sizes is not None else _chosen_sizes(self._axes, seed)

    def check(self, name: str, run: Callable[[_Session], _Result]) -> Check:
        """Run one check; whatever it raises is a failure, unless it says that it does not apply."""
        try:
            with quiet():
                result = run(self)
        except _NotApplicable as reason:
            return Check(name=name, outcome="not applicable", detail=str(reason))
        except AdaptError as error:
            faults = error.mismatches or (Mismatch(name, "", error.summary),)
            return _failed(name, list(faults))
        except Exception as error:
            return _failed(name, [Mismatch(name, "a run without error", _said(error))])
        if result.faults:
            return _failed(name, result.faults)
        return Check(name=name, outcome="passed", detail=result.detail)

    def copy(self) -> nn.Module:
        """A copy over the same weights, with buffers of its own, in eval mode."""
        return copy_module(self.net, clone_buffers).eval()

    def at(self, **sizes: int) -> dict[str, int]:
        """Sizes of all axes: the example's, with changes where the axis may vary."""
        full = {name: axis.example for name, axis in self._axes.items()}
        return full | {name: size for name, size in sizes.items() if name in full and self._axes[name].step != 0}

    def arguments(self, sizes: Mapping[str, int], *, dtype: torch.dtype | None = None) -> Arguments:
        """Inputs at given sizes: the caller's, cut or repeated, or invented ones."""
        signature = self.signature
        tensors = [self._tensor(path, spec, spec.shape(sizes), dtype) for path, spec in signature.inputs.items()]
        values = rebuild(signature.inputs.tree, tensors)
        return Arguments(values, signature.positional)

    def _tensor(self, path: str, spec: TensorSpec, shape: tuple[int, ...], dtype: torch.dtype | None) -> torch.Tensor:
        given = self._given().get(path)
        if given is not None:
            for axis, size in enumerate(shape):
                if given.shape[axis] != size:
                    given = given.index_select(axis, torch.arange(size, device=given.device) % given.shape[axis])
            made = given.clone()
        elif spec.is_floating:
            made = torch.randn(shape, generator=self._generator).to(spec.torch_dtype)
        else:
            low, high = self.signature.value_ranges.get(path, (0, 1))
            made = torch.randint(low, high + 1, shape, generator=self._generator).to(spec.torch_dtype)
        if dtype is not None and made.is_floating_point():
            made = made.to(dtype)
        return made.to(self.device)

    def _given(self) -> dict[str, torch.Tensor]:
        if self._example is None:
            return {}
        tree, tensors = flatten(self._example.values)
        named = zip([path_text(path) for path in paths(tree)], tensors, strict=True)
        return {path: tensor for path, tensor in named if tensor.device.type != "meta"}

    def compare(
        self, arguments: Arguments, returned: object, sizes: Mapping[str, int], *, dtype: torch.dtype | None = None
    ) -> list[Mismatch]:
        """What a run's outputs do not keep; `dtype` stands for the floating dtype after a cast."""
        tree, tensors = flatten(returned)
        at = "x".join(str(size) for size in sizes.values())
        wrong = _differing_tree(self.signature.outputs.tree, tree)
        if wrong:
            return [Mismatch(f"container at {at}", *wrong)]
        given, inputs = flatten(arguments.values)
        known = {f"inputs.{path_text(p)}": tensor for p, tensor in zip(paths(given), inputs, strict=True)}
        named = dict(zip(self.signature.outputs.paths, tensors, strict=True))
        faults = []
        for (path, spec), tensor in zip(self.signature.outputs.items(), tensors, strict=True):
            faults += _compare_leaf(f"{path} at {at}", spec, tensor, sizes, dtype, self.device)
            if spec.same_as in known and tensor is not known[spec.same_as]:
                faults.append(Mismatch(f"{path} at {at}", f"the tensor {spec.same_as} itself", "another tensor"))
        if not faults and dtype is None:
            faults += self._broken_invariants(named, known, at)
        return faults

    def _broken_invariants(
        self, outputs: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], at: str
    ) -> list[Mismatch]:
        faults = []
        known = {**outputs, **inputs}
        for invariant in self.signature.invariants:
            values, index, result = known[invariant.values], known[invariant.index], known[invariant.result]
            if int(index.min()) < 0 or int(index.max()) >= values.shape[1]:
                faults.append(Mismatch(f"{invariant.index} at {at}", f"0 to {values.shape[1] - 1}", "indices outside"))
                continue
            rows = index.long().unsqueeze(-1).expand(-1, -1, invariant.stop)
            if not torch.equal(values[..., : invariant.stop].gather(1, rows), result):
                faults.append(Mismatch(f"{invariant.index} at {at}", str(invariant), "it does not hold"))
        return faults

    def bare(self, run: Callable[[nn.Module, Arguments], object], reason: str) -> None:
        """Raise `_NotApplicable` where the backbone alone fails in the same way."""
        backbone = getattr(self.net, "backbone", None)
        plan = getattr(self.net, "plan", None)
        if not isinstance(backbone, nn.Module) or not isinstance(plan, Plan):
            return
        inner = _Session(backbone, plan.source, None, None, self.batches, 0)
        copied = copy_module(backbone, clone_buffers)
        try:
            run(copied, inner.arguments(inner.at()))
        except Exception as error:
            raise _NotApplicable(f"the bare backbone fails {reason}: {_said(error)[:60]}") from error


def _failed(name: str, faults: list[Mismatch]) -> Check:
    shown = tuple(Fault(where=f.where, expected=f.expected, found=f.found, remedy=f.remedy) for f in faults)
    return Check(name=name, outcome="failed", detail=f"{len(faults)} faults" if len(faults) > 1 else "", faults=shown)


def _said(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


def _complete(signature: Signature) -> dict[str, AxisSizes]:
    """The legal sizes of all input axes; those of hand-written signatures are taken to be any size."""
    names = sorted({axis for spec in signature.inputs.leaves for dim in spec.dims for axis in dim.axes})
    usual = {"B": 2, "H": 224, "W": 224}
    default = {name: AxisSizes(example=usual.get(name, 64)) for name in names}
    return default | dict(signature.axes)


def _chosen_sizes(axes: Mapping[str, AxisSizes], seed: int) -> list[dict[str, int]]:
    """Legal sizes, unequal among the axes: a small one, both sides of a rounding step, one at random."""
    generator = random.Random(seed)
    varying = [name for name in axes if name != "B"]

    def sized(sizes: Sequence[int]) -> dict[str, int]:
        return {name: axes[name].near(size) for name, size in zip(varying, sizes, strict=True)}

    def row(change: Callable[[int, int], int]) -> dict[str, int]:
        return sized([max(change(axes[name].example, i), 1) for i, name in enumerate(varying)])

    rows = [
        row(lambda size, _: size),
        row(lambda size, i: size // 7 + 1 + 16 * i),
        row(lambda size, i: size * 3 // 7 + 1 + 34 * i),
        row(lambda size, i: size + (1 if i % 2 == 0 else -1)),
        row(lambda size, i: size - 3 - 21 * (i % 2)),
        row(lambda size, _: generator.randint(size // 3 + 1, size + size // 8 + 1)),
    ]
    return [dict(items) for items in dict.fromkeys(tuple(one.items()) for one in rows)]


def _differing_tree(expected: Tree, found: Tree) -> tuple[str, str] | None:
    """The first difference between two trees, as (expected, found); numbers and texts must be equal too."""
    match expected, found:
        case Slot(), Slot():
            return None
        case Container(), Container() if (expected.kind, expected.type, expected.keys) == (
            found.kind,
            found.type,
            found.keys,
        ):
            pairs = zip(expected.children, found.children, strict=True)
            return next((wrong for left, right in pairs if (wrong := _differing_tree(left, right))), None)
        case _:
            return None if expected == found else (_in_words(expected), _in_words(found))


def _in_words(tree: Tree) -> str:
    if isinstance(tree, Container):
        keys = ", ".join(map(str, tree.keys[:8]))
        return f"{tree.type or tree.kind.replace('_', ' ')} of {len(tree.keys)} ({keys})"
    return "a tensor" if isinstance(tree, Slot) else repr(getattr(tree, "value", tree))


def _compare_leaf(
    where: str,
    spec: TensorSpec,
    tensor: torch.Tensor,
    sizes: Mapping[str, int],
    dtype: torch.dtype | None,
    device: torch.device,
) -> list[Mismatch]:
    faults = []
    shape = spec.shape(sizes)
    if tuple(tensor.shape) != shape:
        faults.append(Mismatch(where, str(list(shape)), str(list(tensor.shape)), "adapt it again"))
    wanted = dtype if dtype is not None and spec.is_floating else spec.torch_dtype
    if tensor.dtype != wanted:
        faults.append(Mismatch(where, dtype_name(wanted), dtype_name(tensor.dtype), f".to({wanted})"))
    if tensor.device != device:
        faults.append(Mismatch(where, str(device), str(tensor.device), f'.to("{device}")'))
    return faults


# The checks. Each takes the session and says what it found.


def _signature(session: _Session) -> _Result:
    arguments = session.arguments(session.at())
    inputs: Any = tuple(arguments.values.values())
    if arguments.positional < len(arguments.values):
        inputs = arguments.values
    found = capture(session.net, inputs)
    return _Result(session.signature.diff(found), "captured again and compared")


def _plan(session: _Session) -> _Result:
    made = getattr(session.net, "plan", None)
    if not isinstance(made, Plan):
        raise _NotApplicable("the module was not built from a plan")
    faults = []
    contract = dict(made.target.outputs.items())
    for route in made.routes:
        spec = route.specs[0]
        if len(route.specs) != len(route.steps) + 1:
            faults.append(Mismatch(route.target, f"{len(route.specs) - 1} steps", f"{len(route.steps)} steps"))
            continue
        for step, noted in zip(route.steps, route.specs[1:], strict=True):
            spec = after(step, spec)
            if spec != noted:
                faults.append(Mismatch(route.target, str(noted), f"{spec} after {step.op}"))
        if (spec.dtype, spec.dims) != (contract[route.target].dtype, contract[route.target].dims):
            faults.append(Mismatch(route.target, str(contract[route.target]), str(spec)))
        if sum(map(parameters, route.steps)) != route.parameters:
            faults.append(Mismatch(route.target, f"{route.parameters} parameters", "another number"))
    return _Result(faults, f"{sum(len(route.steps) for route in made.routes)} steps follow from one another")


def _sizes(session: _Session) -> _Result:
    copied, faults = session.copy(), []
    ran = [(sizes, batch) for sizes in session.sizes for batch in _legal_batches(session)]
    for sizes, batch in ran:
        full = session.at(**sizes, B=batch)
        arguments = session.arguments(full)
        try:
            faults += session.compare(arguments, arguments.call(copied), full)
        except Exception as error:
            faults.append(Mismatch("x".join(map(str, full.values())), "outputs", _said(error)))
    shown = [" x ".join(str(size) for name, size in one.items() if name != "B") for one in session.sizes]
    spread = f"{shown[0]} .. {shown[-1]}" if shown and shown[0] else "the one legal size"
    return _Result(
        faults, f"{len(session.sizes)} sizes ({spread}) x batch {', '.join(map(str, _legal_batches(session)))}"
    )


def _legal_batches(session: _Session) -> list[int]:
    return list(dict.fromkeys(session.at(B=batch).get("B", 0) for batch in session.batches))


def _training(session: _Session) -> _Result:
    def run(module: nn.Module, arguments: Arguments) -> object:
        return arguments.call(module.train())

    sizes = session.at(B=3)
    arguments = session.arguments(sizes)
    try:
        returned = run(session.copy(), arguments)
    except Exception:
        session.bare(run, "in train mode")
        raise
    return _Result(session.compare(arguments, returned, sizes))


def _gradients(session: _Session) -> _Result:
    copied = session.copy()
    trainable = {name: p for name, p in copied.named_parameters() if p.requires_grad}
    if not trainable:
        raise _NotApplicable("no parameter is trainable")
    with torch.enable_grad():
        _, tensors = flatten(session.arguments(session.at(B=2)).call(copied))
        leaves = {
            path: tensor
            for (path, spec), tensor in zip(session.signature.outputs.items(), tensors, strict=True)
            if spec.is_floating and spec.role == "feature" and not spec.same_as
        }
        loose = [path for path, tensor in leaves.items() if not tensor.requires_grad]
        faults = [Mismatch(path, "a gradient", "none: it is detached") for path in loose]
        live = [tensor.float().square().mean() for path, tensor in leaves.items() if path not in loose]
        if live:
            torch.stack(live).sum().backward()
    unused = [name for name, p in trainable.items() if p.grad is None]
    if unused and not faults:
        excused = _unused_in_bare(session)
        faults += [Mismatch(name, "a gradient", "none: it is not used") for name in unused if name not in excused]
        if not faults:
            detail = f"{len(unused)} parameters that the backbone itself does not use"
            return _Result([], detail)
    return _Result(faults, "no unused parameter")


def _unused_in_bare(session: _Session) -> set[str]:
    """Parameters that get no gradient when all outputs of the bare backbone are used."""
    backbone, plan = getattr(session.net, "backbone", None), getattr(session.net, "plan", None)
    if not isinstance(backbone, nn.Module) or not isinstance(plan, Plan):
        return set()
    inner = _Session(backbone, plan.source, None, None, session.batches, 0)
    copied = inner.copy()
    _, tensors = flatten(inner.arguments(inner.at()).call(copied))
    live = [tensor.float().square().mean() for tensor in tensors if tensor.requires_grad]
    if live:
        torch.stack(live).sum().backward()
    return {f"backbone.{name}" for name, p in copied.named_parameters() if p.grad is None}


def _half(session: _Session) -> _Result:
    def run(module: nn.Module, arguments: Arguments) -> object:
        return arguments.call(module.eval().to(torch.bfloat16))

    sizes = session.at(B=2)
    arguments = session.arguments(sizes, dtype=torch.bfloat16)
    try:
        returned = run(session.copy(), arguments)
    except Exception:
        session.bare(lambda m, a: run(m, _cast(a, torch.bfloat16)), "in bfloat16")
        raise
    return _Result(session.compare(arguments, returned, sizes, dtype=torch.bfloat16))


def _cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    tree, tensors = flatten(arguments.values)
    cast = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    return Arguments(rebuild(tree, cast), arguments.positional)


def _autocast(session: _Session) -> _Result:
    def run(module: nn.Module, arguments: Arguments) -> object:
        with torch.autocast(session.device.type, dtype=torch.bfloat16):
            return arguments.call(module.eval())

    sizes = session.at(B=2)
    arguments = session.arguments(sizes)
    try:
        _, tensors = flatten(run(session.copy(), arguments))
    except Exception:
        session.bare(run, "under autocast")
        raise
    faults = []
    for (path, spec), tensor in zip(session.signature.outputs.items(), tensors, strict=True):
        fine = (torch.bfloat16, spec.torch_dtype) if spec.is_floating else (spec.torch_dtype,)
        if tensor.dtype not in fine:
            faults.append(Mismatch(path, " or ".join(map(str, fine)), str(tensor.dtype)))
    return _Result(faults)


def _copies(session: _Session) -> _Result:
    original = session.net
    try:
        buffer = io.BytesIO()
        pickle.dump(original, buffer)
        buffer.seek(0)
        made = {"deepcopy": copy.deepcopy(original), "pickle": pickle.load(buffer)}
    except Exception:
        session.bare(lambda module, _: pickle.dumps(module), "to be copied and pickled")
        raise
    sizes = session.at()
    expected = flatten(session.arguments(sizes).call(session.copy()))[1]
    faults = []
    for how, twin in made.items():
        faults += _differences(how, original, twin)
        session._generator.manual_seed(0)
        arguments = session.arguments(sizes)
        left, right = (arguments.call(copy_module(m, clone_buffers).eval()) for m in (original, twin))
        pairs = zip(flatten(left)[1], flatten(right)[1], strict=False)
        if not all(torch.equal(a, b) for a, b in pairs) or len(expected) != len(flatten(right)[1]):
            faults.append(Mismatch(how, "the same outputs", "other outputs"))
    return _Result(faults, "type, keys, attributes, hooks and outputs")


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


def _channels_last(session: _Session) -> _Result:
    sizes = session.at(B=2)
    arguments = session.arguments(sizes)
    tree, tensors = flatten(arguments.values)
    if not any(tensor.dim() == 4 for tensor in tensors):
        raise _NotApplicable("no input is an image")
    last = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    changed = Arguments(rebuild(tree, last), arguments.positional)
    module = session.copy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _Result(session.compare(changed, changed.call(module), sizes))


def _checkpointing(session: _Session) -> _Result:
    method = getattr(session.net, "set_grad_checkpointing", None)
    if method is None:
        raise _NotApplicable("the backbone has none")
    copied = session.copy()
    sizes = session.at(B=2)
    try:
        copied.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, NotImplementedError) as error:
        raise _NotApplicable(f"the backbone refuses it: {_said(error)[:60]}") from error
    arguments = session.arguments(sizes)
    with torch.enable_grad():
        returned = arguments.call(copied.train())
        live = [t.float().square().mean() for t in flatten(returned)[1] if t.requires_grad]
        torch.stack(live).sum().backward()
    return _Result(session.compare(arguments, returned, sizes))


def _compiled(session: _Session) -> _Result:
    def run(module: nn.Module, arguments: Arguments) -> object:
        return torch.compile(module.eval(), fullgraph=True, dynamic=True, backend="eager")(
            *list(arguments.values.values())[: arguments.positional],
            **dict(list(arguments.values.items())[arguments.positional :]),
        )

    torch._dynamo.reset()
    module, faults = session.copy(), []
    try:
        for sizes in session.sizes[:3]:
            full = session.at(**sizes, B=3)
            arguments = session.arguments(full)
            faults += session.compare(arguments, run(module, arguments), full)
    except Exception:
        session.bare(run, "to compile")
        raise
    finally:
        torch._dynamo.reset()
    return _Result(faults, "fullgraph, dynamic, backend eager")


def _exported(session: _Session) -> _Result:
    def run(module: nn.Module, arguments: Arguments) -> Any:
        positional = tuple(list(arguments.values.values())[: arguments.positional])
        keywords = dict(list(arguments.values.items())[arguments.positional :])
        shapes = {name: torch.utils._pytree.tree_map(_auto_dims, value) for name, value in arguments.values.items()}
        return torch.export.export(module.eval(), positional, keywords, dynamic_shapes=shapes, strict=False)

    if session.signature.filled:
        raise _NotApplicable("torch.export allows no argument to be filled in")
    arguments = session.arguments(session.at(B=2))
    try:
        program = run(session.copy(), arguments).module()
    except Exception:
        session.bare(run, "to export")
        raise
    faults = []
    for sizes in session.sizes[-2:]:
        full = session.at(**sizes, B=3)
        arguments = session.arguments(full)
        faults += [f for f in session.compare(arguments, arguments.call(program), full) if "itself" not in f.expected]
    return _Result(faults, "dynamic dims, run at other sizes")


def _auto_dims(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)


_CHEAP: dict[str, Callable[[_Session], _Result]] = {
    "signature": _signature,
    "plan": _plan,
    "sizes": _sizes,
    "train mode": _training,
    "gradients": _gradients,
    "bfloat16": _half,
    "autocast": _autocast,
    "deepcopy, pickle": _copies,
    "channels_last": _channels_last,
    "checkpointing": _checkpointing,
}
_THOROUGH: dict[str, Callable[[_Session], _Result]] = {
    "compile": _compiled,
    "export": _exported,
}
