"""Restoring: an adapted module from a folder of data."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule, built
from autoadapt.adapting.verification.contract_checks import plan_follows
from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.trees import Container, container_type, rebuild
from autoadapt.errors import AdaptError, Mismatch, SavingError
from autoadapt.errors.printable import visible
from autoadapt.saving.folder_configs import CONFIG, WEIGHTS, Config, is_trusted, plan_classes
from autoadapt.saving.module_states import (
    all_tensors,
    checksum_of,
    give_memory,
    put_facts,
    put_modes,
    set_frozen,
    unkept_buffers,
)
from autoadapt.saving.sample_outputs import differences
from autoadapt.saving.ties import check_ties, put_tied
from autoadapt.saving.weight_files import read_tensors
from autoadapt.saving.whole_models import is_whole, restore_whole
from autoadapt.sources import load, load_backbone, load_object
from autoadapt.sources.permissions import refuse_foreign
from autoadapt.sources.size_limits import SizeLimits, made_within
from autoadapt.sources.zoos import nothing_fetched
from autoadapt.versions import package_version

_GIVE_NEW = "restore(..., new=the module that was adapted)"


@overload
def restore(
    folder: str | Path,
    new: nn.Module | None = None,
    *,
    model: None = None,
    allow: Sequence[str | Path] = (),
    strict: bool = True,
) -> AdaptedModule: ...
@overload
def restore(
    folder: str | Path,
    new: nn.Module | Mapping[str, nn.Module] | None = None,
    *,
    model: nn.Module,
    allow: Sequence[str | Path] = (),
    strict: bool = True,
) -> nn.Module: ...


def restore(
    folder: str | Path,
    new: nn.Module | Mapping[str, nn.Module] | None = None,
    *,
    model: nn.Module | None = None,
    allow: Sequence[str | Path] = (),
    strict: bool = True,
) -> nn.Module:
    """Make a saved module anew, from data alone: nothing is unpickled or fetched, and no code runs that files name.

    Versions, checksums and shapes are checked; then a copy runs once, and what comes out is compared with the contract
    and with what came out before it was saved.

    Args:
        folder: What `save` wrote.
        new: The module that was adapted, in any state. It may be left out where all weights were saved and
            `autoadapt.load` made it; where the adapters alone were saved, its weights are used, and shared. For a
            whole model with several parts a mapping, by their paths.
        model: For a whole model: the same one, freshly built, before anything was swapped. It is changed in place, and
            only if all fits.
        allow: Packages whose code may run: those of python paths, and of classes of outputs that are not of
            torchvision, timm or transformers. Also, word for word, repositories, addresses and paths in the name and
            the options of the backbone, which may be fetched or read then.
        strict: Refuse a backbone whose weights are not those that the adapters were fitted to, outputs of other
            values, and a `model` that has another class, such as another activation, where the saved one had a module,
            or another plain attribute, such as a scale, also in a config that it holds. Those that do not change what
            it returns in eval mode, to inputs of the shapes of its last swap, are left out; where it cannot be run,
            `momentum` and dropouts are.

    Returns:
        The module as it was: weights, dtypes, modes, plain attributes; on the CPU, or where `new` is. Of a whole model
        `model`, with the saved parts in it, every weight bit-equal.

    Raises:
        SavingError: A file is missing, damaged, changed or of another version; `new` is missing or another module.
    """
    if not isinstance(folder, (str, os.PathLike)):
        fault = Mismatch("folder", "a path", repr(folder)[:60], 'aa.restore("folder")')
        raise SavingError("`folder` is no path", [fault])
    folder = Path(folder)
    if os.path.isfile(folder):
        build = ", model=build()" if is_whole(folder.parent) else ""
        fault = Mismatch(str(folder), "the folder that was saved", "a file", f'aa.restore("{folder.parent}"{build})')
        raise SavingError(f"{folder} is a file, and no folder", [fault])
    if is_whole(folder):
        part = functools.partial(restore, allow=allow, strict=strict)
        return restore_whole(folder, model, new, part, strict=strict)
    config = Config.read(folder)
    if model is not None or isinstance(new, Mapping):
        fault = Mismatch(str(folder), "a whole model", "an adapted module alone", f'aa.restore("{folder}")')
        raise SavingError(f"{folder} holds no whole model", [fault])
    classes = list(plan_classes(config.plan))
    _check_classes([one for one in classes if not is_trusted(one)], allow)
    tensors = read_tensors(folder / WEIGHTS, config.weights.sha256)
    tensors |= {name: tensors[kept] for name, kept in config.weights.tied.items() if kept in tensors}
    backbone = new if new is not None else _made(config, folder, allow, tensors)
    _check_classes([one for one in classes if is_trusted(one)], allow)
    net = _built(config, backbone, folder, SizeLimits.of_weights(tensors))
    _load(net, config, tensors, folder)
    if config.weights.scope == "adapters" and strict:
        _check_backbone(net, config)
    if config.witness is not None and strict and (faults := differences(net, config.witness)):
        raise SavingError(f"what was restored from {folder} is not what was saved", faults)
    return net


def _check_classes(classes: Sequence[Container], allow: Sequence[str | Path]) -> None:
    """Import the classes of containers that the caller allows; of trusted packages take those that are imported."""
    faults = list[Mismatch]()
    for container in classes:
        module = container.type.partition(":")[0]
        try:
            if not (is_trusted(container) and module in sys.modules):
                load_object(container.type, allow)
            container_type(container)
        except AdaptError as error:
            faults += error.mismatches
    if faults:
        raise SavingError("the outputs are of a class that cannot be used", faults)


def _made(config: Config, folder: Path, allow: Sequence[str | Path], tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The backbone by its name, without the weights that are replaced."""
    source = config.source
    if config.weights.scope == "adapters" or source is None:
        faults = [_new_is_missing(config, folder)]
        raise SavingError(f"{folder} does not say all of the backbone, and new= was left out", faults)
    make = load if source.verb == "load" else load_backbone
    try:
        options = dict(rebuild(source.options, []))
        options.pop("pretrained", None)
        refuse_foreign("source", source.name, options, allow)
        is_allowed = source.name.partition(":")[2] in map(str, allow)
        with nothing_fetched(not is_allowed):
            limits = SizeLimits.of_weights(tensors)
            made: nn.Module = made_within(limits, functools.partial(make, source.name, allow=allow), options)
    except AdaptError as error:
        raise SavingError(f"the backbone {source.name} could not be made: {error.summary}", error.mismatches) from error
    except (TypeError, ValueError) as error:
        fault = Mismatch("source.options", "options of a model", str(error), "aa.save(net, folder)")
        raise SavingError(f"the backbone {source.name} could not be made", [fault]) from error
    return made


def _new_is_missing(config: Config, folder: Path) -> Mismatch:
    kind, title = config.backbone.rpartition(":")[2], config.plan.source.title
    is_made = "<locals>" in kind  # a class that nobody can name, as that of what was adapted already
    shown = config.source.call() if config.source is not None else "backbone" if is_made else f"{kind}(...)"
    kept = "the adapters alone are saved" if config.weights.scope == "adapters" else "autoadapt did not load it by name"
    expected = f"the module that was adapted, {title if is_made else f'a {config.backbone}'}"
    return Mismatch("new", expected, "None", f'aa.restore("{folder}", new={shown})', kept)


def _built(config: Config, backbone: nn.Module, folder: Path, limits: SizeLimits) -> AdaptedModule:
    """The plan on the backbone."""
    try:
        net = made_within(limits, functools.partial(built, backbone, config.plan))
        faults = plan_follows(Session(net, net.signature)).faults
        if faults:
            raise SavingError("its steps do not follow from one another", faults)
    except AdaptError as error:
        text = f"the plan of {folder} does not fit {type(backbone).__name__}: {error.summary}"
        raise SavingError(text, error.mismatches) from error
    except (AttributeError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        fault = Mismatch(
            str(folder / CONFIG),
            f"a plan for {type(backbone).__name__}",
            f"{type(error).__name__}: {error}",
            f"restore(..., new=a {config.backbone})",
        )
        raise SavingError(f"the plan of {folder} does not fit {type(backbone).__name__}", [fault]) from error
    if any(tensor.is_meta for tensor in all_tensors(net).values()) and config.weights.scope == "all":
        give_memory(net)
    return net


def _load(net: AdaptedModule, config: Config, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Give the module everything that was saved; all is checked first."""
    own, within = all_tensors(net), "" if config.weights.scope == "all" else "adapters."
    wanted = {name: tensor for name, tensor in own.items() if name.startswith(within)}
    unkept = unkept_buffers(net) | set(config.weights.unkept)
    faults = [*_misfits(wanted, tensors, unkept), *_unknown_parts(config, net)]
    if faults:
        more = f", and {len(faults) - 6} more" if len(faults) > 6 else ""
        installed = _other_versions(config)
        text = f"the weights of {folder} do not fit the module, in {len(faults)} places{more}{installed}"
        raise SavingError(text, faults[:6])
    taken = {name: tensor for name, tensor in tensors.items() if name in wanted}
    check_ties(net, config.weights.tied, taken)
    put_tied(net, taken, config.weights.tied, config.weights.apart)
    for part in config.weights.channels_last if not within else ():
        if part in net._modules:
            net.get_submodule(part).to(memory_format=torch.channels_last)
    put_modes(net, config.training)
    set_frozen(net, config.frozen)
    put_facts(net, config.facts)


def _unknown_parts(config: Config, net: nn.Module) -> Iterator[Mismatch]:
    """Parts of which the config tells a mode or that they are frozen, and which the module has not."""
    modules = {name for name, _ in net.named_modules()}
    parameters = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    for field, named, known in (
        ("training", config.training, modules),
        ("frozen", config.frozen, modules | parameters),
        ("channels_last", config.weights.channels_last, modules),
    ):
        for name in named:
            if name not in known:
                yield Mismatch(field, "a part of the module", visible(name)[:60], _GIVE_NEW)


def _misfits(
    own: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], unkept: Collection[str]
) -> Iterator[Mismatch]:
    """In the order of the module; other shapes first: parts may be missing because of them."""
    for name, right in own.items():
        left = saved.get(name, right)
        if left.shape != right.shape or left.is_floating_point() != right.is_floating_point():
            yield Mismatch(name, f"{left.dtype} {list(left.shape)}", f"{right.dtype} {list(right.shape)}", _GIVE_NEW)
    for name in own:
        if name not in saved and name not in unkept:
            yield Mismatch(name, "a saved tensor", "none of this name", _GIVE_NEW)
    for name in saved:
        if name not in own and name not in unkept:
            yield Mismatch(name, "a parameter or buffer of this name", "none in the module", _GIVE_NEW)


def _other_versions(config: Config) -> str:
    """What is installed in another version than at the time of saving, as a clause."""
    others = [
        f"{package} was {version}, is {package_version(package)}"
        for package, version in config.versions.items()
        if package not in ("autoadapt", "torch") and package_version(package) != version
    ]
    return f" ({'; '.join(others)})" if others else ""


def _check_backbone(net: AdaptedModule, config: Config) -> None:
    unkept = unkept_buffers(net)
    own = {n: t for n, t in all_tensors(net).items() if n.startswith("backbone.") and n not in unkept}
    found = checksum_of(own)
    if found != config.weights.backbone:
        shown = f"\nnew={config.source.call()}" if config.source is not None else ""
        remedy = f"give it the weights that the adapters were fitted to{shown}\nstrict=False      to have it as it is"
        fault = Mismatch("new", f"weights of checksum {config.weights.backbone[:16]}..", f"{found[:16]}..", remedy)
        raise SavingError("the backbone has other weights than those that the adapters were fitted to", [fault])
