"""Calibrating: models by name, pictures of a folder, adapters into a file; the body of the command."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.building import AdaptedModule
from autoadapt.calibration import Calibration, calibrate
from autoadapt.calibration.refining import Refine
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.errors import AdaptError, CalibrationError, Mismatch
from autoadapt.files.writing import check_place, write_file
from autoadapt.sources import allowed_by_typing, load, load_backbone, load_object, published
from autoadapt.sources.images import preprocessing_of, read_images
from autoadapt.swapping import swap
from autoadapt.weights import transfer

__all__ = ["calibrate_command"]

ENDING = ".safetensors"
COVERAGE = 0.99
"""Share of a model's parameters that its weights file must have."""


def calibrate_command(
    new: str,
    *,
    like: str,
    images: Path,
    at: str = "",
    head: str = "",
    count: int = 128,
    batch: int = 16,
    refine: Refine = 0,
    augment: bool = True,
    pretrained: bool = True,
    new_weights: Path | None = None,
    like_weights: Path | None = None,
    out: Path | None = None,
    seed: int = 0,
    allow: Sequence[str] = (),
    told: Callable[[Calibration], None] = lambda result: None,
) -> Calibration:
    """Adapt one model to another, calibrate it on unlabelled images, and save the adapters.

    Python paths are taken as permission to run their package or file: who types one means it.

    Args:
        new: The new backbone: `timm:resnet18`, or `package.module:function` or `file.py:function`.
        like: The old backbone; with `at` the bigger model that it is part of.
        images: A folder of pictures, or a file; pictures are preprocessed as the old model's zoo tells.
        at: Path of the old backbone in the bigger model, the rest of which is the head.
        head: `package.module:function` or `file.py:function` of what makes the head, where there is no bigger model.
        count: At most so many images.
        batch: Images at a time.
        refine: Steps on the head after the closed form; `auto` decides how many.
        augment: Whether to make images where there are few.
        pretrained: Whether to take published weights where no file is given.
        new_weights: A file of weights for the new model.
        like_weights: A file of weights for the old one.
        out: Where the calibrated adapters go: `net.load_state_dict(load_file(out), strict=False)` puts them back into
            a module adapted alike. Nothing is written if the calibration did not succeed.
        seed: For the choice of images and the weights that calibration replaces.
        allow: Packages and files whose code may run, besides those that are typed.
        told: Called with the result before anything is written, which may fail.

    Returns:
        What was fitted, and how good it is.

    Raises:
        AdaptError: As of the steps; nothing is written.
    """
    _check(images, out)
    old = _loaded(like, like_weights, pretrained, allow, whole=bool(at))
    backbone = _loaded(new, new_weights, pretrained, allow)
    made = _head(head, allow)
    preprocessing = preprocessing_of(old, like)
    batches = read_images(images, preprocessing, count=count, batch=batch, seed=seed)
    example = torch.zeros(batches.shape)[:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module
        if at:
            net = swap(copy.deepcopy(old), at, backbone, inputs=example, project="always", allow_cost=True)
        else:
            net = adapt(backbone, like=old, inputs=example, project="always")
        result = calibrate(
            net,
            like=old,
            data=batches,
            at=at or None,
            head=made,
            images=count,
            refine=refine,
            augment="auto" if augment else 0,
            seed=seed,
        )
    result = result.model_copy(update={"remarks": (*result.remarks, str(preprocessing), *batches.remarks())})
    told(result)
    if out is not None and result.written:
        _save(net.get_submodule(at), out, {"new": new, "like": like, "at": at, "solver": result.solver})
    return result


def _check(images: Path, out: Path | None) -> None:
    """What can be told before anything is loaded."""
    faults = []
    if not os.path.exists(images):
        faults.append(Mismatch("images", "a folder of pictures, or a .npy or .safetensors file", f"no {images}"))
    if out is not None and out.suffix != ENDING:
        faults.append(Mismatch("out", f"a file ending in {ENDING}", str(out), str(out.with_suffix(ENDING))))
    if out is not None and not faults:
        try:
            check_place(out, "out")
        except AdaptError as error:
            faults += error.mismatches
    if faults:
        raise CalibrationError("the call cannot be carried out", faults)


def _loaded(
    source: str, weights: Path | None, pretrained: bool, allow: Sequence[str], *, whole: bool = False
) -> nn.Module:
    taken = pretrained and weights is None and published(source)
    model = (load if whole else load_backbone)(source, pretrained=taken, allow=[*allowed_by_typing(source), *allow])
    if weights is not None:
        transfer(weights, model, min_coverage=COVERAGE).raise_if_failed()
    return in_eval_mode(model)


def _head(source: str, allow: Sequence[str]) -> nn.Module | None:
    if not source:
        return None
    named = load_object(source, [*allowed_by_typing(source), *allow])
    made = named if isinstance(named, nn.Module) else named()
    if not isinstance(made, nn.Module):
        found = f"{type(made).__name__} of {source}"
        fault = Mismatch("head", "a torch.nn.Module, or a function that makes one", found, "return the module")
        raise CalibrationError("the head is no module", [fault])
    return made


def _save(net: nn.Module, out: Path, facts: dict[str, str]) -> None:
    assert isinstance(net, AdaptedModule), "calibrated as one"
    tensors = {f"adapters.{name}": tensor.contiguous() for name, tensor in net.adapters.state_dict().items()}
    write_file(out, lambda made: save_file(tensors, made, {"format": "pt", "autoadapt": json.dumps(facts)}))
