"""Weight files: what a config loads into which part, and what of a part a file does not have."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autoadapt.assembly.assembly_sessions import Session
from autoadapt.assembly.configs import WeightsConfig
from autoadapt.errors import AdaptError
from autoadapt.weights import Transfer, transfer
from autoadapt.weights.conversions import Shapes
from autoadapt.weights.summary import percent


def load_weights(session: Session, parts: Mapping[str, nn.Module], whole: nn.Module) -> None:
    """Load the files of a config, note what cannot be loaded, and say what stays as it started.

    Args:
        session: What is known.
        parts: What a file can be for, by its name.
        whole: What a file is for that names no part.
    """
    for i, entry in enumerate(session.config.weights):
        target = parts.get(entry.to) if entry.to else whole
        if target is None:
            where = session.where("weights", i, "to")
            session.fault(where, f"one of {', '.join(parts)}", f"`{entry.to}`", "to: backbone")
            continue
        shapes: Shapes = entry.shapes if isinstance(entry.shapes, str) else dict(entry.shapes.items())
        try:
            report = transfer(
                session.document.folder / entry.path,
                target,
                scope=entry.scope,
                include=entry.include,
                exclude=entry.exclude,
                min_coverage=entry.min_coverage,
                match=entry.match,
                shapes=shapes,
                merge=entry.merge,
            )
        except AdaptError as error:
            session.note(error, ("weights", i))
        else:
            session.remarks += _left(entry, report)


def _left(entry: WeightsConfig, report: Transfer) -> list[str]:
    """What a file and a part do not have in common, where that is more than the config leaves out itself."""
    if report.ok or entry.include is not None:
        return []
    said = "; ".join(f"{fault.where} ({fault.found})" for fault in report.faults())
    hint = f"; transfer would take {report.hint}" if report.hint else ""
    return [f"`{entry.path}` gave {entry.to or 'the model'} {percent(report.share)} of its parameters: {said}{hint}"]
