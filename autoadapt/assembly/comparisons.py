"""Comparisons: one config with several backbones, each assembled, counted and timed."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoadapt.assembly.assembling import assemble_document
from autoadapt.assembly.configs import Config, parse_config
from autoadapt.assembly.documents import Document, read_document
from autoadapt.assembly.models import AssembledModel
from autoadapt.assembly.registry import PARTS, Registry
from autoadapt.assembly.reports import Assembly, Given
from autoadapt.errors import AdaptError
from autoadapt.showing import Shown
from autoadapt.signature import TensorSpec
from autoadapt.tables import columns, human_count
from autoadapt.views import copy_module, on_meta

__all__ = ["Comparison", "Measured", "compare"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Measured(_Frozen):
    """One backbone in the config: what it costs for one sample, or why it does not fit."""

    backbone: str
    parameters: int = 0
    adapter_parameters: int = 0
    multiply_adds: int = 0
    seconds: float = 0.0
    """Median time of a forward pass of one sample, without gradients."""
    weight_bytes: int = 0
    peak_bytes: int = 0
    """The most that is alive at once in a forward pass beside the weights."""
    report: Assembly | None = None
    fault: str = ""


class Comparison(Shown, _Frozen):
    """The same config with several backbones. `str()` is a table."""

    schema_version: Literal[1] = 1
    rows: tuple[Measured, ...]
    threads: int

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

    def __str__(self) -> str:
        head = ("backbone", "params", "adapters", "mul-adds", "forward", "weights", "peak")
        lines = columns([head, *map(_row, self.rows)], align="lrrrrrr")
        lines.append(f" one sample, median of 5, {self.threads} thread{'s' if self.threads != 1 else ''}")
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


def _row(row: Measured) -> tuple[str, ...]:
    if row.fault:
        return (row.backbone, *("-",) * 6)
    adapters = human_count(row.adapter_parameters) if row.report and row.report.plans else "none"
    return (
        row.backbone,
        human_count(row.parameters),
        adapters,
        human_count(row.multiply_adds),
        f"{row.seconds * 1000:.1f} ms",
        f"{row.weight_bytes / 2**20:.1f} MB",
        f"{row.peak_bytes / 2**20:.2f} MB",
    )


def compare(
    config: Mapping[str, Any] | Config | str | Path,
    *,
    allow: Sequence[str | Path] = (),
    registry: Registry = PARTS,
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
    whole = parse_config(document)
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
    model.eval()
    spec = TensorSpec.parse(model.config.input)
    sizes = model.report.sizes
    shape = [1 if str(dim) == "B" else dim.constant or sizes.get(str(dim), 224) for dim in spec.dims]
    inputs = torch.zeros(shape, dtype=spec.torch_dtype)
    multiply_adds, peak = _counted(model, inputs)
    tensors = [*model.parameters(), *model.buffers()]
    return Measured(
        backbone=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapter_parameters=sum(plan.parameters for plan in model.report.plans.values()),
        multiply_adds=multiply_adds,
        seconds=_timed(model, inputs),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        peak_bytes=peak,
        report=model.report,
    )


def _counted(model: AssembledModel, inputs: torch.Tensor) -> tuple[int, int]:
    """Multiply-adds and peak bytes of one pass, on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # brings triton along: half a second that few need

    copied = copy_module(model, on_meta)
    given = torch.empty_like(inputs, device="meta")
    with torch.no_grad(), torch.device("meta"):
        with FlopCounterMode(display=False) as flops:
            copied(given)
        with _LiveBytes([*copied.parameters(), *copied.buffers(), given]) as live:
            copied(given)
    return flops.get_total_flops() // 2, live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Counts the bytes of storages that operations make, while they are alive."""

    def __init__(self, present: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now = 0
        self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in present}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return returned

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _timed(model: nn.Module, inputs: torch.Tensor, *, repeats: int = 5) -> float:
    times = []
    with torch.no_grad():
        model(inputs)
        for _ in range(repeats):
            start = time.perf_counter()
            model(inputs)
            times.append(time.perf_counter() - start)
    return statistics.median(times)
