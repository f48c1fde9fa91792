"""Accuracies: which a config asks for, held against its heads before anything runs."""

from __future__ import annotations

from autoadapt.assembly.assembly_sessions import Session
from autoadapt.assembly.levels import channels_of
from autoadapt.assembly.references import Reference, Wiring


def check_accuracies(session: Session, wiring: Wiring) -> None:
    """Accuracies are of a head with a loss, whose target they share, and of no more classes than it has.

    Args:
        session: What is known; faults are noted.
        wiring: Which part takes what.
    """
    for name, counts in session.config.topk.items():
        head = f"head.{name}" if name else "head"
        where = session.where("topk", name)
        losses = [loss for loss in wiring.targets if wiring.takes.get(loss, ())[:1] == (Reference(head),)]
        if not losses:
            found = f"no loss of `{head}`"
            session.fault(where, "a head with a loss, to share its target", found, "loss: {type: CrossEntropyLoss}")
        elif head in session.producers:
            classes = channels_of(next(iter(session.producers[head].specs.values())))
            most = max(counts, default=1)
            if classes is not None and not 1 <= min(counts, default=1) <= most <= classes:
                remedy = f"topk: {[k for k in counts if 0 < k <= classes]}"
                session.fault(where, f"at most {classes}, one for each class", str(most), remedy)
