"""Folders: an adapted module written into one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from autoadapt.adapting.building import AdaptedModule, edits
from autoadapt.adapting.operations import Channels
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.facts import Made
from autoadapt.contracts.origins import Origin, origin_of
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.signature import describe
from autoadapt.contracts.trees import Constant, Container, Tree, flatten, rebuild, type_path
from autoadapt.errors import AdaptError, Mismatch, SavingError
from autoadapt.files.reading import first_line
from autoadapt.files.writing import check_place, file_hash, refuse_empty, write_all
from autoadapt.saving.folder_configs import CONFIG, WEIGHTS, Config, Source, Weights, Witness, is_trusted, plan_classes
from autoadapt.saving.module_states import (
    all_tensors,
    channels_last_parts,
    checksum_of,
    facts_of,
    frozen_parts,
    hooked_parts,
    modes_of,
    unkept_buffers,
    unsaveable,
)
from autoadapt.saving.results import Saved
from autoadapt.saving.sample_outputs import witness_of
from autoadapt.saving.ties import apart_of, ties_of
from autoadapt.saving.whole_configs import WHOLE
from autoadapt.saving.whole_models import adapted_parts, is_whole, save_whole
from autoadapt.saving.wrappers import adapted_inside, unwrapped
from autoadapt.sources import load, load_backbone, schemes
from autoadapt.sources.permissions import foreign
from autoadapt.versions import VERSION, package_version


def save(net: nn.Module, folder: str | Path, *, adapters_only: bool = False, check: bool = True) -> Saved:
    """Write an adapted module, or a bigger model with adapted modules in it, into a folder of data.

    An adapted module is `config.json` and `model.safetensors`. A bigger model is each of its adapted parts in a folder
    of its own, all other tensors, and where the parts stand; `restore(folder, model=build())` puts it together.

    The config holds the plan, the signature, how the backbone is made, modes, plain attributes and versions. Files
    take the place of older ones together, when both are written. Hooks and whatever else runs code are not saved; the
    report names what was left.

    Args:
        net: The adapted module, or the bigger model after `swap`; it is not changed. What torch, timm and MMEngine put
            around a model in training (compiled, parallel, averaged weights) is taken off.
        folder: Made where it does not exist.
        adapters_only: Save no weights of the backbone, only a checksum of them; of an adapted module alone.
        check: Run a copy once on invented inputs and note what comes out, which `restore` compares.

    Returns:
        What was written, as a table.

    Raises:
        SavingError: There is no adapted module in it, it holds what is no tensor, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from autoadapt.adapting import adapt
        >>> new = load("torch.nn:Conv2d", allow=["torch"], in_channels=3, out_channels=5, kernel_size=2, stride=2)
        >>> net = adapt(new, like=nn.Conv2d(3, 8, 2, stride=2), inputs=torch.zeros(1, 3, 8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(save(net, folder).tensors, sorted(path.name for path in Path(folder).iterdir()))
        4 ['config.json', 'model.safetensors']
    """
    refuse_empty(folder, "folder", remedy='"."      for the working folder')
    whole = unwrapped(net)
    if not adapters_only and not isinstance(whole, AdaptedModule) and adapted_parts(whole):
        return save_whole(whole, Path(folder), lambda part, inside: save(part, inside, check=check))
    adapted = adapted_inside(net, "aa.save")
    if is_whole(Path(folder)):
        found = f"a whole model ({WHOLE})"
        fault = Mismatch(str(folder), "a folder for this module", found, "save into another folder")
        raise SavingError(f"{folder} holds a whole model, and stays as it was", [fault])
    written = _Written(adapted, Path(folder), adapters_only=adapters_only, check=check)
    write_all(Path(folder), {WEIGHTS: written.write_weights, CONFIG: written.write_config})
    return written.report()


class _Written:
    """One module on its way into a folder: all is read and checked before anything is written."""

    def __init__(self, net: AdaptedModule, folder: Path, *, adapters_only: bool, check: bool) -> None:
        self._net, self._folder = net, folder
        self._remarks: list[str] = []
        kept, unkept = all_tensors(net), unkept_buffers(net)
        _check_whole(net, kept)
        backbone = {name: tensor for name, tensor in kept.items() if name.startswith("backbone.")}
        if adapters_only:
            kept = {name: tensor for name, tensor in kept.items() if name not in backbone}
        ties = ties_of(kept)
        self._tensors = {name: tensor for name, tensor in kept.items() if name not in ties}
        self._weights = Weights(
            sha256="",
            scope="adapters" if adapters_only else "all",
            backbone=checksum_of({n: t for n, t in backbone.items() if n not in unkept}) if adapters_only else "",
            tied=ties,
            apart=apart_of(net, ties),
            unkept=tuple(sorted(unkept & kept.keys())),
            channels_last=channels_last_parts(net),
        )
        check_place(folder / CONFIG, "folder")
        self._config = self._described(check=check)

    def _described(self, *, check: bool) -> Config:
        net = self._net
        facts, left = facts_of(net)
        if left:
            self._remarks.append(f"not saved: {', '.join(left)} (no plain values)")
        self._remarks += [f"not saved: {hooks}" for hooks in hooked_parts(net)]
        kind = type_path(type(net.get_submodule("backbone")))
        return Config(
            versions=_versions(kind),
            backbone=kind,
            source=self._source(),
            weights=self._weights,
            training=modes_of(net),
            frozen=frozen_parts(net),
            facts=facts,
            witness=self._witness() if check else None,
            made=Made.now(),
            plan=_as_read(net.plan),
        )

    def _source(self) -> Source | None:
        """The call that makes the backbone, if there was one and it still makes the same."""
        origin = origin_of(self._net.get_submodule("backbone"))
        if origin is None or origin.options is None:
            self._remarks.append("autoadapt did not load the backbone by name: restore(..., new=) must be given it")
            return None
        changed = _changes(self._net, origin)
        if changed:
            self._remarks.append(
                f"the backbone was changed after aa.{origin.verb} ({changed}): restore(..., new=) must be given it"
            )
            return None
        options = flatten(origin.options)[0]
        return Source(verb=origin.verb, name=origin.source, pretrained=origin.pretrained, options=options)

    def _witness(self) -> Witness | None:
        try:
            return witness_of(self._net)
        except AdaptError as error:
            self._remarks.append(f"outputs are not compared when it is restored: {error.summary}")
            return None

    def write_weights(self, path: Path) -> None:
        """The tensors, and their checksum for the config."""
        try:
            save_file(_apart(self._tensors), path, metadata={"format": "pt"})
        except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
            if "I/O error" in str(error):
                raise
            fault = Mismatch(WEIGHTS, "tensors that safetensors can hold", first_line(error), "net.to(float32)")
            raise SavingError("the weights cannot be written", [fault]) from error
        weights = self._weights.model_copy(update={"sha256": file_hash(path)})
        self._config = self._config.model_copy(update={"weights": weights})

    def write_config(self, path: Path) -> None:
        """Everything else."""
        path.write_text(self._config.text(), encoding="utf-8")

    def report(self) -> Saved:
        """What stands in the folder now."""
        config, folder = self._config, self._folder
        target = config.plan.target
        return Saved(
            folder=str(folder),
            name=config.plan.source.title,
            contract=f"{target.title} ({describe(target.outputs.tree)})",
            scope=config.weights.scope,
            tensors=len(self._tensors),
            parameters=sum(self._tensors[name].numel() for name in self._tensors if name in _parameters(self._net)),
            weight_bytes=(folder / WEIGHTS).stat().st_size,
            config_bytes=(folder / CONFIG).stat().st_size,
            call=f'aa.restore("{folder}"{_arguments(config)})',
            remarks=tuple(self._remarks),
        )


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors in main memory, none of which overlap; safetensors takes no others."""
    counts = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    made = {}
    for name, tensor in tensors.items():
        shared = counts[tensor.untyped_storage().data_ptr()] > 1
        made[name] = tensor.cpu().clone(memory_format=torch.contiguous_format) if shared else tensor.cpu().contiguous()
    return made


def _arguments(config: Config) -> str:
    """What `restore` has to be given besides the folder, as text."""
    source, given = config.source, ""
    if source is None or config.weights.scope == "adapters":
        given += f", new={source.call() if source is not None else 'backbone'}"
    imported = {"torch", re.split(r"[.:]", config.backbone)[0]}
    names = [
        container.type
        for container in plan_classes(config.plan)
        if not is_trusted(container) or re.split(r"[.:]", container.type)[0] not in imported
    ]
    if source is not None and config.weights.scope == "all" and source.name.partition(":")[0] not in schemes():
        names.append(source.name)
    packages = sorted({name if name.endswith(".pt2") else re.split(r"[.:]", name)[0] for name in names})
    if source is not None and config.weights.scope == "all":
        packages += [said for _, said in foreign(source.name, rebuild(source.options, []))]
    return given + (f", allow={json.dumps(packages)}" if packages else "")


def _parameters(net: nn.Module) -> set[str]:
    return {name for name, _ in net.named_parameters(remove_duplicate=False)}


def _check_whole(net: AdaptedModule, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse what plan and tensors cannot say: other state, tensors without values, an edited graph."""
    if faults := [*unsaveable(net.state_dict(), tensors, "net"), *edits(net)]:
        raise SavingError(f"{len(faults)} parts of the module cannot be saved", faults[:8])


def _versions(kind: str) -> dict[str, str]:
    package = kind.partition(":")[0].partition(".")[0]
    found = {"autoadapt": VERSION, "torch": torch.__version__, package: package_version(package)}
    return {name: version for name, version in found.items() if version}


def _as_read(plan: Plan) -> Plan:
    """The plan as its text says it, which must be all that there is to it.

    Raises:
        SavingError: It holds a number that JSON has no word for.
    """
    text = plan.model_dump_json()
    read = Plan.model_validate_json(text)
    if read.model_dump_json() != text or _numbers(read.target.inputs.tree) != _numbers(plan.target.inputs.tree):
        fault = Mismatch("plan", "finite numbers", "another one, as the default of an argument", "wrap the module")
        raise SavingError("the plan cannot be written as JSON", [fault])
    return read


def _numbers(tree: Tree) -> list[object]:
    match tree:
        case Constant(value=value):
            return [value]
        case Container(children=children):
            return [number for child in children for number in _numbers(child)]
        case _:
            return []


def _changes(net: AdaptedModule, origin: Origin) -> str:
    """How the backbone differs from what its name makes; empty where it does not, or cannot be made on meta."""
    if origin.source.partition(":")[0] not in schemes():
        return ""  # foreign code, which only runs where the caller allows it
    make = load if origin.verb == "load" else load_backbone
    try:
        with quiet(), torch.device("meta"):
            made = all_tensors(make(origin.source, **(origin.options or {})))
    except Exception:  # whatever a zoo raises on meta, it only means that nothing can be said
        return ""
    stems = {f"{step.stem}.weight" for route in net.plan.inputs for step in route.steps if isinstance(step, Channels)}
    own = all_tensors(net.get_submodule("backbone"))
    for name, tensor in own.items():
        if name not in made:
            return f"`{name}` is new"
        if made[name].shape != tensor.shape and name not in stems:
            return f"`{name}` is {list(tensor.shape)}, not {list(made[name].shape)}"
    return ""
