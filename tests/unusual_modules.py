"""Modules that nobody would write for a test: containers, wrappers, modes, caches, parametrisations, aliases, hooks."""

from __future__ import annotations

import enum
import functools
import math
import sys
import threading
import warnings
import weakref
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

Maps = tuple[torch.Tensor, torch.Tensor]


class Body(nn.Module):
    """Two maps: 4 channels at stride 2, 8 at stride 4. The base of the zoo; most members change only how it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, 2, 1)
        self.two = nn.Conv2d(4, 8, 3, 2, 1)

    def maps(self, x: torch.Tensor) -> Maps:
        one = self.one(x).relu()
        return one, self.two(one).relu()

    def forward(self, x: torch.Tensor) -> Any:
        return self.maps(x)


def answering(name: str, answer: Callable[..., Any]) -> Callable[[], nn.Module]:
    """A class that puts the two maps into a container of its own."""

    def forward(self: Body, x: torch.Tensor) -> Any:
        return answer(*self.maps(x))

    return type(name, (Body,), {"forward": forward, "__module__": __name__})


# ---------------------------------------------------------------------------------------------- containers


class Attributes(dict[str, Any]):
    """A dict whose keys are attributes, as EasyDict writes it: a missing one raises KeyError."""

    __getattr__ = dict.__getitem__


class Levels(list[torch.Tensor]):
    """A list that is made from strides and maps."""

    def __init__(self, strides: list[int], maps: list[torch.Tensor]) -> None:
        super().__init__(maps)
        self.strides = strides


class Labelled(list[torch.Tensor]):
    """A list with an attribute that its constructor does not take."""

    label = ""


class Pair(tuple[torch.Tensor, ...]):
    """A tuple that is made from two values."""

    def __new__(cls, one: torch.Tensor, two: torch.Tensor) -> Pair:
        return super().__new__(cls, (one, two))


class Told(NamedTuple):
    one: torch.Tensor
    two: torch.Tensor


class Checked(namedtuple("Checked", ["one", "two"])):
    """A named tuple that takes its items in another order."""

    __slots__ = ()

    def __new__(cls, two: torch.Tensor, one: torch.Tensor) -> Checked:
        return super().__new__(cls, one, two)


@dataclass
class Plainly:
    one: torch.Tensor
    two: torch.Tensor


@dataclass
class Swapped:
    """Its fields change places when it is made."""

    one: torch.Tensor
    two: torch.Tensor

    def __post_init__(self) -> None:
        self.one, self.two = self.two, self.one


@dataclass
class Stacked:
    """Takes a list and keeps it as a dict."""

    maps: Any

    def __post_init__(self) -> None:
        if isinstance(self.maps, (list, tuple)):
            self.maps = {f"p{i}": one for i, one in enumerate(self.maps)}


@dataclass
class Derived:
    """A field that is no argument, and is made from the others."""

    one: torch.Tensor
    two: torch.Tensor
    mean: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = self.two.mean((2, 3))


@dataclass(frozen=True)
class Frozen:
    one: torch.Tensor
    two: torch.Tensor


@dataclass
class Slotted:
    __slots__ = ("one", "two")
    one: torch.Tensor
    two: torch.Tensor


class Side(enum.Enum):
    LEFT = 1


def _in_itself(one: torch.Tensor, two: torch.Tensor) -> list[Any]:
    found: list[Any] = [one, two]
    found.append(found)
    return found


def _in_its_parent(one: torch.Tensor, two: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {"one": one, "inner": {"two": two}}
    found["inner"]["parent"] = found
    return found


def _by_default(one: torch.Tensor, two: torch.Tensor) -> Any:
    found: defaultdict[str, list[torch.Tensor]] = defaultdict(list)
    found["maps"] += [one, two]
    return found


def _labelled(one: torch.Tensor, two: torch.Tensor) -> Labelled:
    found = Labelled([one, two])
    found.label = "maps"
    return found


# ----------------------------------------------------------------------------------------------- attributes


class HoldsLock(Body):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> Maps:
        with self.lock:
            return self.maps(x)


class HoldsPythonModule(Body):
    def __init__(self) -> None:
        super().__init__()
        self.functions = F

    def forward(self, x: torch.Tensor) -> Any:
        return self.functions.relu(self.two(self.one(x)))


class HoldsGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.numbers: Iterator[int] = (i for i in range(10))


class HoldsOpenFile(Body):
    def __init__(self) -> None:
        super().__init__()
        self.log = sys.__stderr__


class HoldsDeepInside(Body):
    """A lock within an object within a dict, beside a tensor that must not be shared."""

    def __init__(self) -> None:
        super().__init__()
        self.extras = {"state": SimpleNamespace(lock=threading.Lock(), scale=torch.ones(1)), "count": [1, 2]}

    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1]
        return two * self.extras["state"].scale.to(two)


class HoldsTorchGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(1)


class HoldsWeakReference(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first = weakref.ref(self.one)


class HoldsLambda(Body):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: x.relu()

    def forward(self, x: torch.Tensor) -> Any:
        return self.act(self.two(self.one(x)))


class RefusesToBeCopied(Body):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise RuntimeError("this module owns a connection")


# ------------------------------------------------------------------------------------- wrappers, modes, state


class TrainsToNothing(Body):
    """`train` returns nothing, as in most detector backbones."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


class KeepsLast(Body):
    """Keeps what it saw."""

    last: Any = None

    def forward(self, x: torch.Tensor) -> Any:
        self.last = self.maps(x)
        return self.last


class TableBySize(Body):
    """A position table in a dict of the instance."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1]
        width = two.shape[-1]
        if width not in self.tables:
            self.tables[width] = torch.arange(width).to(two).sin()
        return two + self.tables[width].to(two)


@functools.lru_cache(maxsize=64)
def _sines(width: int) -> torch.Tensor:
    return torch.arange(width).float().sin()


class GlobalTable(Body):
    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1]
        return two + _sines(two.shape[-1]).to(two)


class CachedProperty(Body):
    @functools.cached_property
    def scale(self) -> torch.Tensor:
        return self.two.bias.detach().abs().sum() + 1

    def forward(self, x: torch.Tensor) -> Any:
        return self.maps(x)[1] * self.scale


class ReturnsItself(Body):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class MixedModes(Body):
    """Frozen norms inside a training model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.norm.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.maps(x)[1])


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(x)


class DynamicAttribute(Body):
    """Attributes that are looked up anew each time."""

    def __getattr__(self, name: str) -> Any:
        if name == "stride":
            return 4
        return super().__getattr__(name)


class NoSignature(Body):
    """Takes whatever it gets."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.maps(args[0] if args else kwargs["x"])


class Decorated(Body):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> Any:
        return self.maps(x)


class NoParameters(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return F.avg_pool2d(x, 4)


class SharesLayer(nn.Module):
    """One layer at two names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.again = self.same = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.same(self.again(self.stem(x)))


class Recursive(Body):
    """Calls itself once more, at half the size."""

    def forward(self, x: torch.Tensor, again: bool = True) -> Any:
        one, two = self.maps(x)
        return (one, two, self(F.avg_pool2d(x, 2), again=False)[1]) if again else (one, two)


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.right.weight = self.left.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.right(self.left(self.stem(x)).relu())


def _normed(make: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        body = Body()
        body.two = make(body.two)
        return body

    return made


class _Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight + weight.flip(-1)) / 2


def _parametrised() -> nn.Module:
    body = Body()
    parametrize.register_parametrization(body.two, "weight", _Symmetric())
    return body


# ---------------------------------------------------------------------------------------------------- hooks


class StopForwardError(Exception):
    """Raised by a hook once the features are there."""


def _stopping() -> nn.Module:
    def stop(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise StopForwardError

    body = Body()
    body.two.register_forward_hook(stop)
    return body


def _changing() -> nn.Module:
    body = Body()
    body.two.register_forward_hook(lambda _module, _args, output: output * 2)
    return body


def _changing_inputs() -> nn.Module:
    body = Body()
    body.register_forward_pre_hook(lambda _module, args: (args[0] / 2,))
    return body


def _backward_hook() -> nn.Module:
    body = Body()
    body.two.register_full_backward_hook(lambda _module, _before, after: None)
    return body


def _always() -> nn.Module:
    body = Body()
    body.register_forward_hook(lambda _module, _args, output: [*output], always_call=True)
    return body


# ---------------------------------------------------------------------------------------- kinds of modules


class Nested(Body):
    """Answers a nested tensor: one row for each picture."""

    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1].flatten(1)
        return torch.nested.nested_tensor([row[: 4 + i] for i, row in enumerate(two)])


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyConv2d(8, 3, stride=4, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


def _scripted() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have it exported
        return torch.jit.script(layers)


def _holding_script() -> nn.Module:
    return nn.Sequential(_scripted(), nn.ReLU())


def _traced() -> nn.Module:
    return torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU()))


def _exported() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC, 0: torch.export.Dim.DYNAMIC}
    return torch.export.export(module, (torch.randn(2, 3, 32, 32),), dynamic_shapes=(sizes,)).module()


class Complex(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.fft.fft2(self.maps(x)[1])


class Sized(Body):
    """Numbers and texts beside the tensors."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"maps": self.maps(x), "stride": 4, "name": "body", "none": None, "ok": True}


class Shape(Body):
    """Its answer holds a `torch.Size`, which depends on the input."""

    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1]
        return two, two.shape


class Nothing(Body):
    def forward(self, x: torch.Tensor) -> Any:
        self.maps(x)


class Number(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return math.pi


class Numpy(Body):
    def forward(self, x: torch.Tensor) -> Any:
        return self.maps(x)[1].detach().numpy()


class Yields(Body):
    def forward(self, x: torch.Tensor) -> Any:
        yield from self.maps(x)


class Raises(Body):
    def forward(self, x: torch.Tensor) -> Any:
        raise KeyError("nothing", 1)


class SaysNothing(Body):
    def forward(self, x: torch.Tensor) -> Any:
        raise ValueError


class TakesAttributes(Body):
    """Takes a dict whose keys are attributes."""

    def forward(self, batch: Any) -> Any:
        return self.maps(batch.image)


class RowsOf(nn.Linear):
    """A linear layer over the channels of a map."""

    def __init__(self) -> None:
        super().__init__(3, 8)

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(F.avg_pool2d(x, 4).movedim(1, -1)).movedim(-1, 1)


class ThroughMethods(Body):
    """A container of modules and a method stored as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.run = self.maps

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(x)


class NamedLikeMethods(nn.Module):
    """Children named as what containers have."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Conv2d(3, 8, 4, 4)
        self.values = nn.ReLU()

    def forward(self, x: torch.Tensor) -> Any:
        return {"keys": self.values(self.keys(x)), "items": self.keys(x)}


def image() -> torch.Tensor:
    """Two small pictures, always the same."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _attribute_batch() -> tuple[Any]:
    return (Attributes(image=image()),)


def _in_inference() -> nn.Module:
    with torch.inference_mode():
        return Body()


@dataclass(frozen=True)
class Unusual:
    """A member of the zoo.

    Args:
        name: What the test is called.
        make: Makes the module.
        refused: Part of the text with which it is refused as an old module; empty where it is exact.
        refused_as_new: The same as a new module; `refused` where left out.
        inputs: An example call.
        open: Why it does not hold yet.
        fails: What `verify` says of it, since it is so of the module alone.
    """

    name: str
    make: Callable[[], nn.Module]
    refused: str = ""
    refused_as_new: str | None = None
    inputs: Callable[[], Any] = image
    open: str = ""
    fails: str = "nothing"


ZOO = [
    Unusual("tuple", Body),
    Unusual("easy dict", answering("Easy", lambda one, two: Attributes(one=one, two=two))),
    Unusual("easy dict inside", answering("EasyIn", lambda one, two: [Attributes(one=one), two])),
    Unusual("argument that is an easy dict", TakesAttributes, inputs=_attribute_batch),
    Unusual("defaultdict", answering("Default", _by_default), "defaultdict", ""),
    Unusual("list made from other arguments", answering("L", lambda a, b: Levels([2, 4], [a, b])), "Levels", ""),
    Unusual("list with an attribute", answering("La", _labelled), "Labelled", ""),
    Unusual("tuple made from two values", answering("P", Pair), "Pair", ""),
    Unusual("named tuple", answering("Nt", Told)),
    Unusual("named tuple in another order", answering("Ch", lambda a, b: Checked(b, a)), "Checked", ""),
    Unusual("dataclass", answering("Dc", Plainly)),
    Unusual("dataclass that swaps its fields", answering("Sw", Swapped), "Swapped", ""),
    Unusual("dataclass that keeps a dict", answering("St", lambda a, b: Stacked([a, b]))),
    Unusual("dataclass with a derived field", answering("De", Derived)),
    Unusual("frozen dataclass", answering("Fr", Frozen)),
    Unusual("dataclass with slots", answering("Sl", Slotted)),
    Unusual("list that holds itself", answering("Self", _in_itself), "holds itself", ""),
    Unusual("dict that holds its parent", answering("Parent", _in_its_parent), "holds itself", ""),
    Unusual("ordered dict", answering("Od", lambda a, b: OrderedDict(a=a, b=b))),
    Unusual("user dict", answering("Ud", lambda a, b: UserDict(a=a, b=b))),
    Unusual("mapping proxy", answering("Mp", lambda a, b: MappingProxyType({"a": a, "b": b})), "mappingproxy", ""),
    Unusual("namespace", answering("Ns", lambda a, b: SimpleNamespace(a=a, b=b)), "cannot look into"),
    Unusual("set", answering("Set", lambda a, b: {a, b}), "cannot look into"),
    Unusual("tuple keys", answering("Tk", lambda a, b: {("disp", 0): a, ("disp", 1): b}), "no path can name"),
    Unusual("enum keys", answering("Ek", lambda a, b: {Side.LEFT: a, "b": b}), "no path can name"),
    Unusual("integer keys", answering("Ik", lambda a, b: {4: a, 2: b})),
    Unusual("numbers and texts", Sized),
    Unusual("a size in the answer", Shape, "at every input size"),
    Unusual("numpy answer", Numpy, "cannot look into"),
    Unusual("generator answer", Yields, "cannot look into"),
    Unusual("no answer", Nothing),
    Unusual("a number", Number, "", "nothing in Number"),
    Unusual("nested tensor", Nested, "nested tensor"),
    Unusual("complex", Complex),
    Unusual("lock", HoldsLock),
    Unusual("python module", HoldsPythonModule),
    Unusual("generator", HoldsGenerator),
    Unusual("open file", HoldsOpenFile),
    Unusual("lock deep inside", HoldsDeepInside),
    Unusual("torch generator", HoldsTorchGenerator),
    Unusual("weak reference", HoldsWeakReference),
    Unusual("lambda", HoldsLambda),
    Unusual("refuses to be copied", RefusesToBeCopied, "this module owns a connection"),
    Unusual("train returns nothing", TrainsToNothing),
    Unusual("keeps its last answer", KeepsLast),
    Unusual("table by size", TableBySize),
    Unusual("table in an lru_cache", GlobalTable),
    Unusual("cached property", CachedProperty),
    Unusual("deepcopy returns itself", ReturnsItself, "cannot be copied for a view"),
    Unusual("frozen norm in training", MixedModes),
    Unusual("made in inference mode", _in_inference),
    Unusual("works in place", InPlace),
    Unusual("attributes on demand", DynamicAttribute),
    Unusual("takes anything", NoSignature),
    Unusual("no gradients", Decorated, fails="detached"),
    Unusual("no parameters", NoParameters, "", "an axis like 6"),
    Unusual("one layer at two names", SharesLayer),
    Unusual("calls itself", Recursive),
    Unusual("tied weights", TiedWeights),
    Unusual("weight norm", _normed(parametrizations.weight_norm)),
    Unusual("spectral norm", _normed(parametrizations.spectral_norm)),
    Unusual("orthogonal", _normed(parametrizations.orthogonal)),
    Unusual("parametrised", _parametrised),
    Unusual("hook that stops", _stopping, "hook"),
    Unusual("hook that changes the answer", _changing),
    Unusual("hook that changes the input", _changing_inputs),
    Unusual("backward hook", _backward_hook),
    Unusual("hook that changes the container", _always),
    Unusual("lazy layer", Lazy, "run the model once first"),
    Unusual("script module", _scripted, "is compiled, so that it cannot be adapted"),
    Unusual("script module inside", _holding_script, "is compiled, so that it cannot be adapted"),
    Unusual("fx module", _traced),
    Unusual("exported program", _exported),
    Unusual("subclass of linear", RowsOf),
    Unusual("method kept as an attribute", ThroughMethods),
    Unusual("names of methods", NamedLikeMethods, "", "equally good"),
    Unusual("raises", Raises, "raises at the given input"),
    Unusual("raises without a word", SaysNothing, "raises at the given input"),
]
