"""Results: what was exported, at which sizes it holds, and how far it is from the module."""

from __future__ import annotations

from typing import Literal

from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.saving.exporting.ranges import SizeRange
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, hanging, headline, human_count

RECORD = "autoadapt.json"
"""What the result is called inside the file: among those of a program of torch, or in the metadata of ONNX."""


class Compared(MadeByHand):
    """One run of the program beside the module."""

    sizes: dict[str, int]
    difference: float
    """The largest over all outputs, of one with values above 1 in units of the largest of these."""


class Exported(Shown, Dated):
    """What `export` wrote."""

    made_by = "export(net, path)"

    schema_version: Literal[1] = 1
    path: str
    name: str
    """Of the backbone: its class, and its name in a zoo where that is known."""
    contract: str
    """The signature that the program keeps."""
    format: str
    file_bytes: int
    """Of all files, where weights stand beside the program."""
    example: dict[str, int]
    """The sizes that it was exported at."""
    ranges: tuple[SizeRange, ...]
    compared: tuple[Compared, ...] = ()
    runtime: str = ""
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        own = self.contract.removeprefix(f"{self.name} ")  # a model that stays as it is has its own contract
        held = own if own != self.contract else f"in the contract of {self.contract}"
        lines = headline(self.name, held, f" ->  {self.path}")
        lines += [f" {self.format}, {human_count(self.file_bytes)}B, exported at {_at(self.example)}"]
        lines += columns([(one.axis, str(one), "asked for" if one.asked else one.why) for one in self.ranges])
        rows = [(_at(one.sizes), f"differs by {one.difference:.1e}") for one in self.compared]
        lines += [f" run in {self.runtime} beside the module"] if self.compared else []
        lines += columns(rows, indent=2)
        for remark in self.remarks:
            lines += hanging("remark", remark)
        return "\n".join(lines)


def _at(sizes: dict[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())
