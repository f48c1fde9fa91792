"""Hooks that callers have put on modules of a region: they stay, and get what the new module serves there."""

import copy

import pytest
import region_models as written
import torch
from small_models import Pyramid, image
from torch import nn
from torch.nn.utils import prune

import autoadapt as aa

SPAN = "conv1:layer3"


def swapped(model, x=None):
    return aa.swap(model, SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64) if x is None else x).eval()


@pytest.fixture
def old():
    torch.manual_seed(0)
    return written.PoseNet().eval()


def test_a_forward_hook_gets_the_level_of_its_place_and_its_handle_still_removes_it(old):
    seen = []
    handle = old.layer2.register_forward_hook(lambda _module, _args, output: seen.append(output))
    member = old.layer2
    model = swapped(old)
    assert model.conv1.hand_on.handing.served == ("layer2", "layer3")
    seen.clear()
    with torch.no_grad():
        model(image(2, 64, 96))
        levels = model.conv1.alone()(image(2, 64, 96))
    assert [tuple(one.shape) for one in seen] == [(2, 16, 8, 12)]
    assert torch.equal(seen[0], levels["layer2"])
    handle.remove()
    model(image(2, 64, 96))
    assert len(seen) == 1
    assert len(member._forward_hooks) == 1


def test_a_hook_that_replaces_an_output_is_applied_once_to_the_level(old):
    old.layer3.register_forward_hook(lambda _module, _args, output: nn.functional.avg_pool2d(output, 2) * 3)
    plain = copy.deepcopy(old)
    model = swapped(old)
    assert str(model.conv1.signature.outputs.leaves[0]) == "f32[B, 24, ceil(H/16), ceil(W/16)]"
    with torch.no_grad():
        level = model.conv1.alone()(image(2, 64, 96))
        expected = plain.final(plain.deconv(nn.functional.avg_pool2d(level, 2) * 3))
        torch.testing.assert_close(model(image(2, 64, 96)), expected, rtol=0, atol=0)


def test_a_hook_before_the_first_module_changes_what_the_new_one_is_given(old):
    plain = swapped(copy.deepcopy(old))
    old.conv1.register_forward_pre_hook(lambda _module, args: (args[0] / 2 + 1,))
    model = swapped(old)
    model.load_state_dict(plain.state_dict())
    x = image(2, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x / 2 + 1), rtol=0, atol=0)
        torch.testing.assert_close(model.conv1.alone()(x), plain.conv1.alone()(x), rtol=0, atol=0)


def test_a_hook_before_a_later_module_gets_the_level_that_goes_into_it(old):
    seen = []
    old.layer3.register_forward_pre_hook(lambda _module, args, kwargs: seen.append(args[0]), with_kwargs=True)
    model = swapped(old)
    assert model.conv1.hand_on.handing.served == ("layer2", "layer3")
    seen.clear()
    with torch.no_grad():
        model(image(2, 64, 64))
        assert torch.equal(seen[0], model.conv1.alone()(image(2, 64, 64))["layer2"])


def test_hooks_go_along_when_a_region_is_swapped_again_and_copied(old):
    seen = []
    handle = old.layer2.register_forward_hook(lambda _module, _args, output: seen.append(output))
    model = aa.swap(swapped(old), SPAN, Pyramid(4, 8, 12, 16), inputs=image(2, 64, 64))
    for one in (model, copy.deepcopy(model)):
        seen.clear()
        with torch.no_grad():
            one(image(2, 64, 64))
            assert torch.equal(seen[0], model.conv1.alone()(image(2, 64, 64))["layer2"])
    handle.remove()
    assert not model.layer2._forward_hooks


@pytest.mark.slow
def test_a_dry_run_and_a_refusal_leave_hooks_where_they_are(old):
    handle = old.layer2.register_forward_hook(lambda *_: None)
    aa.swap(old, SPAN, Pyramid(6, 12, 20, 28), inputs=image(), dry_run=True)
    with pytest.raises(aa.SwapError, match="is not swapped"):
        aa.swap(old, SPAN, nn.Bilinear(3, 3, 3), inputs=image())
    handle.remove()
    assert not old.layer2._forward_hooks


def test_hooks_that_would_never_be_called_again_are_named(old):
    def keep(*_):
        return None

    old.layer3.register_full_backward_hook(keep)
    old.layer2.conv1.register_forward_hook(keep)
    with pytest.raises(aa.SwapError) as raised:
        swapped(old)
    text = str(raised.value)
    assert text.startswith("`layer2.conv1` has a hook that would never be called again\nlayer2.conv1\n")
    assert "  expected  hooks on what whole members of the region are given or return\n" in text
    assert "keep in layer2.conv1._forward_hooks\n" in text
    assert "keep in layer3._backward_hooks\n" in text
    assert text.endswith("  try       handle.remove()  # and register it anew after the swap")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_hooks_by_which_a_module_works_are_none_of_callers(old):
    class Counting(written.Block):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.calls = 0
            self.conv1.register_forward_hook(self.count)

        def count(self, *_):
            self.calls += 1

    nn.utils.weight_norm(old.conv1)
    nn.utils.spectral_norm(old.layer1.conv1)
    prune.l1_unstructured(old.layer3.down, "weight", amount=2)
    old.layer2 = Counting(8, 16).eval()
    model = swapped(old)
    assert model.conv1.hand_on.handing.served == ("layer3",)
    assert not model.conv1._forward_pre_hooks
