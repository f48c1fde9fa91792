"""Signature: what goes into a module and what comes out, as a frozen value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator

from autoadapt.dims import Dim
from autoadapt.errors import Mismatch, SignatureError, nearest
from autoadapt.tables import columns
from autoadapt.trees import Constant, Container, Key, LeftOut, Opaque, Slot, Tree, path_text, paths

__all__ = [
    "AxisSizes",
    "Gathering",
    "InnerOutput",
    "Role",
    "Signature",
    "TensorSpec",
    "Values",
]

Role: TypeAlias = Literal["feature", "coordinate", "index", "mask", "other"]
ROLES: tuple[Role, ...] = ("feature", "coordinate", "index", "mask", "other")

DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
_USUAL_SIZES = {"B": 2, "H": 224, "W": 224}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SPEC = re.compile(r"^\s*(?P<dtype>\w+)\s*\[(?P<dims>.*)\]\s*(?P<role>\w+)?\s*(?:=\s*(?P<same>\S+))?\s*$")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """What is known of one tensor.

    Example:
        >>> print(TensorSpec.parse("i32[B, 1024] index"))
        i32[B, 1024] index
    """

    dtype: str
    dims: tuple[Dim, ...]
    role: Role = "feature"
    same_as: str = ""
    """Where the very same tensor stands already: `inputs.x`, or the path of an earlier output."""

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, name: str) -> str:
        if name not in DTYPES:
            known = ", ".join(DTYPES)
            raise SignatureError("unknown dtype", [Mismatch(name, known, name, _did_you_mean(name, DTYPES))])
        return name

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """Read `dtype[dims] role = path`; role and path may be left out.

        Raises:
            SignatureError: The text is malformed.
        """
        found = _SPEC.match(text)
        if found is None:
            fault = Mismatch(repr(text), "dtype[dim, dim, ...]", text, '"f32[B, 256, ceil(H/4), ceil(W/4)]"')
            raise SignatureError(f"{text!r} is no tensor spec", [fault])
        dtype, role = found["dtype"], found["role"]
        default = "feature" if dtype in _FLOATING else "mask" if dtype == "bool" else "other"
        if role is not None and role not in ROLES:
            remedy = _did_you_mean(role, ROLES)
            raise SignatureError("unknown role", [Mismatch(repr(text), ", ".join(ROLES), role, remedy)])
        dims = tuple(Dim.parse(part) for part in _split(found["dims"]))
        return cls(dtype=dtype, dims=dims, role=role or default, same_as=found["same"] or "")

    def __str__(self) -> str:
        shown = "" if self.role in ("feature", "mask", "other") else f" {self.role}"
        same = f" = {self.same_as}" if self.same_as else ""
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]{shown}{same}"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return DTYPES[self.dtype]

    @property
    def is_floating(self) -> bool:
        """Whether the values may be learned: no integers, no booleans."""
        return self.dtype in _FLOATING

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at given sizes of the input axes."""
        return tuple(int(dim.evaluate(sizes)) for dim in self.dims)


_FLOATING = {"f64", "f32", "f16", "bf16", "c64", "c128"}


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype.

    Raises:
        SignatureError: autoadapt has no name for it.
    """
    if dtype not in _DTYPE_NAMES:
        fault = Mismatch(str(dtype), ", ".join(DTYPES), str(dtype), "cast the tensor before it is returned")
        raise SignatureError(f"tensors of {dtype} are not supported", [fault])
    return _DTYPE_NAMES[dtype]


class Values(_Frozen):
    """A tree of tensors: all that goes in, or all that comes out."""

    tree: Tree
    leaves: tuple[TensorSpec, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each leaf, as text."""
        return tuple(path_text(path) for path in paths(self.tree))

    def items(self) -> Iterator[tuple[str, TensorSpec]]:
        """Path and spec of each leaf, in order."""
        return zip(self.paths, self.leaves, strict=True)

    def __getitem__(self, path: str) -> TensorSpec:
        return dict(self.items())[path]

    @classmethod
    def parse(cls, value: object) -> Values:
        """Read nested mappings, lists and tuples of texts."""
        leaves: list[TensorSpec] = []
        return cls(tree=_parse_tree(value, leaves), leaves=tuple(leaves))


class AxisSizes(_Frozen):
    """Which sizes of an input axis are legal: those from `smallest` on that leave `offset` over `step`.

    A step of 0 means that `example` is the only legal size. `smallest` is the smallest size that was seen to run,
    not a proven bound.

    Example:
        >>> str(AxisSizes(step=32, example=224)), str(AxisSizes(step=0, example=224))
        ('multiples of 32', '224 only')
    """

    step: int = 1
    offset: int = 0
    smallest: int = 1
    example: int

    def __str__(self) -> str:
        if self.step == 0:
            return f"{self.example} only"
        if self.step == 1:
            return "any size"
        if self.offset == 0:
            return f"multiples of {self.step}"
        return f"multiples of {self.step}, plus {self.offset}"

    def __contains__(self, size: int) -> bool:
        if self.step == 0:
            return size == self.example
        return size >= self.smallest and size % self.step == self.offset

    def near(self, size: int) -> int:
        """The smallest legal size that is not below a size; the only one where there is but one."""
        if self.step == 0:
            return self.example
        size = max(size, self.smallest)
        return size + (self.offset - size) % self.step

    def covers(self, other: AxisSizes) -> bool:
        """Whether every size that another axis allows is legal here; smallest sizes are not compared."""
        if self.step == 0:
            return other.step == 0 and other.example == self.example
        return other.example % self.step == self.offset and other.step % self.step == 0

    def as_dim(self, name: str) -> Dim:
        """A legal size, as a function of an axis that may take any size."""
        return Dim(self.example) if self.step == 0 else Dim.axis(name) * self.step + self.offset


class Gathering(_Frozen):
    """An invariant: rows of an input, taken by an index leaf, are a coordinate leaf, bit for bit."""

    values: str
    """Path of the input, `[B, N, >= stop]`."""
    stop: int
    """How many leading columns of the input are gathered."""
    index: str
    """Path of the index output, `[B, M]`."""
    result: str
    """Path of the coordinate output, `[B, M, stop]`."""

    def __str__(self) -> str:
        return f"gather({self.values}[..., :{self.stop}], 1, {self.index}) == {self.result}"


class InnerOutput(_Frozen):
    """What an inner module returned while the whole ran."""

    module: str
    """Path of the module, as in `named_modules()`."""
    call: int = 0
    """Which of its calls, from 0."""
    path: str = "output"
    """Where in its output the tensor stands."""
    spec: TensorSpec
    kind: str
    """Class of the module."""
    nesting: int
    """How deep it stands; plain containers do not count."""
    parent: bool
    """Whether it has children."""
    learns: bool
    """Whether it holds a convolution or a linear layer."""
    started: int = 0
    """When the call began, counted in calls that began or ended."""
    finished: int = 0
    same_as: str = ""
    """Path of the module that returned the very same tensor before."""

    @property
    def name(self) -> str:
        """How a tap on it is called: the path, then `@call` and `:leaf` where they are needed.

        Example:
            >>> spec = TensorSpec.parse("f32[B, 64]")
            >>> facts = {"kind": "Block", "nesting": 0, "parent": True, "learns": True}
            >>> InnerOutput(module="stage4", call=1, path="0", spec=spec, **facts).name
            'stage4@1:0'
        """
        call = f"@{self.call}" if self.call else ""
        return f"{self.module}{call}" + (f":{self.path}" if self.path != "output" else "")


class Signature(_Frozen):
    """Inputs and outputs of a module: containers, names, dtypes, roles, and every axis as a function of the input.

    Example:
        >>> sig = Signature.parse(["f32[B, 64, ceil(H/4), ceil(W/4)]"], inputs={"x": "f32[B, 3, H, W]"})
        >>> print(sig)
        module
         input   x  f32[B, 3, H, W]
         output  list of 1
           [0]   f32[B, 64, ceil(H/4), ceil(W/4)]
    """

    schema_version: Literal[1] = 1
    name: str = "module"
    inputs: Values
    positional: int = 0
    """How many of the inputs the caller passes by position; the rest go by keyword."""
    outputs: Values
    axes: dict[str, AxisSizes] = Field(default_factory=dict)
    filled: dict[str, str] = Field(default_factory=dict)
    """Arguments that the module fills in: path of the argument -> path of the output that it becomes."""
    replaced_when_empty: tuple[str, ...] = ()
    """Those among them that count as absent while they are empty: the module returns a new container instead."""
    invariants: tuple[Gathering, ...] = ()
    unverified: tuple[str, ...] = ()
    """Outputs whose dims were fitted, with no legal size left to check them on."""
    value_ranges: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Smallest and largest value seen in each integer input."""
    inner: tuple[InnerOutput, ...] = ()

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
    def arguments(self) -> dict[str, Tree]:
        """The tree of each argument, by name."""
        if not isinstance(self.inputs.tree, Container):
            return {}
        return {str(key): child for key, child in zip(self.inputs.tree.keys, self.inputs.tree.children, strict=True)}

    def sizes(self, **changes: int) -> dict[str, int]:
        """The size of every input axis at the probed input, with changes.

        Example:
            >>> sig = Signature.parse("f32[B]", inputs="f32[B]", axes={"B": AxisSizes(example=2)})
            >>> sig.sizes(), sig.sizes(B=3)
            ({'B': 2}, {'B': 3})
        """
        return {name: axis.example for name, axis in self.axes.items()} | changes

    def diff(self, found: Signature) -> list[Mismatch]:
        """What another signature does not keep of this one; empty where it keeps everything.

        Args:
            found: The signature to compare, expected to be equal to this one at every size legal here.
        """
        return [
            *_diff_tree(self.outputs.tree, found.outputs.tree, ()),
            *_diff_leaves(self, found),
            *_diff_axes(self, found),
            *_diff_invariants(self, found),
        ]

    def save(self, path: str | FilePath) -> None:
        """Write the signature as JSON."""
        FilePath(path).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | FilePath) -> Signature:
        """Read a saved signature.

        Raises:
            SignatureError: There is no such file, or it holds no signature.
        """
        try:
            text = FilePath(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fault = Mismatch(str(path), "a signature file (JSON)", str(error), "Signature.save(path)")
            raise SignatureError(f"{path} cannot be read", [fault]) from error
        try:
            return cls.model_validate_json(text)
        except (ValidationError, SignatureError) as error:
            raise _corrupt(path, text, error) from error

    @field_serializer("filled", "value_ranges", "axes")
    def _ordered(self, value: dict[str, Any]) -> dict[str, Any]:
        return dict(sorted(value.items()))

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = []
        labels = ["input", *[""] * len(self.inputs.leaves)]
        rows += [(label, path, str(spec)) for label, (path, spec) in zip(labels, self.inputs.items(), strict=False)]
        lines = [self.name, *columns(rows)]
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
        notes += [("fills in", f"{path}  (and returns it)") for path in self.filled]
        notes += [("always", str(invariant)) for invariant in self.invariants]
        notes += [("unverified", path) for path in self.unverified]
        return columns(notes)


def describe(tree: Tree) -> str:
    """A tree in words.

    Example:
        >>> describe(Values.parse(["f32[B]", "f32[B]"]).tree)
        'list of 2'
    """
    match tree:
        case Container(kind=kind, type=name, keys=keys):
            return f"{name.rpartition(':')[2].rpartition('.')[2] or kind.replace('_', ' ')} of {len(keys)}"
        case Constant(value=value):
            return repr(value)
        case Opaque(type=name):
            return f"a {name}"
        case LeftOut(name=name):
            return f"nothing in place of {name}"
        case Slot():
            return "tensor"


def _bracketed(path: str) -> str:
    head, dot, rest = path.partition(".")
    return f"[{head}]{dot}{rest}" if head.isdigit() else path


def _split(text: str) -> list[str]:
    """Split at commas outside parentheses; an empty text has no parts."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [] if not text.strip() else parts


def _did_you_mean(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    found = nearest(name, names, count=1)
    return found[0] if found else ""


def _parse_tree(value: object, leaves: list[TensorSpec]) -> Tree:
    match value:
        case TensorSpec():
            leaves.append(value)
            return Slot()
        case str():
            leaves.append(TensorSpec.parse(value))
            return Slot()
        case None | bool() | int() | float():
            return Constant(value=value)
        case Mapping():
            return Container(
                kind="dict",
                keys=tuple(value),
                children=tuple(_parse_tree(child, leaves) for child in value.values()),
            )
        case list() | tuple():
            return Container(
                kind="tuple" if isinstance(value, tuple) else "list",
                keys=tuple(range(len(value))),
                children=tuple(_parse_tree(child, leaves) for child in value),
            )
        case _:
            fault = Mismatch(
                type(value).__name__,
                "a text, or a mapping, list or tuple of them",
                repr(value),
                '{"c4": "f32[B, 1024, ceil(H/16), ceil(W/16)]"}',
            )
            raise SignatureError("a signature is made of texts", [fault])


def _diff_tree(expected: Tree, found: Tree, path: tuple[Key, ...]) -> list[Mismatch]:
    where = path_text(path)
    if not isinstance(expected, Container) or not isinstance(found, Container):
        if expected == found:
            return []
        return [Mismatch(where, describe(expected), describe(found), "return the value of the old module here")]
    if (expected.kind, expected.type) != (found.kind, found.type):
        return [Mismatch(where, describe(expected), describe(found), "return the container of the old module")]
    if expected.keys != found.keys:
        return [
            Mismatch(
                where,
                f"{describe(expected)}: {', '.join(map(str, expected.keys))}",
                f"{describe(found)}: {', '.join(map(str, found.keys))}",
                "return the same names in the same order",
            )
        ]
    children = zip(expected.keys, expected.children, found.children, strict=True)
    return [fault for key, left, right in children for fault in _diff_tree(left, right, (*path, key))]


def _diff_leaves(expected: Signature, found: Signature) -> list[Mismatch]:
    other = dict(found.outputs.items())
    faults = []
    for path, spec in expected.outputs.items():
        if path in other:
            faults += _diff_spec(path, spec, other[path], expected.axes)
    return faults


def _diff_spec(path: str, expected: TensorSpec, found: TensorSpec, axes: Mapping[str, AxisSizes]) -> list[Mismatch]:
    faults = []
    if expected.dtype != found.dtype:
        faults.append(Mismatch(path, expected.dtype, found.dtype, f"cast to {expected.dtype}"))
    if len(expected.dims) != len(found.dims):
        faults.append(Mismatch(path, str(expected), str(found), "bring it to the same number of axes"))
        return faults
    for axis, (left, right) in enumerate(zip(expected.dims, found.dims, strict=True)):
        if not equal_where_legal(left, right, axes):
            faults.append(Mismatch(f"{path}, axis {axis}", str(left), str(right), "resample, pool or project the axis"))
    if expected.role in ("index", "coordinate") and found.role != expected.role:
        faults.append(Mismatch(path, f"role {expected.role}", f"role {found.role}", "pass it through untouched"))
    if expected.same_as.startswith("inputs.") and expected.same_as != found.same_as:
        faults.append(Mismatch(path, f"the tensor {expected.same_as} itself", found.same_as or "another tensor", ""))
    return faults


def equal_where_legal(left: Dim, right: Dim, axes: Mapping[str, AxisSizes]) -> bool:
    """Whether two dims are equal at every legal size of the input axes."""
    if left == right:
        return True
    units = {name: sizes.as_dim(name) for name, sizes in axes.items() if sizes.step != 1}
    return bool(units) and left.substitute(units) == right.substitute(units)


def _diff_axes(expected: Signature, found: Signature) -> list[Mismatch]:
    faults = []
    for name, sizes in expected.axes.items():
        other = found.axes.get(name)
        if other is None:
            faults.append(Mismatch(f"input axis {name}", str(sizes), "one size only", "resize the input"))
        elif not other.covers(sizes):
            faults.append(Mismatch(f"input axis {name}", str(sizes), str(other), "resize or pad the input"))
    return faults


def _diff_invariants(expected: Signature, found: Signature) -> list[Mismatch]:
    return [
        Mismatch(invariant.index, str(invariant), "it does not hold", "take indices and points by one choice")
        for invariant in expected.invariants
        if invariant not in found.invariants
    ]


def _corrupt(path: str | FilePath, text: str, error: Exception) -> SignatureError:
    version = None
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError):
        reason = "not JSON" if not isinstance(error, ValidationError) else "no signature in it"
    else:
        reason = str(error).splitlines()[-1] if version == 1 else f"schema version {version!r}"
    fault = Mismatch(str(path), "a signature of schema version 1", reason, "aa.capture(module, x).save(path)")
    return SignatureError(f"{path} holds no signature", [fault])
