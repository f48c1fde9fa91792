"""References: which part takes what from which, and in which order they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoadapt.assembly.configs import Config, PartConfig
from autoadapt.assembly.documents import Document
from autoadapt.assembly.python_expressions import Keys
from autoadapt.errors import Mismatch, nearest


@dataclass(frozen=True)
class Reference:
    """What a part takes: all that another gives, or one level of it."""

    producer: str
    level: str = ""

    def __str__(self) -> str:
        return f"{self.producer}.{self.level}" if self.level else self.producer


@dataclass(frozen=True)
class Wiring:
    """References of every part without fault, in an order in which they can run, and the target of every loss."""

    takes: dict[str, tuple[Reference, ...]]
    targets: dict[str, str]


def keys_of(name: str) -> Keys:
    """The place of a part in its config."""
    return tuple(name.split("."))


def wire(config: Config, document: Document, faults: list[Mismatch]) -> Wiring:
    """Resolve what every part takes; faults are added to the list."""
    parts = dict(config.parts())
    takes: dict[str, tuple[Reference, ...]] = {}
    for name, part in parts.items():
        texts = part.takes or _default(name, config, document, faults)
        read = [_parse(text, name, [*parts], document, faults) for text in texts]
        found = tuple(reference for reference in read if reference is not None)
        if found and len(found) == len(texts):
            takes[name] = found
    order = _ordered(takes, document, faults)
    losses = {name: part for name, part in parts.items() if name.partition(".")[0] == "loss"}
    return Wiring({name: takes[name] for name in order}, _targets(losses, config, document, faults))


def _default(name: str, config: Config, document: Document, faults: list[Mismatch]) -> Sequence[str]:
    """What a part takes that does not say: what stands before it, where that is one thing."""
    group, _, own = name.partition(".")
    before = {
        "neck": ["backbone"],
        "head": [f"neck.{other}" if other else "neck" for other in config.neck] or ["backbone"],
        "loss": [f"head.{other}" if other else "head" for other in config.head],
    }[group]
    if group == "loss" and own in config.head:
        return [f"head.{own}"]
    if len(before) == 1:
        return before
    where = document.where((*keys_of(name), "from"))
    if before:
        remedy = "\n".join(f"from: {other}" for other in before)
        faults.append(Mismatch(where, "one of several to take", f"nothing said: {', '.join(before)}", remedy))
    else:
        remedy = "head: {type: LinearClsHead, num_classes: 10}"
        faults.append(Mismatch(where, "predictions to compare", "the config has no head", remedy))
    return ()


def _parse(text: str, name: str, parts: Sequence[str], document: Document, faults: list[Mismatch]) -> Reference | None:
    group = name.partition(".")[0]
    earlier = {"neck": ("neck",), "head": ("neck", "head"), "loss": ("head",)}[group]
    producers = ["backbone", *(part for part in parts if part.partition(".")[0] in earlier)]
    if group == "loss":
        producers.remove("backbone")
    fitting = [known for known in producers if text == known or text.startswith(f"{known}.")]
    if fitting:
        producer = max(fitting, key=len)
        return Reference(producer, text[len(producer) + 1 :])
    where = document.where((*keys_of(name), "from"))
    near = nearest(text, producers, count=1) or nearest(text.partition(".")[0], producers, count=1) or producers[:1]
    remedy = f"from: {near[0]}" if near else ""
    faults.append(Mismatch(where, f"one of {', '.join(producers)}, or a level of it", f"`{text}`", remedy))
    return None


def _ordered(takes: Mapping[str, Sequence[Reference]], document: Document, faults: list[Mismatch]) -> list[str]:
    """Producers before those that take from them, else in the order of the config."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            cycle = [*above[above.index(name) :], name]
            if not any("cycle" in fault.found for fault in faults):
                where = document.where((*keys_of(name), "from"))
                found = f"a cycle: {' -> '.join(reversed(cycle))}"
                faults.append(Mismatch(where, "what comes before it", found, "from: backbone"))
            return
        for reference in takes.get(name, ()):
            visit(reference.producer, (*above, name))
        if name in takes and name not in order:
            order.append(name)

    for name in takes:
        visit(name, ())
    return order


def _targets(
    losses: Mapping[str, PartConfig], config: Config, document: Document, faults: list[Mismatch]
) -> dict[str, str]:
    """The name of the target of every loss: as it says, else its own name, else the only one there is."""
    given = list(config.targets)
    found = {}
    for name, part in losses.items():
        own = name.partition(".")[2]
        default = given[0] if len(given) == 1 and own not in given else own or "target"
        chosen = found[name] = part.target or default
        if given and chosen not in given:
            near = nearest(chosen, given, count=1) or given
            where = document.where((*keys_of(name), "target"))
            remedy = f"target: {near[0]}"
            faults.append(Mismatch(where, f"a target that is given: {', '.join(given)}", f"`{chosen}`", remedy))
    return found
