"""Unread tensors: what a module of a swapped region hands on where nothing read it when the region was swapped."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn


class Known(NamedTuple):
    """What functions between the modules of a region did when it was swapped."""

    learned: tuple[str, ...] = ()
    """Those that took weights of the model itself."""
    mixing: tuple[str, ...] = ()
    """Those that took more tensors than one."""
    parting: tuple[str, ...] = ()
    """Those of `PARTING` that took a part of one."""


class Unread(torch.Tensor):
    """Has the shape that the old module's output had, if that is known, and no values.

    Functions may make others of it, which go back into the region as they always did. A layer with weights, whatever
    asks for values, and what writes it into another tensor, raise: they belong to a path that the model did not take
    when it was swapped.
    """

    place: str
    """The module that hands it on."""
    is_shaped: bool = False
    """Whether it has the shape of what stood there."""
    known: Known = Known()
    mixed: str = ""
    """A function that has put something in that came from elsewhere, and did not when the region was swapped."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((*args, *(kwargs or {}).values())))
        mine = next(one for one in given if isinstance(one, Unread))
        name = _name(func)
        others = [one for one in given if not isinstance(one, Unread)]
        if name in _VALUES or (name not in mine.known.learned and any(isinstance(one, nn.Parameter) for one in others)):
            mine._refuse(name)
        if _writes(name) and not isinstance(args[0], Unread):
            mine._refuse(name)
        mixed = name if others and name not in mine.known.mixing else ""
        mixed = name if _takes_a_part(name, args) and name not in mine.known.parting else mixed
        mixed = next((one.mixed for one in given if isinstance(one, Unread) and one.mixed), mixed)
        if name in _ABOUT or mine.is_shaped:
            with torch._C.DisableTorchFunctionSubclass():
                made = func(*args, **(kwargs or {}))
            return mine._through(name, made, others, mixed)
        if name in _SIZES:
            mine._refuse(name)
        return _made(mine, mine.place, is_shaped=False, known=mine.known, mixed=mixed) if mixed else mine

    def _through(self, name: str, made: Any, others: list[torch.Tensor], mixed: str) -> Any:
        """What a function made of it, with no values either."""
        found = list(_tensors((made,)))
        tells = not found and name not in _ABOUT | _SIZES and not _writes(name)
        if tells or any(one is other for one in found for other in others):
            self._refuse(name)
        return self._marked(made, mixed)

    def _marked(self, value: Any, mixed: str) -> Any:
        if isinstance(value, torch.Tensor):
            made = value if isinstance(value, Unread) else unread(self.place, value, self.known)
            if mixed and isinstance(made, Unread):
                made.mixed = mixed
            return made
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            marked = [self._marked(one, mixed) for one in value]
            return type(value)(*marked) if hasattr(type(value), "_make") else type(value)(marked)
        return value

    def as_subclass(self, cls: Any) -> NoReturn:
        """Takes it for another kind of tensor, which would not know."""
        self._refuse("as_subclass")

    def __iter__(self) -> Iterator[torch.Tensor]:
        if not self.is_shaped:
            self._refuse("__iter__")
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> Unread:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        with torch._C.DisableTorchFunctionSubclass(), torch._C._DisableTorchDispatch():
            values = torch.Tensor.as_subclass(self, torch.Tensor)
        return functools.partial(_made, is_shaped=self.is_shaped, known=self.known), (values, self.place)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"<what {self.place} returned: nothing read it when the model was swapped>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def _refuse(self, name: str) -> NoReturn:
        raise RuntimeError(
            f"{self.place} stands in for a module of a swapped region, and nothing read what that returned when the "
            f"model was swapped; now {name} reads it: name it in swap(..., outputs=[...]), or swap with inputs= that "
            f"take this path"
        )


def unread(place: str, blank: torch.Tensor, known: Known) -> torch.Tensor:
    """What a module hands on in the place of what nothing read.

    Args:
        place: The module.
        blank: NaN or zeros of the shape that it had.
        known: What functions did with it when the region was swapped.
    """
    try:
        return _made(blank, place, is_shaped=True, known=known)
    except RuntimeError:  # a kind of tensor by which torch follows a program: there is one path, and no values
        return blank


def unread_shapeless(place: str, device: torch.device) -> torch.Tensor:
    """The same where no function ever took it, so that its shape is not known.

    Each is another object, since two passes are told apart by what they hand on.
    """
    empty = _empty(device)
    try:
        with torch._C._DisableTorchDispatch():  # below a mode torch 2.5 refuses it
            made = torch.Tensor.as_subclass(empty, Unread)
    except RuntimeError:
        return empty
    made.place = place
    return made


@functools.lru_cache(maxsize=256)
def _empty(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.empty(0, device=device)


def _made(values: torch.Tensor, place: str, *, is_shaped: bool, known: Known, mixed: str = "") -> Unread:
    with torch._C.DisableTorchFunctionSubclass(), torch._C._DisableTorchDispatch():
        made = torch.Tensor.as_subclass(values.detach(), Unread)
    made.place, made.is_shaped, made.known, made.mixed = place, is_shaped, known, mixed
    return made


def _name(func: Any) -> str:
    """The name of a function, and of an attribute that is read."""
    name: str = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def _writes(name: str) -> bool:
    """Whether a function of that name writes into its first argument."""
    return name in _OPERATORS or (name.endswith("_") and not name.endswith("__"))


def _takes_a_part(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a function takes some of the samples, which would be served all the same."""
    if name != "__getitem__":
        return name in PARTING
    first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
    return not (first is Ellipsis or (isinstance(first, slice) and first == slice(None)))


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


PARTING = frozenset(
    {"__getitem__", "narrow", "index_select", "select", "chunk", "split", "unbind", "take", "repeat"}
    | {"repeat_interleave", "expand", "flip", "roll"}
)
"""What takes some samples of a tensor, or makes more of them."""
_ABOUT = frozenset(
    {"device", "dtype", "requires_grad", "is_leaf", "grad_fn", "grad", "layout", "is_cuda", "is_cpu", "is_meta"}
    | {"is_mps", "is_xpu", "is_sparse", "is_quantized", "is_nested", "is_mkldnn", "is_floating_point", "is_complex"}
    | {"requires_grad_", "detach", "detach_", "get_device", "is_inference", "is_contiguous", "__hash__"}
)
"""What is told of any tensor."""
_OPERATORS = frozenset(
    {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"}
    | {"__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
)
"""Operators that write."""
_SIZES = frozenset({"shape", "ndim", "size", "dim", "ndimension", "numel", "nelement", "__len__", "stride"})
_VALUES = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__array__", "__contains__", "item", "tolist"}
    | {"numpy", "backward", "allclose", "equal", "is_nonzero", "data_ptr", "save"}
)
