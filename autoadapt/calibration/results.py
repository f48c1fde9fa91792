"""Results: what a calibration found, as frozen values."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Literal

from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.showing import Shown
from autoadapt.showing.figures import check_drawable, save_figure
from autoadapt.showing.tables import columns, human_count, page_width


class OutputFit(MadeByHand):
    """How well one output is explained by maps of three quarters of the images, on the others; also after steps."""

    target: str
    source: str
    channels: tuple[int, int]
    """Of the new features, of the old ones."""
    tokens: int
    solver: str
    r2: float
    """Share of the old features' variance explained; the mean alone has 0."""
    cosine: float
    """Between centred features."""
    variance_ratio: float
    """Variance of the adapted features over that of the old ones."""
    random_r2: float
    """Of an adapter with random weights."""
    penalty: float
    """In mean eigenvalues of the standardised new features."""
    condition: float
    """Largest over smallest eigenvalue."""
    eigenvalues: tuple[float, ...]
    """Of the standardised new features, largest first."""
    by_images: tuple[tuple[int, float], ...]
    """Number of images fitted on, and R2 of the closed form on others."""


class HeadScore(MadeByHand):
    """How far an answer of the head is from the old one, on images that were not fitted on.

    Maps fitted on three quarters of the images are tried on the quarter left out. What is written is fitted on all: how
    much better that is, is told from how much worse maps of one half are, the other half left out. With more than 512
    channels, where there are no such maps, and for random adapters and the mean it is left at that of three quarters.
    """

    loss: float
    """Kullback-Leibler divergence in nats, the share of boxes that does not overlap, or the caller's loss."""
    agreement: float | None
    """Share of places where the likeliest class is the same; None with a loss of the caller's."""
    loss_error: float | None = None
    """Standard error of the loss over these images, near copies counted once; None where it is not known."""
    agreement_error: float | None = None
    """The same of the agreement; other photographs agreed within two of the difference's in 19 of 20 cases."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The agreement, if there is one, and the loss, each with its standard error."""
        shown = [(self.agreement, self.agreement_error), (self.loss, self.loss_error)]
        known = [(value, "" if error is None else f" ± {error:.3f}") for value, error in shown if value is not None]
        return tuple(f"{value:.3f}{error}" for value, error in known)


class Trial(MadeByHand):
    """One of the solvers that were tried."""

    solver: str
    score: float
    """Less is better: the head's loss, or one minus the held-out cosine, or the cross-validation error."""
    agreement: float | None = None


class Calibration(Shown, Dated, MadeByHand):
    """The adapters fitted, or not, and how good they are on images that were not fitted on."""

    made_by = "calibrate(net, like=old, data=batches)"

    schema_version: Literal[1] = 1
    name: str
    written: bool
    """Whether the adapters hold the fit."""
    verdict: str
    """Why, in a sentence."""
    solver: str
    chosen_by: str
    outputs: tuple[OutputFit, ...]
    head: HeadScore | None = None
    loss_name: str = "KL"
    """What the losses are: `KL`, `boxes lost` (one minus their overlap), or `loss`, the caller's."""
    random: HeadScore | None = None
    mean_only: HeadScore | None = None
    before_refining: HeadScore | None = None
    trials: tuple[Trial, ...] = ()
    remarks: tuple[str, ...] = ()
    images: int
    mixed_images: int = 0
    """Mixes of them that were fitted on as well; nothing was judged on these."""
    synthetic_images: int = 0
    """Pictures out of nothing that were fitted on as well."""
    head_images: int = 0
    """Of how many of them, held out, the head's figures are."""
    tokens: int
    seconds: float
    solver_seconds: float
    """Of these, spent on decompositions and maps."""
    bytes: int
    """Of moments and kept images."""

    def __bool__(self) -> bool:
        return self.written

    def raise_if_failed(self) -> None:
        """Raise where the adapters do not hold the fit.

        Raises:
            CalibrationError: The fit did not beat the floors.
        """
        if not self.written:
            expected = "a fit that beats random adapters and the mean"
            fault = Mismatch(self.name, expected, self.verdict, "data=more images")
            raise CalibrationError(f"{self.name} was not calibrated", [fault])

    def plot(self, path: str | Path | None = None) -> Any:
        """Error against number of images, spectrum, and agreement, as a matplotlib figure.

        Args:
            path: Where to save it as well.

        Raises:
            CalibrationError: matplotlib is not installed, the path has another ending than figures have, or it cannot
                be written.
        """
        check_drawable(path, CalibrationError)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.5), layout="constrained")
        learning, spectrum, bars = figure.subplots(1, 3)
        _draw_learning(learning, self.outputs)
        _draw_spectrum(spectrum, self.outputs)
        _draw_bars(bars, self)
        if path is not None:
            save_figure(figure, path)
        return figure

    def __str__(self) -> str:
        head = f"{self.name}, {self.images} unlabelled images, {human_count(self.tokens)} tokens, {self.seconds:.1f} s"
        lines = [head, *columns(self._head_rows(), align="lrr"), *columns(self._output_rows(), align="llrrrr")]
        facts = [("solver", self.solver), ("chosen by", self.chosen_by), ("adapters", self.verdict)]
        made = {"mixes of the images": self.mixed_images, "synthetic pictures": self.synthetic_images}
        said = " and ".join(f"{count} {name}" for name, count in made.items() if count)
        facts += [("fitted on", f"the images, {said}" if self.synthetic_images else f"the images and {said}")] * bool(
            said
        )
        facts += [("remark", remark) for remark in self.remarks]
        facts += [("columns", legend) for legend in self._legends()]
        return "\n".join([*lines, *columns(row for fact in facts for row in _wrapped(*fact))])

    def gist(self) -> str:
        """The outcome in a few words."""
        if not self.images:
            return f"{self.name}: written, from the classifiers alone"
        best = min((fit.r2 for fit in self.outputs), default=0.0)
        agreed = self.head.agreement if self.head is not None else None
        said = f"agreement {agreed:.2f}" if agreed is not None else f"least R2 {best:.2f}"
        return f"{self.name}: {'written' if self.written else 'NOT written'}, {said} on images not fitted on"

    def _legends(self) -> list[str]:
        """What the columns of the table mean."""
        shown = [
            "R2: share of the old features' variance that is explained; 1 is all, 0 what their mean explains",
            "cosine: between new and old features, both without their mean; 1 is equal up to a factor",
            "variance: of the adapted features over that of the old ones; condition: largest over smallest eigenvalue"
            " of the new features",
        ]
        if self.head is None:
            return shown
        agreement = "agreement: share of places where the head still says the same; ±: a standard error; "
        loss = {"KL": "KL: divergence of its answers in nats; less is better"}.get(
            self.loss_name, "less loss is better"
        )
        return [f"{agreement if self.head.agreement is not None else ''}{loss}", *shown]

    @property
    def scores(self) -> dict[str, HeadScore]:
        """How well the head does with each kind of adapter, by what it is called; empty without a head."""
        scores = {"random adapter": self.random, "mean only": self.mean_only, "calibrated": self.head}
        if self.before_refining is not None:
            scores = {**scores, "calibrated": self.before_refining, "refined": self.head}
        return {label: score for label, score in scores.items() if score is not None}

    def _head_rows(self) -> list[tuple[str, ...]]:
        if not self.scores:
            return []
        has_agreement = next(iter(self.scores.values())).agreement is not None
        title = ("held-out head", *(["agreement"] if has_agreement else []), self.loss_name)
        return [title, *((label, *score.cells) for label, score in self.scores.items())]

    def _output_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("held-out output", "channels", "R2", "cosine", "variance", "condition")]
        for fit in self.outputs:
            channels = f"{fit.channels[0]}->{fit.channels[1]}"
            rows.append(
                (
                    fit.target,
                    channels,
                    f"{fit.r2:.3f}",
                    f"{fit.cosine:.3f}",
                    f"{fit.variance_ratio:.2f}",
                    f"{fit.condition:.0e}",
                )
            )
        return rows


def _wrapped(label: str, text: str) -> list[tuple[str, str]]:
    """A fact in rows of a page, its label on the first."""
    parts = textwrap.wrap(text, page_width() - 14)
    return list(zip((label, *[""] * len(parts)), parts, strict=False))


def _draw_learning(axes: Any, outputs: tuple[OutputFit, ...]) -> None:
    for fit in outputs:
        axes.plot(*zip(*((n, 1 - r2) for n, r2 in fit.by_images), strict=True), marker="o", label=fit.target)
    axes.set(xlabel="images fitted on", ylabel="held-out error (1 - R2)", title="error against images")
    axes.legend()


def _draw_spectrum(axes: Any, outputs: tuple[OutputFit, ...]) -> None:
    for fit in outputs:
        axes.semilogy([max(value, 1e-16) for value in fit.eigenvalues], label=fit.target)
    axes.set(xlabel="eigenvalue", ylabel="variance", title="spectrum of the new features")


def _draw_bars(axes: Any, made: Calibration) -> None:
    known = {name: score.agreement for name, score in made.scores.items() if score.agreement is not None}
    known = known or {f"R2 {fit.target}": fit.r2 for fit in made.outputs}
    axes.bar(list(known), list(known.values()))
    axes.set(ylim=(min([0, *known.values()]), 1), title="held-out agreement" if made.head else "held-out R2")
