"""A checkpoint: named tensors, taken out of whatever a file or an object wraps around them."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autoadapt.errors import Mismatch, SourceError, TransferError, nearest
from autoadapt.weights.deltas import NOT_BESIDE, UNTOLD
from autoadapt.weights.distributed_files import Sharded, metadata_of, open_sharded
from autoadapt.weights.memory import pieces_of
from autoadapt.weights.pickles import load_pickle
from autoadapt.weights.shard_indexes import read_index
from autoadapt.weights.tensor_files import MOST_TENSORS, Read, Shards, Tensors, find_file, open_shards
from autoadapt.weights.tensor_specs import Spec, is_sharded

Source: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | nn.Module"
"""A path, a state dict or what wraps one, or a module."""

_PREFERENCE = (
    "state_dict", "model", "model_state_dict", "module", "net", "network", "weights", "params",
    "teacher", "student", "ema", "state_dict_ema", "model_ema", "ema_state_dict", "params_ema",
)  # fmt: skip
_DEPTH = 5
_MOST_CONTAINERS = 10_000


@dataclass(frozen=True)
class Checkpoint:
    """Tensors to take, and how they were found.

    Args:
        name: What the report calls it.
        container: Dotted path of the state dict inside the file; empty at the top.
        also: Containers of tensors that were left, and entries that are no tensors.
        tensors: Reads values.
        specs: Facts, in order.
        own: Facts of what the file itself holds, where some of `specs` are made of several.
    """

    name: str
    container: str
    also: tuple[str, ...]
    tensors: Tensors
    specs: tuple[Spec, ...]
    own: tuple[Spec, ...] = ()


class _Memory:
    """Tensors that are in memory, or mapped into it by torch."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def specs(self) -> list[Spec]:
        """Facts of all tensors, in order."""
        return [_spec(name, tensor) for name, tensor in self._tensors.items()]

    def reader(self) -> nullcontext[Read]:
        """What reads values; pieces stay where they are."""
        return nullcontext(lambda name: pieces_of(self._tensors[name]))


def _spec(name: str, tensor: Tensor) -> Spec:
    if tensor.is_nested:
        return Spec(name, (), f"nested {str(tensor.dtype).removeprefix('torch.')}")
    kind = "quantised " if tensor.is_quantized else "" if tensor.layout is torch.strided else "sparse "
    return Spec(name, tuple(tensor.shape), kind + str(tensor.dtype).removeprefix("torch."))


def read_checkpoint(
    source: Source, scope: str | None, targets: Sequence[Spec], storages: Set[int] = frozenset()
) -> Checkpoint:
    """Open a source and find the state dict in it.

    Args:
        source: A path, a mapping or a module.
        scope: The container to take, where the choice is not to be left to likeness.
        targets: What the model holds; decides between containers.
        storages: Where the model holds it; what a source shares with the model is read before it is written.

    Raises:
        SourceError: If a file cannot be read.
        TransferError: If there are no tensors.
    """
    found = _read(source, scope, targets, storages)
    _refuse_long_names(found)
    return found


def _read(source: Source, scope: str | None, targets: Sequence[Spec], storages: Set[int]) -> Checkpoint:
    match source:
        case nn.Module():
            return _unwrap(dict(source.state_dict()), type(source).__name__, scope, targets, storages)
        case Mapping():
            return _unwrap(source, "state dict", scope, targets, storages)
        case str() | os.PathLike():
            if "://" in str(source):
                fault = Mismatch(str(source), "a path on this machine", "a remote address", "download the file first")
                raise SourceError("a remote address is not read", [fault])
            table = metadata_of(Path(source).expanduser())
            if table is not None:
                return _from_ranks(open_sharded(table), table.parent.name, scope, targets)
            path = find_file(Path(source))
            if (shards := open_shards(path)) is not None:
                return _from_shards(shards, path)
            found = _unwrap(load_pickle(path), path.name, scope, targets, storages)
            _refuse_grown(found.specs, path)
            return found
    fault = Mismatch("source", "a path, a state dict or a module", type(source).__name__)
    raise TransferError("the source is of no known kind", [fault])


def adapter_scale(
    source: Source, kinds: Mapping[str, float | None], *, turns: bool
) -> tuple[dict[str, float | None], str]:
    """The scale of LoRA deltas from the config beside their file, where the caller asks for them and says none.

    Args:
        source: Where they are.
        kinds: What is merged, and the scale.
        turns: Whether the model has layers that are stored transposed, which then tell where to transpose.

    Returns:
        The same with the scale, and why it has none.
    """
    kinds = dict(kinds)
    if "lora" not in kinds or kinds["lora"] is not None or not isinstance(source, str | os.PathLike):
        return kinds, NOT_BESIDE
    path = Path(source)
    config = (path if os.path.isdir(path) else path.parent) / "adapter_config.json"
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
        words = ("alpha_pattern", "rank_pattern") if turns else ("alpha_pattern", "rank_pattern", "fan_in_fan_out")
        if said := [word for word in words if told.get(word)]:
            return kinds, f"the adapter_config.json beside the file has {' and '.join(said)}: no one number will do"
        root = told["r"] ** 0.5 if told.get("use_rslora") else told["r"]
        kinds["lora"] = float(told["lora_alpha"] / root)
    except FileNotFoundError:
        return kinds, NOT_BESIDE
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return kinds, UNTOLD
    return kinds, ""


def _refuse_long_names(checkpoint: Checkpoint) -> None:
    """Refuse more tensors, letters or segments than models have: each front and each end of names is compared.

    Raises:
        TransferError: With the first of them.
    """
    names = [spec.name for spec in checkpoint.specs]
    longest = max(names, key=len, default="")
    if len(longest) > _LONGEST_NAME:
        expected, found = f"names of at most {_LONGEST_NAME} letters", f"{len(longest):,}: {longest[:40]}.."
    elif len(names) > MOST_TENSORS:
        expected, found = f"at most {MOST_TENSORS:,} tensors", f"{len(names):,}"
    elif (segments := sum(name.count(".") + 1 for name in names)) > _MOST_SEGMENTS:
        expected, found = f"at most {_MOST_SEGMENTS:,} segments in all names", f"{segments:,}"
    else:
        return
    raise TransferError("the checkpoint has names that no model has", [Mismatch(checkpoint.name, expected, found)])


_LONGEST_NAME = 512
_MOST_SEGMENTS = 1_500_000


def _refuse_grown(specs: Sequence[Spec], path: Path) -> None:
    """Refuse tensors that are larger than their file, as views of one value are: they would be written out."""
    files = read_index(path) if path.name.endswith(".json") else [path]
    room = max(sum(file.stat().st_size for file in files), _SMALL)
    plain = [spec for spec in specs if " " not in spec.dtype]
    grown = [spec for spec in plain if spec.numel * getattr(torch, spec.dtype).itemsize > room]
    if grown:
        shapes = [f"{spec.dtype} {list(spec.shape)}" for spec in grown[:6]]
        expected, remedy = f"a tensor of at most {room:,} bytes", "torch.save(tensor.clone())      where it was made"
        faults = [Mismatch(spec.name, expected, shape, remedy) for spec, shape in zip(grown, shapes, strict=False)]
        raise SourceError(f"{len(grown)} tensors are larger than the file that holds them", faults)


_SMALL = 1 << 24
"""Bytes that a tensor may have in any file."""


def _from_shards(shards: Shards, path: Path) -> Checkpoint:
    specs = tuple(shards.specs())
    if not specs:
        raise TransferError("the file holds no tensors", [_no_tensors(path.name, "an empty file")])
    return Checkpoint(path.name, "", (), shards, specs)


def _from_ranks(tensors: Sharded, name: str, scope: str | None, targets: Sequence[Spec]) -> Checkpoint:
    """The state dict in a distributed checkpoint, found by the containers that its table of contents tells."""
    content: dict[str, Any] = {}
    for spec in tensors.specs():
        *containers, key = tensors.paths[spec.name]
        inner = content
        for container in containers:
            inner = inner.setdefault(container, {})
        inner[key] = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
    found = _unwrap(content, name, scope, targets, frozenset())
    front = tuple(found.container.split(".")) if found.container else ()
    names = {path[-1]: spec for spec, path in tensors.paths.items() if ".".join(path[:-1]) == ".".join(front)}
    return replace(found, tensors=tensors.renamed({spec.name: names[spec.name] for spec in found.specs}))


def _unwrap(content: Any, name: str, scope: str | None, targets: Sequence[Spec], storages: Set[int]) -> Checkpoint:
    if isinstance(content, nn.Module):
        content = dict(content.state_dict())
    found = dict(_containers(content))
    if not found:
        raise TransferError("there is no state dict", [_no_tensors(name, _describe(content))])
    path = _choose(found, scope, targets)
    _refuse_sharded(name, found[path])
    own = {key: _apart(value, storages) for key, value in found[path].items() if isinstance(value, Tensor)}
    tensors = _Memory(own)
    others = [f"{other or 'top level'} ({_count(found[other])} tensors)" for other in found if other != path]
    return Checkpoint(name, path, tuple(others), tensors, tuple(tensors.specs()))


def _refuse_sharded(name: str, container: Mapping[str, Any]) -> None:
    """A source whose tensors lie on several ranks would need all of them to be asked for each."""
    if any(is_sharded(value) for value in container.values()):
        remedy = 'torch.distributed.checkpoint.save(state, checkpoint_id="folder"), then transfer("folder", model)'
        raise TransferError("the source is sharded", [Mismatch(name, "whole tensors", "shards of tensors", remedy)])


def _apart(tensor: Tensor, storages: Set[int]) -> Tensor:
    """A tensor that writing to the model does not change."""
    dense = tensor.layout is torch.strided and not tensor.is_meta
    return tensor.detach().clone() if dense and tensor.untyped_storage().data_ptr() in storages else tensor


def _no_tensors(name: str, found: str) -> Mismatch:
    return Mismatch(name, "tensors under text keys", found, "transfer(model.state_dict(), ...)")


def _describe(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty dict"
    kinds = Counter(type(value).__name__ for value in content.values())
    keys = ", ".join(str(key) for key in list(content)[:6])
    return f"a dict of {', '.join(f'{n} {kind}' for kind, n in kinds.items())}: {keys}"


def _containers(
    content: Any, path: str = "", depth: int = 0, count: Iterator[int] | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings that hold tensors under text keys, by their dotted paths.

    Raises:
        TransferError: There are too many; dicts that hold each other can say more than any file has room for.
    """
    count = itertools.count(1) if count is None else count
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or depth > _DEPTH or not all(isinstance(key, str) for key in content):
        return
    if next(count) > _MOST_CONTAINERS:
        fault = Mismatch(path, f"at most {_MOST_CONTAINERS:,} containers", "more", "transfer(the state dict, ...)")
        raise TransferError("the checkpoint has too many containers", [fault])
    if _count(content):
        yield path, content
    for key, value in content.items():
        if not isinstance(value, Tensor):
            yield from _containers(value, f"{path}.{key}" if path else key, depth + 1, count)


def _count(container: Mapping[str, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in container.values())


def _choose(found: Mapping[str, Mapping[str, Any]], scope: str | None, targets: Sequence[Spec]) -> str:
    """The container that looks most like the model; the usual one first where several do."""
    if scope in found:
        return str(scope)
    named = [path for path in found if scope and path.rpartition(".")[2] == scope]
    if len(named) == 1:
        return named[0]
    wanted = Counter((spec.name.rpartition(".")[2], spec.shape) for spec in targets)
    likeness = {path: _likeness(container, wanted) for path, container in found.items()}
    return min(found, key=lambda path: (-likeness[path], *_preference(path)))


def _likeness(container: Mapping[str, Any], wanted: Counter[tuple[str, tuple[int, ...]]]) -> int:
    """Elements of a container that some tensor of the model could take, by last name and shape."""
    kinds = Counter(
        (name.rpartition(".")[2], _spec(name, value).shape)
        for name, value in container.items()
        if isinstance(value, Tensor)
    )
    return sum(min(count, wanted[kind]) * (torch.Size(kind[1]).numel() + 1) for kind, count in kinds.items())


def _preference(path: str) -> tuple[int, int]:
    last = path.rpartition(".")[2]
    rank = _PREFERENCE.index(last) if last in _PREFERENCE else len(_PREFERENCE)
    averaged = "ema" in path.lower()
    return (rank + len(_PREFERENCE) * averaged, path.count("."))


def refuse_scope(scope: str, checkpoint: Checkpoint) -> TransferError:
    """The error for a scope that is neither a container nor the front of a name."""
    fronts = dict.fromkeys(".".join(spec.name.split(".")[:depth]) for spec in checkpoint.specs for depth in (1, 2))
    containers = [checkpoint.container or "top level", *(entry.partition(" (")[0] for entry in checkpoint.also)]
    close = nearest(scope, [*containers, *fronts]) or [*fronts][:3]
    found = f"containers: {', '.join(containers)}"
    remedy = "\n".join(f'scope="{one}"' for one in close)
    fault = Mismatch(f'scope="{scope}"', "a container or the front of names", found, remedy)
    return TransferError("the scope matches nothing", [fault])
