"""Calibrations as tables: what the fit is worth on images that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping

from autoadapt.calibration import Calibration, Distillation
from autoadapt.calibration.results import HeadScore, OutputFit
from autoadapt.showing import Badge, Cell, Column, Facts, Folded, Name, Section, Share, Table, section_of
from autoadapt.showing.tables import human_count


@section_of.register
def calibration_section(made: Calibration) -> Section:
    """How the head answers, how well each output is explained, what was tried, and what it took."""
    tables = [*([_scores(made.scores)] if made.head else []), _outputs(made)]
    trials = [Folded(f"{len(made.trials)} solvers tried", (_trials(made),))] if len(made.trials) > 1 else []
    return Section("Calibration", made.name, (*tables, _facts(made), *trials), _verdict(made))


@section_of.register
def distillation_section(made: Distillation) -> Section:
    """How the head answers before and after, how it came to that, and what it took."""
    course = (Column("step", right=True), Column(made.loss_name, right=True))
    rows = tuple((str(step), f"{loss:.4f}") for step, loss in made.course)
    facts: tuple[tuple[str, Cell], ...] = (
        ("weights", made.verdict),
        ("learned", f"{human_count(made.parameters)} parameters in {made.steps} steps"),
        ("judged on", f"{made.held_out_images} images"),
        ("took", f"{made.seconds:.1f} s"),
    )
    scores = _scores({"before": made.before, f"after step {made.best_step}": made.after})
    on_the_way = Folded("on the way, on images held out", (Table(course, rows),))
    return Section("Distillation", made.name, (scores, Facts(facts), on_the_way), _verdict(made))


def _verdict(made: Calibration | Distillation) -> Badge:
    return Badge("written", "good") if made.written else Badge("left as it was", "bad")


def _scores(found: Mapping[str, HeadScore]) -> Table:
    known = any(score.agreement is not None for score in found.values())
    columns = (Column("held-out head"), Column("agreement"), Column("divergence" if known else "loss", right=True))
    agreed = {
        label: "" if one.agreement is None else Share(one.agreement, one.cells[0]) for label, one in found.items()
    }
    return Table(columns, tuple((label, agreed[label], score.cells[-1]) for label, score in found.items()))


def _outputs(made: Calibration) -> Table:
    columns = (
        Column("held-out output"),
        Column("source", brief=False),
        Column("channels", right=True),
        Column("R2"),
        Column("random", right=True, brief=False),
        Column("cosine", right=True),
        Column("variance", right=True),
        Column("condition", right=True),
        Column("R2 by images", brief=False),
    )
    return Table(columns, tuple(map(_output, made.outputs)))


def _output(fit: OutputFit) -> tuple[Cell, ...]:
    return (
        Name(fit.target, strong=True),
        Name(fit.source),
        f"{fit.channels[0]}→{fit.channels[1]}",
        Share(fit.r2, f"{fit.r2:.3f}"),
        f"{fit.random_r2:.3f}",
        f"{fit.cosine:.3f}",
        f"{fit.variance_ratio:.2f}",
        f"{fit.condition:.0e}",
        ", ".join(f"{images}: {r2:.2f}" for images, r2 in fit.by_images),
    )


def _trials(made: Calibration) -> Table:
    columns = (Column("solver tried"), Column("score", right=True), Column("agreement"))
    rows = tuple(
        (
            Name(trial.solver, strong=trial.solver == made.solver),
            f"{trial.score:.4f}",
            "" if trial.agreement is None else Share(trial.agreement, f"{trial.agreement:.3f}"),
        )
        for trial in sorted(made.trials, key=lambda trial: trial.score)
    )
    return Table(columns, rows, "less is better")


def _facts(made: Calibration) -> Facts:
    images = f"{made.images} without labels" + (f", {made.head_images} for the head" if made.head_images else "")
    rows: list[tuple[str, Cell]] = [
        ("adapters", made.verdict),
        ("solver", Name(made.solver)),
        ("chosen by", made.chosen_by),
        ("images", f"{images}; {human_count(made.tokens)} tokens"),
        ("took", f"{made.seconds:.1f} s, {made.solver_seconds:.1f} s of it solving; {human_count(made.bytes)}B held"),
    ]
    if made.mixed_images or made.synthetic_images:
        rows.insert(4, ("made images", f"{made.mixed_images} mixes, {made.synthetic_images} synthetic; none judged on"))
    return Facts((*rows, *(("remark", remark) for remark in made.remarks)))
