"""The caller's tensors stay as they are where the new module writes to what it gets; nothing is copied otherwise."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Copy
from autoadapt.contracts.trees import flatten


class Writes(nn.Module):
    """Does something to its input before its layers."""

    def __init__(self, first: object) -> None:
        super().__init__()
        self.first = first
        self.body = Pyramid(5, 6)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.body(self.first(x))


class Skips(nn.Module):
    """Reads its input once more behind the body, as a skip connection does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(4, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.head(self.body(x)[-1])
        return nn.functional.interpolate(deep, size=x.shape[2:]) + x


def half_of_a_view(x: torch.Tensor) -> torch.Tensor:
    x.flatten(2)[:, :, ::2].mul_(0.5)
    return x


def by_index(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 0
    return x


def of_a_view_made_before(x: torch.Tensor) -> torch.Tensor:
    rows = x.transpose(2, 3)
    made = x * 2
    rows.relu_()
    return made


WRITERS = {
    "an activation": lambda: nn.ReLU(inplace=True),
    "arithmetic": lambda: lambda x: x.add_(1),
    "a view": lambda: half_of_a_view,
    "an index": lambda: by_index,
    "a view that is written to later": lambda: of_a_view_made_before,
    "out=": lambda: lambda x: torch.mul(x, 2, out=x),
    "dropout, in training alone": lambda: nn.Dropout(0.5, inplace=True),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("training", [False, True])
def test_the_caller_s_tensor_is_as_it_was_and_the_outputs_are_those_of_the_new_module(kind, training):
    new, x = Writes(WRITERS[kind]()).train(training), image()
    net = aa.adapt(new, like=Pyramid(5, 6), inputs=x)
    assert net.plan.inputs[0].steps == (Copy(),)
    assert "x.clone()" in net.code
    given = x.clone().requires_grad_(training and kind != "out=")  # which takes no gradients
    torch.manual_seed(0)
    with torch.set_grad_enabled(training):
        found = net(given)
    torch.manual_seed(0)
    expected = new(x.clone())
    assert torch.equal(given, x)
    assert all(map(torch.equal, found, expected))


def test_a_skip_connection_reads_what_the_caller_gave():
    torch.manual_seed(0)
    x, model = image(), Skips().eval()
    deep = aa.swap(model, "body", Writes(nn.ReLU(inplace=True)).eval(), inputs=x)
    given = x.clone()
    with torch.no_grad():
        found = deep(given)
        body = model.head(model.body(x.clone())[-1])
    assert torch.equal(found, nn.functional.interpolate(body, size=x.shape[2:]) + x)
    assert torch.equal(given, x)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (lambda: Writes(nn.ReLU()), lambda: Pyramid(5, 6)),
        (lambda: Writes(nn.Identity()), lambda: Pyramid(5, 6)),
        (lambda: Writes(lambda x: x.clone().relu_()), lambda: Pyramid(5, 6)),
        (lambda: Writes(nn.ReLU(inplace=True)), lambda: Writes(nn.ReLU6(inplace=True))),
    ],
    ids=["not in place", "not at all", "of a copy", "as the old one does"],
)
def test_nothing_is_copied_where_nothing_has_to_be(new, old):
    net = aa.adapt(new(), like=old(), inputs=image())
    assert [route.steps for route in net.plan.inputs] == [()]
    assert "clone" not in net.code


def test_a_signature_says_what_is_written_to_and_old_files_are_read():
    signature = aa.capture(Writes(nn.ReLU(inplace=True)), image())
    assert signature.written == ("x",)
    assert str(signature).splitlines()[-1] == " writes to  x"
    read = json.loads(signature.model_dump_json())
    assert aa.Signature.model_validate(read) == signature
    del read["written"]
    assert aa.Signature.model_validate(read).written == ()


def test_a_plan_shows_the_copy_and_the_file_of_plain_pytorch_makes_it():
    new, x = Writes(nn.ReLU(inplace=True)).eval(), image()
    net = aa.adapt(new, like=Pyramid(5, 7), inputs=x)
    assert str(net.plan).splitlines()[1].split() == ["input", "x", "f32[B,", "3,", "H,", "W]", "copy"]
    text, scope = aa.to_source(net), {"__name__": "written"}
    exec(compile(text, "written", "exec"), scope)
    other, given = scope["Adapted"](new).eval(), x.clone()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        found, expected = other(given), net(x.clone())
    assert torch.equal(given, x)
    assert all(map(torch.equal, found, expected))


class TwoInputs(nn.Module):
    """Writes to the second of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(5, 6)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        mask.clamp_(0, 1)
        return self.body(x * mask)


class Reads(TwoInputs):
    """Writes to none."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        return self.body(x * mask.clamp(0, 1))


def test_each_input_is_looked_at_by_itself():
    x, mask = image(), 3 * image()
    new = TwoInputs()
    net = aa.adapt(new, like=Reads(), inputs=(x, mask)).eval()
    assert [route.steps for route in net.plan.inputs] == [(), (Copy(),)]
    given = mask.clone()
    found = flatten(net(x, given))[1]
    assert torch.equal(given, mask)
    assert all(map(torch.equal, found, new.eval()(x, mask.clone())))


class ChannelsLast(nn.Module):
    """Takes images with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(5, 6)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.body(x.permute(0, 3, 1, 2))


def test_a_turned_input_is_copied_too_since_turning_it_makes_a_view():
    x = image().permute(0, 2, 3, 1).contiguous()
    net = aa.adapt(Writes(nn.ReLU(inplace=True)), like=ChannelsLast(), inputs=x).eval()
    assert [step.op for step in net.plan.inputs[0].steps] == ["rearrange", "copy"]
    given = x.clone()
    with torch.no_grad():
        net(given)
    assert torch.equal(given, x)


class Unused(nn.Module):
    """Writes to its input or not, and has parameters that it does not use."""

    def __init__(self, width: int, *, writes: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1)
        self.unused = nn.BatchNorm2d(3)
        self.writes = writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.sub_(0.5) if self.writes else x)


@pytest.mark.parametrize("old_writes", [False, True])
def test_gradients_of_a_backbone_that_writes_to_its_input_are_seen_from_outside(old_writes: bool) -> None:
    net = aa.adapt(Unused(4, writes=True), like=Unused(8, writes=old_writes), inputs=image())
    (row,) = [row for row in net.verify().checks if row.name == "gradients"]
    assert (row.outcome, row.detail) == ("passed", "2 parameters that the backbone itself does not use")
