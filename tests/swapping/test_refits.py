"""A swap with refit: what reads the new module is rebuilt for its channels, and no adapter stands between."""

import copy
import pickle

import pytest
import torch
from generated_decoders import Levels
from torch import nn

import autoadapt as aa

X = torch.randn(2, 3, 32, 32)


class Decoder(nn.Module):
    """A decoder over three levels, as wide at each as the level is: what people edit by hand for another backbone."""

    def __init__(self, *widths):
        super().__init__()
        self.backbone = Levels(*widths)
        a, b, c = widths
        self.low = nn.Sequential(nn.Conv2d(c, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        self.cat = nn.Conv2d(2 * b, b, 1)
        self.up = nn.ConvTranspose2d(b, a, 2, stride=2)
        self.mix = nn.Sequential(nn.Conv2d(a, a, 3, padding=1, groups=a), nn.GroupNorm(2, a), nn.PReLU(a))
        self.head = nn.Conv2d(a, 5, 1)

    def forward(self, x):
        p1, p2, p3 = self.backbone(x)
        low = self.low(nn.functional.interpolate(p3, p2.shape[2:], mode="bilinear"))
        up = self.up(self.cat(torch.cat([p2, low], 1)))
        return self.head(self.mix(up) + p1)


OLD, NEW = (16, 24, 40), (8, 12, 20)


def model():
    torch.manual_seed(0)
    return Decoder(*OLD).eval()


def shapes(module, without="backbone"):
    return {name: tuple(p.shape) for name, p in module.state_dict().items() if not name.startswith(without)}


def test_readers_are_rebuilt_as_their_classes_do_and_the_others_stay_as_they_were():
    made = model()
    before = copy.deepcopy(made)
    held = made.low[0]
    torch.manual_seed(7)
    swapped = aa.swap(made, "backbone", Levels(*NEW), inputs=X, refit=True)
    assert swapped.low[0] is held  # the layer itself, so that hooks and whoever holds it stay
    assert (held.in_channels, swapped.cat.in_channels) == (20, 12 + 24)
    assert not list(swapped.backbone.adapters.parameters())
    bound = (held.in_channels * 9) ** -0.5
    assert 0.9 * bound < float(held.weight.detach().abs().max()) <= bound  # kaiming uniform, as Conv2d draws it
    assert 0 < float(held.bias.detach().abs().max()) <= bound
    assert torch.equal(swapped.up.weight, before.up.weight)
    found = swapped.backbone.folded
    assert set(found.untrained) == {"low.0", "cat", "head"}  # the sum of `mix` and the first level became a `cat`
    assert "with new weights, to be trained" in str(found)
    for size in (32, 48):
        assert swapped(torch.randn(1, 3, size, size)).shape[1:] == (5, size, size)


def test_narrowed_by_the_rule_it_is_the_model_that_is_built_for_the_new_widths():
    swapped = aa.swap(model(), "backbone", Levels(*NEW), inputs=X, refit="shrink")
    assert shapes(swapped) == shapes(Decoder(*NEW))
    assert swapped.mix[0].groups == swapped.mix[1].num_channels == swapped.mix[2].num_parameters == 8
    assert swapped.backbone.plan.parameters == 0
    found = swapped.backbone.folded
    assert set(found.untrained) == {"low.0", "low.1", "cat", "up", "mix.0", "mix.1", "mix.2", "head"}
    assert "low.0 reads 20 and returns 12" in str(found)
    assert bool((swapped.low[1].weight == 1).all() and (swapped.low[1].running_var == 1).all())
    assert bool(swapped.head.weight.std() > 0)


@pytest.mark.slow
def test_nothing_behind_a_wider_output_is_widened():
    old = model()
    swapped = aa.swap(model(), "backbone", Levels(8, 30, 50), inputs=X, refit="shrink")
    assert (swapped.low[0].in_channels, swapped.low[0].out_channels) == (50, 24)
    assert (swapped.cat.in_channels, swapped.cat.out_channels) == (30 + 24, 24)
    assert swapped.head.in_channels == 8
    wider = aa.swap(old, "backbone", Levels(20, 30, 50), inputs=X, refit="shrink")
    (stay,) = wider.backbone.folded.stays
    assert (stay.output, "would be narrower" in stay.reader) == ("0", True)  # it is added to sixteen channels
    assert (wider.up.out_channels, wider.head.in_channels) == (16, 16)


def test_what_the_caller_gets_keeps_its_width_and_is_named():
    class Maps(Decoder):
        def forward(self, x):
            p1, p2, _ = self.backbone(x)
            low = self.low[0](self.backbone(x)[2])
            return nn.functional.interpolate(low, p2.shape[2:]) + p2, self.head(p1)

    torch.manual_seed(0)
    swapped = aa.swap(Maps(*OLD).eval(), "backbone", Levels(*NEW), inputs=X, refit="shrink")
    assert (swapped.low[0].in_channels, swapped.low[0].out_channels, swapped.head.in_channels) == (20, 24, 8)
    (stay,) = swapped.backbone.folded.stays
    assert (stay.output, stay.reader) == ("1", "the caller of the model")
    assert [one.shape[1] for one in swapped(X)] == [24, 5]


@pytest.mark.slow
def test_a_calibrated_module_is_merged_and_the_old_head_works_on():
    old = model()
    net = aa.adapt(Levels(*NEW), like=old.backbone, inputs=X)
    batch = torch.randn(16, 3, 32, 32)
    assert aa.calibrate(net, like=old.backbone, data=[batch], augment=0).outputs
    for parameter in net.adapters.parameters():
        nn.init.normal_(parameter, std=0.3)
    adapted = copy.deepcopy(old)
    adapted.backbone = net
    swapped = aa.swap(model(), "backbone", net, inputs=X, refit=True)
    assert not swapped.backbone.folded.untrained
    for size in (32, 40):
        x = torch.randn(1, 3, size, size)
        torch.testing.assert_close(swapped(x), adapted(x), rtol=1e-4, atol=1e-4)
    assert not list(swapped.backbone.adapters.parameters())


def test_an_adapted_module_that_fits_as_it_is_stands_there_itself():
    old = model()
    net = aa.adapt(Levels(*NEW), like=old.backbone, inputs=X)
    swapped = aa.swap(model(), "backbone", net, inputs=X)
    assert isinstance(swapped.backbone.backbone, Levels)
    assert aa.fold(swapped, inputs=X).low[0].in_channels == 20


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, "shrink"])
def test_it_trains_and_is_copied_pickled_saved_and_exported(refit, tmp_path):
    swapped = aa.swap(model(), "backbone", Levels(*NEW), inputs=X, refit=refit)
    for one in (copy.deepcopy(swapped), pickle.loads(pickle.dumps(swapped))):
        torch.testing.assert_close(one(X), swapped(X), rtol=0, atol=0)
    aa.save(swapped, tmp_path / "model")
    back = aa.restore(tmp_path / "model", model=model(), new=Levels(*NEW))
    torch.testing.assert_close(back(X), swapped(X), rtol=0, atol=0)
    assert back.backbone.folded == swapped.backbone.folded
    exported = torch.export.export(swapped, (X,)).module()
    torch.testing.assert_close(exported(X), swapped(X), rtol=1e-5, atol=1e-5)
    swapped.train()
    swapped(X).mean().backward()
    assert all(p.grad is not None for name, p in swapped.named_parameters())


class Auxiliary(Decoder):
    """With a head of its own while it trains, dropout, a hook, and code that counts on a width."""

    def __init__(self, *widths):
        super().__init__(*widths)
        self.auxiliary = nn.Sequential(nn.Dropout2d(0.5), nn.Conv2d(widths[1], 7, 1))
        self.calls = []
        self.cat.register_forward_hook(lambda module, args, output: self.calls.append(args[0].shape[1]))

    def forward(self, x):
        made = super().forward(x)
        return (made, self.auxiliary(self.backbone(x)[1])) if self.training else made


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, "shrink"])
def test_heads_that_only_train_and_hooks_of_readers_follow(refit):
    torch.manual_seed(0)
    swapped = aa.swap(Auxiliary(*OLD).train(), "backbone", Levels(*NEW), inputs=X, refit=refit)
    assert swapped.auxiliary[1].in_channels == 12
    assert "auxiliary.1" in swapped.backbone.folded.untrained
    made, auxiliary = swapped(X)
    assert (made.shape[1], auxiliary.shape[1]) == (5, 7)
    assert swapped.calls[-1] == swapped.cat.in_channels
    (made.mean() + auxiliary.mean()).backward()
    assert swapped.auxiliary[1].weight.grad is not None


class Heads(Decoder):
    """Splits channels into heads by a number of its own."""

    def forward(self, x):
        p1, p2, p3 = self.backbone(x)
        low = self.low(p3)
        heads = low.view(len(x), 4, -1, *low.shape[2:]).softmax(2).flatten(1, 2)
        return self.head(self.up(self.cat(torch.cat([p2, nn.functional.interpolate(heads, p2.shape[2:])], 1))) + p1)


def test_channels_that_are_split_into_heads_keep_their_width():
    torch.manual_seed(0)
    swapped = aa.swap(Heads(*OLD).eval(), "backbone", Levels(*NEW), inputs=X, refit="shrink")
    assert (swapped.low[0].in_channels, swapped.low[0].out_channels) == (20, 24)
    assert (swapped.cat.in_channels, swapped.cat.out_channels, swapped.head.in_channels) == (12 + 24, 12, 8)


def test_layers_that_start_anew_train_although_they_were_frozen():
    frozen = model()
    frozen.low.requires_grad_(False)
    swapped = aa.swap(frozen, "backbone", Levels(*NEW), inputs=X, refit=True)
    assert all(p.requires_grad for p in swapped.low[0].parameters())
    assert not any(p.requires_grad for p in swapped.low[1].parameters())


def test_a_dry_run_tells_what_each_state_costs_and_changes_nothing():
    made = model()
    before = copy.deepcopy(made.state_dict())
    new = Levels(*NEW)
    drawn = torch.get_rng_state()
    found = aa.swap(made, "backbone", new, inputs=X, refit="shrink", dry_run=True)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    lines = {line.state: line for line in found.costs}
    assert list(lines) == ["old", "adapted", "readers rebuilt", "calibrated, folded", "as by hand"]
    ones = 24 * 9 * 256  # of the first convolution, which pads, at the 16 x 16 places of the second level
    assert lines["calibrated, folded"].whole[1] == lines["readers rebuilt"].whole[1] + ones
    without = aa.swap(made, "backbone", new, inputs=X, dry_run=True, project_bias=False)
    assert [line.state for line in without.costs] == ["old", "adapted", "readers rebuilt", "as by hand"]
    plain = model()
    consumer = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("backbone"))
    assert lines["old"].consumer[0] == lines["adapted"].consumer[0] == consumer
    assert lines["adapted"].adapters == (
        sum((n + 1) * o for n, o in zip(NEW, OLD, strict=True)),
        8 * 16 * 1024 + 12 * 24 * 256 + 20 * 40 * 64,
    )
    hand = Decoder(*NEW)
    assert lines["as by hand"].whole[0] == sum(p.numel() for p in hand.parameters())
    assert [lines[name].adapters for name in ("old", "readers rebuilt", "as by hand")] == [(0, 0)] * 3
    assert "refit='shrink'" in found.call
    assert "as by hand" in str(found)
    assert found.parts[0].generated == 0


def test_a_refit_of_several_places_or_of_a_step_is_refused():
    two = nn.ModuleList([nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)])
    whole = Both(two)
    with pytest.raises(aa.SwapError, match="cannot be rebuilt") as caught:
        aa.swap(whole, "parts.*", nn.Conv2d(3, 5, 1), inputs=X, refit=True)
    assert "2 places" in str(caught.value)
    with pytest.raises(aa.SwapError, match="cannot be rebuilt"):
        aa.swap(model(), "backbone", Levels(*NEW), inputs=lambda one: one(X).mean().backward(), refit=True)
    with pytest.raises(aa.SwapError) as caught:
        aa.swap(model(), "backbone", Levels(*NEW), inputs=X, refit="narrow")
    assert caught.value.mismatches[0].expected == "True, False, 'readers' or 'shrink'"


@pytest.mark.slow
def test_no_config_describes_an_assembled_model_that_was_refitted_since():
    head = {"type": "LinearClsHead", "num_classes": 10}
    backbone = {"type": "ResNet_CIFAR", "depth": 18}
    model = aa.assemble(
        {"input": "f32[B, 3, 32, 32]", "backbone": backbone, "neck": "GlobalAveragePooling", "head": head}
    )
    assert aa.describe(model)["head"]["in_channels"] == 512
    aa.swap(model, "backbone", nn.Sequential(nn.Conv2d(3, 100, 8, stride=8)), inputs=X, refit=True)
    assert model.get_submodule("head.fc").in_features == 100
    with pytest.raises(aa.AssemblyError, match="no config describes what was swapped") as caught:
        aa.describe(model)
    assert caught.value.mismatches[0].where == "backbone"


class Both(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts, self.head = parts, nn.Conv2d(16, 2, 1)

    def forward(self, x):
        return self.head(torch.cat([part(x) for part in self.parts], 1))


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, "shrink"])
def test_it_is_compiled_and_written_as_onnx(refit, tmp_path):
    swapped = aa.swap(model(), "backbone", Levels(*NEW), inputs=X, refit=refit)
    done = aa.export(swapped, tmp_path / "model.onnx", X)
    assert done.compared  # with what the runtime answers
    compiled = torch.compile(swapped, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), swapped(X), rtol=1e-5, atol=1e-5)
