"""Rankings: candidate after candidate in the old backbone's place; the order of the steps."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.adapting.planning import Fit
from autoadapt.adapting.planning.plans import one_sample
from autoadapt.calibration.judging import Head
from autoadapt.contracts.capturing import Arguments, Resolution, told_inputs
from autoadapt.contracts.capturing.arguments import meta_call
from autoadapt.contracts.signature import Signature, describe, dtype_name
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch, RankingError
from autoadapt.errors.given import check_callable
from autoadapt.files.writing import check_place
from autoadapt.ranking.candidates import Candidate, Candidates, find_candidates
from autoadapt.ranking.engines import Engine, find_engine
from autoadapt.ranking.fingerprints import of_module, of_tensors
from autoadapt.ranking.image_batches import Batch, HeldOutImages, gathered, split
from autoadapt.ranking.journals import Journal
from autoadapt.ranking.results import Ranked, Ranking
from autoadapt.ranking.rounds import carried_out
from autoadapt.ranking.rungs import Clock, better, rungs
from autoadapt.ranking.trials import Place
from autoadapt.showing.progress import Tell, telling
from autoadapt.sources import load_backbone, published

Report: TypeAlias = Callable[[Ranked, int, int], None]
"""Called after each candidate with its row, how many are done, and how many there are."""


def rank(
    candidates: Candidates,
    like: nn.Module | Signature | Mapping[str, object] | Sequence[object] | str | Path,
    *,
    inputs: object = None,
    data: Iterable[object] | None = None,
    head: Head | None = None,
    held_out: Iterable[object] | None = None,
    images: int = 128,
    resolution: Resolution | None = None,
    fit: Fit | None = None,
    pretrained: bool = False,
    allow: Sequence[str | Path] = (),
    state: str | Path | None = None,
    seed: int = 0,
    report: Report | None = None,
    jobs: int | None = None,
    halving: bool = False,
    budget: str | float | None = None,
) -> Ranking:
    """Try many backbones in the place of one: what each costs there and how well it serves.

    Each is adapted, its forward pass is weighed and timed on this machine, and with `data` its adapters are
    calibrated; then the head tells how often it still answers as with the old backbone, on images that were not
    fitted on, the same for all. With `data` every feature output gets a projection, since there is nothing to fit
    without. A candidate that does not fit is a row that says why.

    Args:
        candidates: Names such as `timm:resnet18`, patterns such as `timm:resnet*`, modules, or modules by name.
        like: The old backbone: what `adapt` takes. `data` needs the module itself, or its name.
        inputs: An example call, which is what is timed; where left out, one of the images, or one of the size that
            the old backbone tells.
        data: Batches of images, as for `calibrate`; they are kept in memory.
        head: What makes the answer of the old backbone's output, as for `calibrate`.
        held_out: Batches that the head judges on; where left out, every fourth image of `data`, which is then not
            fitted on.
        images: At most so many are taken, of each of the two.
        resolution: As for `adapt`: whether candidates that were built for one image size read images at their own.
        fit: As for `adapt`: `pad` or `resize` to a legal size.
        pretrained: Load the published weights of candidates and old backbone; they may have to be downloaded.
        allow: Packages and files whose code may run, as for `load`.
        state: A file of JSON lines to go on from if it exists, and to write to after each candidate. Candidates that
            were refused are tried again.
        seed: For random weights, and the choice of images.
        report: Called after each candidate with its row, the number done, and the number of all.
        jobs: How many candidates are tried at once, with one thread each; -1 for all cores. They run in processes of
            this machine, or where `joblib.parallel_config` says: `backend="dask"`, `"ray"`. Needs the extra
            `cluster`. A candidate whose process dies costs itself alone, and is tried once more.
        halving: Try all candidates by plan and cost, without their weights, then on 8 images, and the better ones on
            ever four times as many up to all; those that were left behind follow, and tell on how many images they
            were judged. The published weights of those that do not fit are never loaded. `report` counts anew each
            time. Needs `data`.
        budget: Seconds, or a text such as `2h`, after which no other candidate is begun; with `halving` each of its
            steps gets its share, the better candidates first.

    Returns:
        The ranking: `print` it; `.picture("rank.svg")` sets cost against agreement.

    Raises:
        RankingError: There are no candidates, data was given without the old module, `state` is of another ranking,
            or the old backbone or the head cannot be pickled for other processes.
        AdaptError: The old backbone cannot be loaded or captured.

    Example:
        >>> old = nn.Conv2d(3, 8, 4, stride=4)
        >>> candidates = {"fine": nn.Conv2d(3, 6, 2, stride=2), "flat": nn.Flatten()}
        >>> found = rank(candidates, old, inputs=torch.zeros(1, 3, 8, 8))
        >>> [(row.source, row.adapter_parameters, bool(row.refused)) for row in found.rows]
        [('fine', 56, False), ('flat', 0, True)]
    """
    if state is not None:
        check_place(state, "state", RankingError)
    if report is not None:
        check_callable(report, ("row", "done", "of"), "report", "report=print", RankingError)
    chosen, engine, clock = find_candidates(candidates), find_engine(jobs), Clock.of(budget)
    old = _old(like, pretrained, allow)
    if data is not None and not isinstance(old, nn.Module):
        fault = Mismatch(
            "like", "the old module, which data is run through", type(old).__name__, 'like="timm:resnet18"'
        )
        raise RankingError("a signature alone cannot be calibrated to", [fault])
    module = old if isinstance(old, nn.Module) else None
    fitted, held = _images(data, held_out, module, head, images)
    if halving and not fitted:
        fault = Mismatch("halving", "images to halve by", "no data", "data=photographs, or halving=False")
        raise RankingError("without data nothing tells the better half", [fault])
    example = _example(old, inputs, fitted)
    signature = as_signature(old, example)
    example = _from(signature) if example is None else example
    reading = (resolution, fit)
    threads = torch.get_num_threads() if engine is None else 1
    place = Place(signature, example, module, fitted, head, held, pretrained, allow, seed, *reading, threads)
    journal = Journal(None if state is None else Path(state), _run(place))
    rows = _rows(chosen, rungs(place.images) if halving else (place.images,), place, journal, engine, report, clock)
    return Ranking(
        like=f"{signature.title} ({describe(signature.outputs.tree)})",
        inputs=", ".join(_input_texts(example)),
        images=place.images,
        held_out=0 if held is None else held.images,
        threads=place.threads,
        rows=tuple(rows),
        remarks=_remarks(chosen, place),
    )


def _old(like: object, pretrained: bool, allow: Sequence[str | Path]) -> object:
    """The old backbone itself where a name is given for it."""
    if isinstance(like, str) and ":" in like and "[" not in like and not os.path.exists(like):
        return load_backbone(like, pretrained=pretrained and published(like), allow=allow)
    return like


def _example(old: object, inputs: object, fitted: Sequence[Batch]) -> object:
    """What the caller gives, else one of the images, else what the old backbone tells."""
    first = fitted[0].part([0]) if inputs is None and fitted else None
    if first is not None:
        return first.arguments
    return told_inputs(old)[:1] if inputs is None and isinstance(old, nn.Module) else inputs


def _from(signature: Signature) -> object:
    """A call of the size that a saved signature was probed at, of one sample, on the meta device."""
    if not signature.inputs.leaves:
        fault = Mismatch("inputs", "an example call", "none, and the signature has none", "inputs=torch.zeros(...)")
        raise RankingError("nothing says what a pass is given", [fault])
    return meta_call(signature, one_sample(signature.sizes()))


def _images(
    data: Iterable[object] | None,
    held_out: Iterable[object] | None,
    old: nn.Module | None,
    head: Head | None,
    images: int,
) -> tuple[list[Batch], HeldOutImages | None]:
    """Those to fit on, and those that the head judges on."""
    if data is None or old is None:
        return [], None
    fitted = gathered(data, old, images)
    if head is None:
        return fitted, None
    fitted, held = split(fitted) if held_out is None else (fitted, gathered(held_out, old, images))
    if not fitted or not held:
        where = "data" if not fitted or held_out is None else "held_out"
        raise RankingError("too few images to hold any out", [Mismatch(where, "at least 8 images", "fewer", "more")])
    return fitted, HeldOutImages(held, old, head)


def _rows(
    candidates: Sequence[Candidate],
    steps: Sequence[int],
    place: Place,
    journal: Journal,
    engine: Engine | None,
    report: Report | None,
    clock: Clock,
) -> list[Ranked]:
    """The row of each candidate on the last step that it came to."""
    rows, by_name = dict[str, Ranked](), {candidate.name: candidate for candidate in candidates}
    climbing = tuple(by_name)
    for step, images in enumerate(steps):
        here, now = place if images == place.images else place.of(images), dict[str, Ranked]()
        with telling("rank", len(climbing)) as tell:
            tried, until = [by_name[name] for name in climbing], clock.until(len(steps) - step)

            def told(text: str, done: Sized = now, tell: Tell = tell) -> None:
                tell(text, len(done))

            with contextlib.closing(carried_out(tried, here, journal, engine, told, until)) as found:
                for row in found:
                    now[row.source] = row
                    if report is not None:
                        report(row, len(now), len(climbing))
        known = images or len(steps) == 1  # else what fits has a cost and no quality
        rows |= {name: row for name, row in now.items() if known or row.refused}
        climbing = better([now[name] for name in climbing if name in now])
    return [rows.get(name) or _late(name) for name in by_name]


def _late(name: str) -> Ranked:
    return Ranked(source=name, refused="not tried: the time was up", remedy="a longer budget, with state= to go on")


def _run(place: Place) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other stopped."""
    old = "" if place.old is None or not place.fitted else of_module(place.old)
    shown = (tensor for batch in place.fitted for tensor in flatten(batch.arguments.values)[1])
    return {
        "like": hashlib.sha256((place.signature.model_dump_json() + old).encode()).hexdigest()[:12],
        "inputs": _input_texts(place.inputs),
        "images": [place.images, of_tensors(shown)],
        "held out": [0, ""] if place.held_out is None else [place.held_out.images, place.held_out.fingerprint],
        "pretrained": place.pretrained,
        "reading": [place.resolution, place.fit],
        "seed": place.seed,
        "threads": place.threads,
    }


def _input_texts(inputs: object) -> list[str]:
    values = inputs.values if isinstance(inputs, Arguments) else inputs
    return [f"{dtype_name(t.dtype)}[{', '.join(map(str, t.shape))}]" for t in flatten(values)[1]]


def _remarks(candidates: Iterable[Candidate], place: Place) -> tuple[str, ...]:
    """What the figures do not say of themselves."""
    if not place.fitted or place.pretrained:
        return ()
    random = [one for one in candidates if isinstance(one.what, str) and published(one.what)]
    if not random:
        return ()
    count = f"{len(random)} of the candidates {'has' if len(random) == 1 else 'have'}"
    return (f"{count} random weights, so that agreement says little of them: pretrained loads the published ones",)
