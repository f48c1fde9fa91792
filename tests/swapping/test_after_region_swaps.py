"""What is done with a swapped region afterwards: calibrating, folding, saving, verifying, loading."""

import copy

import pytest
import region_models as written
import torch
from made_once import made_once
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

SPAN = "conv1:layer3"


class Wider(nn.Module):
    """The trunk of a pose network, whose features stand in other channels, so that a projection can be exact."""

    def __init__(self, old):
        super().__init__()
        self.trunk = nn.Sequential(*(copy.deepcopy(part) for part in list(old.children())[:7]))
        self.mixed = nn.Conv2d(24, 32, 1)

    def forward(self, x):
        return self.mixed(self.trunk(x))


@pytest.fixture
def old():
    torch.manual_seed(0)
    return written.PoseNet().eval()


@made_once
def swapped():
    torch.manual_seed(0)
    return aa.swap(written.PoseNet().eval(), SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))


def seg(old):
    """The same trunk under a head that a projection can be folded into."""
    old.deconv = nn.Identity()
    old.final = nn.Conv2d(24, 5, 1)
    return old.eval()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("at", [SPAN, ["conv1", "bn1"], "conv1"])
def test_calibrating_a_region_brings_the_old_answers_back(old, at):
    model = aa.swap(copy.deepcopy(old), SPAN, Wider(old), inputs=image(2, 64, 64))
    data = [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    found = aa.calibrate(model, like=old, data=data, at=at)
    assert found.written
    assert found.outputs[0].r2 > 0.999
    with torch.no_grad():
        torch.testing.assert_close(model(data[0]), old(data[0]), rtol=1e-2, atol=1e-2)


class WiderEncoder(nn.Module):
    """The encoder of a U-Net, whose levels stand in other channels."""

    def __init__(self, old):
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy([old.enc1, old.enc2, old.enc3, old.enc4]))
        self.mixed = nn.ModuleList(nn.Conv2d(channels, channels + 6, 1) for channels in (4, 8, 12, 16))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        levels = []
        for block, mixed in zip(self.blocks, self.mixed, strict=True):
            x = block(x if not levels else self.pool(x))
            levels.append(mixed(x))
        return levels


def test_several_levels_of_a_region_are_calibrated_each_against_its_own():
    torch.manual_seed(0)
    unet = written.UNet().eval()
    model = aa.swap(copy.deepcopy(unet), "enc1:enc4", WiderEncoder(unet), inputs=image(2, 64, 64))
    data = [torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    found = aa.calibrate(model, like=unet, data=data, at="enc1:enc4")
    assert {one.target: round(one.r2, 2) for one in found.outputs} == {"enc1": 1, "enc2": 1, "enc3": 1, "enc4": 1}
    with torch.no_grad():
        torch.testing.assert_close(model(data[0]), unet(data[0]), rtol=1e-2, atol=1e-2)


def test_a_region_is_not_calibrated_without_the_whole_old_model(old):
    model = aa.swap(copy.deepcopy(old), SPAN, Wider(old), inputs=image(2, 64, 64))
    with pytest.raises(aa.CalibrationError, match="a region is calibrated with the model that it was a part of"):
        aa.calibrate(model, like=old.layer3, data=[image(2, 64, 64)], at=SPAN)


def test_a_projection_of_a_region_is_folded_into_what_reads_it(old):
    model = aa.swap(seg(old), SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    folded = aa.fold(model, at=SPAN, inputs=image(2, 64, 64))
    assert (folded.final.in_channels, model.final.in_channels) == (28, 24)
    assert not list(folded.conv1.adapters.parameters())
    with torch.no_grad():
        torch.testing.assert_close(folded(image(2, 80, 96)), model(image(2, 80, 96)), rtol=1e-4, atol=1e-5)


def test_on_its_own_the_adapted_module_is_verified_saved_and_restored_with_all_that_it_returns(tmp_path):
    model = swapped()
    assert model.conv1.verify().passed
    aa.save(model.conv1, tmp_path / "net")
    restored = aa.restore(tmp_path / "net", new=Pyramid(6, 12, 20, 28))
    with torch.no_grad():
        torch.testing.assert_close(restored(image(2, 64, 64)), model.conv1.alone()(image(2, 64, 64)))
    assert restored(image(2, 64, 64)).shape == (2, 24, 4, 4)


def test_weights_of_the_new_module_are_loaded_into_the_region():
    torch.manual_seed(1)
    new, model = Pyramid(6, 12, 20, 28), swapped()
    aa.transfer({f"conv1.backbone.{name}": t for name, t in new.state_dict().items()}, model)
    torch.testing.assert_close(model.conv1.backbone.stages[0][0].weight, new.stages[0][0].weight)


def test_a_region_is_swapped_again(old):
    model = aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    shape = model(image(2, 64, 64)).shape
    aa.swap(model, SPAN, Pyramid(4, 8, 12, 16), inputs=image(2, 64, 64))
    assert model.conv1.backbone.out_channels == [4, 8, 12, 16]
    assert model(image(2, 64, 64)).shape == shape
    hooks = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    assert [hook.__self__ is model.conv1.hand_on for hook in hooks] == [True, True]
    assert len(model._forward_hooks_always_called) == 1


@pytest.mark.slow
def test_a_larger_region_takes_the_place_of_a_swapped_one():
    torch.manual_seed(0)
    model = aa.swap(written.UNet(), "enc1:enc3", Pyramid(6, 12, 20), inputs=image(2, 64, 64))
    aa.swap(model, "enc1:enc4", Pyramid(4, 8, 12, 16), inputs=image(2, 64, 64)).eval()
    assert model.enc1.hand_on.handing.served == ("enc1", "enc2", "enc3", "enc4")
    assert len(model._forward_hooks) == len(model._forward_pre_hooks) == 1
    fresh = written.UNet()
    fresh.load_state_dict(
        {name: t for name, t in model.state_dict().items() if not name.startswith("enc")}, strict=False
    )
    with torch.no_grad():
        torch.testing.assert_close(
            model(image(2, 64, 64)), written.by_hand(fresh, model.enc1, image(2, 64, 64)), rtol=0, atol=0
        )


SAVED = {
    "U-Net": (written.UNet, "enc1:enc4", [(2, 64, 64)]),
    "Siamese tracker, with functions between": (written.Siamese, "conv1:layer2", [(2, 32, 32), (2, 64, 64)]),
    "SSD by its list": (written.SSD, ["vgg"], [(2, 64, 64)]),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", SAVED)
def test_a_model_with_a_swapped_region_is_saved_and_restored_into_a_freshly_built_one(case, tmp_path):
    torch.manual_seed(0)
    kind, region, sizes = SAVED[case]
    inputs = tuple(image(*size) for size in sizes)
    model = kind()
    next(iter(model.children())).f = -1
    model = aa.swap(model, region, Pyramid(6, 12, 20, 28, 30), inputs=inputs).eval()
    aa.save(model, tmp_path / "model")
    torch.manual_seed(1)
    restored = aa.restore(tmp_path / "model", model=kind(), new=Pyramid(6, 12, 20, 28, 30))
    with torch.no_grad():
        torch.testing.assert_close(restored(*inputs), model(*inputs), rtol=0, atol=0)
        larger = tuple(image(2, 2 * height, 2 * width) for _, height, width in sizes)
        torch.testing.assert_close(restored(*larger), model(*larger), rtol=0, atol=0)
    assert restored.state_dict().keys() == model.state_dict().keys()
    assert len(restored._forward_hooks) == 1


def test_a_folder_of_a_region_is_not_restored_into_a_model_that_lacks_one_of_its_modules(tmp_path):
    model = swapped()
    aa.save(model, tmp_path / "model")
    other = written.PoseNet()
    del other.layer2
    with pytest.raises(aa.SavingError, match="the model is not the one that was saved") as raised:
        aa.restore(tmp_path / "model", model=other, new=Pyramid(6, 12, 20, 28))
    assert "layer2\n" in str(raised.value)
    assert isinstance(other.conv1, nn.Conv2d)


def test_a_training_step_as_inputs_is_watched_for_what_its_loss_reads():
    torch.manual_seed(0)
    x = image(2, 64, 64)

    def step(model):
        if model.training:
            out, auxiliary = model(x)
            (out.square().mean() + auxiliary.square().mean()).backward()
        else:
            model(x)

    psp = written.PSPNet().train()
    report = aa.swap(copy.deepcopy(psp), "layer0:layer4", Pyramid(6, 12, 20, 28, 30), inputs=step, dry_run=True)
    assert [(check.name, check.outcome) for check in report.checks] == [
        ("runs in eval mode", "passed"),
        ("runs in train mode", "passed"),
        ("training step", "passed"),
    ]
    model = aa.swap(psp, "layer0:layer4", Pyramid(6, 12, 20, 28, 30), inputs=step)
    assert model.layer0.hand_on.handing.served == ("layer3", "layer4")
    assert [name for name, p in model.named_parameters() if p.grad is not None] == []
    step(model)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_new_module_that_does_not_train_is_refused_in_a_region_too(old):
    class Idle(Pyramid):
        def __init__(self):
            super().__init__(6, 12, 20, 28)

        def forward(self, x):
            return [level.detach() for level in super().forward(x)]

    with pytest.raises(aa.SwapError, match="the new module at `conv1` does not train"):
        aa.swap(old.train(), SPAN, Idle(), inputs=image(2, 64, 64))


def test_outputs_of_a_region_may_be_more_than_what_is_read():
    torch.manual_seed(0)
    inputs = image(2, 32, 32), image(2, 64, 64)
    siamese = written.Siamese().eval()
    model = aa.swap(siamese, "conv1:layer2", Pyramid(6, 12, 20), inputs=inputs, outputs=["conv1", "layer2"])
    assert model.conv1.hand_on.handing.served == ("conv1", "layer2")
    assert not model.conv1.hand_on.handing.blanks
    levels = model.conv1.alone()(inputs[0])
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "conv1": (2, 8, 16, 16),
        "layer2": (2, 16, 2, 2),
    }
    torch.testing.assert_close(model.conv1(inputs[0]), levels["conv1"], rtol=0, atol=0)


def test_outputs_may_name_what_only_the_next_module_takes(old):
    model = aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64), outputs=["layer2", "layer3"])
    assert model.conv1.hand_on.handing.served == ("layer2", "layer3")


class Wrapped(nn.Module):
    """A U-Net behind a layer of its own."""

    def __init__(self):
        super().__init__()
        self.before = nn.Conv2d(1, 3, 1)
        self.net = written.UNet()

    def forward(self, x):
        return self.net(self.before(x))


def test_a_region_within_a_submodule_is_captured_with_what_that_is_given():
    model, x = Wrapped(), torch.randn(2, 1, 64, 64)
    inside = aa.capture(model, x, at="net", region="enc1:enc4")
    through = aa.capture(model, x, region="net.enc1:net.enc4")
    assert str(inside.inputs["x"]) == "f32[B, 3, H, W]"
    assert [spec.dims for spec in inside.outputs.leaves] == [spec.dims for spec in through.outputs.leaves]


def test_a_region_inside_a_submodule_is_swapped_by_its_whole_paths():
    torch.manual_seed(0)
    old, x = Wrapped().eval(), torch.randn(2, 1, 64, 64)
    model = aa.swap(copy.deepcopy(old), "net.enc1:net.enc4", Pyramid(6, 12, 20, 28), inputs=x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), written.by_hand(old, model.net.enc1, x), rtol=0, atol=0)
    assert len(model.net._forward_hooks) == 1
    assert not model._forward_hooks


@pytest.mark.slow
def test_a_region_with_functions_between_its_modules_is_swapped_again():
    torch.manual_seed(0)
    inputs = image(2, 32, 32), image(2, 64, 64)
    model = aa.swap(written.Siamese(), "conv1:layer2", Pyramid(6, 12, 20), inputs=inputs)
    aa.swap(model, "conv1:layer2", Pyramid(4, 8, 12), inputs=inputs).eval()
    fresh = written.Siamese()
    fresh.adjust.load_state_dict(model.adjust.state_dict())
    with torch.no_grad():
        assert torch.equal(model(*inputs), written.by_hand(fresh, model.conv1, *inputs))


@pytest.mark.parametrize(
    "path", ["conv1", "layer2", "layer3", "conv1:layer2", "layer2:layer3", ["bn1", "layer1"], "layer*"]
)
def test_a_part_of_a_swapped_region_is_refused_with_the_whole_of_it(path):
    members = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(swapped(), path, Pyramid(4, 8, 12, 16), inputs=image(2, 64, 64))
    assert str(raised.value).splitlines()[0].endswith("` is a part of a region that has been swapped")
    assert str(raised.value).splitlines()[-2:] == [
        f"  found     {', '.join(members)} were swapped together as a region",
        f"  try       swap(model, {members}, ...)",
    ]


def test_a_model_that_freezes_its_stem_by_name_when_it_trains_is_said_to_freeze_the_whole_new_module():
    class Frozen(written.PoseNet):
        def train(self, mode=True):
            super().train(mode)
            self.conv1.eval().requires_grad_(False)
            return self

    report = aa.swap(Frozen(), SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64), dry_run=True)
    step = report.checks[-1]
    assert (step.name, step.outcome) == ("training step", "not run")
    assert step.detail == "train() of Frozen freezes all of `conv1`, the whole new module"
