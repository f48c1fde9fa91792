"""All verbs on modules that nobody would write for a test: each is exact or refused by name, and none is changed."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from unusual_containers import Labelled, Levels, Plainly, Stacked, Swapped, Told
from unusual_modules import Body, image
from unusual_zoo import ZOO, Unusual

import autoadapt as aa
from autoadapt.contracts.trees import flatten

ALLOW = ["unusual_modules", "unusual_containers"]


class Pooled(nn.Module):
    """A bigger model around a module: the mean of everything that it returns."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Any) -> torch.Tensor:
        return torch.stack([one.abs().mean() for one in flatten(self.backbone(x))[1]]).sum()


def members() -> list[Any]:
    """All of them, each fifth first, so that some of every kind are among the first."""
    marks = {one.name: pytest.mark.xfail(reason=one.open, strict=False) for one in ZOO if one.open}
    order = sorted(range(len(ZOO)), key=lambda i: (i % 5 > 0, i % 10))
    return [pytest.param(ZOO[i], id=ZOO[i].name, marks=marks.get(ZOO[i].name, ())) for i in order]


@pytest.fixture
def module(unusual: Unusual) -> Iterator[nn.Module]:
    """A member of the zoo, which the test must leave as it was."""
    torch.manual_seed(0)
    made = unusual.make()
    before = state(made)
    yield made
    assert state(made) == before


def state(module: nn.Module) -> list[Any]:
    """Modes, hooks, names and values of a module, as far as a user could tell that they changed."""
    facts: list[Any] = [(name, type(one), one.training) for name, one in module.named_modules()]
    with contextlib.suppress(ValueError):  # a lazy layer has no values yet
        tensors = [*module.named_parameters(), *module.named_buffers()]
        facts += [(name, str(t.dtype), str(t.device), t.requires_grad, t.tolist()) for name, t in tensors]
    return facts


def called(module: nn.Module, unusual: Unusual) -> Any:
    inputs = unusual.inputs()
    with torch.no_grad():
        return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


def refused(said: str, verb: Callable[[], Any]) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        verb()
    assert said in str(caught.value)
    assert all(fault.where and fault.expected and fault.found for fault in caught.value.mismatches)


def tried(verb: Callable[[], Any]) -> Any:
    """What a verb returns, or None where it refuses."""
    try:
        return verb()
    except aa.AdaptError:
        return None


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unusual", members())
def test_as_the_old_module_it_is_exact_or_refused(unusual: Unusual, module: nn.Module) -> None:
    if unusual.refused:
        refused(unusual.refused, lambda: aa.adapt(module, like=module, inputs=unusual.inputs()))
        tried(lambda: aa.capture(module, unusual.inputs()))
        return
    net = aa.adapt(module, like=module, inputs=unusual.inputs())
    with torch.no_grad():
        torch.manual_seed(0)
        expected_tree, expected = flatten(called(evaluating(unusual.make()), unusual))
        found_tree, found = flatten(called(evaluating(net), unusual))
    assert found_tree == expected_tree
    assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))


def evaluating(module: nn.Module) -> nn.Module:
    """The module in eval mode, since running in train mode changes statistics, which adapted modules share."""
    with contextlib.suppress(NotImplementedError):  # an exported program has one mode
        module.eval()
    return module


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unusual", members())
def test_verify_save_and_source_hold_or_refuse(unusual: Unusual, module: nn.Module, tmp_path: Any) -> None:
    net = tried(lambda: aa.adapt(module, like=module, inputs=unusual.inputs()))
    if net is None:
        return
    evaluating(net)
    report = aa.verify(net, net.signature, inputs=unusual.inputs())
    assert report.passed or unusual.fails in str(report), str(report)
    if tried(lambda: aa.save(net, tmp_path / "net")) is not None:
        again = tried(lambda: aa.restore(tmp_path / "net", unusual.make(), allow=ALLOW))
        assert again is None or flatten(called(again, unusual))[0] == flatten(called(net, unusual))[0]
    tried(lambda: aa.to_source(net, tmp_path / "net.py"))
    for duplicate in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        if can(duplicate, module):
            assert flatten(called(duplicate(net), unusual))[0] == net.signature.outputs.tree


def can(duplicate: Callable[[Any], Any], module: nn.Module) -> bool:
    try:
        duplicate(module)
    except Exception:  # whatever a user's module raises, Python cannot copy it
        return False
    return True


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unusual", members())
def test_another_module_speaks_like_it_or_is_refused(unusual: Unusual, module: nn.Module) -> None:
    net = tried(lambda: aa.adapt(Body(), like=module, inputs=unusual.inputs(), project="always"))
    assert net is None or not unusual.refused or "script" in unusual.name
    if net is not None and net.plan.parameters:
        evaluating(net)
        assert flatten(called(net, unusual))[0] == net.signature.outputs.tree
        tried(lambda: aa.calibrate(net, like=module, data=[unusual.inputs()] * 2))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unusual", members())
def test_as_the_new_module_it_is_exact_or_refused(unusual: Unusual, module: nn.Module) -> None:
    if unusual.inputs is not image:
        return
    said = unusual.refused if unusual.refused_as_new is None else unusual.refused_as_new
    old = nn.Conv2d(3, 6, 3, 4, 1)
    if said:
        refused(said, lambda: aa.adapt(module, like=old, inputs=image()))
        return
    net = evaluating(aa.adapt(module, like=old, inputs=image()))
    assert net(torch.randn(1, 3, 48, 64)).shape == old(torch.randn(1, 3, 48, 64)).shape


@pytest.mark.sampled(1)
@pytest.mark.parametrize("unusual", members())
def test_swapping_it_out_or_in_works_or_changes_nothing(unusual: Unusual, module: nn.Module) -> None:
    for inside, new in ((module, Body()), (Body(), module)):
        whole = Pooled(inside)
        example = unusual.inputs() if inside is module else image()
        done = tried(lambda whole=whole, new=new, example=example: aa.swap(whole, "backbone", new, inputs=example))
        assert (whole.backbone is inside) == (done is None)


def test_the_zoo_has_at_least_forty_members_of_every_kind() -> None:
    assert len({one.name for one in ZOO}) == len(ZOO) >= 40


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        (lambda one, two: Told(one, two), lambda found: found.one),
        (lambda one, two: Plainly(one, two), lambda found: found.one),
        (lambda one, two: Stacked([one, two]), lambda found: found.maps["p0"]),
    ],
)
def test_a_container_of_ones_own_comes_out_with_each_map_in_its_place(answer: Any, first: Any) -> None:
    class Answering(Body):
        def forward(self, x: torch.Tensor) -> Any:
            return answer(*self.maps(x))

    old = Answering()
    net = aa.adapt(Body(), like=old, inputs=image())
    assert torch.equal(first(net(image())), net.backbone(image())[0])


@pytest.mark.parametrize(
    "made", [lambda a, b: Levels([2, 4], [a, b]), lambda a, b: Swapped(b, a), lambda a, b: {0: b, 1: a}]
)
def test_a_container_that_cannot_be_made_is_still_read_in_the_right_place(made: Any) -> None:
    class Answering(Body):
        def forward(self, x: torch.Tensor) -> Any:
            return made(*self.maps(x))

    new = Answering()
    net = aa.adapt(new, like=nn.Conv2d(3, 8, 3, 4, 1), inputs=image())
    assert torch.equal(net(image()), new.maps(image())[1])


def test_what_a_container_holds_besides_its_items_is_not_lost_in_silence() -> None:
    found = Labelled([torch.zeros(1)])
    found.label = "p"

    class Answering(Body):
        def forward(self, x: torch.Tensor) -> Any:
            made = Labelled(self.maps(x))
            made.label = "p"
            return made

    refused("Labelled cannot be made anew", lambda: aa.adapt(Body(), like=Answering(), inputs=image()))


def test_a_class_that_only_python_can_make_is_refused_with_what_to_return() -> None:
    refused(
        "return a plain list, tuple or dict", lambda: aa.adapt(Body(), like=_by_name("defaultdict"), inputs=image())
    )


def _by_name(name: str) -> nn.Module:
    return next(one for one in ZOO if one.name == name).make()


@pytest.mark.parametrize("keys", [(("disp", 0), ("disp", 1)), (1.5, b"raw"), (frozenset({1}), None)])
def test_a_model_may_answer_with_any_keys_while_a_part_of_it_is_swapped(keys: tuple[Any, Any]) -> None:
    class Answering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body()

        def forward(self, x: torch.Tensor) -> dict[Any, torch.Tensor]:
            return dict(zip(keys, self.body(x), strict=True))

    model = aa.swap(Answering(), "body", Body(), inputs=image())
    found = model(image())
    assert [found[key].shape[1] for key in keys] == [4, 8]


def test_a_model_that_a_hook_stops_is_swapped_by_a_step_that_catches_it() -> None:
    model = nn.Sequential(Body().one, _by_name("hook that stops").two, nn.Flatten())
    refused("is stopped by a hook of `1`", lambda: aa.swap(model, "0", nn.Conv2d(3, 6, 3, 2, 1), inputs=image()))

    def step(whole: nn.Module) -> None:
        with contextlib.suppress(Exception):
            whole(image())

    aa.swap(model, "0", nn.Conv2d(3, 6, 3, 2, 1), inputs=step)
    assert model[0](image()).shape == (2, 4, 16, 16)


def test_a_part_in_front_of_a_hook_that_stops_the_model_is_captured() -> None:
    assert aa.capture(_by_name("hook that stops"), image(), at="one").outputs["output"].dims[1].constant == 4


@pytest.mark.parametrize("path", [[], 3, ["one", 2], None])
def test_what_names_no_part_is_refused_as_a_fault_of_the_swap(path: Any) -> None:
    refused("this names no part of a model", lambda: aa.swap(Body(), path, Body(), inputs=image()))


def test_a_compiled_part_is_refused_with_the_call_that_adapts_it() -> None:
    model = nn.Sequential(_by_name("script module"), nn.Flatten())
    refused("model.0 = aa.adapt(new, like=model.0", lambda: aa.swap(model, "0", Body(), inputs=image()))


def test_a_swap_does_not_propose_to_leave_out_what_it_has_seen_being_read() -> None:
    class Indices(Body):
        def forward(self, x: torch.Tensor) -> Any:
            one, two = self.maps(x)
            return {"a": one.argmax(1), "b": two.argmax(1), "two": two}

    with pytest.raises(aa.SwapError) as caught:
        aa.swap(Pooled(Indices()), "backbone", Body(), inputs=image())
    assert "if nobody reads" not in str(caught.value)
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(Body(), like=Indices(), inputs=image())
    assert "outputs=['two']  # if nobody reads a, b" in str(caught.value)


@pytest.mark.parametrize("answer", [lambda a: Told(a, a + 1), lambda a: Plainly(a, a + 1), lambda a: {1: a, 2: a + 1}])
def test_taps_are_read_out_of_any_container(answer: Any) -> None:
    class Inner(Body):
        def forward(self, x: torch.Tensor) -> Any:
            return answer(self.maps(x)[1])

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = flatten(self.body(x))[1]
            return found[0].mean((2, 3))

    new = Outer()
    taps = {"output": f"body:{'2' if isinstance(answer(image()), dict) else 'two'}"}
    net = aa.adapt(new, like=nn.Conv2d(3, 8, 3, 4, 1), inputs=image(), taps=taps)
    assert torch.equal(net(image()), new.body.maps(image())[1] + 1)
