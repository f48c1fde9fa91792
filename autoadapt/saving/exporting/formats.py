"""Formats: how a module becomes a file of each kind, and how that file is run."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import flatten
from autoadapt.errors import ExportError, Mismatch
from autoadapt.saving.exporting.results import RECORD
from autoadapt.versions import install_line

Runner: TypeAlias = Callable[[Arguments], list[torch.Tensor]]


@dataclass(frozen=True)
class Call:
    """What is exported: a module in eval mode, an example call, and which axes of it are dynamic."""

    module: nn.Module
    arguments: Arguments
    shapes: Mapping[str, Any]
    signature: Signature
    opset_version: int | None = None
    record: str = ""
    """What the file says of itself, as `record_of` reads it."""

    @property
    def positional(self) -> tuple[Any, ...]:
        return tuple(list(self.arguments.values.values())[: self.arguments.positional])

    @property
    def keywords(self) -> dict[str, Any]:
        return dict(list(self.arguments.values.items())[self.arguments.positional :])


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    runtime: str
    write: Callable[[Call, Path], None]
    load: Callable[[Path], Runner]


_ROUNDING = {
    name: True
    for name in inspect.signature(torch.export.export).parameters
    if name == "prefer_deferred_runtime_asserts_over_guards"
}
"""Sizes that are rounded make torch ask for proofs of what always holds; it may leave them to the run."""


def program_of(call: Call) -> torch.export.ExportedProgram:
    """The program of `torch.export`."""
    options: dict[str, Any] = {"dynamic_shapes": dict(call.shapes), "strict": False, **_ROUNDING}
    return torch.export.export(call.module, call.positional, call.keywords, **options)


def _write_program(call: Call, path: Path) -> None:
    made = io.BytesIO()  # written by torch itself, a full disk would end the process
    torch.export.save(program_of(call), made, extra_files={RECORD: call.record})
    path.write_bytes(made.getbuffer())


def _plain(module: nn.Module) -> Runner:
    return lambda arguments: flatten(arguments.call(module))[1]


def _write_onnx(call: Call, path: Path) -> None:
    needs("onnxscript")
    made = torch.onnx.export(
        program_of(call),
        call.positional,
        kwargs=call.keywords,
        dynamo=True,
        dynamic_shapes=dict(call.shapes),
        output_names=_output_names(call.signature),
        opset_version=call.opset_version,
        verbose=False,
    )
    assert made is not None
    written = made.model.opset_imports.get("")
    if call.opset_version not in (None, written):  # torch only logs that it could not convert
        asked, remedy = f"opset {call.opset_version}", f"opset_version={written}"
        fault = Mismatch("`opset_version`", asked, f"opset {written}", remedy)
        raise ExportError("this opset of ONNX is not written by torch for this module", [fault])
    made.model.metadata_props[RECORD] = call.record
    made.save(path)


def _output_names(signature: Signature) -> list[str]:
    """A name for each output; those of a list are counted, and none is that of an input."""
    taken = set(signature.inputs.paths)
    named = [f"output_{path}" if path[0].isdigit() or path in taken else path for path in signature.outputs.paths]
    return [name.replace(".", "_") for name in named]


def _load_onnx(path: Path) -> Runner:
    ort = needs("onnxruntime")
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(arguments: Arguments) -> list[torch.Tensor]:
        tensors = flatten(arguments.values)[1]
        given = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def needs(package: str) -> Any:
    """A package that files of ONNX are written, run or read with.

    Raises:
        ExportError: It is not installed.
    """
    try:
        return __import__(package)
    except ImportError as error:
        fault = Mismatch(package, "an installed package", "none", install_line("onnx"))
        raise ExportError(f"ONNX files need {package}", [fault]) from error


def _write_script(call: Call, path: Path) -> None:
    given = {"example_kwarg_inputs": call.keywords} if call.keywords else {}
    traced = torch.jit.trace(  # type: ignore[no-untyped-call]
        call.module, call.positional or None, strict=False, check_trace=False, **given
    )
    made = io.BytesIO()  # as above
    torch.jit.save(traced, made, _extra_files={RECORD: call.record})
    path.write_bytes(made.getbuffer())


_SCRIPT = Format("TorchScript", "TorchScript", _write_script, lambda path: _plain(torch.jit.load(path)))  # type: ignore[no-untyped-call]

FORMATS: dict[str, Format] = {
    ".onnx": Format("ONNX", "onnxruntime", _write_onnx, _load_onnx),
    ".pt2": Format("torch.export", "torch", _write_program, lambda path: _plain(torch.export.load(path).module())),
    ".pt": _SCRIPT,
    ".ts": _SCRIPT,
}
"""By the ending of the file."""
