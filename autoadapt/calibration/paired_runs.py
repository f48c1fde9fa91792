"""Paired runs: the old and the new backbone side by side on the batches of a caller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.calibration.asked import check_old
from autoadapt.calibration.calls import apart, cast_like, fields, meant_batches, meant_data, named_tensors, sizes_of
from autoadapt.calibration.changed_calls import ChangedCalls
from autoadapt.calibration.paired_tokens import PairedTokens, what_counts_of
from autoadapt.calibration.projections import Projection, find_projections
from autoadapt.calibration.samples import Cut, cut
from autoadapt.calibration.sharded import calling, is_sharded, refuse_sharded, undisturbed, whole_copy
from autoadapt.calibration.whole_models import find_adapted, with_old
from autoadapt.calibration.workers import all_are_well
from autoadapt.contracts.capturing.arguments import Arguments, bind, bind_call
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module, within_wrapper
from autoadapt.errors import AdaptError, CalibrationError, CaptureError, Mismatch
from autoadapt.files.reading import one_line
from autoadapt.sources import as_module
from autoadapt.swapping.stand_ins import Levels, first_path, passes_of

# Dimension letters: B images, T tokens of an image, C and D channels.


@dataclass(frozen=True)
class Observation:
    """What one batch showed."""

    arguments: Arguments
    images: int
    tokens: tuple[list[PairedTokens], ...]
    """For each projection, and each call of the backbone."""
    features: list[Any]
    """What the new backbone returned, for each of its calls."""
    answer: Any
    """What the old model returned."""

    def cut(self, image: int) -> tuple[Cut, tuple[Cut, ...]]:
        """Arguments and features of one image."""
        features = tuple(cut(value, image, self.images, listed=False) for value in self.features)
        return cut(self.arguments.values, image, self.images), features


@dataclass(frozen=True)
class Lesson:
    """What the old model makes of some images."""

    arguments: Arguments
    calls: list[Arguments]
    """Of the backbone."""
    sizes: list[dict[str, int]]
    """In each call, by axis."""
    levels: list[dict[str, torch.Tensor]]
    """What the old backbone returned in each call, by the names of the plan."""
    answer: Any
    """What the old model returned."""

    @property
    def images(self) -> int:
        """How many there are."""
        return self.sizes[-1].get("B", 1)


class Pair:
    """The two models as copies over the same weights, with adapters of their own; the caller's are never run.

    Sharded ones are, in eval mode, since no process could hold a copy; what they wrote to their buffers is put back.
    All but their backbones is copied whole.

    Args:
        net: The new model.
        like: The old one, or its backbone.
        at: Path of the adapted module in `net`.
        device: Where to run.
        trains: The new backbone has weights of its own, too.

    Attributes:
        at: The same path; empty where `net` is the adapted module.
        new: The model with the adapted module in it, or the adapted module itself.
        adapted: The adapted module in it.
        projections: What there is to fit.
        given: The caller's adapted module.
        is_sharded: Whether each process holds a part of a model, so that all run it at once.

    Raises:
        CalibrationError: There is nothing to fit, or the old module is compiled, or sharded ones were to be moved or
            trained.
    """

    def __init__(
        self,
        net: nn.Module,
        like: nn.Module,
        at: str | None,
        device: torch.device | str | None,
        *,
        trains: bool = False,
    ) -> None:
        self.given = adapted = find_adapted(net, at)
        self.projections = find_projections(adapted)
        self._run_as_they_are = [one for one in (net, like) if is_sharded(one)]
        self.is_sharded = bool(self._run_as_they_are)
        refuse_sharded(self._run_as_they_are, device, trains)
        own = {id(parameter) for parameter in (adapted if trains else adapted.adapters).parameters()}
        if net in self._run_as_they_are:
            self.new = whole_copy(net, without=adapted.backbone)
        else:
            self.new = copy_module(
                net, lambda t: nn.Parameter(t.detach().clone()) if id(t) in own else clone_buffers(t)
            )
        in_eval_mode(self.new)
        self.adapted = find_adapted(self.new, at)
        self.at = at or ""
        self._whole = net if net in self._run_as_they_are else self.new
        self._running = find_adapted(self._whole, at)
        self._has_run_whole = not at or not self.is_sharded
        self._passes = passes_of(adapted)
        self._changes: ChangedCalls | None = self._watched()
        self._old = with_old(net, like, at, self._passes)
        self._old_backbone = self._old.get_submodule(at) if at else self._old
        if isinstance(self._old_backbone, torch.jit.ScriptModule):
            remedy = "like=the module that was scripted"
            fault = Mismatch("like", "a module in Python", "a ScriptModule, which takes no hooks", remedy)
            raise CalibrationError("the old module is compiled, so that it cannot be watched", [fault])
        if device is not None:
            self.new.to(device)
            self._old.to(device)
        self.device = next((p.device for p in self.new.parameters()), torch.device("cpu"))

    @property
    def plan(self) -> Plan:
        """The plan of the adapted module."""
        return self.adapted.plan

    def tensors(self) -> list[torch.Tensor]:
        """All weights and buffers that have a say in features."""
        backbone = self._running.get_submodule("backbone")
        return [*self._old.state_dict().values(), *backbone.state_dict().values()]

    def layer(self, projection: Projection) -> nn.Module:
        """A projection's layer, in the copy."""
        return self.adapted.get_submodule(projection.module)

    def lessons(self, batch: object, number: int | str) -> list[Lesson]:
        """Run the old model on a batch; on one image after the other where images are of different sizes.

        Raises:
            CalibrationError: It raises, or does not return what the plan was made for.
        """
        return [self._lesson(arguments, number) for arguments in self.calls(batch, number)]

    def _lesson(self, arguments: Arguments, number: int | str) -> Lesson:
        runs, answer = self._run_old(arguments, number)
        calls, sizes = [call for call, _ in runs], [sizes_of(self.plan, call) for call, _ in runs]
        levels = [self._old_leaves(each, size, number) for (_, each), size in zip(runs, sizes, strict=True)]
        return Lesson(arguments, calls, sizes, levels, answer)

    def observed(self, arguments: Arguments, number: int | str) -> Observation:
        """Run both on a call of the model.

        Raises:
            CalibrationError: A model raises, or the old one does not return what the plan was made for, or a feature
                is not finite.
        """
        if not self._has_run_whole:  # FSDP takes what runs first for the root
            with undisturbed(self._run_as_they_are), explained(f"batch {number}, new model", "a forward pass"):
                fresh(arguments).call(calling(self._whole))
            self._has_run_whole = True
        lesson = self._lesson(arguments, number)
        features: list[Any] = []
        tokens: tuple[list[PairedTokens], ...] = tuple([] for _ in self.projections)
        for call, sizes, wanted in zip(lesson.calls, lesson.sizes, lesson.levels, strict=True):
            images = sizes.get("B", 1)
            inputs = self._run_new(call, features, number)
            for found, projection, entering in zip(tokens, self.projections, inputs, strict=True):
                old = projection.wanted(wanted[projection.route.target], sizes)
                pair = projection.tokens(entering, images), projection.tokens(old, images)
                _check_pair(pair, projection, number)
                counts = what_counts_of(self.plan, projection, named_tensors(call.values), pair[0], sizes)
                found.append(PairedTokens(*pair, counts))
        return Observation(lesson.arguments, lesson.images, tokens, features, lesson.answer)

    def calls(self, batch: object, number: int | str) -> list[Arguments]:
        """A batch as calls of the model: one, or one for each image where these are of different sizes.

        Raises:
            CalibrationError: It is no call of the model.
        """
        remedy = meant_data(batch)
        with explained(f"batch {number}", "a call of the model", remedy):
            try:
                arguments = bind(self._old, fields(batch, self._old))
            except CaptureError as error:
                faults = [replace(one, where=f"batch {number}", remedy=remedy) for one in error.mismatches]
                raise CalibrationError(f"batch {number} failed", faults) from error
            tree, tensors = flatten(arguments.values)
            moved = [tensor.to(self.device) for tensor in tensors]
            if not moved or not all(tensor.numel() for tensor in moved):
                raise ValueError("no tensors with values in it")
            return apart(Arguments(rebuild(tree, moved), arguments.positional))

    def _run_old(self, arguments: Arguments, number: int | str) -> tuple[list[tuple[Arguments, Any]], Any]:
        given: list[Arguments] = []
        made: list[Any] = []
        levels = None if self._passes is None else Levels(self._old, self._passes)

        def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append(fresh(bind_call(module, args, kwargs)))

        def leaving(_module: nn.Module, _args: Any, output: Any) -> None:
            if levels is None:
                made.append(_fresh_value(output))

        def meant() -> str:
            for handle in handles:
                handle.remove()
            return "" if self.is_sharded else meant_batches(self._old, arguments)

        handles = [
            self._old_backbone.register_forward_pre_hook(entering, with_kwargs=True),
            self._old_backbone.register_forward_hook(leaving),
        ]
        try:
            with self._undisturbed(), explained(f"batch {number}, old model", "a forward pass", meant):
                answer = fresh(arguments).call(calling(self._old) if self.is_sharded else self._old)
        finally:
            for handle in handles:
                handle.remove()
            if levels is not None:
                made += map(_fresh_value, levels.end())
        if not made:
            fault = Mismatch("at", "a module that runs", "it is never called", "at= the path of the backbone")
            raise CalibrationError("the backbone does not run when the model runs", [fault])
        return list(zip(given, made, strict=True)), answer

    def _run_new(self, call: Arguments, features: list[Any], number: int | str) -> list[torch.Tensor]:
        """Inputs of the projections; what the backbone returned goes to the list."""
        inputs: dict[str, torch.Tensor] = {}

        def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
                inputs[name] = args[0].detach()

            return hook

        running, backbone = self._running, self._running.get_submodule("backbone")
        handles = [backbone.register_forward_hook(lambda _module, _args, output: features.append(output))]
        for projection in self.projections:
            hook = note(projection.module)
            handles.append(running.get_submodule(projection.module).register_forward_pre_hook(hook))
        changes, self._changes = self._changes or ChangedCalls({}), None
        try:
            told = explained(f"batch {number}, new backbone", "a forward pass", cast_like(self._old, running))
            with self._undisturbed(), told, changes.watched():
                call.call(calling(running, self._whole, self.at) if self.is_sharded else running)
        finally:
            for handle in handles:
                handle.remove()
        changes.refuse()
        return [inputs[projection.module] for projection in self.projections]

    def _watched(self) -> ChangedCalls | None:
        """Whose first calls are looked at; a region hands outputs on by hooks of its own, sharded ones by torch's."""
        if self.is_sharded:
            return None
        layers = {projection.module: self.layer(projection) for projection in self.projections}
        return ChangedCalls(layers if self._passes is not None else {"": self.adapted, **layers})

    def _undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """All processes are well, and what they run together is left as it was."""
        if not self.is_sharded:
            return contextlib.nullcontext()
        all_are_well()
        return undisturbed(self._run_as_they_are)

    def _old_leaves(self, returned: object, sizes: Mapping[str, int], number: int | str) -> dict[str, torch.Tensor]:
        """The old outputs by the names they have in the plan."""
        found, contract = named_tensors(returned), self.plan.target.outputs
        if flatten(returned)[0] != contract.tree:
            found = _served(found, dict(zip(contract.paths, contract.leaves, strict=True)), sizes)
        faults = []
        for path, spec in contract.items():
            expected = spec.shape(sizes)
            shape = tuple(found[path].shape) if path in found else None
            if shape != expected:
                told = f"{list(shape)}" if shape else "no such output"
                remedy = "like= the module that the new one was adapted to, and one size for both"
                faults.append(Mismatch(f"batch {number}, output {path}", f"{list(expected)}", told, remedy))
        if faults:
            raise CalibrationError("the old module does not return what the new one was adapted to", faults)
        return found


def pair_of(
    net: nn.Module,
    like: nn.Module | str,
    at: RegionPath | None,
    device: torch.device | str | None,
    *,
    trains: bool = False,
) -> Pair:
    """The pair that a caller means: wrappers taken off the new model, an old one that is only named loaded.

    Args:
        net: What `adapt` returned, or a bigger model that has it at `at`.
        like: The old backbone or bigger model, or the name of a backbone.
        at: Path of the adapted module, or the region in whose place it stands.
        device: Where to run.
        trains: As for `Pair`.

    Raises:
        CalibrationError: There is no adapted module, or it is the old model itself; or a fault of `Pair`.
    """
    net, at = within_wrapper(net, at)
    place = first_path(net, at)
    adapted = find_adapted(net, place)
    old = as_module(like, "like", levels=True, pretrained=True)  # last: it may have to be downloaded
    check_old(old, adapted)
    return Pair(net, old, place, device, trains=trains)


def fresh(arguments: Arguments) -> Arguments:
    """The same arguments in containers and tensors of their own: modules may write into what they are given."""
    return Arguments(_fresh_value(arguments.values), arguments.positional)


def _fresh_value(value: Any) -> Any:
    tree, tensors = flatten(value)
    return rebuild(tree, [tensor.detach().clone() for tensor in tensors])


def _served(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, Any], sizes: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Old outputs by the names of a contract that has only some of them, in their order."""
    if set(wanted) <= set(found) and all(tuple(found[p].shape) == s.shape(sizes) for p, s in wanted.items()):
        return dict(found)
    rest, named = list(found.values()), dict[str, torch.Tensor]()
    for path, spec in wanted.items():
        fits = [i for i, tensor in enumerate(rest) if tuple(tensor.shape) == spec.shape(sizes)]
        if fits:
            named[path] = rest[fits[0]]
            rest = rest[fits[0] + 1 :]
    return named


def _check_pair(pair: tuple[torch.Tensor, torch.Tensor], projection: Projection, number: int | str) -> None:
    target = projection.target
    for side, tokens_BTC in zip(("new", "old"), pair, strict=True):
        if not bool(torch.isfinite(tokens_BTC).all()):
            count = int((~torch.isfinite(tokens_BTC)).sum())
            fault = Mismatch(
                f"batch {number}, output {target}",
                f"finite features of the {side} backbone",
                f"{count} of {tokens_BTC.numel()} are NaN or infinite",
                "look at that batch, or run in float32",
            )
            raise CalibrationError(f"features of `{target}` are not finite", [fault])
    if pair[0].shape[1] != pair[1].shape[1]:
        fault = Mismatch(
            f"batch {number}, output {target}",
            f"{pair[0].shape[1]} tokens an image, as the new backbone makes",
            f"{pair[1].shape[1]} of the old one",
            "give both one size",
        )
        raise CalibrationError(f"`{target}` of old and new does not stand on one grid", [fault])


@contextlib.contextmanager
def explained(where: str, expected: str, remedy: str | Callable[[], str] = "") -> Iterator[None]:
    """Whatever raises inside is a fault of calibration, named by its place; a function finds its remedy then."""
    try:
        yield
    except CalibrationError:
        raise
    except AdaptError as error:
        faults = error.mismatches or (Mismatch(where, expected, error.summary),)
        raise CalibrationError(f"{where} failed", faults) from error
    except Exception as error:
        fault = Mismatch(where, expected, one_line(error), remedy() if callable(remedy) else remedy)
        raise CalibrationError(f"{where} failed", [fault]) from error
