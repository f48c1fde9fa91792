"""Distillations: what the old model has taught the new one, as frozen values."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from autoadapt.calibration.results import HeadScore
from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, human_count


class Distillation(Shown, Dated, MadeByHand):
    """What images held out say of the model before and after it was taught."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    made_by = "distil(net, like=old, data=batches)"

    schema_version: Literal[1] = 1
    name: str
    written: bool
    """Whether the module holds what was learned."""
    verdict: str
    """Why, in a sentence."""
    before: HeadScore
    after: HeadScore
    """Of the best step, on images that neither taught it nor chose it."""
    loss_name: str = "KL"
    """What the losses are: `KL`, `loss` (boxes that do not overlap, or the caller's), or `error of levels`."""
    steps: int
    best_step: int
    course: tuple[tuple[int, float], ...]
    """Steps, and the loss of images held out after so many."""
    parameters: int
    """That learned."""
    held_out_images: int
    seconds: float

    def __bool__(self) -> bool:
        return self.written

    def __str__(self) -> str:
        learned = f"{human_count(self.parameters)} parameters learned in {self.steps} steps"
        head = f"{self.name}, {learned}, {self.seconds:.1f} s"
        has_agreement = self.before.agreement is not None
        scores = {"before": self.before, f"after step {self.best_step}": self.after}
        rows: list[tuple[str, ...]] = [("held-out head", *(["agreement"] if has_agreement else []), self.loss_name)]
        for label, score in scores.items():
            said = [f"{score.agreement:.3f}"] if score.agreement is not None else []
            rows.append((label, *said, f"{score.loss:.3f}"))
        course = ", ".join(f"{step}: {loss:.3f}" for step, loss in self.course)
        facts = [("weights", self.verdict), ("on the way", course), ("judged on", f"{self.held_out_images} images")]
        return "\n".join([head, *columns(rows, align="lrr"), *columns(facts)])

    def gist(self) -> str:
        """The outcome in a few words."""
        kind = self.loss_name
        said = f"{kind} {self.before.loss:.3f} -> {self.after.loss:.3f} on images held out"
        return f"{self.name}: {'written' if self.written else 'NOT written'}, {said}"
