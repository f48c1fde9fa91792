"""Whole models: a bigger model with adapted modules in it, as a folder; restored into a freshly built one.

The folder holds each adapted part as `save` writes it, below `parts/`, all other tensors in `model.safetensors`, and in
`model.json` where the parts stand.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.capturing.noted_calls import call_of, put_call
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.origins import origin_of
from autoadapt.contracts.trees import type_path
from autoadapt.contracts.views import copy_module, on_meta
from autoadapt.errors import Mismatch, SavingError
from autoadapt.files.writing import check_place, explained, file_hash, refuse_link, write_all
from autoadapt.saving.folder_configs import CONFIG, WEIGHTS
from autoadapt.saving.module_kinds import check_kinds, check_settings, kinds_of, settings_of
from autoadapt.saving.module_states import (
    all_tensors,
    frozen_parts,
    modes_of,
    put_modes,
    same_bits,
    set_frozen,
    unkept_buffers,
    unsaveable,
)
from autoadapt.saving.results import Saved
from autoadapt.saving.setting_trials import telling_settings
from autoadapt.saving.ties import apart_of, check_ties, put_tied, ties_of
from autoadapt.saving.weight_files import read_tensors
from autoadapt.saving.whole_configs import WHOLE, Place, WholeConfig, read_whole
from autoadapt.swapping.folding import put_layers
from autoadapt.swapping.region_swaps import put_region
from autoadapt.swapping.stand_ins import passes_of

_PARTS = "parts"


def adapted_parts(model: nn.Module) -> dict[str, AdaptedModule]:
    """The adapted modules in a bigger model, by path; none inside of another one."""
    found: dict[str, AdaptedModule] = {}
    for path, part in model.named_modules():
        if isinstance(part, AdaptedModule) and not any(path.startswith(f"{other}.") for other in found):
            found[path] = part
    return found


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a bigger model."""
    return os.path.isfile(folder / WHOLE)


def save_whole(model: nn.Module, folder: Path, save_part: Callable[[nn.Module, Path], Saved]) -> Saved:
    """Write a bigger model into a folder; see `save`.

    Args:
        model: The model, which is not changed.
        folder: Made where it does not exist.
        save_part: Writes one adapted part into a folder of its own.

    Raises:
        SavingError: A part cannot be saved, or there is state that is no tensor.
    """
    parts = adapted_parts(model)
    also = {path: _other_places(model, path, part) for path, part in parts.items()}
    copies = [place for places in also.values() for place in places]
    rest = _rest(model, [*parts, *copies])
    state = _outside(model.state_dict(), [*parts, *copies])
    if faults := unsaveable(state, rest, "model"):
        raise SavingError(f"{len(faults)} parts of the model cannot be saved", faults[:8])
    ties = ties_of(_rest(model, copies))
    check_place(folder / WHOLE, "folder")
    refuse_link(folder, folder / _PARTS)
    with explained(folder):
        saved, places = _save_parts(parts, also, folder, save_part)
    config = WholeConfig(
        model=type_path(type(model)),
        source=_source(model),
        parts=tuple(places),
        call=call_of(model),
        kinds=kinds_of(model, _members(places)),
        settings=settings_of(model, _members(places)),
        tied=ties,
        apart=apart_of(model, ties),
        training=modes_of(model),
        frozen=frozen_parts(model),
    )
    tensors = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in rest.items()
        if ties.get(name) not in rest
    }
    text: list[str] = []

    def weights(path: Path) -> None:
        save_file(tensors, path, metadata={"format": "pt"})
        text.append(config.model_copy(update={"sha256": file_hash(path)}).text())

    write_all(folder, {WEIGHTS: weights, WHOLE: lambda path: path.write_text(text[0], encoding="utf-8")})
    with contextlib.suppress(OSError):  # all is written; what is left here goes with the next
        for number in _numbers(folder) - {int(Path(place.folder).name) for place in places}:
            shutil.rmtree(folder / _PARTS / str(number), ignore_errors=True)
    return _report(model, folder, list(parts), saved, tensors)


def _save_parts(
    parts: Mapping[str, AdaptedModule],
    also: Mapping[str, tuple[str, ...]],
    folder: Path,
    save_part: Callable[[nn.Module, Path], Saved],
) -> tuple[list[Saved], list[Place]]:
    """Write each part into a folder beside those of an earlier save, which hold until the config is written."""
    saved, places = [], []
    for number, (path, part) in enumerate(parts.items(), 1 + max(_numbers(folder), default=-1)):
        inside = Path(_PARTS) / str(number)
        saved.append(save_part(part, folder / inside))
        borrowed = {name: is_property for name, (_, is_property) in vars(part).get("borrowed", {}).items()}
        noted = file_hash(folder / inside / CONFIG)
        passes = passes_of(part)
        region, folding = None if passes is None else passes.handing, vars(part).get("folded")
        told: dict[str, Any] = {"config": noted, "borrowed": borrowed, "region": region, "folding": folding}
        places.append(Place(path=path, also=also[path], folder=inside.as_posix(), **told))
    return saved, places


def _numbers(folder: Path) -> set[int]:
    """The folders of parts that are there, also those that a killed save has left."""
    below = folder / _PARTS
    return {int(path.name) for path in below.iterdir() if path.name.isdecimal()} if below.is_dir() else set()


def restore_whole(
    folder: Path,
    model: nn.Module | None,
    new: nn.Module | Mapping[str, nn.Module] | None,
    restore_part: Callable[[Path, nn.Module | None], AdaptedModule],
    *,
    strict: bool = True,
) -> nn.Module:
    """Put the saved parts into a freshly built model and load everything; see `restore`.

    Args:
        folder: What `save_whole` wrote.
        model: The model as it was before anything was swapped; changed in place, and only if all fits.
        new: The backbones, by path, where autoadapt did not load them by name; one alone where there is one part.
        restore_part: Restores one part from its folder.
        strict: Refuse a model with modules of other classes or plain attributes.

    Raises:
        SavingError: The model is missing or another one, or a part cannot be restored; the model is as it was.
    """
    config = read_whole(folder)
    if model is None:
        fault = Mismatch("model", f"a freshly built {config.model}", "none", f'aa.restore("{folder}", model=build())')
        raise SavingError(f"{folder} holds a whole model, and model= was left out", [fault])
    check_module(model, "model", SavingError)
    olds = _olds(model, config)
    tensors = read_tensors(folder / WEIGHTS, config.sha256)
    tensors |= {name: tensors[kept] for name, kept in config.tied.items() if kept in tensors}
    shaped = _with_folded_layers(model, config)
    _check_fit(shaped, config, tensors)
    check_ties(shaped, config.tied, tensors)
    if strict:
        parts = _members(config.parts)
        check_kinds(config.kinds, kinds_of(shaped, parts))
        telling = functools.partial(telling_settings, model, config.call, tensors)
        check_settings(config.settings, settings_of(shaped, parts), telling)
    made: dict[str, AdaptedModule] = {}
    for place in config.parts:
        given = new.get(place.path) if isinstance(new, Mapping) else new
        made[place.path] = _restored_part(folder, place, given, restore_part)
        _borrow(made[place.path], olds[place.path], place)
    _put_parts(model, made, config)
    inside = tuple(f"{place.path}." for place in config.parts)
    put_tied(
        model, tensors, config.tied, config.apart, [name for name in all_tensors(model) if name.startswith(inside)]
    )
    put_modes(model, config.training)
    set_frozen(model, config.frozen)
    _compare(model, tensors, config)
    put_call(model, config.call)
    return model


def _put_parts(model: nn.Module, made: Mapping[str, AdaptedModule], config: WholeConfig) -> None:
    for place in config.parts:
        if place.region is None:
            model.set_submodule(place.path, made[place.path])
        else:
            put_region(model, made[place.path], place.region)
        for path in place.also:
            model.set_submodule(path, made[place.path])
    for path, folding in config.foldings:
        put_layers(model, folding)
        vars(made[path])["folded"] = folding


def _with_folded_layers(model: nn.Module, config: WholeConfig) -> nn.Module:
    """The model, or a copy without values that has the layers which adapters were folded into.

    Raises:
        SavingError: It has no such layers.
    """
    if not config.foldings:
        return model
    shaped = copy_module(model, on_meta)
    try:
        with torch.device("meta"):
            for _, folding in config.foldings:
                put_layers(shaped, folding)
    except (AttributeError, AssertionError, RuntimeError, TypeError) as error:
        fault = Mismatch("model", "layers that adapters were folded into", str(error), "build the model as it was")
        raise SavingError("the model is not the one that was saved", [fault]) from error
    return shaped


def _restored_part(
    folder: Path,
    place: Place,
    new: nn.Module | None,
    restore_part: Callable[[Path, nn.Module | None], AdaptedModule],
) -> AdaptedModule:
    """A part from its folder; where its backbone has to be given, this is told for the whole model."""
    config = folder / place.folder / CONFIG
    refuse_link(folder, folder / place.folder)
    if not config.is_file() or file_hash(config) != place.config:
        fault = Mismatch(place.folder, f"the part that was saved with {WHOLE}", "another one", "save it again")
        raise SavingError(f"{folder / place.folder} was changed after it was saved", [fault])
    try:
        return restore_part(folder / place.folder, new)
    except SavingError as error:
        faults = [
            replace(fault, remedy=_call(folder, {place.path: _given(fault.remedy)})) if fault.where == "new" else fault
            for fault in error.mismatches
        ]
        raise SavingError(error.summary, faults) from error


def _given(call: str) -> str:
    """The backbone in a call of `restore`, as it is written there; empty where none is."""
    return call.partition(", new=")[2].partition(", allow=")[0].removesuffix(")")


def _call(folder: Path, backbones: Mapping[str, str]) -> str:
    """The call that restores a whole model, with the backbones that have to be given."""
    written = ", ".join(f'"{path}": {made}' for path, made in backbones.items() if made)
    return f'aa.restore("{folder}", model=build(){f", new={{{written}}}" if written else ""})'


def _source(model: nn.Module) -> str:
    origin = origin_of(model)
    return origin.source if origin is not None and origin.verb == "load" and not origin.options else ""


def _rest(model: nn.Module, parts: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors that stand in no adapted part."""
    return _outside(all_tensors(model), parts)


def _outside(named: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """Those whose names stand in no adapted part."""
    inside = tuple(f"{path}." for path in parts)
    return {name: value for name, value in named.items() if not name.startswith(inside)}


def _other_places(model: nn.Module, path: str, part: nn.Module) -> tuple[str, ...]:
    """Where the very same part stands besides."""
    named = model.named_modules(remove_duplicate=False)
    return tuple(other for other, one in named if one is part and other != path)


def _members(places: Iterable[Place]) -> list[str]:
    """Where modules are replaced in all parts."""
    return [path for place in places for path in place.members]


def _olds(model: nn.Module, config: WholeConfig) -> dict[str, nn.Module]:
    """The modules that the parts take the places of."""
    kind = type_path(type(model))
    # a file's class has the name of the module that it was read as, which may be another one next time
    is_same = kind == config.model or "" != config.source == _source(model)
    faults = [] if is_same else [Mismatch("model", f"a {config.model}", f"a {kind}", "build the same one")]
    named = dict(model.named_modules(remove_duplicate=False))
    faults += [
        Mismatch(path, "a submodule to put the part in the place of", "none", "build the model as it was")
        for place in config.parts
        for path in place.members
        if path not in named
    ]
    if faults:
        raise SavingError("the model is not the one that was saved", faults)
    return {place.path: named[place.path] for place in config.parts}


def _check_fit(model: nn.Module, config: WholeConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    own = _rest(model, _members(config.parts))
    shown = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in own.items()}
    saved = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
    unkept = unkept_buffers(model)
    missing = sorted(name for name in shown.keys() ^ saved.keys() if name not in unkept)
    others = sorted(name for name in shown.keys() & saved.keys() if own[name].shape != tensors[name].shape)
    faults = [
        Mismatch(name, saved.get(name, "no tensor of this name"), shown.get(name, "none"), "build the model as it was")
        for name in [*missing, *others]
    ]
    if faults:
        raise SavingError(f"the weights do not fit the model, in {len(faults)} places", faults[:6])


def _borrow(net: AdaptedModule, old: nn.Module, place: Place) -> None:
    """Functions of the old module's class, which `save` noted by name."""
    functions: dict[str, Any] = {}
    for name, is_property in place.borrowed.items():
        found = inspect.getattr_static(type(old), name, None)
        function = found.fget if is_property and isinstance(found, property) else found
        if not callable(function):
            fault = Mismatch(f"{place.path}.{name}", f"a function of {type(old).__name__}", "none", "build it alike")
            raise SavingError("the model is not the one that was saved", [fault])
        functions[name] = function
    if functions:
        net.borrow(functions, properties=[name for name, is_property in place.borrowed.items() if is_property])


def _compare(model: nn.Module, tensors: Mapping[str, torch.Tensor], config: WholeConfig) -> None:
    """What stands in the model now is what was saved, bit for bit."""
    found = all_tensors(model)
    faults = [
        Mismatch(name, "the saved bits", "others", "report it")
        for name, tensor in tensors.items()
        if not same_bits(found[name], tensor)
    ]
    if faults:
        raise SavingError("what was restored is not what was saved", faults[:6])


def _report(
    model: nn.Module, folder: Path, paths: Sequence[str], saved: Sequence[Saved], tensors: Mapping[str, torch.Tensor]
) -> Saved:
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    remarks = [f"{path}: {remark}" for path, part in zip(paths, saved, strict=True) for remark in part.remarks]
    return Saved(
        folder=str(folder),
        name=type(model).__name__,
        contract="",
        parts=tuple(f"{path}: {part.name}" for path, part in zip(paths, saved, strict=True)),
        scope="all",
        tensors=len(tensors) + sum(part.tensors for part in saved),
        parameters=sum(t.numel() for name, t in tensors.items() if name in own) + sum(p.parameters for p in saved),
        weight_bytes=(folder / WEIGHTS).stat().st_size + sum(part.weight_bytes for part in saved),
        config_bytes=(folder / WHOLE).stat().st_size + sum(part.config_bytes for part in saved),
        call=_call(folder, {path: _given(part.call) for path, part in zip(paths, saved, strict=True)}),
        remarks=tuple(remark for remark in remarks if "(no plain values)" not in remark or "()" not in remark),
    )
