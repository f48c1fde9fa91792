"""Widths: which layers and outputs of a model have channels that must be equally many, seen in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.trees import flatten, path_texts
from autoadapt.swapping.folding.linear_functions import SHAPE_ONLY, follow
from autoadapt.swapping.folding.reading_layers import channels_of_each, is_reader, misfit, why_not_read
from autoadapt.swapping.folding.rerouting import function_name
from autoadapt.swapping.folding.statements import NotLinearError, Piece, Statement
from autoadapt.swapping.folding.watched_runs import Watch, watched

_EACH = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish"}
    | {"sigmoid", "sigmoid_", "tanh", "tanh_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid"}
    | {"softplus", "logsigmoid", "exp", "abs", "sqrt", "square", "clamp", "clamp_", "neg", "pow", "__pow__"}
    | {f"{kind}_pool{n}d" for kind in ("max", "adaptive_max", "lp") for n in (1, 2, 3)}
)
"""Functions that treat each channel alone and alike, and keep its place; those of linear functions do so too."""
_TWO = frozenset(
    {"add", "__add__", "__radd__", "__iadd__", "add_", "sub", "__sub__", "__rsub__", "__isub__", "mul", "__mul__"}
    | {"__rmul__", "__imul__", "mul_", "div", "__truediv__", "div_", "maximum", "minimum", "multiply", "divide"}
)
"""Functions of two tensors that have as many channels."""


@dataclass
class Widths:
    """Groups of channels: a layer's output, by its path, or an output of the adapted module, by `level_name`.

    Attributes:
        channels: How many each group has.
        frozen: Groups that must keep their number, and why.
        reads: The channels that layers read, by path: those that map channels to others, and those that keep them.
        sizes: The other axes of the tensors that a group stands in.
    """

    channels: dict[str, int] = field(default_factory=dict)
    frozen: dict[str, str] = field(default_factory=dict)
    reads: dict[str, Statement] = field(default_factory=dict)
    sizes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    _parents: dict[str, str] = field(default_factory=dict)

    def of(self, group: str) -> str:
        """The name that all groups have that must be equally large."""
        while group in self._parents:
            group = self._parents[group]
        return group

    def tie(self, group: str, other: str) -> None:
        """Note that two groups are equally large."""
        if self.of(group) != self.of(other):
            self._parents[self.of(group)] = self.of(other)

    def freeze(self, stated: Statement, why: str) -> None:
        """Note that the number of some channels must stay."""
        for piece in stated.pieces:
            self.frozen.setdefault(piece.level, why)

    def members(self) -> dict[str, list[str]]:
        """All groups by the name of those that are equally large."""
        found: dict[str, list[str]] = {}
        for group in self.channels:
            found.setdefault(self.of(group), []).append(group)
        return found


def widths_of(
    model: nn.Module,
    path: str,
    call: Callable[[nn.Module], Any],
    levels: Mapping[str, int],
    *,
    found: Widths | None = None,
    in_training: bool = False,
) -> Widths:
    """Run a copy of a model and follow the channels of its adapted module, and of all that is made of them.

    Args:
        model: It is not changed.
        path: Where the adapted module stands.
        call: Runs the model.
        levels: Outputs of it whose number of channels may change, and which axis holds them.
        found: What was seen in another run; what is seen in this one is added.
        in_training: Whether it runs in train mode.
    """
    start = Widths() if found is None else found
    return watched(model, path, call, lambda copied: _Watch(copied, levels, start), in_training=in_training).found


class _Watch(Watch):
    """Follows channels by their number and place alone."""

    def __init__(self, model: nn.Module, levels: Mapping[str, int], found: Widths) -> None:
        super().__init__()
        self.found = found
        self._model, self._levels = model, levels
        self._frames: list[tuple[str, nn.Module, Statement | None, bool]] = []
        self._plain_calls: set[str] = set()

    def begin(self, output: object) -> None:
        """Note what the adapted module returns."""
        tree, tensors = flatten(output)
        for path, tensor in zip(path_texts(tree), tensors, strict=True):
            if path in self._levels:
                self._make(tensor, f"output {path}", self._levels[path])

    def end(self, output: object) -> None:
        """Note what the model returns."""
        for stated in self.stated_in(output):
            self.found.freeze(stated, "the caller of the model")
        for path in self._plain_calls & self.found.reads.keys():
            self.found.freeze(self.found.reads[path], f"another call of {path}")

    def _make(self, tensor: torch.Tensor, group: str, axis: int) -> None:
        """A tensor whose channels are a group of their own."""
        size = tensor.shape[axis]
        if self.found.channels.setdefault(group, size) != size:
            self.found.frozen[group] = "another number of channels at another call"
        self.found.sizes.setdefault(group, set()).add(_others(tensor, axis))
        by_number = Statement(axis, (Piece(group, size),), torch.empty(size, 0))  # without a matrix
        self._known[id(tensor)] = tensor, by_number

    def entering(self, name: str) -> Callable[..., None]:
        """A forward pre-hook of a module."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stated = self.statement(args[0]) if args else None
            is_whole = not self._is_inside and (is_reader(module) or channels_of_each(module) > 0)
            if is_whole:
                stated = self._read(name, module, stated, [*args, *kwargs.values()])
            self._frames.append((name, module, stated, is_whole))

        return hook

    @property
    def _is_inside(self) -> bool:
        return any(is_whole for *_, is_whole in self._frames)

    def _read(self, name: str, module: nn.Module, stated: Statement | None, given: list[Any]) -> Statement | None:
        """Note what a layer reads, and what of it comes out at the same places: all, or nothing of a reader."""
        others = self.stated_in(given[1:])
        if stated is None:
            self._plain_calls.add(name)
        each = channels_of_each(module)
        why = f"{name}, by another argument" if others else ""
        if stated is not None and each:
            last = isinstance(module, nn.LayerNorm)
            fits = stated.outer == stated.inner == 1 and stated.axis == (given[0].dim() - 1 if last else 1)
            why = why or ("" if fits and stated.channels == each else name)
        elif stated is not None:
            why = why or why_not_read(self._model, name) or misfit(module, stated, given[0])
        before = self.found.reads.setdefault(name, stated) if stated is not None and not why else stated
        if stated is not None and before is not None and not before.is_like(stated):
            why = f"another call of {name}"
            self.found.freeze(before, why)
        for one in (*others, *([stated] if stated is not None else [])) if why else ():
            self.found.freeze(one, why)
        return None if why else stated

    def leaving(self, module: nn.Module, _args: Any, output: Any) -> None:
        """A forward hook of a module, also where it raises."""
        if not self._frames or self._frames[-1][1] is not module:
            return
        name, _, stated, is_whole = self._frames.pop()
        if not is_whole or stated is None or not isinstance(output, torch.Tensor):
            return
        if channels_of_each(module):
            self._known[id(output)] = output, stated
        else:
            spatial = 0 if isinstance(module, nn.Linear) else module.weight.dim() - 2  # type: ignore[operator]
            self._make(output, name, output.dim() - 1 - spatial)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = function_name(func)
        told = [] if self._is_inside or name in SHAPE_ONLY else self.stated_in((args, kwargs))
        parts = [result] if isinstance(result, torch.Tensor) else list(tensors_in(result))
        if not told or (name == "__get__" and not parts):
            return result
        try:
            with torch._C.DisableTorchFunction():
                stated = self._after(name, func, args, kwargs or {}, result)
            for tensor, one in zip(parts, stated, strict=True):
                if one is not None:
                    self._known[id(tensor)] = tensor, one
        except NotLinearError as error:
            for one in told:
                self.found.freeze(one, f"torch.{name}" + f", {error}" * bool(str(error)))
        return result

    def _after(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> tuple[Statement | None, ...]:
        """What is known of what a function returns.

        Raises:
            NotLinearError: It may do something else with other channels.
        """
        if name in _TWO and len(args) == 2:
            return (self._of_two(args, result),)
        stated = self.statement(args[0]) if args else None
        if name in _EACH and stated is not None and isinstance(result, torch.Tensor):
            return (stated,)
        done = follow(func, args, kwargs, result, self.statement)
        if done.does:
            raise NotLinearError("it takes some of the channels")
        return done.statements

    def _of_two(self, args: tuple[Any, ...], result: torch.Tensor) -> Statement:
        """Two tensors of as many channels; or one, and what is the same for all of them."""
        known = [(self.statement(one), one) for one in args]
        told = [(stated, one) for stated, one in known if stated is not None]
        wide = [
            (stated, one) for stated, one in told if one.dim() == result.dim() and one.shape == result.shape
        ] or told
        stated = wide[0][0]
        for other, one in known:
            if one is wide[0][1] or isinstance(one, (int, float)):
                continue
            axis = stated.axis - (result.dim() - one.dim())
            size = one.shape[axis] if axis >= 0 else 1
            if other is not None and other.axis == axis and _sizes(other) == _sizes(stated):
                for left, right in zip(stated.pieces, other.pieces, strict=True):
                    self.found.tie(left.level, right.level)
            elif size != 1:
                raise NotLinearError("beside a tensor whose channels are not followed")
            elif other is not None:
                self.found.freeze(other, "one channel for all others")
        return stated


def _sizes(stated: Statement) -> tuple[object, ...]:
    return stated.outer, stated.inner, *((piece.channels, piece.merged) for piece in stated.pieces)


def _others(tensor: torch.Tensor, axis: int) -> tuple[int, ...]:
    return tuple(size for number, size in enumerate(tensor.shape) if number != axis)
