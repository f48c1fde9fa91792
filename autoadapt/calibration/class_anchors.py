"""Class anchors: the map under which the old classifier answers as the new model's own one does, from weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autoadapt.calibration.judging import Head
from autoadapt.calibration.paired_runs import Pair, explained
from autoadapt.calibration.results import Calibration
from autoadapt.calibration.solvers import AffineMap
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import CalibrationError, Mismatch

_AFFINE = 1e-4
"""How far from affine a classifier may answer, in the largest of its answers."""
_SIDE = 3
"""Places along each axis of a map that a classifier is tried on."""
_WHOLE = 0.99
"""Share of the new classifier's weights below which a remark says what the old one can reach."""
_RANK = 1e-5
"""Directions of a classifier that are weaker than this share of its strongest are rounding."""

# Dimension letters: B answers, C channels of the new features, D of the old ones, K classes, P places.


@dataclass(frozen=True)
class ClassAnchor:
    """A map, and how far it goes."""

    map: AffineMap
    reached: float
    """Share of the new classifier's squared weights that the old one can say; less than 1 with few channels."""


def class_anchor(pair: Pair, head: Head | None, own_head: Head) -> ClassAnchor:
    """The affine map with which the old head's answers are nearest to those of the new model's own head.

    With `head(y) = y @ A_DK + a_K` and `own_head(x) = x @ B_CK + b_K` it is `(x @ B_CK + b_K - a_K) @ pinv(A_DK)`; what
    is the same for all classes is taken off first, since no answer depends on it, but for a single one. Needs no image.

    Args:
        pair: Old and new backbone, in no bigger model, with one projection for all places.
        head: The old classifier, of the adapted features.
        own_head: The new one, of the features that the projection reads.

    Raises:
        CalibrationError: There are several projections, or a head is not affine, or they know different classes, or the
            old classifier answers the same to everything.
    """
    projections = pair.projections
    one = projections[0]
    if head is None or pair.at or len(projections) > 1 or one.index + 1 < len(one.route.steps) or not one.step.bias:
        others = f"{len(projections)} projections, steps after the first" if one.step.bias else "one without offset"
        found = "no head of the backbone alone" if head is None or pair.at else others
        expected = "the old classifier as `head`, and one output that a projection makes"
        remedy = "calibrate(model.backbone, like=old.backbone, head=model.head, own_head=own_head, data=data)"
        fault = Mismatch("own_head", expected, found, remedy)
        raise CalibrationError("classifiers say nothing of these adapters", [fault])
    weight = next(pair.given.get_submodule(one.module).parameters())
    old = _Classifier(head, "head", one.route.specs[-1], one.step.target, one.step.form, weight)
    own = _Classifier(own_head, "own_head", one.route.specs[one.index], one.step.source, one.step.form, weight)
    old_DK, old_K, new_CK, new_K = old.weight_CK, old.offset_K, own.weight_CK, own.offset_K
    if len(old_K) != len(new_K):
        fault = Mismatch(
            "own_head", f"{len(old_K)} classes, as the old head has", str(len(new_K)), "leave own_head out"
        )
        raise CalibrationError("the classifiers know different classes", [fault])
    if not old_DK.any():
        fault = Mismatch("head", "answers that depend on the features", "the same to all of them", "leave own_head out")
        raise CalibrationError("the old classifier says nothing of these adapters", [fault])
    inverse_KD = torch.linalg.pinv(old_DK, rtol=_near(weight, _RANK))
    weight_CD = new_CK @ inverse_KD
    reached = float((weight_CD @ old_DK).square().sum() / new_CK.square().sum().clamp_min(1e-300))
    return ClassAnchor(AffineMap(weight_CD, (new_K - old_K) @ inverse_KD), reached)


def _near(weight: torch.Tensor, share: float) -> float:
    """A share that is rounding in double or single precision, or as much as is in lower ones."""
    return max(share, 4 * torch.finfo(weight.dtype).eps)


def from_classifiers(name: str, anchor: ClassAnchor) -> Calibration:
    """What there is to say of a map that no image had a say in."""
    far = f"the old classifier can say {anchor.reached:.0%} of what the new one's weights do: too few channels"
    return Calibration(
        name=name,
        written=True,
        verdict="written",
        solver="class anchors",
        chosen_by="no images were given",
        outputs=(),
        remarks=(
            "from the weights of both classifiers alone: nothing was run, and nothing is known of how good it is",
            *([far] if anchor.reached < _WHOLE else []),
        ),
        images=0,
        tokens=0,
        seconds=0.0,
        solver_seconds=0.0,
        bytes=0,
    )


class _Classifier:
    """A head that is affine in its features, found by what it answers.

    Attributes:
        weight_CK: Centred over classes.
        offset_K: The same.
    """

    def __init__(self, head: Head, name: str, spec: TensorSpec, channels: int, form: str, weight: torch.Tensor) -> None:
        self._head = head
        self._name = name
        self._axes = len(spec.dims) - 2
        self._is_conv = form == "conv"
        self._weight = weight
        generator = torch.Generator().manual_seed(0)
        drawn = [size * torch.randn(2, channels, generator=generator) for size in (1.0, 10.0)]
        given_BC = torch.cat([torch.zeros(1, channels), torch.eye(channels), *drawn])
        answers_BK = self._answers(given_BC[:, None], 1)
        self.offset_K, self.weight_CK = answers_BK[0], answers_BK[1 : channels + 1] - answers_BK[0]
        expected_BK = given_BC.double() @ self.weight_CK + self.offset_K
        self._check(answers_BK, expected_BK, "answers that are affine in the features, as of a linear layer")
        if self._axes:
            self._check_places(given_BC[-4:-2])
        if len(self.offset_K) > 1:  # else a score of its own
            self.weight_CK -= self.weight_CK.mean(1, keepdim=True)
            self.offset_K -= self.offset_K.mean()

    def _check_places(self, vectors_BC: torch.Tensor) -> None:
        """Whether answers to several places are a mean of those to each, whatever the weight of each is."""
        places = _SIDE**self._axes
        given_PBPC = torch.einsum("pq,bc->pbqc", torch.eye(places), vectors_BC)
        answers_PBK = (
            self._answers(given_PBPC.flatten(0, 1), _SIDE).reshape(places, len(vectors_BC), -1) - self.offset_K
        )
        alone_BK = vectors_BC.double() @ self.weight_CK
        shares_P = (answers_PBK * alone_BK).sum((1, 2)) / alone_BK.square().sum().clamp_min(1e-300)
        self._check(
            torch.cat([answers_PBK.flatten(0, 1), answers_PBK.sum(0)]),
            torch.cat([(shares_P[:, None, None] * alone_BK).flatten(0, 1), alone_BK]),
            "answers to a map that are a mean of those to its places",
        )

    def _answers(self, given_BPC: torch.Tensor, side: int) -> torch.Tensor:
        """What it says of so many places along each axis, `[B, K]`."""
        count, _, channels = given_BPC.shape
        places = [side] * self._axes
        given = given_BPC.reshape(count, *places, channels)
        given = given.movedim(-1, 1) if self._is_conv else given
        told = f"an answer on {channels} channels at {'one place' if side == 1 else f'{given_BPC.shape[1]} places'}"
        with torch.no_grad(), explained(self._name, told):
            answers = torch.as_tensor(self._head(given.to(self._weight)))
            return answers.double().cpu().reshape(count, -1)

    def _check(self, found: torch.Tensor, expected: torch.Tensor, wanted: str) -> None:
        gap = (found - expected).abs().max()
        if not bool(gap <= _near(self._weight, _AFFINE) * found.abs().max()):
            fault = Mismatch(self._name, wanted, f"{gap:.2g} away", "leave own_head out")
            raise CalibrationError("classifiers say nothing of these adapters", [fault])
