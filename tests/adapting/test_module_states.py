"""Modules made under another torch mode, sharded or uncopyable ones: each works or is refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from small_models import Mixed, Plain, Pyramid, image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import autoadapt as aa
from autoadapt.contracts.trees import flatten
from autoadapt.errors import CaptureError
from autoadapt.versions import version_key


class Whole(nn.Module):
    """A model whose body and head are swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(4, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[-1])


def trains(net: nn.Module) -> bool:
    """Whether every adapter gets a gradient in a step outside of inference mode."""
    learned = [tensor.sum() for tensor in flatten(net(image()))[1] if tensor.requires_grad]
    torch.stack(learned).sum().backward()
    return all(p.grad is not None for p in net.adapters.parameters())


def is_shared(net: nn.Module, new: nn.Module) -> bool:
    pairs = zip(net.backbone.parameters(), new.parameters(), strict=True)
    return all(left.data_ptr() == right.data_ptr() for left, right in pairs)


# Inference mode.


@pytest.mark.parametrize("share", [True, False])
def test_modules_that_were_made_in_inference_mode_are_adapted_and_trained(share):
    with torch.inference_mode():
        old, new, x = Mixed(), Plain(), image()
    net = aa.adapt(new, like=old, inputs=x, share=share)
    assert is_shared(net, new) == share
    with torch.no_grad():
        assert torch.equal(net.eval().backbone(x)["maps"][0], new.eval()(x)["maps"][0])
    assert trains(net.train())


def test_what_is_adapted_in_inference_mode_can_be_trained_later_and_is_what_it_is_outside():
    old, new = Mixed().eval(), Plain().eval()
    outside = aa.adapt(new, like=old, inputs=image())
    with torch.inference_mode():
        net = aa.adapt(new, like=old, inputs=image())
        assert torch.is_inference_mode_enabled()
    assert not any(tensor.is_inference() for tensor in net.state_dict().values())
    assert net.plan == outside.plan
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in outside.parameters()]
    assert is_shared(net, new)
    assert trains(net)


@pytest.mark.parametrize(("path", "new"), [("body", Pyramid(5, 6)), ("head", "conv1x1")])
def test_a_swap_in_inference_mode_sets_modules_that_can_be_trained(path, new):
    model = Whole()
    with torch.inference_mode():
        aa.swap(model, path, new, inputs=image())
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    model(image()).sum().backward()
    assert model.head.weight.grad is not None


# Autocast.


def test_what_is_adapted_in_autocast_is_what_it_is_outside_and_runs_there():
    old, new, model = Mixed().eval(), Plain().eval(), Whole().eval()
    outside = aa.adapt(new, like=old, inputs=image())
    with torch.autocast("cpu", torch.bfloat16):
        net = aa.adapt(new, like=old, inputs=image())
        aa.swap(model, "body", Pyramid(5, 6), inputs=image())
        assert net.verify().passed
        assert torch.is_autocast_enabled("cpu")
        assert model(image()).dtype == torch.bfloat16
    assert net.plan == outside.plan
    assert model(image()).dtype == torch.float32
    assert trains(net)


# Default devices.


def test_generated_layers_stand_where_the_module_stands_also_if_the_default_device_is_meta():
    old, new, model, body, x = Mixed(), Plain(), Whole(), Pyramid(5, 6), image()
    torch.set_default_device("meta")
    try:
        net = aa.adapt(new, like=old, inputs=x)
        aa.swap(model, "body", body, inputs=x)
        aa.swap(model, "head", "conv1x1", inputs=x)
    finally:
        torch.set_default_device(None)
    for module in (net, model):
        assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert trains(net)
    assert model(x).shape == (2, 2, 10, 14)


def test_a_step_of_training_is_tried_also_if_the_default_device_is_meta():
    model, body, x = Whole(), Pyramid(5, 6), image()
    torch.set_default_device("meta")
    try:
        tried = aa.swap(model, "body", body, inputs=x, dry_run=True)
    finally:
        torch.set_default_device(None)
    assert {check.name: check.outcome for check in tried.checks}["training step"] == "passed", tried


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_module_on_the_meta_device_is_not_put_into_a_model_that_has_values(dry_run):
    with torch.device("meta"):
        body = Pyramid(5, 6)
    said = "the meta device, without values"
    if dry_run:
        assert said in str(aa.swap(Whole(), "body", body, inputs=image(), dry_run=True))
        return
    with pytest.raises(aa.SwapError, match=said):
        aa.swap(Whole(), "body", body, inputs=image())


def test_layers_are_the_same_under_any_default_device():
    nets = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        old, new, x = Mixed(), Plain(), image()
        torch.set_default_device(device)
        try:
            nets.append(aa.adapt(new, like=old, inputs=x))
        finally:
            torch.set_default_device(None)
    assert all(map(torch.equal, nets[0].adapters.parameters(), nets[1].adapters.parameters()))


# What is refused.

FAKE = """cannot be run on fake tensors
{where}
  expected  tensors of a device, or of the meta device
  found     FakeTensor
  try       leave FakeTensorMode; modules without memory are made by `with torch.device("meta"):`"""


def test_a_module_of_fake_tensors_is_refused():
    with FakeTensorMode():
        fake = Plain()
    for new, old in ((fake, Mixed()), (Plain(), fake)):
        with pytest.raises(CaptureError) as raised:
            aa.adapt(new, like=old, inputs=image())
        where = "body.stages.2.1.num_batches_tracked"
        assert str(raised.value) == "Plain " + FAKE.format(where=where)
    assert isinstance(fake.body.stages[0][0].weight, torch.Tensor)


def test_adapting_within_a_fake_tensor_mode_is_refused():
    old, new, x = Mixed(), Plain(), image()
    with FakeTensorMode(), pytest.raises(CaptureError) as raised:
        aa.adapt(new, like=old, inputs=x)
    assert str(raised.value) == "Mixed " + FAKE.format(where="FakeTensorMode")


class Itself(Plain):
    """Its copies are itself."""

    def __deepcopy__(self, memo: object) -> Itself:
        return self


class Around(nn.Module):
    """Holds one whose copies are itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Itself()

    def forward(self, x: torch.Tensor) -> object:
        return self.inner(x)


@pytest.mark.parametrize(("make", "where"), [(Itself, "Itself"), (Around, "inner")])
@pytest.mark.parametrize("side", ["new", "old"])
def test_a_module_whose_copy_is_itself_is_refused_and_left_in_its_mode(make, where, side):
    one, other = make().train(), Plain()
    buffers = [buffer.clone() for buffer in one.buffers()]
    new, old = (one, other) if side == "new" else (other, one)
    with pytest.raises(CaptureError) as raised:
        aa.adapt(new, like=old, inputs=image())
    assert str(raised.value).splitlines() == [
        f"{make.__name__} cannot be copied for a view",
        *([where] if where != make.__name__ else []),
        "  expected  a copy.deepcopy that leaves the module alone",
        "  found     this Itself itself",
        "  try       remove Itself.__deepcopy__, or let it return another module",
    ]
    assert all(part.training for part in one.modules())
    assert all(map(torch.equal, one.buffers(), buffers))


class Stubborn(Plain):
    """Its copies raise what nobody expects."""

    def __deepcopy__(self, memo: object) -> Stubborn:
        raise KeyError("no copies")


def test_a_module_whose_copy_raises_anything_is_refused():
    with pytest.raises(CaptureError, match="Stubborn cannot be copied for a view"):
        aa.adapt(Stubborn(), like=Mixed(), inputs=image())


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # torch's own, of processes without GPUs
@pytest.mark.skipif(version_key(torch.__version__) < (2, 6), reason="torch 2.5 runs no sharded module without a GPU")
def test_a_sharded_module_is_refused_and_an_adapted_one_can_be_sharded(one_process):
    from sharding import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    new = fully_shard(Plain(), mesh=mesh)
    with pytest.raises(CaptureError) as raised:
        aa.adapt(new, like=Mixed(), inputs=image())
    assert str(raised.value).splitlines() == [
        "FSDPPlain is sharded over processes",
        "body.stages.0.0.weight",
        "  expected  whole tensors",
        "  found     FSDPPlain is sharded (FSDP, DTensor)",
        "  try       adapt the module first, and shard what you get: fully_shard(net)",
    ]
    net = aa.adapt(Plain(), like=Mixed(), inputs=image()).eval()
    expected = flatten(net(image()))[1]
    found = flatten(fully_shard(net, mesh=mesh)(image()))[1]
    assert all(map(torch.allclose, found, expected))


def test_inputs_made_in_a_fake_tensor_mode_are_refused_outside_of_it():
    with FakeTensorMode():
        fake = image()
    with pytest.raises(CaptureError, match="make it outside of FakeTensorMode, with values"):
        aa.capture(Mixed(), fake)


def test_verifying_within_a_fake_tensor_mode_is_refused():
    x = image()
    net = aa.adapt(Plain(), like=Mixed(), inputs=x)
    with FakeTensorMode(), pytest.raises(CaptureError, match="cannot be run on fake tensors"):
        net.verify(x)


def test_verifying_and_calibrating_do_not_see_a_default_device_without_values():
    x, old, net = image(), Mixed(), aa.adapt(Plain(), like=Mixed(), inputs=image())
    batches = [torch.randn_like(x) for _ in range(4)]
    torch.set_default_device("meta")
    try:
        report = net.verify(x)
        fitted = aa.calibrate(net, like=old, data=batches)
    finally:
        torch.set_default_device(None)
    assert report.passed, report
    assert fitted.outputs


def test_a_default_device_that_was_taken_back_is_none():
    """torch 2.5's own `get_default_device` raises after it."""
    torch.set_default_device("cpu")
    torch.set_default_device(None)
    assert aa.adapt(Plain(), like=Mixed(), inputs=image()).verify().passed
