"""Signatures: what goes into a module and what comes out, as frozen values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Literal

from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator

from autoadapt.contracts.facts import Dated, first_fault
from autoadapt.contracts.signature.axes import AxisSizes
from autoadapt.contracts.signature.channel_names import channel_names
from autoadapt.contracts.signature.differences import (
    axis_differences,
    container_differences,
    invariant_differences,
    leaf_differences,
)
from autoadapt.contracts.signature.masks import Mask
from autoadapt.contracts.signature.native_sizes import NativeSizes
from autoadapt.contracts.signature.observations import Contradiction, Gathering, InnerOutput
from autoadapt.contracts.signature.parameters import Parameter
from autoadapt.contracts.signature.references import (
    containing,
    loose_axes,
    loose_cells,
    loose_identities,
    loose_paths,
    loose_ranges,
)
from autoadapt.contracts.signature.specs import TensorSpec
from autoadapt.contracts.signature.statistics import Statistics
from autoadapt.contracts.signature.values import Values, describe
from autoadapt.contracts.trees import Constant, Container, Opaque, Slot, Tree
from autoadapt.errors import Mismatch, SignatureError
from autoadapt.errors.printable import is_plain_name, is_python_name, visible
from autoadapt.files.reading import read_json, read_text
from autoadapt.files.writing import write_file
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns

_USUAL_SIZES = {"B": 2, "H": 224, "W": 224}


class Signature(Shown, Dated):
    """Inputs and outputs of a module: containers, names, dtypes, roles, and every axis as a function of the input.

    Example:
        >>> sig = Signature.parse(["f32[B, 64, ceil(H/4), ceil(W/4)]"], inputs={"x": "f32[B, 3, H, W]"})
        >>> print(sig)
        module
         input   x  f32[B, 3, H, W]
         output  list of 1
           [0]   f32[B, 64, ceil(H/4), ceil(W/4)]
    """

    made_by = 'capture(model, inputs), or Signature.parse("f32[B, 256, ceil(H/4), ceil(W/4)]")'
    malformed = SignatureError

    schema_version: Literal[1] = 1
    name: str = "module"
    origin: str = Field(default="", exclude_if=lambda origin: not origin)
    """The model's name in its zoo, `timm:resnet18`, where that is known. Not compared by `diff`."""
    inputs: Values
    positional: int = 0
    """How many of the inputs the caller passes by position; the rest go by keyword."""
    parameters: tuple[Parameter, ...] = Field(default=(), exclude_if=lambda parameters: not parameters)
    """All parameters of `forward`, in order, where some are optional. Not compared by `diff`."""
    outputs: Values
    axes: dict[str, AxisSizes] = Field(default_factory=dict)
    statistics: Statistics | None = Field(default=None, exclude_if=lambda told: told is None)
    """The normalisation of the one image among the inputs; None where it is not known. Not compared by `diff`."""
    channels: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """The channels of the one image, such as `r`, `nir`; empty where nobody named them. Not compared by `diff`."""
    native: NativeSizes | None = Field(default=None, exclude_if=lambda native: native is None)
    """How it takes images of other sizes than it was built for; None where nothing was changed for that."""
    filled: dict[str, str] = Field(default_factory=dict)
    """Containers among the arguments that the module fills and returns: path of the argument -> path of the output."""
    replaced_when_empty: tuple[str, ...] = ()
    """Those of them in whose place the module returns a new container where they are empty."""
    written: tuple[str, ...] = ()
    """Inputs that the module writes to, in eval or in train mode."""
    invariants: tuple[Gathering, ...] = ()
    masks: tuple[Mask, ...] = Field(default=(), exclude_if=lambda masks: not masks)
    looks_ahead: bool | None = Field(default=None, exclude_if=lambda ahead: ahead is None)
    """Whether some token depends on later ones, as under causal attention none does; None where that is not known."""
    unverified: tuple[str, ...] = ()
    """Outputs whose dims were fitted, with no legal size left to check them on."""
    contiguous: tuple[str, ...] = ()
    """Outputs that are contiguous, so that `view` works on them."""
    value_ranges: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Smallest and largest value seen in each integer input."""
    inner: tuple[InnerOutput, ...] = ()
    weights: tuple[int, ...] = Field(default=(), exclude_if=lambda weights: not weights)
    """`numel()` of each parameter, in the order of `parameters()`, where inner outputs are noted."""
    output_weights: tuple[str, ...] = Field(default=(), exclude_if=lambda weights: not weights)
    """Which of these each output depends on, in the bits of `InnerOutput.weights`; empty where that is not known."""
    shallow_first: tuple[str, ...] = Field(default=(), exclude_if=lambda paths: not paths)
    """The outputs from shallow to deep, where they come in another order."""
    dilated_by: str = Field(default="", exclude_if=lambda name: not name)
    """The constructor argument that replaces strides with dilation; empty where the class has none."""
    scores: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Paths of outputs and names of inner outputs that are dense class scores, and no features."""
    trunk: Signature | None = Field(default=None, exclude_if=lambda trunk: trunk is None)
    """The module without its head and without outputs, where that takes images of more sizes than the whole."""
    unread_tokens: tuple[str, ...] = ()
    """Outputs of blocks whose tokens could not be read as a grid, where only one image size is legal."""
    train_outputs: Values | None = None
    """The outputs in train mode at the example, where they differ from those in eval mode."""
    raises_in_training: str = ""
    """What the module raises in train mode, though it runs in eval mode; empty where it does not."""
    unconfirmed: str = ""
    """Why no real run confirmed what was found on the meta device; empty where one did."""
    contradictions: tuple[Contradiction, ...] = ()
    """Real runs that do not agree with this signature, or with each other."""
    not_finite: tuple[str, ...] = ()
    """Outputs that held NaN or infinity in a real run."""
    drawn: tuple[str, ...] = ()
    """Outputs that differ from run to run in eval mode, since they depend on random numbers."""

    @model_validator(mode="after")
    def _printable(self) -> Signature:
        names = [("name", self.name), ("origin", self.origin)]
        faults = [
            Mismatch(field, "one printable line", visible(name), "") for field, name in names if not is_plain_name(name)
        ]
        faults += [
            Mismatch(f"inputs.{name}", "the name of an argument", visible(repr(name))[:60], "rename the argument")
            for name in [*self.arguments, *(one.name for one in self.parameters)]
            if not is_python_name(name)
        ]
        if faults:
            is_of_argument = faults[-1].where not in ("name", "origin")
            what = (
                "an argument has a name that Python does not allow" if is_of_argument else "a name is no printable line"
            )
            raise SignatureError(what, faults)
        return self

    @classmethod
    def parse(
        cls,
        outputs: object,
        *,
        inputs: object = None,
        name: str = "module",
        axes: Mapping[str, AxisSizes] | None = None,
    ) -> Signature:
        """A signature written by hand.

        Args:
            outputs: Nested mappings, lists and tuples of texts such as `f32[B, 256, ceil(H/4), ceil(W/4)]`.
            inputs: A mapping of argument names to such texts, or one text for an argument `x`. Without it the
                signature takes the inputs of whatever is adapted to it.
            name: What errors and tables call the module.
            axes: Legal sizes of the input axes; any size where an axis is left out.

        Raises:
            SignatureError: A text is malformed.
        """
        named = {"x": inputs} if isinstance(inputs, str) else inputs
        read = Values.parse({} if named is None else named)
        free = sorted({axis for spec in read.leaves for dim in spec.dims for axis in dim.axes})
        count = len(read.tree.keys) if isinstance(read.tree, Container) else 0
        return cls(
            name=name,
            inputs=read,
            positional=count,
            outputs=Values.parse(outputs),
            axes={axis: AxisSizes(example=_USUAL_SIZES.get(axis, 64)) for axis in free} | dict(axes or {}),
        )

    @property
    def title(self) -> str:
        """The module's name in headers.

        Example:
            >>> Signature.parse("f32[B]", name="ResNet").model_copy(update={"origin": "timm:resnet18"}).title
            'timm:resnet18 (ResNet)'
        """
        return f"{self.origin} ({self.name})" if self.origin else self.name

    def gist(self) -> str:
        """The signature in one line."""
        taken = ", ".join(str(spec) for spec in self.inputs.leaves[:2]) or "any inputs"
        given = self.outputs.leaves
        return f"{self.title}: {taken} -> {given[0] if len(given) == 1 else f'{len(given)} outputs'}"

    @property
    def arguments(self) -> dict[str, Tree]:
        """The tree of each argument, by name."""
        if not isinstance(self.inputs.tree, Container):
            return {}
        return {str(key): child for key, child in zip(self.inputs.tree.keys, self.inputs.tree.children, strict=True)}

    @property
    def plain_arguments(self) -> dict[str, Constant | Opaque]:
        """The arguments that were no tensors in the capture, given or left to their defaults."""
        left = {one.name: one.default for one in self.parameters if one.default is not None}
        given = {name: tree for name, tree in self.arguments.items() if isinstance(tree, Constant)}
        return {name: tree for name, tree in left.items() if name not in self.arguments} | given

    def sizes(self, **changes: int) -> dict[str, int]:
        """The size of every input axis at the example, with changes.

        Example:
            >>> sig = Signature.parse("f32[B]", inputs="f32[B]", axes={"B": AxisSizes(example=2)})
            >>> sig.sizes(), sig.sizes(B=3)
            ({'B': 2}, {'B': 3})
        """
        return {name: axis.example for name, axis in self.axes.items()} | changes

    def with_outputs(self, outputs: Values) -> Signature:
        """The same with some of its outputs, and without what is noted of the others.

        Example:
            >>> sig = Signature.parse({"a": "f32[B]", "b": "f32[B]"}).model_copy(update={"contiguous": ("a", "b")})
            >>> sig.with_outputs(Values.parse({"b": "f32[B]"})).contiguous
            ('b',)
        """
        known = containing(outputs.paths)
        told = {
            field: tuple(path for path in getattr(self, field) if path in known)
            for field in ("contiguous", "unverified", "not_finite", "drawn", "shallow_first")
        }
        filled = {path: output for path, output in self.filled.items() if output in known}
        invariants = tuple(one for one in self.invariants if {one.index, one.result} <= known)
        return self.model_copy(update={"outputs": outputs, "invariants": invariants, "filled": filled, **told})

    def diff(self, found: Signature) -> list[Mismatch]:
        """Where another signature differs from this one; empty where it keeps all that this one promises.

        Args:
            found: The signature to compare, expected to be equal to this one at every size legal here.
        """
        return [
            *container_differences(self.outputs.tree, found.outputs.tree),
            *leaf_differences(self.outputs, found.outputs, self.axes),
            *axis_differences(self.axes, found.axes),
            *invariant_differences(self.invariants, found.invariants),
        ]

    def loose_references(self) -> list[Mismatch]:
        """Paths, axes and ranges that it names and does not have, which only one that was read from a file may.

        Example:
            >>> [str(fault.found) for fault in Signature.parse(["f32[B] = c5"], inputs="f32[B]").loose_references()]
            ["'c5'"]
        """
        given, made = self.inputs.paths, self.outputs.paths
        trained = self.train_outputs
        faults = [
            *loose_identities(self.outputs, self.inputs),
            *(loose_identities(trained, self.inputs) if trained is not None else ()),
            *loose_axes(self.inputs, self.outputs, self.axes),
            *loose_cells(self.inputs, self.sizes()),
            *loose_cells(self.outputs, self.sizes()),
            *loose_ranges(self.value_ranges),
            *loose_paths("value_ranges", self.value_ranges, given),
            *loose_paths("written", self.written, given),
            *loose_paths("masks", (mask.argument for mask in self.masks), {*given, *self.plain_arguments}),
            *loose_paths("masks", (mask.axis for mask in self.masks), self.axes),
            *loose_paths("filled", self.filled.values(), containing(made)),
            *loose_paths("replaced_when_empty", self.replaced_when_empty, self.filled),
        ]
        if self.inner:  # a plan's source is without them
            faults += loose_paths("unread_tokens", self.unread_tokens, {one.module for one in self.inner})
        for field in ("contiguous", "unverified", "not_finite", "drawn", "shallow_first"):
            faults += loose_paths(field, getattr(self, field), made)
        if not 0 <= self.positional <= len(self.arguments):
            expected = f"at most {len(self.arguments)} arguments"
            faults.append(Mismatch("positional", expected, f"{self.positional}"[:60]))
        return faults

    def save(self, path: str | FilePath) -> None:
        """Write the signature as JSON.

        Raises:
            SavingError: The file cannot be written; what was there is as it was.
        """
        write_file(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | FilePath) -> Signature:
        """Read a saved signature.

        Raises:
            SignatureError: There is no such file, or it holds no signature.
        """
        written = "signature.json" if os.path.exists(path) else path  # what is there stays
        text = read_text(
            FilePath(path), "a signature file (JSON)", f'aa.capture(old, inputs).save("{written}")', SignatureError
        )
        try:
            read = cls.model_validate_json(text)
        except (ValidationError, SignatureError, RecursionError, ValueError) as error:
            raise _corrupt(path, text, error) from error
        if faults := read.loose_references():
            raise SignatureError(f"{path} names what it has not", faults[:6])
        _refuse_large(path, read)
        return read

    @field_validator("channels")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return channel_names(names) if names else names

    @field_serializer("filled", "value_ranges", "axes")
    def _ordered(self, value: dict[str, Any]) -> dict[str, Any]:
        return dict(sorted(value.items()))

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = []
        labels = ["input ", *[""] * len(self.inputs.leaves)]
        rows += [(label, path, str(spec)) for label, (path, spec) in zip(labels, self.inputs.items(), strict=False)]
        lines = [self.title, *columns(rows)]
        lines += [f" output  {describe(self.outputs.tree)}".rstrip()]
        if self.outputs.tree == Slot():
            lines[-1] = f" output  {self.outputs.leaves[0]}"
        else:
            lines += columns([(_bracketed(path), str(spec)) for path, spec in self.outputs.items()], indent=3, gap=3)
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        legal: dict[str, list[str]] = {}
        for name, axis in self.axes.items():
            if axis.step != 1:
                legal.setdefault(str(axis), []).append(name)
        notes = [(f"{', '.join(names)}:", text) for text, names in legal.items()]
        notes += [("expects", str(self.statistics))] if self.statistics is not None else []
        notes += [("channels", ", ".join(self.channels))] if self.channels else []
        notes += [("native", str(self.native))] if self.native is not None and not self.native.refused else []
        notes += [("fills in", f"{path}  (and returns it)") for path in self.filled]
        notes += [("writes to", path) for path in self.written]
        notes += [("always", str(invariant)) for invariant in self.invariants]
        notes += [("mask", str(mask)) for mask in self.masks]
        notes += [("unverified", path) for path in self.unverified]
        if self.train_outputs is not None:
            notes += [("in train mode", describe(self.train_outputs.tree))]
            notes += [("", f"{path}  {spec}") for path, spec in self.train_outputs.items()]
        notes += [("in train mode", f"raises {self.raises_in_training}")] if self.raises_in_training else []
        notes += [("no real run", self.unconfirmed)] if self.unconfirmed else []
        notes += [("but", f"{one.where}: {one.found}, not {one.expected}") for one in self.contradictions]
        notes += [("not finite", path) for path in self.not_finite]
        drawn = "not deterministic, random numbers make other values in every run"
        notes += [("drawn", f"{path}: {drawn}") for path in self.drawn]
        notes += [("centres", f"{path}  {told}") for path, spec in self.outputs.items() if (told := _unusual(spec))]
        return columns(notes)


MOST_VALUES = 1 << 28
"""Of all inputs at the example together: invented tensors have to fit into memory, 1 GiB of float32."""


def _refuse_large(path: str | FilePath, read: Signature) -> None:
    """Refuse examples that are too large to run."""
    try:
        count = sum(math.prod(spec.shape(read.sizes())) for spec in read.inputs.leaves)
    except KeyError:
        return
    if count > MOST_VALUES:
        shown = ", ".join(f"{axis}={size}" for axis, size in read.sizes().items())
        fault = Mismatch("inputs", f"at most {MOST_VALUES:,} values at the example", f"{count:,} ({shown})")
        raise SignatureError(f"{path} has an example that is too large to run", [fault])


def _unusual(spec: TensorSpec) -> str:
    """The centres that are unusual: whose first is neither 0, as with padded stems, nor the middle of a patch."""
    told: dict[str, list[str]] = {}
    for one in (one for one in spec.centres if one.reversed or one.first not in (0, (one.step - 1) / 2)):
        told.setdefault(str(one), []).append(one.axis)
    return ", ".join(f"{centres} along {' and '.join(axes)}" for centres, axes in told.items())


def _bracketed(path: str) -> str:
    head, dot, rest = path.partition(".")
    return f"[{head}]{dot}{rest}" if head.isdigit() else path


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_fault(error)
    return (str(error).splitlines() or ["nested too deeply"])[-1]


def _corrupt(path: str | FilePath, text: str, error: Exception) -> SignatureError:
    try:
        read = read_json(text)
    except ValueError:
        reason = "not JSON"
    else:
        version = read.get("schema_version") if isinstance(read, dict) else None
        if version == 1 and isinstance(error, SignatureError):
            return SignatureError(f"{path} holds no signature: {error.summary}", error.mismatches)
        reason = _reason(error) if version == 1 else f"schema version {version!r}"
    fault = Mismatch(str(path), "a signature of schema version 1", reason, "aa.capture(module, x).save(path)")
    return SignatureError(f"{path} holds no signature", [fault])
