"""Asked: what a caller of `calibrate` or `distil` hands over, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.instances import is_whole
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.files.reading import first_line


def check_asked(
    verb: str,
    data: object,
    device: torch.device | str | None,
    augment: object,
    *,
    without_data: bool = False,
    **least: tuple[object, int],
) -> None:
    """Refuse data that are no batches, numbers that count nothing, and a device that is not there.

    Args:
        verb: Who is asked, for the error.
        data: The batches.
        device: Where to run.
        augment: Which images are to be made.
        without_data: Whether None will do for data.
        least: A number and the least that it may be, by the name of the argument.

    Raises:
        CalibrationError: All that is wrong, at once.
    """
    faults = [*(() if data is None and without_data else _of_data(data)), *_of_device(device), *_of_augment(augment)]
    for name, (value, low) in least.items():
        if not is_whole(value, low):
            remedy = f"{name}={low if low == 0 else 128}"
            faults.append(Mismatch(f"`{name}`", f"a whole number from {low}", repr(value)[:60], remedy))
    if faults:
        raise CalibrationError(f"{verb} does not take these arguments", faults)


def check_old(old: nn.Module, adapted: nn.Module) -> None:
    """Refuse an old model that holds the adapted module itself: its features would be fitted to themselves.

    Raises:
        CalibrationError: The old model is the new one.
    """
    if any(module is adapted for module in old.modules()):
        fault = Mismatch(
            "`like`", "the old model", "the adapted one itself", "like=old  # what was given to adapt(like=)"
        )
        raise CalibrationError("the adapted module would be fitted to itself", [fault])


def _of_data(data: Any) -> Iterator[Mismatch]:
    expected = "batches of images: a list of them, a DataLoader, a generator"
    if isinstance(data, torch.Tensor):
        yield Mismatch("`data`", expected, f"one tensor of {tuple(data.shape)}", "data=[images]")
    elif isinstance(data, (str, bytes)):
        remedy = "data=DataLoader(dataset, batch_size=16)  # of the images in that folder"
        yield Mismatch("`data`", expected, f"the text {data!r}"[:60], remedy)
    elif isinstance(data, (list, tuple)) and data and all(map(is_whole, data)):
        yield Mismatch("`data`", expected, f"the shape {tuple(data)}"[:60], "data=[images]")
    elif isinstance(data, dict) or not (isinstance(data, Iterable) or hasattr(data, "__getitem__")):
        found = "nothing, and no own_head=" if data is None else f"{repr(data)[:40]}, of type {type(data).__name__}"
        yield Mismatch("`data`", expected, found, "data=[images]")


def _of_augment(augment: object) -> Iterator[Mismatch]:
    if augment != "auto" and not (is_whole(augment) and augment == 0) and not callable(augment):
        yield Mismatch("`augment`", "auto, 0, or a function of a batch", repr(augment)[:60], 'augment="auto"')


def _of_device(device: torch.device | str | None) -> Iterator[Mismatch]:
    try:
        without_values = device is not None and torch.empty(0, device=device).is_meta
        said = "tensors without values" if without_values else ""
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError and others
        said = first_line(error)[:80] or type(error).__name__
    if said:
        yield Mismatch("`device`", "a device that is there", f"{device!r}: {said}", 'device="cpu"')
