"""Specs: dtype, dims and meaning of one tensor, and their text form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import torch
from pydantic import Field, field_validator

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature.cell_centres import Centres, Frozen, in_digits, read_centres, spatial_axes
from autoadapt.contracts.signature.cell_orders import Cells
from autoadapt.contracts.signature.held_values import Held
from autoadapt.contracts.signature.merged_axes import MERGED_TEXT, Merged, is_sequence
from autoadapt.errors import Mismatch, SignatureError, nearest

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
    "c32": torch.complex32,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
MOST_AXES = 64
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONG_NAMES = {str(dtype).removeprefix("torch."): name for dtype, name in _DTYPE_NAMES.items()} | {
    "float": "f32",
    "half": "f16",
    "double": "f64",
    "long": "i64",
    "int": "i32",
}
"""torch's own names of dtypes, which `parse` takes too."""
_SPEC = re.compile(
    r"^\s*(?:torch\.)?(?P<dtype>\w+)\s*\[(?P<dims>.*)\]\s*(?P<role>(?!(?:in|axis|centres|depth|share|class|first|last|leading|points|rows|norm|probabilities|never|between)\b)[a-z]\w*)?\s*"
    r"(?:in (?P<cells>columns|unknown|HTW|HWT|TWH|WTH) order)?\s*(?:(?P<trailing>\d+) last)?\s*"
    r"(?:centres (?P<centres>[^=\]]*? i(?: along \w+)?(?: reversed)?)\b)?\s*(?:depth (?P<depth>\d+(?:\.\d+)?)\b)?\s*"
    r"(?:share (?P<share>[01](?:\.\d+)?)\b)?\s*"
    r"(?P<class_token>class token)?\s*(?:(?P<end_token>first|last) token)?\s*"
    r"(?:leading (?P<leading>\d+)\b)?\s*"
    r"(?:points on axis (?P<point_axis>[12])\b)?\s*(?:rows on axis (?P<map_axis>[12])\b)?\s*"
    rf"(?:{MERGED_TEXT})?\s*"
    r"(?:(?P<held>norm 1|(?:log-)?probabilities|never negative|between (?:0|-1) and 1)"
    r"(?: along axis (?P<held_axis>\d+)\b(?P<held_on> on\b)?)?)?\s*"
    r"(?:=\s*(?P<same>\S+))?\s*$"
)


def _read_held(found: re.Match[str], dims: Sequence[Dim]) -> Held:
    """The `holds` field from its text, with the axis of the vectors; of a tensor `[B, C]` that is axis 1.

    Raises:
        SignatureError: The axis is missing, or the tensor has no such axis.
    """
    told = int(found["held_axis"] or 1)
    held = Held(what=cast(Any, found["held"]), axis=told, on=bool(found["held_on"]))
    is_clear = told < len(dims) and (found["held_axis"] or len(dims) == 2)
    if held.bounds is None and not is_clear:
        text, axes = found.string, [*range(1, len(dims))]
        axis = next((axis for axis in axes if not dims[axis].axes), 1)
        rest = text[max(found.end("held"), found.end("held_axis")) :]
        remedy = f'"{text[: found.end("held")]} along axis {axis}{rest}"' if axes else "leave it out"
        expected = f"which axis its vectors lie along, of {axes}"
        fault = Mismatch(repr(text), expected, found["held_axis"] or "none", remedy)
        raise SignatureError(f"`{held.what}` holds along one axis", [fault])
    return held


class TensorSpec(Frozen):
    """What is known of one tensor.

    Example:
        >>> print(TensorSpec.parse("i32[B, 1024] index"))
        i32[B, 1024] index
    """

    made_by = 'TensorSpec.parse("f32[B, 256, ceil(H/4), ceil(W/4)]")'

    dtype: str
    dims: tuple[Dim, ...]
    role: Role = "feature"
    same_as: str = ""
    """The path of the very same tensor: `inputs.x`, or an earlier output."""
    centres: tuple[Centres, ...] = ()
    """Where cells lie along each input axis, where that is the same at every size. Not compared by `==`."""
    cells: Cells = "rows"
    """The order of the cells on an axis that lists them as tokens."""
    leading: int = Field(default=0, exclude_if=lambda count: not count, repr=False)
    """How many learned tokens stand before the cells of a sequence, as a run showed. Not compared by `==`."""
    trailing: int = 0
    """How many tokens that are no cells stand behind the cells; all others stand before them."""
    depth: float | None = Field(default=None, exclude_if=lambda depth: depth is None, repr=False)
    """How much of the module it depends on, in octaves (`capturing/depths.py`): 5 is a whole network whose last stride
    is 32. Not compared by `==`."""
    share: float | None = Field(default=None, exclude_if=lambda share: share is None, repr=False)
    """Of a transformer's blocks in a row, the share that it depends on, from 0 to 1. Not compared by `==`."""
    class_token: bool = Field(default=False, exclude_if=lambda told: not told, repr=False)
    """Whether it is computed from the class token alone, and not by pooling cells. Not compared by `==`."""
    first_token: bool = Field(default=False, exclude_if=lambda told: not told, repr=False)
    """Whether it is computed from the first token of a sequence, and from no other. Not compared by `==`."""
    last_token: bool = Field(default=False, exclude_if=lambda told: not told, repr=False)
    """Whether it is computed from the last token of a sequence that counts, and from no other. Not compared by `==`."""
    point_axis: int | None = Field(default=None, exclude_if=lambda axis: axis is None, repr=False)
    """Which axis lists points, where both that may are of fixed size and a real run showed it. Not compared by `==`."""
    map_axis: int | None = Field(default=None, exclude_if=lambda axis: axis is None, repr=False)
    """Which axis of a map of fixed size lists rows, where a real run showed it. Not compared by `==`."""
    merged: Merged | None = Field(default=None, exclude_if=lambda merged: merged is None, repr=False)
    """The axis that lists the channels and cells of a map, as flattening leaves it, where a run showed it. Not compared
    by `==`."""
    holds: Held | None = Field(default=None, exclude_if=lambda held: held is None, repr=False)
    """A property of its values that a real run showed, such as vectors of norm 1. Not compared by `==`."""
    points: int | None = Field(default=None, exclude=True, repr=False)
    """Which axis lists the points that several leaves share; set while planning, and never saved."""

    @field_validator("dtype")
    @classmethod
    def _known_dtype(cls, name: str) -> str:
        if name not in DTYPES:
            known = ", ".join(DTYPES)
            raise SignatureError("unknown dtype", [Mismatch(name, known, name, _did_you_mean(name, DTYPES) or "f32")])
        return name

    @field_validator("dims")
    @classmethod
    def _possible(cls, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """Refuse too many axes and negative sizes."""
        if len(dims) > MOST_AXES:
            fault = Mismatch("dims", f"at most {MOST_AXES} axes, as torch has it", f"{len(dims):,}", cls.made_by)
            raise SignatureError("a tensor has too many axes", [fault])
        negative = [str(dim) for dim in dims if dim.constant is not None and dim.constant < 0]
        if negative:
            fault = Mismatch(negative[0], "a size of 1 or more", negative[0], negative[0].lstrip("-"))
            raise SignatureError("a tensor has no negative size", [fault])
        return dims

    @classmethod
    def parse(cls, text: str) -> TensorSpec:
        """Read `dtype[dims] role centres 43 + 8 i depth 5 share 1 class token points on axis 1 norm 1 = path`.

        All but dtype and dims may be left out. A dtype may have torch's name: `float32[B, 8]` is `f32[B, 8]`. Centres
        hold for all spatial axes, unless they name one: `centres 43 + 8 i along H, 3.5 + 8 i along W`.

        Raises:
            SignatureError: The text is malformed.
        """
        found = _SPEC.match(text)
        several = re.findall(r"[\w.]+\s*\[[^\[\]]*\]", text)
        if len(several) > 1 and (found is None or "]" in found["dims"]):
            fault = Mismatch(repr(text), "one spec in a text", f"{len(several)} specs", json.dumps(several))
            raise SignatureError("a text holds several specs", [fault])
        if found is None:
            squared = re.sub(r"^(\s*[\w.]+\s*)\((.*)\)\s*$", r"\1[\2]", text)
            remedy = squared if _SPEC.match(squared) else "f32[B, 256, ceil(H/4), ceil(W/4)]"
            fault = Mismatch(repr(text), "dtype[dim, dim, ...]", text, f'"{remedy}"')
            raise SignatureError(f"{text!r} is no tensor spec", [fault])
        cells = cast(Cells, found["cells"] or "rows")
        dtype, role = _LONG_NAMES.get(found["dtype"], found["dtype"]), found["role"]
        default = "feature" if dtype in _FLOATING else "mask" if dtype == "bool" else "other"
        if role is not None and role not in ROLES:
            remedy = _did_you_mean(role, ROLES)
            raise SignatureError("unknown role", [Mismatch(repr(text), ", ".join(ROLES), role, remedy)])
        dims = tuple(Dim.parse(part.strip()) for part in _split(found["dims"]))
        return cls(
            dtype=dtype,
            dims=dims,
            role=cast(Role, role or default),
            cells=cells,
            trailing=int(found["trailing"] or 0),
            centres=read_centres(found["centres"], dims) if found["centres"] else (),
            depth=float(found["depth"]) if found["depth"] else None,
            share=float(found["share"]) if found["share"] else None,
            class_token=bool(found["class_token"]),
            first_token=found["end_token"] == "first",
            last_token=found["end_token"] == "last",
            leading=int(found["leading"] or 0),
            point_axis=int(found["point_axis"]) if found["point_axis"] else None,
            map_axis=int(found["map_axis"]) if found["map_axis"] else None,
            merged=Merged.parse(found["merged_axis"], found["merged"]) if found["merged"] else None,
            holds=_read_held(found, dims) if found["held"] else None,
            same_as=found["same"] or "",
        )

    def __str__(self) -> str:
        shown = "" if self.role in ("feature", "mask", "other") else f" {self.role}"
        same = f" = {self.same_as}" if self.same_as else ""
        order = "" if self.cells == "rows" else f" in {self.cells} order"
        last = f" {self.trailing} last" if self.trailing else ""
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]{shown}{order}{last}{same}"

    @property
    def in_short(self) -> str:
        """The text with `..` in place of the width where it is the same function of W as the height is of H."""
        dims = [str(dim) for dim in self.dims]
        if len(dims) > 3 and dims[-1] == dims[-2].replace("H", "W") != dims[-2]:
            return f"{self.dtype}[{', '.join(dims[:-1])}, ..]"
        return str(self)

    @property
    def in_full(self) -> str:
        """The text with all fields, which `parse` reads.

        Example:
            >>> print(TensorSpec.parse("f32[B, 8, ceil(H/8), ceil(W/8)] centres 3.5 + 8 i").in_full)
            f32[B, 8, ceil(H/8), ceil(W/8)] centres 3.5 + 8 i
        """
        text, equals, same = str(self).partition(" = ")
        return text + "".join(map(" {}".format, self._known())) + equals + same

    def _known(self) -> Iterator[str]:
        """The texts of the fields that `==` does not compare."""
        told = {one.in_full.replace(f" along {one.axis}", "") for one in self.centres}
        if len(told) == 1 and [one.axis for one in self.centres] == spatial_axes(self.dims):
            yield f"centres {told.pop()}"
        elif self.centres:
            yield "centres " + ", ".join(one.in_full for one in self.centres)
        if self.depth is not None:
            yield f"depth {in_digits(self.depth)}"
        if self.share is not None:
            yield f"share {in_digits(self.share)}"
        if self.class_token:
            yield "class token"
        if self.first_token or self.last_token:
            yield f"{'first' if self.first_token else 'last'} token"
        if self.leading:
            yield f"leading {self.leading}"
        if self.point_axis is not None:
            yield f"points on axis {self.point_axis}"
        if self.map_axis is not None:
            yield f"rows on axis {self.map_axis}"
        yield from (str(told) for told in (self.merged, self.holds) if told is not None)

    @property
    def is_restored(self) -> bool:
        """Whether adapters restore the property that its values hold.

        Not what ReLU left, nor maps behind tanh, which a linear fit without a bound meets best.
        """
        is_map = {"H", "W"} <= {axis for dim in self.dims for axis in dim.axes}
        left = ("never negative", *["between -1 and 1"] * is_map)
        return self.holds is not None and self.holds.what not in left

    @property
    def order(self) -> tuple[Cells, int]:
        """Order of the cells on a token axis, and tokens behind them."""
        return self.cells, self.trailing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSpec) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def _compared(self) -> tuple[object, ...]:
        return self.dtype, self.dims, self.role, self.same_as, self.cells, self.trailing, self.points

    def with_dims(self, dims: Sequence[Dim]) -> TensorSpec:
        """The same with other dims; centres are kept along input axes on which the same dims depend as before.

        So is what a merged axis lists, where its dim is as before.

        Example:
            >>> cells = (Centres(axis="H", first=43, step=8), Centres(axis="W", first=43, step=8))
            >>> spec = TensorSpec.parse("f32[B, 8, ceil((H - 86)/8), ceil((W - 86)/8)]")
            >>> spec = spec.model_copy(update={"centres": cells})
            >>> [one.axis for one in spec.with_dims((*spec.dims[:3], Dim.parse("ceil(W/32)"))).centres]
            ['H']
        """
        dims = tuple(dims)
        known = {one.axis for one in self.centres if _following(one.axis, dims) == _following(one.axis, self.dims)}
        centres = tuple(one for one in self.centres if one.axis in known)
        of_sequence = [[dim for dim in each if is_sequence(dim)] for each in (dims, self.dims)]
        held = self.merged is not None and dims[self.merged.axis : self.merged.axis + 1] == (
            self.dims[self.merged.axis],
        )
        kept = {"merged": self.merged if held else None, "leading": self.leading * (of_sequence[0] == of_sequence[1])}
        return self.model_copy(update={"dims": dims, "centres": centres, **kept})

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return DTYPES[self.dtype]

    @property
    def is_floating(self) -> bool:
        """Whether the dtype is floating or complex, so that values may be learned."""
        return self.dtype in _FLOATING

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape at given sizes of the input axes."""
        return tuple(int(dim.evaluate(sizes)) for dim in self.dims)


_FLOATING = {"f64", "f32", "f16", "bf16", "c32", "c64", "c128"}


def _following(axis: str, dims: Iterable[Dim]) -> list[Dim]:
    return [dim for dim in dims if axis in dim.axes]


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype.

    Raises:
        SignatureError: autoadapt has no name for it.
    """
    if dtype not in _DTYPE_NAMES:
        fault = Mismatch(str(dtype), ", ".join(DTYPES), str(dtype), "cast the tensor before it is returned")
        raise SignatureError(f"tensors of {dtype} are not supported", [fault])
    return _DTYPE_NAMES[dtype]


def _split(text: str) -> list[str]:
    """The parts between commas outside parentheses; none of an empty text."""
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [] if not text.strip() else parts


def _did_you_mean(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    found = nearest(name.lower(), names, count=1)
    return found[0] if found else ""
