"""Class anchors: the map under which the old classifier answers as the new model's own one does, from weights alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoadapt.calibration.judging import Head
from autoadapt.calibration.paired_runs import explained
from autoadapt.calibration.projections import Projection
from autoadapt.calibration.results import Calibration
from autoadapt.calibration.solvers import AffineMap
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import CalibrationError, Mismatch

__all__ = ["class_anchor", "from_classifiers"]

_AFFINE = 1e-4
"""How far from affine a classifier may answer, in the largest of its answers."""
_RANK = 1e-5
"""Directions of a classifier that are weaker than this share of its strongest are rounding."""

# Dimension letters: C channels of the new features, D of the old ones, K classes.


def class_anchor(
    projections: Sequence[Projection], head: Head | None, own_head: Head, weight: torch.Tensor
) -> AffineMap:
    """The affine map with which the old head's answers are nearest to those of the new model's own head.

    With `head(y) = y @ A_DK + a_K` and `own_head(x) = x @ B_CK + b_K` it is `(x @ B_CK + b_K - a_K) @ pinv(A_DK)`; what
    is the same for all classes is taken off first, since no answer depends on it, but for a single one. Needs no image.

    Args:
        projections: Of which there must be one, for all places.
        head: The old classifier, of the adapted features.
        own_head: The new one, of the features that the projection reads.
        weight: Of the projection: features are of its dtype, on its device.

    Raises:
        CalibrationError: There are several projections, or a head is not affine, or they know different classes, or the
            old classifier answers the same to everything.
    """
    one = projections[0]
    if head is None or len(projections) > 1 or one.index + 1 < len(one.route.steps) or not one.step.bias:
        others = f"{len(projections)} projections, steps after the first" if one.step.bias else "one without offset"
        found = "no head of the backbone alone" if head is None else others
        expected = "the old classifier as `head`, and one output that a projection makes"
        remedy = "calibrate(model.backbone, like=old.backbone, head=model.head, own_head=own_head, data=data)"
        fault = Mismatch("own_head", expected, found, remedy)
        raise CalibrationError("classifiers say nothing of these adapters", [fault])
    old_DK, old_K = _affine(head, "head", one.route.specs[-1], one.step.target, one.step.form, weight)
    spec = one.route.specs[one.index]
    new_CK, new_K = _affine(own_head, "own_head", spec, one.step.source, one.step.form, weight)
    if len(old_K) != len(new_K):
        fault = Mismatch(
            "own_head", f"{len(old_K)} classes, as the old head has", str(len(new_K)), "leave own_head out"
        )
        raise CalibrationError("the classifiers know different classes", [fault])
    if not old_DK.any():
        fault = Mismatch("head", "answers that depend on the features", "the same to all of them", "leave own_head out")
        raise CalibrationError("the old classifier says nothing of these adapters", [fault])
    inverse_KD = torch.linalg.pinv(old_DK, rtol=_near(weight, _RANK))
    return AffineMap(new_CK @ inverse_KD, (new_K - old_K) @ inverse_KD)


def _near(weight: torch.Tensor, share: float) -> float:
    """A share that is rounding in double or single precision, or as much as is in lower ones."""
    return max(share, 4 * torch.finfo(weight.dtype).eps)


def from_classifiers(name: str) -> Calibration:
    """What there is to say of a map that no image had a say in."""
    return Calibration(
        name=name,
        written=True,
        verdict="written",
        solver="class anchors",
        chosen_by="no images were given",
        outputs=(),
        remarks=(
            "from the weights of both classifiers alone: nothing was run, and nothing is known of how good it is",
        ),
        images=0,
        tokens=0,
        seconds=0.0,
        solver_seconds=0.0,
        bytes=0,
    )


def _affine(
    head: Head, name: str, spec: TensorSpec, channels: int, form: str, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and offset of a head, found by what it answers to one channel after the other; centred over classes."""
    generator = torch.Generator().manual_seed(0)
    given = torch.cat([torch.zeros(1, channels), torch.eye(channels), torch.rand(2, channels, generator=generator)])
    shape = (
        (-1, channels, *[1] * (len(spec.dims) - 2)) if form == "conv" else (-1, *[1] * (len(spec.dims) - 2), channels)
    )
    with torch.no_grad(), explained(name, f"an answer on {channels} channels at one place"):
        answers = torch.as_tensor(head(given.reshape(shape).to(weight))).double().cpu().reshape(len(given), -1)
    offset_K, weight_CK = answers[0], answers[1:-2] - answers[0]
    gap = (given[-2:].double() @ weight_CK + offset_K - answers[-2:]).abs().max()
    if not bool(gap <= _near(weight, _AFFINE) * answers.abs().max()):
        fault = Mismatch(
            name,
            "answers that are affine in the features, as of a linear layer",
            f"{gap:.2g} away",
            "leave own_head out",
        )
        raise CalibrationError("classifiers say nothing of these adapters", [fault])
    if len(offset_K) == 1:  # a score of its own
        return weight_CK, offset_K
    return weight_CK - weight_CK.mean(1, keepdim=True), offset_K - offset_K.mean()
