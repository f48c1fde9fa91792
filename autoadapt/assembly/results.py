"""Results: what an assembled model is made of, part by part, and what was put between."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoadapt.adapting.planning import Plan
from autoadapt.assembly.levels import stride_of
from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import Mismatch
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, hanging, human_count


class Given(MadeByHand):
    """One tensor that a part is given."""

    source: str
    spec: TensorSpec
    cells: str = ""
    """At the size of the config's input."""

    @property
    def stride(self) -> int | float | None:
        """Input pixels per cell."""
        found = stride_of(self.spec)
        return None if found is None else int(found) if found.denominator == 1 else float(found)

    def __str__(self) -> str:
        return f"{self.spec}, stride {self.stride}, {self.cells} cells" if self.cells else str(self.spec)


class PartReport(MadeByHand):
    """One part: what it is, what it is given, what it costs."""

    name: str
    type: str
    given: tuple[Given, ...] = ()
    parameters: int = 0


class Assembly(Shown, Dated, MadeByHand):
    """What a config became. `str()` is a table."""

    schema_version: Literal[1] = 1
    sizes: dict[str, int]
    """Of the input axes, at which cells are counted."""
    parts: tuple[PartReport, ...]
    plans: dict[str, Plan] = Field(default_factory=dict)
    """The adapters, by the part that they stand behind."""
    remarks: tuple[str, ...] = ()

    def diff(self, found: Assembly) -> list[Mismatch]:
        """What the parts of another model are given differently, such as another stride at equal channels.

        Args:
            found: The other model's report, such as after the backbone was changed.
        """
        others = {part.name: part.given for part in found.parts}
        pairs: list[tuple[str, Given, Given]] = [
            (f"{part.name} ({given.source})", given, other)
            for part in self.parts
            for given, other in zip(part.given, others.get(part.name, ()), strict=False)
        ]
        return [fault for pair in pairs if (fault := changed(*pair)) is not None]

    def gist(self) -> str:
        """The parts in a row, and what they cost."""
        parameters = human_count(sum(part.parameters for part in self.parts))
        return f"{' -> '.join(part.type for part in self.parts)}, {parameters} parameters"

    def __str__(self) -> str:
        input_size = "x".join(str(size) for name, size in self.sizes.items() if name != "B")
        rows = [("part", "type", "params")]
        rows += [(part.name, part.type, human_count(part.parameters)) for part in self.parts]
        lines = columns(rows, align="llr")
        given = [(part.name, g.source, str(g.spec), g.cells) for part in self.parts for g in part.given]
        if given:
            lines += ["", *columns([("part", "is given", "", f"cells at {input_size}"), *given], align="lllr")]
        for name, plan in self.plans.items():
            lines += ["", f" adapter behind {name}", *("  " + line for line in str(plan).splitlines()[2:])]
        lines += [""] if self.remarks else []
        return "\n".join([*lines, *(line for remark in self.remarks for line in hanging("remark", remark))])


def changed(where: str, expected: Given, found: Given) -> Mismatch | None:
    """Whether a part is given another stride, or other channels.

    Args:
        where: The part, and which tensor.
        expected: What it was given, or should be.
        found: What it is given.
    """
    same = expected.spec.dims[1:2] == found.spec.dims[1:2]
    if expected.stride == found.stride and same:
        return None
    channels = ", ".join(map(str, expected.spec.dims[1:2]))
    why = f"the channels agree ({channels}), so nothing fails: only the detail changes" if same else ""
    return Mismatch(where, str(expected), str(found), "adapt: {like: signature.json} holds it fixed", why)
