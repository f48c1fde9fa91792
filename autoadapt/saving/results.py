"""Results: what was saved, as a table."""

from __future__ import annotations

from typing import Literal

from autoadapt.contracts.facts import Dated
from autoadapt.saving.folder_configs import CONFIG, WEIGHTS
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, hanging, headline, human_count


class Saved(Shown, Dated):
    """What `save` wrote, and what it could not."""

    made_by = "save(net, folder)"

    schema_version: Literal[1] = 1
    folder: str
    name: str
    """Of the backbone: its class, and its name in a zoo where that is known."""
    contract: str
    """The signature that the saved module keeps."""
    parts: tuple[str, ...] = ()
    """Of a whole model: its adapted parts, by path."""
    scope: Literal["all", "adapters"]
    tensors: int
    parameters: int
    weight_bytes: int
    config_bytes: int
    call: str
    """What restores it."""
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = "all weights" if self.scope == "all" else "the adapters alone"
        parameters = f"{human_count(self.parameters)} parameters"
        rows = [
            (WEIGHTS, f"{human_count(self.weight_bytes)}B", f"{what}: {self.tensors} tensors, {parameters}"),
            (CONFIG, f"{human_count(self.config_bytes)}B", "plan, signature, versions, modes"),
        ]
        if self.parts:  # the names are those of the files
            rows = [
                ("model.json, parts/", f"{human_count(self.config_bytes)}B", "plans, signatures, places, versions"),
                (f"{WEIGHTS}, parts/", *rows[0][1:]),
            ]
        what = f"with {', '.join(self.parts)}" if self.parts else f"in the contract of {self.contract}"
        lines = [*headline(self.name, what, f" ->  {self.folder}"), *columns(rows, align="lrl")]
        lines += columns([("restore", self.call)])
        return "\n".join([*lines, *(line for remark in self.remarks for line in hanging("remark", remark))])
