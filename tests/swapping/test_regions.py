"""Regions: a backbone that is no submodule, swapped for one module, in models as people write them."""

import copy
import threading

import pytest
import region_models as written
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa
from autoadapt.swapping.stand_ins import StandIn

CASES = {
    "pose network": (written.PoseNet, "conv1:layer3", ["layer3"], "conv1"),
    "pose network by list": (
        written.PoseNet,
        ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"],
        ["layer3"],
        "conv1",
    ),
    "U-Net with one pool": (written.UNet, ["enc1", "enc2", "enc3", "enc4"], ["enc1", "enc2", "enc3", "enc4"], "enc1"),
    "PSPNet": (written.PSPNet, "layer0:layer4", ["layer3", "layer4"], "layer0"),
    "SSD by its list": (written.SSD, ["vgg"], ["7", "10"], "vgg.0"),
    "SSD by a span": (written.SSD, "vgg.0:vgg.10", ["7", "10"], "vgg.0"),
    "Siamese tracker": (written.Siamese, "conv1:layer2", ["layer2"], "conv1"),
    "sum across the edge": (written.Crossing, "conv1:layer1", ["layer1"], "conv1"),
    "sum of two levels": (written.Crossing, "conv1:layer2", ["layer1", "layer2"], "conv1"),
}
SIZES = [(64, 64), (65, 79), (97, 51)]


def given(model, height, width):
    if isinstance(model, written.Siamese):
        return image(2, height // 2, width // 2), image(2, height, width)
    return (image(2, height, width),)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", CASES)
def test_the_rest_of_the_model_reads_the_levels_of_the_new_module_at_every_size(case):
    torch.manual_seed(0)
    kind, region, read, first = CASES[case]
    old = kind()
    model = aa.swap(copy.deepcopy(old), region, Pyramid(6, 12, 20, 28, 30), inputs=given(old, 64, 64))
    assert model is not None
    assert type(model) is kind
    net = model.get_submodule(first)
    assert isinstance(net, aa.AdaptedModule)
    assert [
        name for one in net.hand_on.handing.order for name, is_read in zip(one.names, one.read, strict=True) if is_read
    ] == read
    model.eval()
    for height, width in SIZES:
        inputs = given(model, height, width)
        with torch.no_grad():
            found, expected = model(*inputs), written.by_hand(old, net, *inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", CASES)
def test_a_swapped_region_trains_without_a_parameter_that_gets_no_gradient(case):
    torch.manual_seed(0)
    kind, region, _, _ = CASES[case]
    model = aa.swap(kind(), region, Pyramid(6, 12, 20, 28, 30), inputs=given(kind(), 64, 64))
    model.train()
    returned = model(*given(model, 64, 64))
    sum(one.sum() for one in (returned if isinstance(returned, tuple) else (returned,))).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", ["sum of two levels", "pose network", "U-Net with one pool"])
def test_a_swapped_region_compiles_into_one_graph(case):
    torch.manual_seed(0)
    kind, region, _, _ = CASES[case]
    model = aa.swap(kind(), region, Pyramid(6, 12, 20, 28), inputs=given(kind(), 64, 64)).eval()
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image(2, 64, 64)), model(image(2, 64, 64)))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", ["pose network", "SSD by a span", "sum of two levels"])
def test_state_dicts_copies_and_compilers_take_a_swapped_region(case):
    torch.manual_seed(0)
    kind, region, _, first = CASES[case]
    inputs = given(kind(), 64, 64)
    model, other = (aa.swap(kind(), region, Pyramid(6, 12, 20, 28, 30), inputs=inputs).eval() for _ in range(2))
    state = model.state_dict()
    assert {name.split(first + ".")[1].split(".")[0] for name in state if name.startswith(first + ".")} == {
        "adapters",
        "backbone",
    }
    replaced = [path for path, module in model.named_modules() if isinstance(module, StandIn)]
    assert not [name for name in state if any(name.startswith(f"{path}.") for path in replaced)]
    with torch.no_grad():
        expected = model(*inputs)
        other.load_state_dict(state)
        torch.testing.assert_close(other(*inputs), expected, rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(model)(*inputs), expected, rtol=0, atol=0)
        exported = torch.export.export(copy.deepcopy(model), inputs, strict=False)
        torch.testing.assert_close(exported.module()(*inputs), expected)


def test_calls_in_threads_calls_that_raise_and_calls_past_the_module_keep_their_levels_apart():
    torch.manual_seed(0)
    model = aa.swap(written.Crossing(), "conv1:layer2", Pyramid(6, 12), inputs=image()).eval()
    images = [image(1, 32 + 8 * i, 40) for i in range(6)]
    with torch.no_grad():
        expected = [model(one) for one in images]
        found = [None] * len(images)

        def work(i):
            for _ in range(5):
                with torch.no_grad():
                    found[i] = model(images[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)

        handle = model.layer1.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(images[0])
        handle.remove()
        assert not model.conv1.hand_on._running.taken
        torch.testing.assert_close(model(images[1]), expected[1], rtol=0, atol=0)
        torch.testing.assert_close(model.forward(images[2]), expected[2], rtol=0, atol=0)


def test_a_model_that_calls_itself_between_two_modules_of_a_region_keeps_both_calls_levels():
    class Twice(written.PoseNet):
        def forward(self, x, again=False):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            inner = 0 if not again else self(image(2, 64, 64)).mean()
            return self.final(self.deconv(self.layer3(self.layer2(self.layer1(x))))) + inner

    torch.manual_seed(0)
    model = aa.swap(Twice(), "conv1:layer3", Pyramid(6, 12, 20, 28), inputs=image()).eval()
    with torch.no_grad():
        expected = model(image(2, 96, 96)) + model(image(2, 64, 64)).mean()
        torch.testing.assert_close(model(image(2, 96, 96), again=True), expected)


def test_a_stand_in_says_so_when_it_runs_on_its_own():
    model = aa.swap(written.PoseNet(), "conv1:layer3", Pyramid(6, 12, 20, 28), inputs=image())
    with pytest.raises(
        RuntimeError, match="layer2 stands in for a module of a swapped region, which runs in this order"
    ):
        model.layer2(image())


def test_numbers_and_texts_that_frameworks_put_on_layers_stay():
    model = written.PoseNet()
    model.layer2.f, model.layer2.path, model.conv1.i, model.conv1.type = [-1, 2], "Block", 0, "Conv"
    aa.swap(model, "conv1:layer3", Pyramid(6, 12, 20, 28), inputs=image())
    assert (model.layer2.f, model.layer2.path, model.conv1.i, model.conv1.type) == ([-1, 2], "Block", 0, "Conv")


def test_a_dry_run_changes_nothing_and_says_what_would_be_done():
    model = written.UNet()
    before = str(model), model.state_dict().keys()
    report = aa.swap(model, "enc1:enc4", Pyramid(6, 12, 20, 28), inputs=image(), dry_run=True)
    assert report.passed
    assert (str(model), model.state_dict().keys()) == before
    assert not model._forward_pre_hooks
    text = str(report)
    assert "takes the place of enc1, enc2, enc3, enc4; the first holds it, the others hand on its levels" in text
    assert "functions between them run on: max_pool2d" in text
    assert 'aa.swap(model, "enc1:enc4", new, inputs=inputs)' in text


def test_a_region_is_captured_as_the_submodule_would_be():
    model, image_ = written.UNet(), image(2, 64, 64)
    outputs = aa.capture(model, image_, region="enc1:enc4").outputs
    assert {name: str(spec) for name, spec in outputs.items()} == {
        "enc1": "f32[B, 4, H, W]",
        "enc2": "f32[B, 8, floor(H/2), floor(W/2)]",
        "enc3": "f32[B, 12, floor(H/4), floor(W/4)]",
        "enc4": "f32[B, 16, floor(H/8), floor(W/8)]",
    }
    whole = nn.Sequential(model.enc1, model.pool, model.enc2)
    left, right = aa.capture(whole, image_), aa.capture(model, image_, region=["enc1", "enc2"])
    assert left.outputs["output"].dims == right.outputs["enc2"].dims
    assert left.outputs["output"].centres == right.outputs["enc2"].centres
    assert "takes" not in str(model)
    assert not model.enc1._forward_hooks


def test_a_region_that_normalised_images_enter_is_captured_with_the_model_s_code_around_it():
    class Normalised(written.PoseNet):
        def forward(self, x):
            return super().forward((x - x.mean()) / 0.5)

    torch.manual_seed(0)
    old = Normalised()
    spec = aa.capture(old, image(), region="conv1:layer3").outputs["output"]
    assert str(spec) == "f32[B, 24, ceil(H/16), ceil(W/16)]"
    model = aa.swap(copy.deepcopy(old), "conv1:layer3", Pyramid(6, 12, 20, 28), inputs=image()).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(image()), written.by_hand(old, model.conv1, image()), rtol=0, atol=0)


def test_what_a_model_in_eval_mode_reads_in_train_mode_alone_is_served_too():
    torch.manual_seed(0)
    old, x = written.PSPNet().eval(), image(2, 64, 64)
    new = Pyramid(6, 12, 20, 28, 30)
    in_eval = aa.swap(copy.deepcopy(old), "layer0:layer4", new, inputs=(x,)).train()
    in_train = aa.swap(copy.deepcopy(old).train(), "layer0:layer4", new, inputs=(x,))
    in_train.load_state_dict(in_eval.state_dict())
    for one, other in zip(in_eval(x), in_train(x), strict=True):
        assert torch.equal(one, other)
    assert in_eval.eval()(x).shape == old(x).shape
