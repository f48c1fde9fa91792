"""Assertions: what people who test their own adapters say in one line; they raise `AssertionError` in any framework."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification import verify
from autoadapt.adapting.verification.compiler_checks import exported
from autoadapt.adapting.verification.more_sizes import refused_by_one, smallest_counterexample
from autoadapt.adapting.verification.sessions import NotApplicableError, Session
from autoadapt.adapting.verification.unexported import no_logs, untraced
from autoadapt.contracts.capturing import bind, capture, told_example
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import AdaptError, CaptureError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.testing.counterexamples import MOST, cases_text, failure_text


def assert_adapts(
    net: nn.Module,
    inputs: object = None,
    *,
    like: object,
    sizes: Sequence[Mapping[str, int]] | None = None,
    batches: Sequence[int] = (1, 3),
) -> None:
    """Assert that a module keeps the signature of another in every check that `verify` makes.

    Values are looked at at six sizes and at 224 x 224, with the batches below. Of a module that `adapt` did not build,
    shapes alone are looked at 32 sizes more, which leave every remainder by strides up to 32, with one to nine samples.
    Give the sizes that you use as `sizes`, or draw them: `inputs_of(signature)`. Under autocast outputs may have either
    dtype, as resizing is in full precision on some devices alone.

    Args:
        net: The module.
        inputs: An example call, as for `capture`.
        like: A module, a `Signature`, or the path of a saved one.
        sizes: Sizes of the input axes to run at, such as `[{"H": 200, "W": 221}]`.
        batches: Batch sizes to run at.

    Raises:
        AssertionError: A check failed; the text is the report.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> assert_adapts(layer, like=nn.Conv2d(3, 8, 2, stride=2, padding=0), inputs=torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        AssertionError: Conv2d does not keep the signature of Conv2d...
        each line: ...
    """
    __tracebackhide__ = True
    contract = as_signature(like, inputs)
    report = verify(net, contract, inputs=inputs, sizes=sizes, batches=batches)
    if not report.passed:
        raise AssertionError(failure_text(type(net).__name__, contract.title, report, _made_of(like)))


def _made_of(like: object) -> str:
    """How a caller gets the signature that `like=` means, to be pasted."""
    if isinstance(like, nn.Module):
        return "aa.capture(like, inputs)"
    is_file = isinstance(like, Path) or (isinstance(like, str) and Path(like).suffix == ".json")
    if is_file:
        return f'aa.Signature.load("{like}")'
    if isinstance(like, str) and "[" not in like:
        return f'aa.capture(aa.load("{like}"), inputs)'
    return "like" if isinstance(like, Signature) else f"aa.Signature.parse({like!r})"


def assert_same_signature(expected: object, found: object, inputs: object = None) -> None:
    """Assert that two modules, or saved signatures, take and return the same at every size.

    Raises:
        AssertionError: They differ; every difference is in the text, or the smallest size where the second module
            follows no formula at all.
        CaptureError: The first follows none, so that there is nothing to compare with.

    Example:
        >>> x = torch.zeros(2, 3, 8, 8)
        >>> assert_same_signature(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1), inputs=x)
    """
    __tracebackhide__ = True
    left = as_signature(expected, inputs)
    try:
        right = as_signature(found, inputs)
    except CaptureError as error:
        raise AssertionError(_without_formula(left, found, inputs, error)) from error
    faults = left.diff(right) or [replace(one, expected=one.found, found=one.expected) for one in right.diff(left)]
    if not faults and isinstance(expected, nn.Module) and isinstance(found, nn.Module):
        faults = refused_by_one(Session(found, left, inputs=inputs), expected)
    faults = [replace(fault, remedy="") for fault in faults]  # those are for signatures by hand
    if faults:
        raise AssertionError(_text(f"{right.title} does not have the signature of {left.title}", faults))


def _without_formula(expected: Signature, found: object, inputs: object, error: CaptureError) -> str:
    """Where a module whose sizes no formula explains does not keep a signature; else what capturing it says."""
    name = type(found).__name__
    cases = smallest_counterexample(Session(found, expected, inputs=inputs)) if isinstance(found, nn.Module) else []
    summary = f"{name} does not have the signature of {expected.title}"
    if not cases:
        return f"{summary}: {error}"
    return cases_text(summary, [("signature", one) for one in cases])


def assert_gradients_flow(net: nn.Module, inputs: object = None) -> None:
    """Assert that a loss on all floating outputs reaches every parameter that is to be trained.

    A copy is run, so that gradients of the module itself stay as they are.

    Raises:
        AssertionError: Parameters get no gradient, or one that is not finite; the first three are named.

    Example:
        >>> assert_gradients_flow(nn.Conv2d(3, 8, 1), torch.randn(2, 3, 8, 8))
    """
    __tracebackhide__ = True
    arguments = bind(net, told_example(net) if inputs is None else inputs)
    copied = copy_module(net, clone_buffers)
    with quiet(), torch.enable_grad():
        _, outputs = flatten(arguments.fresh().call(copied))
        live = [output.float().square().mean() for output in outputs if output.requires_grad]
        if not live:
            raise AssertionError(_without_gradient(net))
        try:
            torch.autograd.backward(torch.stack(live).sum())
        except RuntimeError as error:
            reason = str(error).partition("; expected")[0].partition(": [")[0].splitlines()[0]
            raise AssertionError(f"gradients do not flow through {type(net).__name__}: {reason}") from error
    trained = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
    wrong = {
        name: "none" if parameter.grad is None else "values that are not finite"
        for name, parameter in trained.items()
        if parameter.grad is None or not bool(parameter.grad.isfinite().all())
    }
    if wrong:
        summary = f"gradients do not flow through {type(net).__name__}: {len(wrong)} of {len(trained)} parameters"
        lines = [f"  {name}: {found}" for name, found in wrong.items()]
        more = [f"  and {len(wrong) - MOST} more"] if len(wrong) > MOST else []
        raise AssertionError("\n".join([summary, "each line: parameter: its gradient", *lines[:MOST], *more]))


def _without_gradient(net: nn.Module) -> str:
    """Why no output of a module has a gradient."""
    name, parameters = type(net).__name__, list(net.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        fault = Mismatch(name, "a parameter that is to be trained", "all are frozen", "net.requires_grad_(True)")
        return _text(f"every parameter of {name} is frozen", [fault])
    if parameters:
        found, remedy = "all are detached, or made under no_grad", "leave out .detach(), .data, torch.no_grad()"
        return _text(f"no output of {name} has a gradient", [Mismatch("outputs", "a gradient", found, remedy)])
    return f"no output of {name} depends on a parameter: it has none"


def assert_exports(net: nn.Module, inputs: object = None, *, like: object = None) -> None:
    """Assert that a module goes through `torch.export` with dynamic axes and keeps its signature at other sizes.

    Args:
        net: The module.
        inputs: An example call, as for `capture`.
        like: What it should keep; for an adapted module its own contract where left out.

    Raises:
        AssertionError: It does not export, or the program returns something else.
    """
    __tracebackhide__ = True
    own = net.signature if isinstance(net, AdaptedModule) and like is None else as_signature(like or net, inputs)
    session = Session(net, own, inputs=inputs)
    try:
        with quiet(), no_logs():
            faults = exported(session).faults
    except NotApplicableError as reason:
        cause = reason.__cause__
        faults = [untraced(type(net).__name__, cause)] if isinstance(cause, Exception) else []
        raise AssertionError(_text(f"{type(net).__name__} does not export: {reason}", faults)) from reason
    except Exception as error:
        text = _text(f"{type(net).__name__} does not export", [untraced(type(net).__name__, error)])
        raise AssertionError(text) from error
    if faults:
        summary = f"the exported {type(net).__name__} returns something else"
        raise AssertionError(cases_text(summary, [("export", one) for one in faults]))


def assert_signature_locked(
    model: nn.Module, name: str | Path, inputs: object = None, *, update: bool | None = None
) -> None:
    """Assert that a module still has the signature that was written down once.

    Args:
        model: The module, such as one of a dependency that is updated now and then.
        name: The JSON file; a name without an ending stands for `signatures/NAME.json` beside the file that calls.
        inputs: An example call, as for `capture`.
        update: Write the file anew; by default where pytest runs with `--update-signatures`.

    Raises:
        AssertionError: There is no such file, or the signature differs from it.
    """
    __tracebackhide__ = True
    check_type(name, (str, Path), "name", 'assert_signature_locked(model, "backbone", inputs)')
    file = Path(name)
    if not file.name or (not file.suffix and (file.is_absolute() or ".." in file.parts)):
        fault = Mismatch("name", "a name, or a path that ends in .json", repr(str(name)), 'name="backbone"')
        raise AdaptError("this is no name of a locked signature", [fault])
    if not file.suffix:
        file = Path(sys._getframe(1).f_code.co_filename).parent / "signatures" / f"{name}.json"
    found = capture(model, inputs)
    if _is_updating() if update is None else update:
        file.parent.mkdir(parents=True, exist_ok=True)
        found.save(file)
        return
    if not file.exists():
        fault = Mismatch(str(file), "a saved signature", "no such file", _UPDATE)
        raise AssertionError(_text(f"the signature of {found.name} is not locked yet", [fault]))
    try:
        faults = [replace(fault, remedy="") for fault in Signature.load(file).diff(found)]
    except AdaptError as error:
        raise AssertionError(str(error)) from error
    if faults:
        text = _text(f"the signature of {found.name} is not the one in {file}", faults)
        raise AssertionError(f"{text}\nif that is meant: {_UPDATE}")


_UPDATE = "pytest --update-signatures, or assert_signature_locked(..., update=True) once"


def _text(summary: str, faults: Sequence[Mismatch]) -> str:
    return "\n".join([summary, *map(str, faults)])


def _is_updating() -> bool:
    """Whether pytest runs with `--update-signatures`, as its plugin notes; asked without importing pytest."""
    plugin = sys.modules.get("autoadapt.testing.pytest_plugin")
    return plugin is not None and bool(plugin.UPDATING["signatures"])
