"""Calibrations: adapters fitted in closed form, without labels, so that the old head keeps working."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from autoadapt.adapting.building import mark_calibrated
from autoadapt.calibration import workers
from autoadapt.calibration.asked import check_asked
from autoadapt.calibration.choosing import Solver
from autoadapt.calibration.class_anchors import class_anchor, from_classifiers
from autoadapt.calibration.dealing import facts_of, refuse_unlike
from autoadapt.calibration.deciding import Deciding, Outcome
from autoadapt.calibration.gathering import Gathering
from autoadapt.calibration.judging import Head, Loss, copied_head
from autoadapt.calibration.made_images import Augment
from autoadapt.calibration.paired_runs import Pair, pair_of
from autoadapt.calibration.progress_bars import progress
from autoadapt.calibration.projections import set_weights
from autoadapt.calibration.refining import Refine, steps_of
from autoadapt.calibration.results import Calibration
from autoadapt.calibration.samples import REPORTED
from autoadapt.calibration.solvers import Recipe
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.unfit import off_the_meta_device
from autoadapt.errors import CalibrationError
from autoadapt.files.writing import check_place


def calibrate(
    net: nn.Module,
    *,
    like: nn.Module | str,
    data: Iterable[object] | None,
    head: Head | None = None,
    own_head: Head | None = None,
    at: RegionPath | None = None,
    loss: Loss | None = None,
    images: int = 128,
    tokens_per_image: int = 256,
    solver: Solver | Recipe = "auto",
    refine: Refine = 0,
    augment: Augment = "auto",
    device: torch.device | str | None = None,
    seed: int = 0,
    state: str | Path | None = None,
) -> Calibration:
    """Fit the adapters of a swapped backbone, so that what follows it sees the features that it was trained on.

    Old and new run once over unlabelled images; each projection becomes the affine map that brings the new features
    nearest to the old ones. Of several closed forms the one is taken with which the head answers most like before, on
    images that were not fitted on. The adapters are written at the end and only if the result beats random adapters
    and the mean of the old features; else they are set to that mean, if a head answers better with it than with them as
    they are, or left alone. Nothing else is ever changed.

    Under `torch.distributed` every process passes over its own part of the images (the j-th of process r counts as
    number `j * processes + r`, as `DistributedSampler` deals them) and all write the same weights. Modules sharded by
    FSDP2 are run as they are, in eval mode.

    Args:
        net: What `adapt` returned, or a bigger model that has it at `at`.
        like: The old backbone, or the old bigger model; or the name of a backbone, `timm:resnet18`, which is loaded
            with its published weights.
        data: Batches of images as the model takes them: tensors, tuples or dicts; of dicts, and of the lists that a
            `DataLoader` gives, only the fields that the model needs are taken. None, where `own_head` says enough.
        head: What makes the answer of the backbone's output. In a bigger model the rest of it is the head, and this
            comes after. Modules run as copies in eval mode, also those that a function names.
        own_head: The new model's own classifier, of the same classes in the same order, where both it and `head` are
            affine in the features: with the one after the map the answers are those of the other, as far as that can
            be. `auto` tries that map as well; with `data=None` it is written as it is, and nothing is judged.
        at: Path of the adapted module in a bigger model, or the region in whose place it stands.
        loss: How far a head's answer is from the old one, `loss(found, expected)`, where that is neither the
            divergence of logits nor the overlap of a detector's boxes. Judged on one image after the other.
        images: At most so many are looked at.
        tokens_per_image: At most so many places of each image, chosen by chance.
        solver: `auto`, or one family: `least_squares`, `ridge`, `restored` (ridge with the variance restored),
            `procrustes`, `anchored` (ridge towards procrustes), `coloured` (that with the covariance restored, of at
            most 512 channels), `reduced_rank`; or the one `Recipe` to take.
        refine: At most so many steps on the head's loss after the closed form, adapters only, over minibatches of all
            images that fit into 128 MiB: of the whole maps, or of nothing but the scales of their channels, whichever
            is better for held-out images, and as many as are; none where these gain no more than chance would give.
            `auto` takes at most 64, or 512 of whole maps where after these the loss still falls, and gives up where a
            first part of the images gains nothing.
        augment: `auto` makes images until there are 1,024, of which those that differ count: at most 768 mixes of them
            (other colours, turned, cropped, mosaics, patches of others), and where there are fewer than 256 as many
            pictures out of nothing as are missing; of waveforms shifts, other speeds and sums. Up to 1,024 forward
            passes of both, that is; fitted on only where that is better for images held out, and nothing is ever judged
            on them. 0 makes none. A function makes them of a batch as the model takes it, all of whose images are of
            one fold: `augment=lambda images: images.flip(-1)`.
        device: Where to run; where the model is, if left out.
        seed: For the choice of places and images, and the random floor.
        state: A `.safetensors` file to go on from if it exists, and to write to now and then; each of several
            processes writes one beside it, and another number of them goes on from these.

    Returns:
        What was fitted and how good it is on images that it was not fitted on.

    Raises:
        CalibrationError: Every weight is bit for bit as it was.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> old, new = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 12, 2, stride=2)
        >>> net = adapt(new, like=old, inputs=torch.zeros(1, 3, 8, 8))
        >>> found = calibrate(net, like=old, data=[torch.randn(8, 3, 8, 8)])
        >>> found.written, round(found.outputs[0].r2, 6)
        (True, 1.0)
    """
    started = time.perf_counter()
    if state is not None:
        check_place(state, "state", CalibrationError)
    check_module(net, "net", CalibrationError)
    asked = [facts_of(one) for one in (head, own_head, loss, solver, refine)] if workers.count() > 1 else []
    numbers = {"images": (images, 1), "tokens_per_image": (tokens_per_image, 1), "refine": (steps_of(refine), 0)}
    check_asked("calibrate", data, device, augment, without_data=own_head is not None, **numbers)
    with quiet(), off_the_meta_device(), progress(images) as report, workers.together():
        pair = pair_of(net, like, at, device)
        head, own_head = (None if one is None else copied_head(one) for one in (head, own_head))
        anchor = None if own_head is None else class_anchor(pair, head, own_head)
        if data is None:
            assert anchor is not None, "asked for without data"
            outcome = Outcome([anchor.map], from_classifiers(pair.plan.source.name, anchor))
        else:
            gathering = Gathering(
                pair,
                head,
                keeps_images=head is not None or bool(pair.at),
                tokens_per_image=tokens_per_image,
                images=images,
                seed=seed,
                augment=augment,
                kept=max(images, REPORTED) if refine else REPORTED,
            )
            refuse_unlike(str(asked))
            gathered = gathering.run(data, None if state is None else Path(state), report)
            class_map = None if anchor is None else anchor.map
            outcome = Deciding(pair, gathering, head, loss, seed, report, class_map).decide(gathered, solver, refine)
        _write(outcome, pair)
    return outcome.result.model_copy(update={"seconds": time.perf_counter() - started})


def _write(outcome: Outcome, pair: Pair) -> None:
    """Write maps into the layers of the caller's adapted module, or none of them."""
    paths = [projection.module for projection in pair.projections]
    if outcome.maps:
        layers = [pair.given.get_submodule(path) for path in paths]
        written = [(made.weight_CD, made.bias_D) for made in outcome.maps]
        set_weights(layers, written, [projection.place for projection in pair.projections])
    if outcome.result.written:
        mark_calibrated(pair.given, paths)
