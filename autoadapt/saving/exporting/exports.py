"""Exports: an adapted module into a file that runs without it, run beside it before it counts."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification.casts import as_cast
from autoadapt.adapting.verification.sessions import Session
from autoadapt.adapting.verification.unexported import no_logs
from autoadapt.contracts.capturing.solving import UnexplainedError
from autoadapt.contracts.facts import Made
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.signature import describe
from autoadapt.errors import CaptureError, ExportError, MatchError, Mismatch
from autoadapt.files.writing import check_place, folder_of, refuse_empty, sweep, temporary_name
from autoadapt.saving.exporting.asked import check_asked
from autoadapt.saving.exporting.comparing import compare
from autoadapt.saving.exporting.dynamic_axes import shapes_of
from autoadapt.saving.exporting.formats import FORMATS, Call, Format
from autoadapt.saving.exporting.lone_cells import above_lone_cells
from autoadapt.saving.exporting.ranges import Given, SizeRange, size_ranges
from autoadapt.saving.exporting.reasons import narrowed, refusal
from autoadapt.saving.exporting.results import Exported
from autoadapt.saving.whole_models import adapted_parts
from autoadapt.saving.wrappers import adapted_inside, unwrapped
from autoadapt.showing.progress import telling


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

    The file is run beside the module at the smallest sizes and at larger, odd ones; only if all outputs are equal it
    takes its place. The module itself is neither run nor changed.

    Args:
        net: The adapted module, or a bigger model with adapted modules in it, which is captured as a whole; then
            `inputs` is one of its calls.
        path: Its ending says the format: `.onnx`, `.pt2` (`torch.export`), or `.pt` and `.ts` (TorchScript, traced).
        inputs: An example call, as for `capture`; invented where left out, for a module that was cast in its dtype.
        ranges: Sizes by axis, where not all legal ones are wanted: `{"H": 640, "W": (64, 1024)}`.
        opset_version: Of ONNX; torch chooses where left out, and other formats have none.
        tolerance: How far outputs may be from those of the module, one with values above 1 in units of the largest.

    Returns:
        What was written, and at which sizes it holds, as a table.

    Raises:
        ExportError: An exporter refuses the module, or its program returns something else; what is in the way is said.
        SavingError: There is no adapted module in it.

    Example:
        >>> import tempfile, torch
        >>> from autoadapt.adapting import adapt
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> net = adapt(nn.Conv2d(3, 5, 2, stride=2), like=nn.Conv2d(3, 8, 2, stride=2), inputs=x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for one in export(net, f"{folder}/net.pt2").ranges:
        ...         print(one.axis, one, f"({one.why or 'any'})")
        B from 1 (any)
        H from 4 (below it floor(H/2) of `output` is 1, and an axis of 1 never varies)
        W from 4 (below it floor(W/2) of `output` is 1, and an axis of 1 never varies)
    """
    refuse_empty(path, "path", ExportError)
    check_asked(ranges, opset_version, tolerance)
    target = Path(path)
    format_ = _format_of(target)
    _refuse_opset(target, format_, opset_version)
    check_place(target, "path", ExportError)
    adapted = _adapted(net, inputs)
    made = _Export(adapted, format_, target.name, inputs, ranges)
    try:
        sweep(target.parent, target.name)
        with _folder_beside(target) as folder, quiet(), no_logs(), telling("export") as tell:
            written = folder / target.name
            tell(f"writing {target.name} by {made.format.name}")
            made.write(written, opset_version)
            tell(f"running {target.name} beside the module")
            compared = compare(made.session, made.format, written, made.ranges, made.example, tolerance)
            files = _moved(folder, target)
    except OSError as error:
        fault = Mismatch(str(target), "a path that can be written to", f"{type(error).__name__}: {error.strerror}")
        raise ExportError(f"{target} could not be written", [fault]) from error
    size = sum(file.stat().st_size for file in files)
    return made.told.model_copy(update={"path": str(target), "file_bytes": size, "compared": tuple(compared)})


def _failed_file(error: BaseException | None) -> OSError | None:
    """The operation on files that failed below what an exporter raised, as on a full disk."""
    while error is not None and not (isinstance(error, OSError) and error.errno is not None):
        error = error.__cause__ or error.__context__
    return error


def _moved(folder: Path, target: Path) -> list[Path]:
    """The files that were written, moved to where they belong: what an ONNX file names beside it first."""
    files = sorted((target.parent / file.name for file in folder.iterdir()), key=lambda file: file == target)
    for file in files:
        with (folder / file.name).open("rb+") as opened:
            os.fsync(opened.fileno())
        os.replace(folder / file.name, file)
    return files


def _adapted(net: nn.Module, inputs: object) -> AdaptedModule:
    """The adapted module; a bigger model as one that is adapted to itself, which adds nothing to it."""
    whole = unwrapped(net)
    if isinstance(whole, AdaptedModule) or not adapted_parts(whole):
        return adapted_inside(net, "aa.export")
    try:
        return adapt(whole, like=whole, inputs=inputs)
    except (MatchError, CaptureError) as error:
        if isinstance(error, CaptureError) and not isinstance(error.__cause__, UnexplainedError):
            raise
        name, first = type(whole).__name__, next(iter(adapted_parts(whole)))
        expected = "outputs whose sizes follow from those of the inputs"
        found = f"others ({error.mismatches[0].where}), as of boxes that are found in an image"
        remedy = f'aa.export(model.get_submodule("{first}"), "backbone.onnx")  # the part that was swapped'
        fault = Mismatch(name, expected, found, remedy)
        raise ExportError(f"what {name} returns depends on values, so that it cannot be exported", [fault]) from error


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A folder for a while on the file system of a file; what a kill leaves of it is swept at the next export."""
    folder = target.parent / temporary_name(target.name, "export")
    with folder_of(folder):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _format_of(path: Path) -> Format:
    if path.suffix not in FORMATS:
        remedy = f'"{path.parent / (path.stem or "net")}.onnx"'
        fault = Mismatch(str(path), ", ".join(FORMATS), path.suffix or "no ending", remedy)
        raise ExportError("the ending of a file says how it is exported", [fault])
    return FORMATS[path.suffix]


def _refuse_opset(path: Path, format_: Format, opset_version: int | None) -> None:
    """Refuse a version of the operations of ONNX for a file that has none of them."""
    if opset_version is not None and format_ is not FORMATS[".onnx"]:
        remedy = f'"{path.with_suffix(".onnx")}"  # or leave opset_version out'
        fault = Mismatch("`opset_version`", "a file that ends in .onnx", f"{path.name}, of {format_.name}", remedy)
        raise ExportError("only ONNX has an opset_version", [fault])


class _Export:
    """One module on its way into one format."""

    def __init__(self, net: AdaptedModule, format_: Format, name: str, inputs: object, ranges: Given | None) -> None:
        if net.signature.filled:
            raise _filled(net)
        if net.plan.untraced:
            _refuse_untraced(net, size_ranges(net.plan, ranges))
        self.net, self.format, self.name = net, format_, name
        self.session = as_cast(Session(net, net.signature, inputs=inputs), inputs)
        self.ranges = size_ranges(net.plan, ranges, partial(above_lone_cells, self.session))

    @property
    def example(self) -> dict[str, int]:
        """Sizes to export at: the probed ones where they are in range, a batch of two, and no two axes equal.

        Where one program holds for a coarse step of an axis alone, the sizes stay within it.
        """
        found: dict[str, int] = {}
        steps = self.session.plan.coarse_steps if self.session.plan else {}
        for name, one in self.ranges.items():
            size = one.near(2 if name == "B" else self.session.at()[name])
            larger, smaller = one.near(size + 1), one.near(size - one.step)
            other = smaller if name in steps and size % steps[name] == 0 else larger
            found[name] = other if size in found.values() and other != size else size
        return found

    @property
    def told(self) -> Exported:
        """What is written, before it is: the file holds this itself."""
        target = self.net.signature
        return Exported(
            made=Made.now(),
            path=self.name,
            name=self.net.plan.source.title,
            contract=f"{target.title} ({describe(target.outputs.tree)})",
            format=self.format.name,
            file_bytes=0,
            example=self.example,
            ranges=tuple(self.ranges.values()),
            runtime=self.format.runtime,
        )

    def write(self, path: Path, opset_version: int | None) -> None:
        """Export; where torch says that it could for fewer sizes, for these.

        Raises:
            ExportError: The exporter refuses the module.
        """
        try:
            self.format.write(self._call(opset_version), path)
        except ExportError:
            raise
        except Exception as error:
            if (failed := _failed_file(error)) is not None:
                raise failed from error
            fewer = narrowed(self.ranges, error)
            if fewer is None:
                raise refusal(self.session, self.format, self.example, self.ranges, error) from error
            self.ranges = fewer
            self.write(path, opset_version)

    def _call(self, opset_version: int | None) -> Call:
        session = self.session
        return Call(
            module=session.copy(),
            arguments=session.arguments(self.example),
            shapes=shapes_of(session.signature, self.ranges),
            signature=session.signature,
            opset_version=opset_version,
            record=self.told.model_dump_json(),
        )


def _refuse_untraced(net: AdaptedModule, ranges: dict[str, SizeRange]) -> None:
    """Refuse at once what torch would trace without an end.

    Raises:
        ExportError: The backbone reads images at their own size in a way that a program of many sizes cannot.
    """
    varying = [name for name, one in ranges.items() if name in ("H", "W") and not one.fixed]
    if varying:
        sizes = ", ".join(f'"{name}": {net.signature.axes[name].example}' for name in varying)
        remedy = f'aa.export(net, path, ranges={{{sizes}}})\naa.adapt(new, like=old, resolution="fixed")'
        fault = Mismatch(", ".join(varying), "one size", f"a range; {net.plan.untraced}", remedy)
        raise ExportError("native sizes of windows are exported for one size alone", [fault])


def _filled(net: AdaptedModule) -> ExportError:
    found = "one that the module fills in and returns"
    remedy = "adapt(..., inputs=x)  # a call that leaves the argument out, so that the module makes it anew"
    faults = [Mismatch(argument, "an argument that is only read", found, remedy) for argument in net.signature.filled]
    return ExportError("a program cannot fill in an argument of its caller's", faults)
