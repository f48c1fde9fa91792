"""Testing: assertions, fixtures and strategies for people who test their own adapted models.

`pytest_plugins = ["autoadapt.testing"]` in a `conftest.py` brings the fixture `signature_lock` and the option
`--update-signatures`. The only file that imports pytest and hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification import verify
from autoadapt.adapting.verification.compiler_checks import exported
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.capturing import bind, capture, told_inputs
from autoadapt.contracts.capturing.probing import quiet
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import AdaptError, Mismatch

__all__ = [
    "assert_adapts",
    "assert_exports",
    "assert_gradients_flow",
    "assert_same_signature",
    "assert_signature_locked",
    "backbones",
    "signatures",
]


# Assertions.


def assert_adapts(
    net: nn.Module,
    *,
    like: object,
    inputs: object = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
    batches: Sequence[int] = (1, 3),
) -> None:
    """Assert that a module keeps the signature of another in every check that `verify` makes.

    Args:
        net: The module.
        like: A module, a `Signature`, or the path of a saved one.
        inputs: An example call, as for `capture`.
        sizes: Sizes of the input axes to run at, such as `[{"H": 200, "W": 221}]`.
        batches: Batch sizes to run at.

    Raises:
        AssertionError: A check failed; the text is the report.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> assert_adapts(layer, like=nn.Conv2d(3, 8, 2, stride=2, padding=0), inputs=torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        AssertionError: Conv2d: DOES NOT keep its signature
        ...
    """
    __tracebackhide__ = True
    report = verify(net, as_signature(like, inputs), inputs=inputs, sizes=sizes, batches=batches)
    if not report.passed:
        raise AssertionError(str(report))


def assert_same_signature(expected: object, found: object, *, inputs: object = None) -> None:
    """Assert that two modules, or saved signatures, take and return the same at every size.

    Raises:
        AssertionError: They differ; every difference is in the text.

    Example:
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> assert_same_signature(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1), inputs=x)
    """
    __tracebackhide__ = True
    left, right = as_signature(expected, inputs), as_signature(found, inputs)
    faults = left.diff(right)
    if faults:
        raise AssertionError(_text(f"{right.name} has not the signature of {left.name}", faults))


def assert_gradients_flow(net: nn.Module, inputs: object = None) -> None:
    """Assert that a loss on all floating outputs reaches every parameter that is to be trained.

    A copy is run, so that gradients of the module itself stay as they are.

    Raises:
        AssertionError: A parameter gets no gradient, or one that is not finite.

    Example:
        >>> assert_gradients_flow(nn.Conv2d(3, 8, 1), torch.randn(2, 3, 8, 8))
    """
    __tracebackhide__ = True
    arguments = bind(net, _real_inputs(net) if inputs is None else inputs)
    copied = copy_module(net, clone_buffers)
    with quiet(), torch.enable_grad():
        _, outputs = flatten(arguments.call(copied))
        live = [output.float().square().mean() for output in outputs if output.requires_grad]
        if not live:
            raise AssertionError(f"no output of {type(net).__name__} depends on a parameter")
        torch.autograd.backward(torch.stack(live).sum())
    trained = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
    faults = [
        Mismatch(name, "a finite gradient", "none" if parameter.grad is None else "values that are not finite")
        for name, parameter in trained.items()
        if parameter.grad is None or not bool(parameter.grad.isfinite().all())
    ]
    if faults:
        raise AssertionError(_text(f"gradients do not flow through {type(net).__name__}", faults))


def _real_inputs(net: nn.Module) -> torch.Tensor:
    told = told_inputs(net)
    return torch.randn(told.shape, generator=torch.Generator().manual_seed(0))


def assert_exports(net: nn.Module, *, like: object = None, inputs: object = None) -> None:
    """Assert that a module goes through `torch.export` with dynamic axes and keeps its signature at other sizes.

    Args:
        net: The module.
        like: What it should keep; for an adapted module its own contract where left out.
        inputs: An example call, as for `capture`.

    Raises:
        AssertionError: It does not export, or the program returns something else.
    """
    __tracebackhide__ = True
    own = net.signature if isinstance(net, AdaptedModule) and like is None else as_signature(like or net, inputs)
    session = Session(net, own, inputs=inputs)
    try:
        with quiet():
            faults = exported(session).faults
    except NotApplicableError as reason:
        raise AssertionError(f"{type(net).__name__} does not export: {reason}") from reason
    except Exception as error:
        raise AssertionError(f"{type(net).__name__} does not export: {said(error)}") from error
    if faults:
        raise AssertionError(_text(f"the exported {type(net).__name__} returns something else", faults))


def assert_signature_locked(
    model: nn.Module, path: str | Path, inputs: object = None, *, update: bool | None = None
) -> None:
    """Assert that a module still has the signature that was written down once.

    Args:
        model: The module, such as one of a dependency that is updated now and then.
        path: The JSON file.
        inputs: An example call, as for `capture`.
        update: Write the file anew; by default where pytest runs with `--update-signatures`.

    Raises:
        AssertionError: There is no such file, or the signature differs from it.
    """
    __tracebackhide__ = True
    file, found = Path(path), capture(model, inputs)
    if _updating["signatures"] if update is None else update:
        file.parent.mkdir(parents=True, exist_ok=True)
        found.save(file)
        return
    if not file.exists():
        fault = Mismatch(str(file), "a saved signature", "no such file", "pytest --update-signatures")
        raise AssertionError(_text(f"the signature of {found.name} is not locked yet", [fault]))
    try:
        faults = Signature.load(file).diff(found)
    except AdaptError as error:
        raise AssertionError(str(error)) from error
    if faults:
        text = _text(f"the signature of {found.name} is not the one in {file}", faults)
        raise AssertionError(f"{text}\nif that is meant: pytest --update-signatures")


def _text(summary: str, faults: Sequence[Mismatch]) -> str:
    return "\n".join([summary, *map(str, faults)])


# Fixtures.

_updating = {"signatures": False}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-signatures`."""
    group = parser.getgroup("autoadapt")
    group.addoption("--update-signatures", action="store_true", help="write the locked signatures of models anew")


def pytest_configure(config: pytest.Config) -> None:
    """Note whether locked signatures are to be written anew."""
    _updating["signatures"] = bool(config.getoption("--update-signatures", default=False))


def pytest_unconfigure() -> None:
    """Forget it again."""
    _updating["signatures"] = False


@pytest.fixture
def signature_lock(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`signature_lock(model, inputs)` locks to `signatures/<test>.json` beside the test; a third argument names it."""
    folder = request.path.parent / "signatures"

    def locked(model: nn.Module, inputs: object = None, name: str = "") -> None:
        __tracebackhide__ = True
        assert_signature_locked(model, folder / f"{name or request.node.name}.json", inputs)

    return locked


# Strategies.


@st.composite
def signatures(draw: st.DrawFn, *, levels: int = 4) -> Signature:
    """Signatures of image backbones: up to some levels of falling resolution, in a list, a tuple or a dict."""
    strides = draw(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32]), min_size=1, max_size=levels, unique=True))
    leaves = [draw(_maps(stride)) for stride in sorted(strides)]
    named = {f"c{i + 2}": leaf for i, leaf in enumerate(leaves)}
    outputs = draw(st.sampled_from([leaves, tuple(leaves), named]))
    return Signature.parse(outputs, inputs={"x": "f32[B, 3, H, W]"}, name="drawn")


@st.composite
def _maps(draw: st.DrawFn, stride: int) -> TensorSpec:
    """One level: channels first, channels last or tokens, its sizes rounded up or down."""
    channels = Dim(draw(st.integers(1, 64)))
    up = draw(st.booleans())
    height, width = (axis.ceildiv(stride) if up else axis // stride for axis in map(Dim.axis, ("H", "W")))
    layouts = [(channels, height, width), (height, width, channels), (height * width, channels)]
    return TensorSpec(dtype="f32", dims=(Dim.axis("B"), *draw(st.sampled_from(layouts))))


class SmallBackbone(nn.Module):
    """Strided convolutions, one a level; returns all levels.

    Shape:
        `[B, 3, H, W]` -> for each level `[B, width, ceil(H/stride), ceil(W/stride)]`
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], container: str) -> None:
        super().__init__()
        pairs = zip((3, *widths), widths, strides, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(source, target, 1, stride=stride) for source, target, stride in pairs)
        self.container = container

    def forward(self, x: torch.Tensor) -> list[torch.Tensor] | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        if self.container == "dict":
            return {f"c{i + 2}": level for i, level in enumerate(levels)}
        return tuple(levels) if self.container == "tuple" else levels


@st.composite
def backbones(draw: st.DrawFn, *, levels: int = 4) -> nn.Module:
    """Small backbones in eval mode: up to some levels of random widths and strides, in a random container."""
    strides = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=levels))
    widths = [draw(st.integers(1, 16)) for _ in strides]
    return in_eval_mode(SmallBackbone(widths, strides, draw(st.sampled_from(["list", "tuple", "dict"]))))
