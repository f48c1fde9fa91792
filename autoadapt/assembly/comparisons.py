"""Comparisons: one config with several backbones, each assembled, counted and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from autoadapt.assembly.assembling import assemble_document
from autoadapt.assembly.configs import Config, parse_config
from autoadapt.assembly.documents import Document, read_document
from autoadapt.assembly.literal_form import literal_form
from autoadapt.assembly.registry import PARTS, Registry
from autoadapt.assembly.results import Assembly, Given
from autoadapt.assembly.scopes import Scopes
from autoadapt.contracts.allocations import in_words
from autoadapt.contracts.costs import cost_of, peak_without_values
from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import AdaptError, AssemblyError, Mismatch
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, human_count

FIGURES = ("params", "adapters", "mul-adds", "ms", "MiB", "peak")
"""Titles of what is measured of a backbone."""
_MOST_PEAK = 1 << 29
"""Bytes of inputs and of what is alive at once of one sample, where it is measured."""


class Measured(MadeByHand):
    """One backbone in the config: what it costs for one sample, or why it does not fit."""

    backbone: str
    parameters: int = 0
    adapter_parameters: int = 0
    multiply_adds: int = 0
    seconds: float = 0.0
    """Median time of a forward pass of one sample, without gradients."""
    weight_bytes: int = 0
    peak_bytes: int = 0
    """Peak memory of a forward pass beside the weights."""
    report: Assembly | None = None
    fault: str = ""

    @property
    def figures(self) -> tuple[str, ...]:
        """What it costs, as `FIGURES` names it; dashes where it does not fit."""
        if self.fault:
            return ("-",) * len(FIGURES)
        return (
            human_count(self.parameters),
            human_count(self.adapter_parameters) if self.report and self.report.plans else "none",
            human_count(self.multiply_adds),
            f"{self.seconds * 1000:.1f}",
            f"{self.weight_bytes / 2**20:.1f}",
            f"{self.peak_bytes / 2**20:.2f}",
        )


class Comparison(Shown, Dated, MadeByHand):
    """The same config with several backbones. `str()` is a table."""

    schema_version: Literal[1] = 1
    rows: tuple[Measured, ...]
    threads: int

    @property
    def legend(self) -> str:
        """What the figures are."""
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"one sample, {threads}; ms: median of 5; MiB: of weights; peak: MiB beside them"

    @property
    def changes(self) -> tuple[tuple[str, str, str], ...]:
        """Backbone, part and what it is given at another stride than with the first backbone that fits."""
        reports = [(row.backbone, row.report) for row in self.rows if row.report is not None]
        first = dict(_strides(reports[0][1])) if reports else {}
        return tuple(
            (backbone, part, f"{_said(first[part])} -> {_said(given)}{_at_equal_channels(first[part], given)}")
            for backbone, report in reports[1:]
            for part, given in _strides(report)
            if part in first and first[part].stride != given.stride
        )

    def gist(self) -> str:
        """How many backbones fit."""
        return f"{sum(not row.fault for row in self.rows)} of {len(self.rows)} backbones fit"

    def __str__(self) -> str:
        rows = [("backbone", *FIGURES), *((row.backbone, *row.figures) for row in self.rows)]
        lines = [*columns(rows, align="lrrrrrr"), f" {self.legend}"]
        lines += columns([("changed", *change) for change in self.changes])
        for row in self.rows:
            if row.fault:
                lines += [f" does not fit: {row.backbone}", *(f"   {line}" for line in row.fault.splitlines()[1:])]
        return "\n".join(lines)


def _strides(report: Assembly) -> list[tuple[str, Given]]:
    """The first map that each part is given."""
    return [(part.name, part.given[0]) for part in report.parts if part.given and part.given[0].stride is not None]


def _said(given: Given) -> str:
    return f"stride {given.stride} ({given.cells} cells)"


def _at_equal_channels(expected: Given, found: Given) -> str:
    channels = found.spec.dims[1:2]
    return f", though the channels agree ({channels[0]})" if expected.spec.dims[1:2] == channels else ""


def compare(
    config: Mapping[str, Any] | Config | str | Path, *, allow: Sequence[str | Path] = (), registry: Registry = PARTS
) -> Comparison:
    """Assemble a config with each of the backbones it lists, and measure each.

    Args:
        config: As for `assemble`, with a list at `backbone`.
        allow: As for `assemble`.
        registry: As for `assemble`.

    Raises:
        AssemblyError: The config itself is faulty; a backbone that does not fit is a row that says why.

    Example:
        >>> text = "input: f32[B, 3, 32, 32]\\nbackbone: [ResNet_CIFAR]\\nneck: GlobalAveragePooling"
        >>> [row.backbone for row in compare(text).rows]
        ['ResNet_CIFAR']
    """
    document = Document(config.flat()) if isinstance(config, Config) else read_document(config)
    faults: list[Mismatch] = []
    document = literal_form(document, Scopes(registry, tuple(allow)), allow, [], faults)
    whole = parse_config(document, faults)
    rows = []
    for part in whole.backbone:
        options = ", ".join(f"{key}={value}" for key, value in part.arguments.items())
        name = f"{part.type} ({options})" if options else part.type
        single = Document(whole.model_copy(update={"backbone": (part,)}).flat(), document.lines, document.folder)
        rows.append(_measured(name, single, allow, registry))
    return Comparison(rows=tuple(rows), threads=torch.get_num_threads())


def _measured(name: str, document: Document, allow: Sequence[str | Path], registry: Registry) -> Measured:
    try:
        model = assemble_document(document, allow, registry)
    except AdaptError as error:
        return Measured(backbone=name, fault=str(error))
    spec = TensorSpec.parse(model.config.input)
    sizes = model.report.sizes
    shape = [1 if str(dim) == "B" else dim.constant or sizes.get(str(dim), 224) for dim in spec.dims]
    inputs = torch.empty(shape, dtype=spec.torch_dtype, device="meta")
    peak = inputs.nbytes + peak_without_values(model, inputs)
    if peak > _MOST_PEAK:
        fault = Mismatch("input", f"at most {in_words(_MOST_PEAK)} for one sample", in_words(peak), "smaller images")
        return Measured(backbone=name, fault=str(AssemblyError("a pass takes too much memory", [fault])))
    cost = cost_of(model, torch.zeros(shape, dtype=spec.torch_dtype))
    return Measured(
        backbone=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter_parameters=sum(plan.parameters for plan in model.report.plans.values()),
        multiply_adds=cost.multiply_adds,
        seconds=cost.seconds,
        weight_bytes=cost.weight_bytes,
        peak_bytes=cost.peak_bytes,
        report=model.report,
    )
