"""Dealing: which images are whose, where several workers pass over one set of them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, DistributedSampler

from autoadapt.calibration import workers
from autoadapt.calibration.sharded import whole
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.errors import CalibrationError, Mismatch

COME_OTHERWISE = (
    "images do not come as in the run before, in another order or changed at random: some may count twice, others not"
)


def dealt(data: Iterable[object], images: int) -> int:
    """How many images there are, at most so many: `DistributedSampler` repeats some so that all workers have as many.

    Raises:
        CalibrationError: It deals to others than the workers that there are.
    """
    sampler = getattr(data.batch_sampler, "sampler", data.sampler) if isinstance(data, DataLoader) else None
    if not isinstance(sampler, DistributedSampler):
        return images
    found, expected = (sampler.num_replicas, sampler.rank), (workers.count(), workers.number())
    if found != expected:
        told = "a DistributedSampler for process {1} of {0}"
        remedy = "sampler=DistributedSampler(dataset)  # after init_process_group"
        fault = Mismatch("data", told.format(*expected), told.format(*found), remedy)
        raise CalibrationError("the images are dealt to other processes than these", [fault])
    return min(images, len(sampler.dataset))  # type: ignore[arg-type]


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """Of the values of an image or a batch, to see whether it is the same."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().data, found)
    return found


def rows_of(call: Arguments) -> int | None:
    """The size of axis 0 of all tensors of a call; None where they differ or stand in containers."""
    sizes = {value.shape[:1] for value in call.values.values() if isinstance(value, torch.Tensor)}
    contained = any(isinstance(value, (list, tuple, Mapping)) for value in call.values.values())
    return None if contained or len(sizes) != 1 else next((size[0] for size in sizes if size), None)


def refuse_another(number: int, found: int, expected: int) -> None:
    """Refuse an image that is not the one of that number which a run of before counted.

    Raises:
        CalibrationError: It is not.
    """
    if found != expected:
        remedy = "start as many processes as before, or delete the files of state="
        fault = Mismatch(f"image {number}", "the one that was counted under that number", "another", remedy)
        raise CalibrationError("the images do not come as in the run before", [fault])


def facts_of(option: object) -> object:
    """What of an option has to be the same on every process: the weights of a module, the name of a function."""
    if isinstance(option, nn.Module):
        tensors = [one for one in option.state_dict().values() if isinstance(one, torch.Tensor)]
        return [type(option).__qualname__, *(sum_of_bits(whole(one)) for one in tensors if not is_lazy(one))]
    return getattr(option, "__qualname__", None) or (type(option).__qualname__ if callable(option) else repr(option))


def sum_of_bits(tensor: torch.Tensor) -> int:
    """The sum of its elements read as whole numbers: the same on every machine, whatever the order of summing."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.int64)
    dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    return int(dense.contiguous().flatten().view(kind).sum())


def refuse_unlike(fingerprint: str) -> None:
    """Refuse processes whose models or options are not the same: their sums would be of no model at all.

    Raises:
        CalibrationError: The fingerprints of two processes differ.
    """
    every = workers.gathered({workers.number(): fingerprint})
    others = [worker for worker, one in every.items() if one != every[0]]
    if others:
        found = f"others on process {', '.join(map(str, sorted(others)))} than on process 0"
        remedy = "the same weights and arguments on all: torch.manual_seed(0) before models are made at random"
        fault = Mismatch("net, like and options", "the same on every process", found, remedy)
        raise CalibrationError("the processes do not calibrate the same models", [fault])


def shared_images(counted: Mapping[int, int]) -> str:
    """What to say of images that came to several workers.

    Args:
        counted: A checksum of each image that this worker counted, by its number.

    Raises:
        CalibrationError: All of them did.
    """
    if workers.count() == 1:
        return ""
    every: dict[int, Any] = workers.gathered({workers.number(): set(counted.values())})
    times = Counter(image for images in every.values() for image in images)
    shared = sum(count > 1 for count in times.values())
    if shared and shared == len(times):
        remedy = "DataLoader(dataset, sampler=DistributedSampler(dataset), batch_size=16)"
        fault = Mismatch("data", "images of its own for each process", "the same ones for several", remedy)
        raise CalibrationError("every process passes over the same images", [fault])
    return f"{shared} images came to several processes, and count each time" if shared else ""
