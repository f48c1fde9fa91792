"""Swaps: replacing submodules of a bigger model; all is checked before anything is set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, TypedDict, overload

from torch import nn
from typing_extensions import Unpack

from autoadapt.adapting.operations import Thinning
from autoadapt.adapting.planning import CONVERSIONS, Conversion
from autoadapt.errors import AdaptError, Mismatch, SwapError
from autoadapt.swapping.places import Place, find_places, set_modules
from autoadapt.swapping.progress import progress
from autoadapt.swapping.results import Fault, Swap
from autoadapt.swapping.successors import Options, Successor, prepare
from autoadapt.swapping.train_reads import with_train_reads
from autoadapt.swapping.trial_runs import by_path, try_out
from autoadapt.swapping.watching import Watched, as_example, watch

__all__ = ["swap"]


class _Options(TypedDict, total=False):
    """The keyword arguments of `swap` but `dry_run`, which decides what comes back."""

    inputs: object
    outputs: Sequence[str] | None
    pairs: Mapping[str, str] | None
    taps: Mapping[str, str] | None
    project: Literal["needed", "always"]
    indices: Literal["refuse", "recover"]
    thin: Thinning
    grid: Mapping[str, tuple[int, int, int]] | None
    convert_inputs: Collection[Conversion]
    nondeterministic: Literal["refuse", "allow"]
    share: bool
    allow_cost: bool
    max_parameters: int | None


@overload
def swap(
    model: nn.Module,
    path: str,
    new: nn.Module | str,
    *,
    dry_run: Literal[False] = False,
    **options: Unpack[_Options],
) -> nn.Module: ...
@overload
def swap(
    model: nn.Module, path: str, new: nn.Module | str, *, dry_run: Literal[True], **options: Unpack[_Options]
) -> Swap: ...


def swap(
    model: nn.Module,
    path: str,
    new: nn.Module | str,
    *,
    inputs: object = None,
    outputs: Sequence[str] | None = None,
    pairs: Mapping[str, str] | None = None,
    taps: Mapping[str, str] | None = None,
    project: Literal["needed", "always"] = "needed",
    indices: Literal["refuse", "recover"] = "refuse",
    thin: Thinning = "farthest",
    grid: Mapping[str, tuple[int, int, int]] | None = None,
    convert_inputs: Collection[Conversion] = CONVERSIONS,
    nondeterministic: Literal["refuse", "allow"] = "refuse",
    share: bool = True,
    allow_cost: bool = False,
    max_parameters: int | None = None,
    dry_run: bool = False,
) -> nn.Module | Swap:
    """Replace a submodule of a bigger model by another module, adapted to what the rest of the model reads of it.

    The whole model runs as a copy, once with the old and once with the new module, before anything is set; on any
    failure it is as it was.

    Args:
        model: The bigger model; changed in place.
        path: Path of the submodule, or a pattern such as `heads.*`, where every match is replaced.
        new: What to put there: a module, or the name of a generated layer: `linear` (over all axes but the batch,
            flattened), `channel_linear`, `conv1x1`, `mlp` or `identity`.
        inputs: An example call of the whole model, as for `capture`; or a function of the model that runs a
            training step, so that what its loss reads counts.
        outputs: The outputs to serve, outright; found by watching where left out.
        pairs: Sources chosen by hand, by target path.
        taps: Inner modules of `new` chosen by hand, by target path.
        project: `always` puts a projection on every feature output.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        thin: How points are chosen where there are more than wanted: `farthest`, `first`, `even`, `random`;
            `repeat` also where there are fewer.
        grid: Rows, columns and leading tokens of token axes that cannot be read.
        convert_inputs: What may be changed of the inputs of `new`: `layout`, `channels`, `size`.
        nondeterministic: `allow` takes modules of which two equal runs did not return the same, or a run at a usual
            size something else than the signature says.
        share: Use the storage of `new`'s weights; otherwise copy them. At several places each has its own.
        allow_cost: Consent to generated layers of more parameters than the limit.
        max_parameters: The limit; by default 10 million, and for a generated layer 10 times the old module's.
        dry_run: Change nothing and return the `Swap`. A swap that follows does not capture the modules again, unless
            something about them or their inputs has changed.

    Returns:
        The model; what was done stands at the new module: `model.get_submodule(path).swapped`. With `dry_run` the
        `Swap`.

    Raises:
        SwapError: The swap is refused, and the model is as it was.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> model = swap(model, "0", nn.Conv2d(3, 5, 2, stride=2), inputs=torch.zeros(1, 3, 16, 16))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 2, 8, 8])
    """
    chosen = {**(pairs or {}), **(taps or {})}
    options = Options(chosen, outputs, project, indices, thin, grid, convert_inputs, nondeterministic, share, dry_run)
    call = _call_text(path, new, options, allow_cost=allow_cost, max_parameters=max_parameters)
    name = type(model).__name__
    planned: list[Successor] = []
    try:
        _check_kinds(model, path, new)
        with progress() as tell:
            tell(f"swap: running {name} to see what it reads of {path}")
            example = as_example(model, inputs)
            places = find_places(model, path)
            seen = watch(model, example, [place.path for place in places])
            planned += _prepared(places, seen, new, options, tell)
            _refuse_cost(planned, allow_cost, max_parameters)
            tell(f"swap: building what takes the place of {path}")
            modules = [successor.build() for successor in planned]
            tell(f"swap: running {name} with the new module")
            planned = with_train_reads(model, example, planned, seen)
            checks = try_out(model, example, planned, modules, seen)
    except AdaptError as error:
        refusal = _refusal(path, error)
        if dry_run:
            return _refused(name, planned, refusal, call)
        raise refusal from error
    done = Swap(model=name, parts=tuple(one.part for one in planned), checks=tuple(checks), call=call)
    if dry_run:
        return done
    for successor, module in zip(planned, modules, strict=True):
        module.swapped = done.model_copy(update={"parts": (successor.part,)})  # type: ignore[assignment]
    set_modules(model, by_path(planned, modules))
    return model


def _check_kinds(model: object, path: object, new: object) -> None:
    if not isinstance(path, str):
        shown = next((one for one in path if isinstance(one, str)), "") if isinstance(path, (list, tuple)) else ""
        remedy = f'swap(model, "{shown or "backbone"}", ...)  # one place, or a pattern such as "heads.*"'
        fault = Mismatch("path", "the path of one submodule, or a pattern, as a text", repr(path)[:60], remedy)
        raise SwapError("several submodules are not swapped for one", [fault])
    if not isinstance(model, nn.Module):
        fault = Mismatch("model", "a module", type(model).__name__, "swap(model, path, new, inputs=x)")
        raise SwapError("only a module has submodules", [fault])
    if not isinstance(new, (nn.Module, str)):
        fault = Mismatch("new", "a module, or the name of a generated layer", repr(new)[:60], 'swap(..., "linear")')
        raise SwapError("this cannot be put into a model", [fault])
    if new is model:
        fault = Mismatch("new", "another module", "the whole model itself", "pass the part that is meant")
        raise SwapError("a model cannot stand inside itself", [fault])


def _prepared(
    places: list[Place], seen: Watched, new: nn.Module | str, options: Options, tell: Callable[[str], None]
) -> list[Successor]:
    """A successor for each place; what is wrong with any of them is said at once."""
    found, faults, summary = [], list[Mismatch](), ""
    own = len(places) > 1 and isinstance(new, nn.Module)
    each = Options(**{**vars(options), "share": options.share and not own})
    for place in places:
        tell(f"swap: capturing {place.path} and what takes its place")
        made = _tried(place, seen, new, each)
        if isinstance(made, Successor):
            found.append(made)
        elif len(places) == 1:
            raise made
        else:
            summary = summary or made.summary
            faults += made.mismatches or [Mismatch(place.path, "a plan", made.summary)]
    if faults:
        raise SwapError(summary, faults)
    return found


def _tried(place: Place, seen: Watched, new: nn.Module | str, options: Options) -> Successor | AdaptError:
    try:
        return prepare(place, seen.readings[place.path], new, options)
    except AdaptError as error:
        return error


_LIMIT = 10_000_000


def _refuse_cost(planned: list[Successor], allowed: bool, limit: int | None) -> None:
    """Ask before large layers are generated; nothing is built yet."""
    faults = []
    for one in planned:
        part = one.part
        most = limit if limit is not None else _LIMIT
        if limit is None and not isinstance(one.new, nn.Module):
            most = min(most, 10 * part.parameters_before)
        if part.generated > most:
            before = f"{part.parameters_before:,} in the old module"
            found = f"{part.generated:,} parameters ({part.new}), against {before}"
            faults.append(Mismatch(part.path, f"at most {most:,} generated parameters", found, "allow_cost=True"))
    if faults and not allowed:
        total = sum(one.part.generated for one in planned)
        raise SwapError(f"the generated layers have {total:,} parameters, which asks for consent", faults)


def _refusal(path: str, error: AdaptError) -> SwapError:
    """The error of a step as one of the swap."""
    faults = [
        Mismatch(f.where, f.expected, f.found, f.remedy.replace("adapt(...", "swap(..."), f.why)
        for f in error.mismatches
    ]
    summary = error.summary if isinstance(error, SwapError) else f"`{path}` is not swapped: {error.summary}"
    return SwapError(summary, faults)


def _refused(name: str, planned: list[Successor], refusal: SwapError, call: str) -> Swap:
    faults = tuple(
        Fault(where=f.where, expected=f.expected, found=f.found, remedy=f.remedy, why=f.why) for f in refusal.mismatches
    )
    parts = tuple(one.part for one in planned)
    return Swap(model=name, parts=parts, refused=refusal.summary, faults=faults, call=call)


def _call_text(
    path: str, new: nn.Module | str, options: Options, *, allow_cost: bool, max_parameters: int | None
) -> str:
    """The call that does the swap, to paste."""
    chosen = {
        "outputs": options.outputs,
        "pairs": dict(options.pairs) or None,
        "project": options.project if options.project != "needed" else None,
        "indices": options.indices if options.indices != "refuse" else None,
        "thin": options.thin if options.thin != "farthest" else None,
        "grid": options.grid,
        "convert_inputs": None if set(options.convert_inputs) == set(CONVERSIONS) else tuple(options.convert_inputs),
        "nondeterministic": options.nondeterministic if options.nondeterministic != "refuse" else None,
        "share": None if options.share else False,
        "allow_cost": allow_cost or None,
        "max_parameters": max_parameters,
    }
    shown = repr(new) if isinstance(new, str) else "new"
    given = "".join(f", {name}={value!r}" for name, value in chosen.items() if value is not None)
    return f'model = aa.swap(model, "{path}", {shown}, inputs=inputs{given})'
