"""Modules that nobody would write for a test: containers, wrappers, modes, caches, parametrisations, aliases, hooks."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from unusual_containers import (
    Attributes,
)

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


def normed(make: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        body = Body()
        body.two = make(body.two)
        return body

    return made


class _Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight + weight.flip(-1)) / 2


def parametrised() -> nn.Module:
    body = Body()
    parametrize.register_parametrization(body.two, "weight", _Symmetric())
    return body


class StopForwardError(Exception):
    """Raised by a hook once the features are there."""


def stopping() -> nn.Module:
    def stop(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise StopForwardError

    body = Body()
    body.two.register_forward_hook(stop)
    return body


def changing() -> nn.Module:
    body = Body()
    body.two.register_forward_hook(lambda _module, _args, output: output * 2)
    return body


def changing_inputs() -> nn.Module:
    body = Body()
    body.register_forward_pre_hook(lambda _module, args: (args[0] / 2,))
    return body


def backward_hook() -> nn.Module:
    body = Body()
    body.two.register_full_backward_hook(lambda _module, _before, after: None)
    return body


def always() -> nn.Module:
    body = Body()
    body.register_forward_hook(lambda _module, _args, output: [*output], always_call=True)
    return body


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


def scripted() -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have it exported
        return torch.jit.script(layers)


def holding_script() -> nn.Module:
    return nn.Sequential(scripted(), nn.ReLU())


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU()))


def exported() -> nn.Module:
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


def attribute_batch() -> tuple[Any]:
    return (Attributes(image=image()),)


def in_inference() -> nn.Module:
    with torch.inference_mode():
        return Body()
