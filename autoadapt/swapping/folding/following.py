"""Following: a model is run, and what is made of the outputs of its adapted module is followed to its readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.trees import flatten, path_texts
from autoadapt.swapping.folding.linear_functions import SHAPE_ONLY, drops, follow
from autoadapt.swapping.folding.reading_layers import is_reader, misfit, why_not_read
from autoadapt.swapping.folding.rerouting import Reroute, function_name, instead
from autoadapt.swapping.folding.statements import NotLinearError, Piece, Statement
from autoadapt.swapping.folding.watched_runs import Watch, watched


@dataclass(frozen=True)
class Obstacle:
    """Something that reads an output and needs its projection."""

    reader: str
    why: str = ""
    module: str = ""
    """Path of the module without children that does it with this tensor alone, if one does."""


Wide: TypeAlias = Mapping[str, Collection[str]]
"""Names of functions that read a shape and see as many channels as before, by output."""
NONE_WIDE: Wide = MappingProxyType({})

Operand: TypeAlias = tuple[int, tuple[Piece, ...]]
"""The axis of channels and the pieces of a tensor that a function is given."""


@dataclass(frozen=True)
class Call:
    """A call of a function that has to be rerouted; see `Reroute`."""

    function: str
    number: int
    does: str
    given: tuple[tuple[Operand, ...], ...]
    """The tensors that it is given, at each call of its module."""
    results: int
    expands: bool
    width: int = 0

    @property
    def what(self) -> tuple[object, ...]:
        """What has to be the same at each call of its module."""
        axis = self.given[0][0][0]
        return self.function, self.number, self.does, self.results, self.width, axis, len(self.given[0])


def _both(calls: tuple[Call, ...], others: tuple[Call, ...]) -> tuple[Call, ...] | None:
    """What is rerouted in two calls of a module, as one; None where these do different things."""
    if [one.what for one in calls] != [one.what for one in others]:
        return None
    pairs = zip(calls, others, strict=True)
    return tuple(
        replace(one, given=tuple(dict.fromkeys(one.given + other.given)), expands=one.expands or other.expands)
        for one, other in pairs
    )


def _levels_of(calls: Iterable[Iterable[Call]]) -> list[str]:
    """The outputs that are in what the functions of several calls are given."""
    operands = (operand for call in calls for one in call for given in one.given for operand in given)
    return list(dict.fromkeys(piece.level for _, pieces in operands for piece in pieces if piece.level))


@dataclass
class Readings:
    """What reads the outputs of an adapted module.

    Attributes:
        readers: What is known of the tensor that each layer reads, by the layer's path.
        fronts: The same for modules in front of which the projection is put, and how many axes the tensor has.
        obstacles: What needs the projection, by output.
        read: Every reader of each output by name, for messages.
        calls: What has to be rerouted in each module that ran.
        levels: What is known of the outputs.
    """

    readers: dict[str, Statement] = field(default_factory=dict)
    fronts: dict[str, tuple[Statement, int]] = field(default_factory=dict)
    obstacles: dict[str, list[Obstacle]] = field(default_factory=dict)
    read: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[str, tuple[Call, ...]] = field(default_factory=dict)
    levels: Mapping[str, Statement] = field(default_factory=dict)

    @property
    def reroutes(self) -> dict[str, tuple[Call, ...]]:
        """Calls of functions that have to be rerouted, by the path of the module in whose `forward` they stand."""
        return {path: calls for path, calls in self.calls.items() if calls}

    def merge(self, other: Readings) -> None:
        """Take in what was seen in another run, as of another size; what differs between them is refused."""
        for path, stated in other.readers.items():
            both = self.readers.get(path, stated).and_also(stated)
            if both is None:
                self.refuse(stated, Obstacle(f"another call of {path}", "at another size it reads something else"))
            self.readers[path] = both or stated
        for path, (stated, dims) in other.fronts.items():
            both = self.fronts.get(path, (stated, dims))[0].and_also(stated)
            if both is None:
                self.refuse(stated, Obstacle(f"another call of {path}", "at another size it reads something else"))
            self.fronts[path] = both or stated, dims
        for path, calls in other.calls.items():
            self.note_calls(path, calls, "elsewhere it does something else")
        for level, obstacles in other.obstacles.items():
            self.obstacles.setdefault(level, []).extend(obstacles)
        for level, named in other.read.items():
            for reader in named:
                self.note(level, reader)

    def refuse(self, stated: Statement, obstacle: Obstacle) -> None:
        """Note that the outputs that a tensor is made of need their projections."""
        for level in stated.levels:
            self.obstacles.setdefault(level, []).append(obstacle)
            self.note(level, obstacle.reader)

    def note_calls(self, path: str, calls: tuple[Call, ...], why: str = "") -> None:
        """Note what has to be rerouted in a call of a module, which has to agree with its other calls."""
        before = self.calls.get(path, calls)
        both = _both(before, calls)
        for level in _levels_of((before, calls)) if both is None else ():
            self.refuse(self.levels[level], Obstacle(f"another call of {path}", why))
        self.calls[path] = both or before

    def note(self, level: str, reader: str) -> None:
        """Note a reader."""
        named = self.read.setdefault(level, [])
        if reader not in named:
            named.append(reader)


def readings(
    model: nn.Module,
    path: str,
    call: Callable[[nn.Module], Any],
    levels: Mapping[str, Statement],
    fronts: Collection[str] = (),
    *,
    wide: Wide = NONE_WIDE,
    in_training: bool = False,
) -> Readings:
    """Run a copy of a model and follow the outputs of its adapted module.

    Args:
        model: It is not changed.
        path: Where the adapted module stands.
        call: Runs the model.
        levels: What is known of its outputs; those left out count as any other tensor.
        fronts: Modules in front of which the projection is put, which read it whole.
        wide: Functions that see as many channels as before in a shape, by the output that it is made of.
        in_training: Whether it runs in train mode.
    """

    def start(copied: nn.Module) -> _Watch:
        watch = _Watch(copied, levels, fronts, wide)
        if in_training:
            watch.may_drop = {name for name, module in model.named_modules() if not module.training}
        return watch

    return watched(model, path, call, start, in_training=in_training).found


@dataclass(eq=False)
class _Frame:
    """One running call of a module."""

    path: str
    module: nn.Module
    given: list[int]
    is_whole: bool = False
    """Whether it reads an adapted output itself, so that nothing inside is followed."""
    calls: Counter[str] = field(default_factory=Counter)
    rerouted: list[Call] = field(default_factory=list)


class _Watch(Watch):
    """Follows everything that is made of the outputs of the adapted module."""

    def __init__(self, model: nn.Module, levels: Mapping[str, Statement], fronts: Collection[str], wide: Wide) -> None:
        super().__init__()
        self.found = Readings(read={level: [] for level in levels}, levels=levels)
        self._model, self._levels, self._fronts, self._wide = model, levels, set(fronts), wide
        self._frames: list[_Frame] = []
        self._plain_calls: set[str] = set()
        self._before: dict[str, Statement] = {}
        self.may_drop: set[str] = set()
        """Paths of modules whose dropout is passed by: they run in train mode here alone."""

    def begin(self, output: object) -> None:
        """Note what the adapted module returns."""
        tree, tensors = flatten(output)
        for path, tensor in zip(path_texts(tree), tensors, strict=True):
            if path in self._levels:
                self._known[id(tensor)] = tensor, self._levels[path]

    def end(self, output: object) -> None:
        """Note what the model returns, and settle what was seen in several calls."""
        for stated in self.stated_in(output):
            self.found.refuse(stated, Obstacle("the caller of the model"))
        fronts = {path: stated for path, (stated, _) in self.found.fronts.items()}
        for path, stated in (self.found.readers | fronts).items():
            if path in self._plain_calls:
                self.found.refuse(stated, Obstacle(f"another call of {path}"))

    @property
    def _is_inside(self) -> bool:
        return any(frame.is_whole for frame in self._frames)

    def entering(self, name: str) -> Callable[..., None]:
        """A forward pre-hook of a module."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [*args, *kwargs.values()]
            frame = _Frame(name, module, [id(one) for one in given])
            if not self._is_inside and (is_reader(module) or name in self._fronts):
                frame.is_whole = self._read(name, module, given)
            self._frames.append(frame)

        return hook

    def leaving(self, module: nn.Module, _args: Any, _output: Any) -> None:
        """A forward hook of a module, also where it raises."""
        if self._frames and self._frames[-1].module is module:
            frame = self._frames.pop()
            self.found.note_calls(frame.path, tuple(frame.rerouted))

    def _read(self, name: str, module: nn.Module, given: list[Any]) -> bool:
        """Note what a layer reads."""
        stated = self.stated_in(given)
        if not stated:
            self._plain_calls.add(name)
            return False
        first = self.statement(given[0]) if isinstance(given[0], torch.Tensor) else None
        reader, why = ("" if first is not None else f"{name}, by another argument"), ""
        if first is not None and name not in self._fronts:
            reader, why = why_not_read(self._model, name), misfit(module, first, given[0])
        is_refused = reader or why
        if self._before.setdefault(name, stated[0]).is_like(stated[0]) and not is_refused and first is not None:
            if name in self._fronts:
                self.found.fronts[name] = first, given[0].dim()
            else:
                self.found.readers[name] = first
            for level in first.levels:
                self.found.note(level, name)
        else:
            is_alone = is_refused and first is not None and len(stated) == 1 and _is_plain(first, given[0])
            refused = reader or (name if why else f"another call of {name}")
            for one in stated:
                self.found.refuse(one, Obstacle(refused, why, module=name if is_alone else ""))
        return True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_again = func is instead
        name = args[0].function if is_again else function_name(func)
        told = [] if self._is_inside else self.stated_in((args, kwargs))
        if name in SHAPE_ONLY:
            does = self._widen(name, told, args) if told else ""
        else:
            does = self._follow(name, func, args, kwargs or {}, result) if told else ""
        for frame in self._frames[-1:] if does or is_again else self._frames:
            frame.calls[name] += 1
        return self._renamed(result) if does == "join" and any(result is one for one in args) else result

    def _renamed(self, result: torch.Tensor) -> torch.Tensor:
        """The result of a sum in place as a tensor of its own, so that it is told whether its old name is read."""
        stated = self._known[id(result)][1]
        self._known[id(result)] = result, replace(stated, is_stale=True)
        made = result.view_as(result)
        self._known[id(made)] = made, stated
        return made

    def _follow(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> str:
        """Follow a call; what has to be done in its place, if anything."""
        parts = [result] if isinstance(result, torch.Tensor) else list(tensors_in(result))
        if name == "__get__" and not parts:
            return ""
        try:
            if drops(name, args, kwargs) and (self._frames[-1].path if self._frames else "") not in self.may_drop:
                raise NotLinearError("it drops channels")
            with torch._C.DisableTorchFunction():
                done = follow(func, args, kwargs, result, self.statement)
        except NotLinearError as error:
            self._refuse(name, str(error), (args, kwargs))
            return ""
        for tensor, stated in zip(parts, done.statements, strict=True):
            if stated is not None:
                self._known[id(tensor)] = tensor, stated
        if done.does and self._frames:
            frame = self._frames[-1]
            results = 0 if isinstance(result, torch.Tensor) else len(parts)
            operands = tuple((one.axis, one.pieces) for one in done.operands)
            frame.rerouted.append(Call(name, frame.calls[name], done.does, (operands,), results, done.expands))
        return done.does

    def _widen(self, name: str, told: Sequence[Statement], args: tuple[Any, ...]) -> str:
        """Let a function that reads a shape see as many channels as before, if it is one of those that shall."""
        stated, again = told[0], args[0] if args and isinstance(args[0], Reroute) else None
        is_wide = any(name in self._wide.get(level, ()) for level in stated.levels)
        if not (is_wide and self._frames and stated.shuffle is None and stated.outer == stated.inner == 1):
            return ""
        frame, width = self._frames[-1], stated.channels if again is None else again.width
        operand = stated.axis, stated.pieces
        frame.rerouted.append(Call(name, frame.calls[name], "wide", ((operand,),), 0, False, width))
        return "wide"

    def _refuse(self, name: str, why: str, given: object) -> None:
        frame = self._frames[-1] if self._frames else None
        stated = self.stated_in(given)
        module = ""
        if frame is not None and self._may_stand_behind(frame) and len(stated) == 1 and "dropout" not in name:
            tensor = next(one for one in tensors_in(given) if self.statement(one) is not None)
            module = frame.path if frame.given[:1] == [id(tensor)] and _is_plain(stated[0], tensor) else ""
        for one in stated:
            self.found.refuse(one, Obstacle(f"torch.{name}", why, module))

    def _may_stand_behind(self, frame: _Frame) -> bool:
        """Whether a projection may be put in front of a module: not where PyTorch reads its weight by name."""
        around = self._model.get_submodule(frame.path.rpartition(".")[0])
        return not frame.module._modules and not isinstance(around, nn.TransformerEncoderLayer)


def _is_plain(stated: Statement, tensor: torch.Tensor) -> bool:
    """Whether a projection could make the channels of a tensor anew."""
    is_whole = stated.outer == stated.inner == 1 and stated.shuffle is None and not stated.is_stale
    return is_whole and stated.axis in (1, tensor.dim() - 1)
