"""A slot: a place in the model that takes a tensor, and what is known about it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.tensor_specs import Spec, is_sharded, parent
from autoadapt.weights.widths import JOINED


@dataclass(frozen=True)
class Slot:
    """One entry of the model's state dict.

    Args:
        spec: Its facts.
        tensor: The model's own storage, detached; of a sharded tensor the part that this rank holds.
        owner: The module that holds it; nothing where a state-dict hook made the name.
        parameter: Whether it is a parameter, not a buffer.
        shard: Where in the whole tensor this rank's part begins; nothing where it is whole.
        tied: The first name of the same tensor; empty for that first name itself.
    """

    spec: Spec
    tensor: Tensor
    owner: nn.Module | None
    parameter: bool
    tied: str = ""
    shard: tuple[int, ...] | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """What each axis is called."""
        return _axes(self.tensor.ndim, self.owner, self.spec.name)

    @property
    def groups(self) -> int:
        """Groups of its convolution; one elsewhere."""
        return self.owner.groups if isinstance(self.owner, _ConvNd) else 1

    @property
    def transposed(self) -> bool:
        """Whether it is the weight of a linear layer that lies as `[in, out]`: transformers' `Conv1D`, as in GPT-2."""
        return type(self.owner).__name__ == "Conv1D" and self.tensor.ndim == 2

    @property
    def patches(self) -> bool:
        """Whether it belongs to a convolution that sees each cell once: its stride is the size of its kernel."""
        layer = self.owner
        if not isinstance(layer, nn.Conv2d):
            return False
        return layer.stride == layer.kernel_size and set(layer.dilation) == {1}

    @property
    def has_memory(self) -> bool:
        """Whether it is dense and not on the meta device."""
        return self.tensor.layout is torch.strided and not self.tensor.is_meta


def model_slots(model: nn.Module) -> dict[str, Slot]:
    """The slots of a model, by name, in the order of its state dict.

    Raises:
        TransferError: If the model has no tensors, or lazy layers that have not seen an input.
    """
    entries = {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    lazy = [name for name, tensor in entries.items() if is_lazy(tensor)]
    if lazy:
        fault = Mismatch(", ".join(lazy[:3]), "a shape", "a lazy layer that has seen no input", "model(inputs)")
        raise TransferError("the model has no shapes yet", [fault])
    if not entries:
        fault = Mismatch("model", "parameters or buffers", f"{type(model).__name__} with none")
        raise TransferError("the model holds no tensors", [fault])
    modules = dict(model.named_modules())
    first: dict[object, str] = {}
    slots = {}
    for name, tensor in entries.items():
        owner = first.setdefault(_place(name, tensor), name)
        slots[name] = Slot(
            Spec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")),
            _local(tensor).detach(),
            modules.get(parent(name)),
            isinstance(tensor, nn.Parameter),
            owner if owner != name else "",
            _offsets(name, tensor),
        )
    return slots


def _place(name: str, tensor: Tensor) -> object:
    """What two names of one tensor have in common."""
    if is_sharded(tensor):
        return id(tensor)
    if tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return name
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def _local(tensor: Any) -> Tensor:
    """What this rank holds of a tensor."""
    held: Tensor = tensor._local_tensor if is_sharded(tensor) else tensor
    return held


def _offsets(name: str, tensor: Any) -> tuple[int, ...] | None:
    """Where a rank's part of a tensor begins.

    Raises:
        TransferError: If it is no block of the whole.
    """
    if not is_sharded(tensor):
        return None
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if not all(type(placement) in (Replicate, Shard) for placement in tensor.placements):
        found = ", ".join(map(str, tensor.placements))
        raise TransferError("a sharded tensor cannot be written to", [Mismatch(name, "a block on each rank", found)])
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    if tuple(shape) != tuple(tensor._local_tensor.shape):
        fault = Mismatch(name, f"{list(shape)} on this rank", f"{list(tensor._local_tensor.shape)}")
        raise TransferError("a sharded tensor cannot be written to", [fault])
    return tuple(offsets)


def _axes(count: int, module: nn.Module | None, name: str) -> tuple[str, ...]:
    spatial = ("depth", "height", "width")[-max(count - 2, 0) :] if 2 < count <= 5 else ()
    output = JOINED if _is_joined(module, name) else "output"
    match module:
        case _ConvTransposeNd() if count > 2:
            return ("input", "output", *spatial)
        case nn.Embedding():
            return ("entry", "channel")
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() | nn.Linear() if count >= 2:
            return (output, "input", *spatial)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() | nn.Linear() | _ConvTransposeNd() if count == 1:
            return (output,)
        case _ if output == JOINED and count in (1, 2):
            transposed = type(module).__name__ == "Conv1D"  # of transformers
            return ("input", output)[2 - count :] if transposed else (output, "input")[:count]
        case _ if count == 1:
            return ("channel",)
        case _ if "pos" in name and count == 3:
            return ("batch", "token", "channel")
    ordinals = ("first", "second", "third", "fourth", "fifth", *(f"{axis}th" for axis in range(6, count + 1)))
    return ordinals[:count]


def _is_joined(module: nn.Module | None, name: str) -> bool:
    """Whether the outputs are those of several layers: q, k and v, the gates of a recurrent layer."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return not isinstance(module, (nn.RNN, nn.RNNCell)) and "_hr_" not in name
    return bool(_JOINED.search(name))


_JOINED = re.compile(
    r"(^|\.)((q?kv|gate_up)(_proj)?|to_q?kv|Wq?kv|c_attn|query_key_value|w12|w13)\.(weight|bias)$|(^|\.)in_proj_(weight|bias)$"
)


def refuse_unwritable(model: nn.Module, slots: Iterable[Slot]) -> None:
    """Make sure that every slot takes a copy, before any does.

    Raises:
        TransferError: With every slot that does not.
    """
    again = model.state_dict(keep_vars=True)
    slots = list(slots)
    names = [slot.spec.name for slot in slots if slot.tensor.is_meta]
    empty = [Mismatch(name, "memory", "the meta device", _with_memory(model)) for name in names]
    faults = empty or [fault for slot in slots if (fault := _fault(slot, again[slot.spec.name])) is not None]
    if faults := faults or _overlaps(slots):
        raise TransferError("the model cannot be written to", faults[:10])


def _with_memory(model: nn.Module) -> str:
    """What to do with a model on the meta device, with what neither `to_empty` nor a file puts right."""
    names = model.state_dict().keys()
    left = [name for name, _ in model.named_buffers() if name not in names]
    tied = len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
    anew = [f"make {', '.join(left[:3])}{' and more' * (len(left) > 3)} anew, which no file holds"] if left else []
    again = ["tie again what is tied"] if tied else []
    return "; ".join(['model.to_empty(device="cpu")', *anew, *again])


def _fault(slot: Slot, again: Tensor) -> Mismatch | None:
    tensor, name = slot.tensor, slot.spec.name
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return Mismatch(name, "a dense tensor", str(tensor.layout).removeprefix("torch."))
    if tensor.is_inference():
        remedy = "model = copy.deepcopy(model)"
        return Mismatch(name, "a tensor made outside inference mode", "an inference tensor", remedy)
    if type(tensor) is not Tensor:
        return Mismatch(name, "a plain tensor", type(tensor).__name__, "load before sharding or quantising")
    if not tensor.is_contiguous() and any(s == 0 and n > 1 for n, s in zip(tensor.shape, tensor.stride(), strict=True)):
        return Mismatch(name, "a place for each element", "an expanded tensor", "tensor.clone()")
    if _local(again).data_ptr() != tensor.data_ptr():
        return Mismatch(name, "a tensor of the model", "a copy made by a state-dict hook")
    return None


def _overlaps(slots: list[Slot]) -> list[Mismatch]:
    """Slots that share memory in part: writing one would change another."""
    by_storage: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for slot in slots:
        if not slot.tied and slot.tensor.numel() and not slot.tensor.is_meta:
            start, storage = slot.tensor.data_ptr(), slot.tensor.untyped_storage().data_ptr()
            by_storage[storage].append((start, start + _reach(slot.tensor), slot.spec.name))
    faults = []
    for spans in by_storage.values():
        spans.sort()
        faults += [
            Mismatch(f"{a[2]} and {b[2]}", "memory of their own", "memory shared in part", f'exclude=["{b[2]}"]')
            for a, b in pairwise(spans)
            if b[0] < a[1]
        ]
    return faults


def _reach(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    if tensor.is_contiguous():
        return tensor.nbytes
    return (sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1) * tensor.element_size()
