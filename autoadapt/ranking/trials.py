"""Trials: one candidate put in the old backbone's place, weighed and, where there are images, calibrated."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Fit
from autoadapt.calibration import calibrate
from autoadapt.calibration.judging import Head
from autoadapt.contracts.capturing import Resolution
from autoadapt.contracts.costs import Cost, cost_of, cost_without_values
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.views import copy_module, on_meta
from autoadapt.errors import AdaptError
from autoadapt.files.reading import one_line
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.image_batches import Batch, HeldOutImages, first_of
from autoadapt.ranking.results import Ranked


@dataclass(frozen=True)
class Place:
    """Where the candidates are to stand, and what they are tried on.

    Attributes:
        signature: What they must speak.
        inputs: An example call.
        old: The old backbone, which calibration needs.
        fitted: Images to calibrate on; none without data.
        head: What makes the answer of the backbone's output.
        held_out: Images that the head judges on; None where there is no head.
        pretrained: Whether zoos give their published weights.
        allow: Packages and files whose code may run.
        seed: For random weights and the choice of images.
        resolution: How candidates that were built for one image size read images.
        fit: How images get a size that they take.
        threads: Of torch, in each process that tries candidates.
        weightless: Whether nothing is run but plan and cost are told, on the meta device; nothing is downloaded.
    """

    signature: Signature
    inputs: object
    old: nn.Module | None
    fitted: Sequence[Batch]
    head: Head | None
    held_out: HeldOutImages | None
    pretrained: bool
    allow: Sequence[str | Path]
    seed: int
    resolution: Resolution | None = None
    fit: Fit | None = None
    threads: int = 1
    weightless: bool = False

    @property
    def images(self) -> int:
        """How many there are to calibrate on."""
        return sum(batch.images for batch in self.fitted)

    def of(self, images: int) -> Place:
        """The same place with the first images only to calibrate on; without any, weightless."""
        if not images:
            return replace(self, fitted=(), head=None, held_out=None, old=None, weightless=True)
        return replace(self, fitted=first_of(self.fitted, images))


def tried(candidate: Candidate, place: Place) -> Ranked:
    """What a candidate costs and how well it serves; whatever it raises but Ctrl-C is why it is not ranked."""
    started = time.perf_counter()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(place.seed)
            row = _weighed(candidate, place)
    except AdaptError as error:
        row = refused(candidate, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script that ends itself, or a fault in Rust, would end the caller
        row = Ranked(source=candidate.name, refused=one_line(error))
    finally:
        gc.collect()  # modules are cycles of references, and there are many of them to come
    return row.model_copy(update={"took": time.perf_counter() - started})


def _weighed(candidate: Candidate, place: Place) -> Ranked:
    if not place.weightless:
        module = candidate.module(pretrained=place.pretrained, allow=place.allow)
        net, row = _adapted(module, place, cost_of)
        return row.model_copy(update={"source": candidate.name} | (_judged(net, place) if place.fitted else {}))
    try:
        with torch.device("meta") if isinstance(candidate.what, str) else contextlib.nullcontext():
            module = candidate.module(pretrained=False, allow=place.allow)
        _, row = _adapted(copy_module(module, on_meta), place, cost_without_values)
    except Exception:  # be it code that looks at values; random weights will do for that
        _, row = _adapted(candidate.module(pretrained=False, allow=place.allow), place, cost_of)
    return row.model_copy(update={"source": candidate.name})


def _adapted(
    module: nn.Module, place: Place, told: Callable[[nn.Module, object], Cost]
) -> tuple[AdaptedModule, Ranked]:
    """A candidate in the old backbone's place, and what it costs there, in a row without a name."""
    project: Any = "always" if place.fitted or place.weightless else "needed"
    reading: Any = {"resolution": place.resolution, "fit": place.fit}
    net = adapt(module, like=place.signature, inputs=place.inputs, project=project, **reading)
    cost = told(net, place.inputs)
    return net, Ranked(
        source="",
        parameters=_count(net.get_submodule("backbone")),
        kept=None if net.plan.kept is None else net.plan.kept.share,
        adapter_parameters=_count(net.adapters),
        images=place.images,
        **cost.model_dump(),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _judged(net: AdaptedModule, place: Place) -> dict[str, Any]:
    """How well the calibrated candidate serves, as fields of its row."""
    assert place.old is not None, "checked at the door"
    data = [batch.arguments for batch in place.fitted]
    found = calibrate(net, like=place.old, data=data, head=place.head, images=place.images, augment=0, seed=place.seed)
    fields: dict[str, Any] = {"r2": fmean(fit.r2 for fit in found.outputs), "fitted": found.written}
    if not found.written:
        fields["remark"] = f"no use: {found.verdict.partition(': ')[2]}"
    if place.held_out is not None:
        fields["divergence"], fields["agreement"] = place.held_out.score(in_eval_mode(net))
    return fields


def refused(candidate: Candidate, error: AdaptError) -> Ranked:
    """The row of a candidate that is not ranked, with the first fault."""
    first = next(iter(error.mismatches), None)
    if first is None:
        return Ranked(source=candidate.name, refused=error.summary)
    said = f"{error.summary}: expected {first.expected}, found {first.found}".replace("\n", " ")
    return Ranked(source=candidate.name, refused=said, remedy=first.remedy)
