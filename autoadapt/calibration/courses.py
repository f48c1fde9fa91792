"""Courses: steps in which the old model teaches the new one, and what they have come to on images held out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from autoadapt.adapting.building import calibrated_adapters, param_groups
from autoadapt.calibration import workers
from autoadapt.calibration.calls import named_tensors
from autoadapt.calibration.judging import Head, Judge, Loss, Score, losses_of
from autoadapt.calibration.paired_runs import Lesson, Pair, explained, fresh
from autoadapt.calibration.progress_bars import Progress
from autoadapt.calibration.run_states import read_state, write_state
from autoadapt.calibration.samples import Sample, Samples, cut
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.errors import CalibrationError, Mismatch

JUDGED = 256
"""Images held out that are looked at, at most."""
WARMED_UP = 0.1
"""Share of the steps after which the rate is at its highest."""


@dataclass(frozen=True)
class Rates:
    """How far steps go, and what they heed."""

    steps: int
    lr: float
    """Of the backbone and of adapters that were calibrated, at its highest."""
    levels: float
    """Weight of the levels beside the answer."""

    def share(self, step: int) -> float:
        """The share of the highest rate at a step: up along a line for a tenth of the steps, down to 0 along a cosine.

        Adam's first steps are as long as its rate in every weight, whatever the slopes are, and lose what the start has
        (Ma and Yarats, On the adequacy of untuned warmup for adaptive optimization, 2021).

        Example:
            >>> [round(Rates(40, 1e-4, 1.0).share(step), 2) for step in (0, 1, 3, 4, 20, 39)]
            [0.25, 0.5, 0.99, 0.98, 0.5, 0.0]
        """
        risen = min(1.0, (step + 1) / max(self.steps * WARMED_UP, 1.0))
        return risen * (1 + math.cos(math.pi * step / self.steps)) / 2


class Course:
    """Lessons of the old model, on copies.

    Steps are AdamW's, without weight decay (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019). Both
    models are in eval mode: what normalises by the statistics of a batch keeps those that it has.

    Attributes:
        learned: The parameters that learn, by their name in the adapted module.
        step: How many steps are done.
        looks: The step and what images held out score after it, from the start on.
        best: The weights of the best of them.
    """

    def __init__(self, pair: Pair, head: Head | None, loss: Loss | None, rates: Rates, *, answers: bool) -> None:
        self._pair = pair
        self._head = head
        self._rates = rates
        self._answers = answers
        self._loss: Loss | None = loss if answers else self._apart
        features = [route for route in pair.plan.routes if route.specs[-1].is_floating and not route.same_as]
        self._levels = [route.target for route in features if route.specs[-1].role == "feature"]
        given = dict(pair.given.named_parameters())
        named = dict(pair.adapted.named_parameters())
        self.learned = {name: p for name, p in named.items() if name in given and given[name].requires_grad}
        if not self.learned:
            fault = Mismatch("net", "parameters that take a gradient", "none", "net.adapters.requires_grad_(True)")
            raise CalibrationError("there is nothing that could learn", [fault])
        self._optimiser = torch.optim.AdamW(self._groups(), weight_decay=0.0)
        self._bases = [group["lr"] for group in self._optimiser.param_groups]
        self._solved = _solved(pair) if answers else set()
        self._variances: dict[str, float] = {}
        self._explained: dict[str, float] = {}
        self.step = 0
        self.looks: list[tuple[int, Score]] = []
        self.best: dict[str, torch.Tensor] = {}
        facts = [pair.plan.model_dump_json(), asdict(rates), sorted(self.learned), workers.count()]
        sums = [float(t.detach().double().sum()) for t in (*pair.tensors(), *self.learned.values())]
        self._fingerprint = hashlib.sha256(json.dumps([facts, sums]).encode()).hexdigest()[:12]

    @property
    def steps(self) -> int:
        """How many there are to be."""
        return self._rates.steps

    def _groups(self) -> list[dict[str, Any]]:
        """What learns, at the rate of its kind."""
        mine = {id(parameter) for parameter in self.learned.values()}
        groups = [{**group} for group in param_groups(self._pair.new, self._rates.lr)]
        for group in groups:
            group["params"] = [one for one in group["params"] if id(one) in mine]  # type: ignore[attr-defined]
        return [group for group in groups if group["params"]]

    def sits(self, held_out: Iterable[object]) -> Judge:
        """Keep images to judge on, and note how far the old levels vary on them and what the start explains of it.

        Raises:
            CalibrationError: There are none.
        """
        samples, sums = Samples(1, 0, JUDGED), {name: torch.zeros(4, dtype=torch.float64) for name in self._levels}
        with workers.together():
            index = self._keep(held_out, samples, sums)
        if not workers.summed(index):
            fault = Mismatch("held_out", "at least one batch", "none", "held_out=[images]")
            raise CalibrationError("there are no images to judge on", [fault])
        for name, total in sums.items():
            count, whole, squares, gaps = workers.total(total).tolist()
            self._variances[name] = max(squares / count - (whole / count) ** 2, 0.0)
            self._explained[name] = max(0.0, 1 - gaps / count / (self._variances[name] or 1.0))
        samples.only(samples.chosen(workers.gathered(samples.numbers)))
        return Judge(self._pair, samples, self._head, self._loss, Progress(), replays=False)

    def _keep(self, held_out: Iterable[object], samples: Samples, sums: Mapping[str, torch.Tensor]) -> int:
        """Keep images of this process, and add up facts of the old levels; how many there are.

        The facts are count, values, squares, and how far solved levels of the new model are from them, squared.
        """
        index = 0
        for number, batch in enumerate(held_out):
            for lesson in self._pair.lessons(batch, f"{number} of those held out"):
                expected = self._expected(lesson)
                for level, made in zip(lesson.levels, self._made(lesson), strict=True):
                    for name, total in sums.items():
                        value = level[name].double()
                        facts = torch.ones_like(value), value, value.square(), (made.get(name, value) - value).square()
                        total += torch.stack([each.sum() for each in facts]).cpu()
                for image in range(lesson.images):
                    mine = index * workers.count() + workers.number()
                    index += 1
                    if samples.wants(mine, 0):
                        arguments = cut(lesson.arguments.values, image, lesson.images)
                        answer = cut(expected, image, lesson.images)
                        samples.add(Sample(mine, 0, lesson.arguments.positional, arguments, (), answer))
        return index

    @torch.no_grad()
    def _made(self, lesson: Lesson) -> list[dict[str, torch.Tensor]]:
        """What the new model makes of the levels that were solved for, call by call."""
        outputs = self._run(lesson)[1] if self._solved else [{} for _ in lesson.levels]
        return [{name: t for name, t in named_tensors(each).items() if name in self._solved} for each in outputs]

    def _run(self, lesson: Lesson) -> tuple[Any, list[Any]]:
        """What the new model returns, and what the adapted module in it did, call by call.

        That is copied at once, since what comes after may write into it.
        """
        outputs: list[Any] = []
        handle = self._pair.adapted.register_forward_hook(lambda _module, _args, output: outputs.append(_kept(output)))
        try:
            with explained(f"step {self.step}, new model", "a forward pass"):
                return fresh(lesson.arguments).call(self._pair.new), outputs
        finally:
            handle.remove()

    def _expected(self, lesson: Lesson) -> Any:
        """What the new model is to answer; of a backbone alone its levels."""
        if not self._answers:
            return lesson.levels[0]
        with explained("head", "an answer on the old features"):
            return lesson.answer if self._head is None else self._head(lesson.answer)

    def learn(self, batches: Iterator[object]) -> None:
        """One step on the next batch.

        Raises:
            CalibrationError: The batch is faulty, here or in another process.
        """
        rate = self._rates.share(self.step)
        for group, base in zip(self._optimiser.param_groups, self._bases, strict=True):
            group["lr"] = base * rate
        with workers.together():
            slopes = self._slopes(next(batches))
        for parameter, slope in zip(self.learned.values(), workers.totals(slopes), strict=True):
            parameter.grad = slope / workers.count()
        self._optimiser.step()
        self.step += 1

    def _slopes(self, batch: object) -> list[torch.Tensor]:
        """By each parameter that learns, of the mean loss of a batch of this process."""
        lessons = self._pair.lessons(batch, self.step)
        whole = sum(lesson.images for lesson in lessons)
        sums = [torch.zeros_like(parameter) for parameter in self.learned.values()]
        for lesson in lessons:
            with torch.enable_grad():
                lost = self._lost(lesson) * (lesson.images / whole)
                slopes = torch.autograd.grad(
                    lost, list(self.learned.values()), allow_unused=True, materialize_grads=True
                )
            sums = [one + slope for one, slope in zip(sums, slopes, strict=True)]
        return sums

    def _lost(self, lesson: Lesson) -> torch.Tensor:
        """How far levels and answer are from those of the old model, a mean over images."""
        answer, outputs = self._run(lesson)
        if self._head is not None:
            with explained(f"step {self.step}, head", "an answer on the new features"):
                answer = self._head(answer)
        apart = [self._apart(made, wanted) for made, wanted in zip(outputs, lesson.levels, strict=True)]
        lost = self._rates.levels * torch.stack(apart).mean()
        if not self._answers:
            return lost
        with torch.no_grad():
            expected = self._expected(lesson)
        return lost + losses_of(answer, expected, lesson.images, self._loss)[0].mean()

    def _apart(self, output: object, wanted: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Squared error of the levels over the variance that the old ones have on the images held out, a mean.

        Beside the answer a level that was solved for counts by the share of its variance that the start explains. One
        that was set from classifiers alone explains none: pulled towards the old one, it makes the answers worse.
        """
        found = named_tensors(output)
        apart = {name: found[name] - wanted[name] for name in self._levels}
        apart = {name: gap.to(torch.promote_types(gap.dtype, torch.float32)) for name, gap in apart.items()}
        errors = {name: gap.square().mean() / (self._variances[name] or 1.0) for name, gap in apart.items()}
        return torch.stack([self._explained[name] * error for name, error in errors.items()]).mean()

    def look(self, judge: Judge) -> Score:
        """Note what images held out score now, and keep the weights if none were better."""
        score = judge.score_as_it_is()
        if not self.looks or score.loss < min(before.loss for _, before in self.looks):
            self.best = {name: parameter.detach().clone() for name, parameter in self.learned.items()}
        self.looks.append((self.step, score))
        return score

    def save(self, path: Path) -> None:
        """Write all that it takes to go on; the first worker does, since all have the same."""
        if workers.number():
            return
        noted = {
            "fingerprint": self._fingerprint,
            "step": self.step,
            "looks": [[step, asdict(score)] for step, score in self.looks],
        }
        tensors = {f"now.{name}": parameter.detach() for name, parameter in self.learned.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        write_state(path, noted, tensors)

    def resume(self, path: Path) -> None:
        """Go on from a file."""
        noted, tensors = read_state(path, self._fingerprint)
        self.step = noted["step"]
        self.looks = [(step, Score(**{n: tuple(each) for n, each in score.items()})) for step, score in noted["looks"]]
        self.best = {name: tensors[f"best.{name}"].to(p.device) for name, p in self.learned.items()}
        with torch.no_grad():
            for name, parameter in self.learned.items():
                parameter.copy_(tensors[f"now.{name}"])
        state = self._optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                state["state"].setdefault(int(number), {})[name] = value
        self._optimiser.load_state_dict(state)


def _solved(pair: Pair) -> set[str]:
    """The outputs whose adapters are calibrated, all of them."""
    known = calibrated_adapters(pair.given)
    fresh_ones = {one.route.target for one in pair.projections if one.module.split(".")[1] not in known}
    return {one.route.target for one in pair.projections} - fresh_ones


def _kept(output: Any) -> Any:
    """The same in containers and tensors of their own, which pass gradients."""
    tree, tensors = flatten(output)
    return rebuild(tree, [tensor.clone() for tensor in tensors])
