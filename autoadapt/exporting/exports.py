"""Exports: an adapted module into a file that runs without it, run beside it before it counts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from autoadapt.building import AdaptedModule
from autoadapt.capturing.probing import quiet
from autoadapt.errors import ExportError, Mismatch
from autoadapt.exporting.formats import FORMATS, Call, Format
from autoadapt.exporting.ranges import Given, SizeRange, size_ranges
from autoadapt.exporting.reasons import refusal
from autoadapt.exporting.results import Compared, Exported
from autoadapt.exporting.shapes import shapes_of
from autoadapt.saving.wrappers import adapted_inside
from autoadapt.signature import describe
from autoadapt.trees import flatten
from autoadapt.verification.sessions import Session, said

__all__ = ["export"]


def export(
    net: nn.Module,
    path: str | Path,
    inputs: object = None,
    *,
    ranges: Given | None = None,
    opset_version: int | None = None,
    tolerance: float = 1e-4,
) -> Exported:
    """Write an adapted module as a program that runs without Python code of its own, at any legal batch and size.

    The file is run at two sizes that it was not exported at, one of them odd, beside the module; only if all outputs
    are equal it takes its place. The module itself is neither run nor changed.

    Args:
        net: The adapted module.
        path: Its ending says the format: `.onnx`, `.pt2` (`torch.export`), or `.pt` and `.ts` (TorchScript, traced).
        inputs: An example call, as for `capture`; invented where left out.
        ranges: Sizes by axis, where not all legal ones are wanted: `{"H": 640, "W": (64, 1024)}`.
        opset_version: Of ONNX; torch chooses where left out.
        tolerance: How far values may be from those of the module, of values above 1 in units of these.

    Returns:
        What was written, and at which sizes it holds, as a table.

    Raises:
        ExportError: An exporter refuses the module, or its program returns something else; what is in the way is said.
        SavingError: It is no adapted module.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> net = adapt(nn.Conv2d(3, 5, 2, stride=2), like=nn.Conv2d(3, 8, 2, stride=2), inputs=x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for one in export(net, f"{folder}/net.pt2").ranges:
        ...         print(one.axis, one, one.why)
        B from 1
        H from 4 floor(H/2) of `output` is one cell below
        W from 4 floor(W/2) of `output` is one cell below
    """
    adapted, target = adapted_inside(net, "aa.export"), Path(path)
    made = _Export(adapted, _format_of(target), inputs, size_ranges(adapted.plan, ranges))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder, quiet():
            written = Path(folder) / target.name
            made.write(written, opset_version)
            compared = made.compare(written, tolerance)
            files = sorted(Path(folder).iterdir())
            for file in files:  # weights of more than 2 GB stand beside an ONNX file
                os.replace(file, target.parent / file.name)
    except OSError as error:
        fault = Mismatch(str(target), "a path that can be written to", f"{type(error).__name__}: {error.strerror}")
        raise ExportError(f"{target} could not be written", [fault]) from error
    return Exported(
        path=str(target),
        name=adapted.plan.source.name,
        contract=f"{adapted.signature.name} ({describe(adapted.signature.outputs.tree)})",
        format=made.format.name,
        file_bytes=sum((target.parent / file.name).stat().st_size for file in files),
        example=made.example,
        ranges=tuple(made.ranges.values()),
        compared=tuple(compared),
        runtime=made.format.runtime,
    )


def _format_of(path: Path) -> Format:
    if path.suffix not in FORMATS:
        fault = Mismatch(str(path), ", ".join(FORMATS), path.suffix or "no ending", f'"{path.with_suffix(".onnx")}"')
        raise ExportError("the ending of a file says how it is exported", [fault])
    return FORMATS[path.suffix]


class _Export:
    """One module on its way into one format."""

    def __init__(self, net: AdaptedModule, format_: Format, inputs: object, ranges: Mapping[str, SizeRange]) -> None:
        if net.signature.filled:
            raise _filled(net)
        self.format, self.ranges = format_, ranges
        self._session = Session(net, net.signature, inputs=inputs)
        self.example = _example(ranges, self._session.at())

    def write(self, path: Path, opset_version: int | None) -> None:
        """Export at the example's sizes."""
        session = self._session
        call = Call(
            module=session.copy(),
            arguments=session.arguments(self.example),
            shapes=shapes_of(session.signature, self.ranges),
            signature=session.signature,
            opset_version=opset_version,
        )
        try:
            self.format.write(call, path)
        except ExportError:
            raise
        except Exception as error:
            raise refusal(session, self.format, self.example, self.ranges, error) from error

    def compare(self, path: Path, tolerance: float) -> list[Compared]:
        """Run the file and the module at other sizes.

        Raises:
            ExportError: The file does not run, or returns something else.
        """
        run, copied, found, faults = self.format.load(path), self._session.copy(), [], []
        for sizes in _others(self.ranges, self.example):
            arguments = self._session.arguments(sizes)
            expected = flatten(arguments.call(copied))[1]
            at = " ".join(f"{name}={size}" for name, size in sizes.items())
            try:
                difference, reason = _difference(expected, run(arguments))
            except Exception as error:
                difference, reason = float("inf"), said(error)[:200]
            found.append(Compared(sizes=sizes, difference=difference))
            if difference > tolerance:
                faults.append(Mismatch(at, f"the module's outputs, within {tolerance:g}", reason))
        if faults:
            raise self._wrong(faults)
        return found

    def _wrong(self, faults: list[Mismatch]) -> ExportError:
        fixed = {name: self.example[name] for name, one in self.ranges.items() if not one.fixed}
        traced = self.format.name == "TorchScript" and fixed
        why = "a trace keeps the numbers that Python code worked out at the size it was traced at" if traced else ""
        remedy = f"ranges={fixed}" + ('  # or aa.export(net, "net.pt2")' if traced else "") if fixed else ""
        last = faults[-1]
        faults = [*faults[:-1], Mismatch(last.where, last.expected, last.found, remedy, why)]
        name = self._session.signature.name
        return ExportError(f"as {self.format.name} the module in the contract of {name} does not hold", faults)


def _filled(net: AdaptedModule) -> ExportError:
    faults = [
        Mismatch(argument, "an argument that is only read", f"one that the module fills in, and returns as `{output}`")
        for argument, output in net.signature.filled.items()
    ]
    remedy = "adapt(..., inputs=) of a call that leaves the argument out, so that the module makes it anew"
    faults[-1] = Mismatch(faults[-1].where, faults[-1].expected, faults[-1].found, remedy)
    return ExportError("programs cannot fill in an argument of their caller's", faults)


def _example(ranges: Mapping[str, SizeRange], sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes to export at: the probed ones where they are in range, a batch of two, and no two axes equal."""
    found: dict[str, int] = {}
    for name, one in ranges.items():
        size = one.near(2 if name == "B" else sizes[name])
        larger = one.near(size + 1)
        found[name] = larger if size in found.values() and larger > size and larger in one else size
    return found


def _others(ranges: Mapping[str, SizeRange], example: Mapping[str, int]) -> list[dict[str, int]]:
    """Two other sizes, the second odd along every axis that may be; the example itself where it is the only one."""

    def row(batch: int, parts: int, odd: int) -> dict[str, int]:
        return {
            name: one.near(batch if name == "B" else (max(example[name] * parts // 8 + 17 * i, one.low) + 1) | odd)
            for i, (name, one) in enumerate(ranges.items())
        }

    rows = [row(1, 3, 0), row(3, 5, 1)]
    return [dict(items) for items in dict.fromkeys(tuple(one.items()) for one in rows)]


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> tuple[float, str]:
    """How far outputs are from those expected, and that in words; infinite where they cannot be compared."""
    if len(expected) != len(found):
        return float("inf"), f"{len(found)} outputs, not {len(expected)}"
    worst, reason = 0.0, ""
    for i, (left, right) in enumerate(zip(expected, found, strict=True)):
        right = right.to(left.device)
        if (left.shape, left.dtype) != (right.shape, right.dtype):
            return float("inf"), f"output {i} is {right.dtype} {list(right.shape)}, not {list(left.shape)}"
        apart = (left.double() - right.double()).abs() / left.double().abs().clamp(min=1.0)
        largest = float(apart.max()) if apart.numel() else 0.0
        if largest > worst or largest != largest:
            worst, reason = largest, f"output {i} differs by {largest:.1e}"
    return (float("inf"), "values that are no numbers") if worst != worst else (worst, reason)
