"""Equality: whether a module returns the values of a reference, at the given inputs and at other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.testing._comparison import default_tolerances

from autoadapt.adapting.verification.sessions import Session, differing_tree, said
from autoadapt.contracts.capturing import Arguments, bind, capture, told_example
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import flatten, path_text, paths
from autoadapt.contracts.views import eval_copy
from autoadapt.errors import AdaptError
from autoadapt.testing.differences import Flat


def assert_equals(
    net: nn.Module,
    reference: nn.Module,
    inputs: object = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
) -> None:
    """Assert that a module returns what a reference returns, such as an adapter that was written by hand.

    Both run in eval mode, as copies, each on inputs of its own: those that are given, then these cut or repeated to a
    few other sizes that the reference takes, odd ones among them.

    Args:
        net: The module.
        reference: What it is compared with.
        inputs: An example call, as for `capture`.
        rtol: As of `torch.testing.assert_close`, that is by the dtype where both are left out.
        atol: Likewise; where one of the two is given alone, the other is by the dtype.
        sizes: The other sizes, such as `[{"H": 33}]`; some are chosen where that is left out, and none for `[]`.

    Raises:
        AssertionError: Containers differ, or a value does; the leaf is named, and the size where it is another.

    Example:
        >>> layer = nn.Conv2d(3, 8, 1)
        >>> assert_equals(layer, layer, torch.randn(2, 3, 8, 8))
    """
    __tracebackhide__ = True
    check_module(reference, "reference", AdaptError)
    arguments = bind(net, told_example(net) if inputs is None else inputs)
    _compare(net, _returned(reference, arguments), _returned(net, arguments), "", rtol, atol)
    for at, call in _other_calls(reference, arguments, sizes):
        try:
            expected = _returned(reference, call)
        except Exception:  # a size that the reference refuses
            if sizes:
                raise
            continue
        try:
            found = _returned(net, call)
        except Exception as error:
            raise AssertionError(f"{type(net).__name__} raises{at}, where the reference runs: {said(error)}") from error
        _compare(net, expected, found, at, rtol, atol)


def _other_calls(
    reference: nn.Module, arguments: Arguments, sizes: Sequence[Mapping[str, int]] | None
) -> Iterator[tuple[str, Arguments]]:
    """Calls at other sizes than the example's; none where the reference has no signature by which there are any."""
    if sizes is not None and not sizes:
        return
    try:
        contract = capture(reference, arguments, confirm=False)
        session = Session(reference, contract, inputs=arguments, sizes=sizes)
    except AdaptError:
        if sizes:
            raise
        return
    for row in session.sizes:
        if (full := session.at(**row)) != session.at():
            yield " at " + "x".join(map(str, full.values())), session.arguments(full)


def _compare(net: nn.Module, expected: Flat, found: Flat, at: str, rtol: float | None, atol: float | None) -> None:
    if (wrong := differing_tree(expected[0], found[0])) is not None:
        raise AssertionError(f"{type(net).__name__} returns {wrong[1]}, and not {wrong[0]}{at}")
    for path, left, right in zip(paths(expected[0]), expected[1], found[1], strict=True):
        try:
            rest, least = (rtol, atol) if rtol is atol is None else default_tolerances(left)
            torch.testing.assert_close(
                right, left, rtol=rest if rtol is None else rtol, atol=least if atol is None else atol
            )
        except AssertionError as error:
            raise AssertionError(f"`{path_text(path)}`{at} is not equal: {error}") from None


def _returned(module: nn.Module, arguments: Arguments) -> Flat:
    with quiet(), torch.no_grad():
        return flatten(arguments.fresh().call(eval_copy(module)))
