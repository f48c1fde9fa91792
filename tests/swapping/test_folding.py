"""A folded model answers as before with one layer less; what cannot be folded is refused with the reason."""

import ast
import copy
import pickle
import re

import pytest
import timm
import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.errors import BuildError
from autoadapt.swapping import swap
from autoadapt.swapping.folding import fold

X = torch.randn(2, 3, 32, 32)


class Levels(nn.Module):
    def __init__(self, *widths):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(3, width, 2**i, stride=2**i) for i, width in enumerate(widths, 1))

    def forward(self, x):
        return [stage(x) for stage in self.stages]


class Model(nn.Module):
    """A consumer for each level; `between` is what stands before the last one."""

    def __init__(self, consumers, between=None):
        super().__init__()
        self.backbone = Levels(8, 10)
        self.consumers = nn.ModuleList(consumers)
        self.between = between or nn.Identity()

    def forward(self, x):
        levels = self.backbone(x)
        height = levels[0].shape[2]
        made = [consumer(level) for consumer, level in zip(self.consumers, levels, strict=False)]
        made[-1] = nn.functional.interpolate(self.between(made[-1]), size=(height, height))
        return made


def adapted(model, *widths, **options):
    model.backbone = adapt(Levels(*widths), like=model.backbone, inputs=X, **options)
    for parameter in model.backbone.adapters.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def assert_alike(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


def consumers(**last):
    return [nn.Conv2d(8, 4, 1), nn.Conv2d(10, 5, 3, **last)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2}, {"dilation": 2}])
def test_every_projection_is_merged_into_its_consumer(options):
    model = adapted(Model(consumers(**options)), 6, 7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model, inputs=X)
    assert_alike(folded(X), model(X))
    assert [layer.in_channels for layer in folded.consumers] == [6, 7]
    assert not list(folded.backbone.adapters.parameters())
    assert folded.backbone(X)[1].shape[1] == 7
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert folded.backbone.backbone.stages[0].weight.data_ptr() == model.backbone.backbone.stages[0].weight.data_ptr()


def test_resampling_between_commutes():
    model = Model([nn.Conv2d(8, 4, 1)])
    model.backbone = First(Levels(8, 10))
    model.backbone = adapt(First(Levels(5, 6), 1), like=model.backbone, inputs=X, pairs={"0": "0"})
    assert [type(step).__name__ for step in model.backbone.plan.routes[0].steps] == ["Project", "Resample"]
    nn.init.normal_(model.backbone.get_parameter("adapters.0.project.bias"))
    assert_alike(fold(model.eval(), inputs=X)(X), model(X))


class First(nn.Module):
    def __init__(self, levels, which=0):
        super().__init__()
        self.levels, self.which = levels, which

    def forward(self, x):
        return [self.levels.stages[self.which](x)]


def test_linear_consumers_of_tokens_are_folded():
    class Tokens(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.patches = nn.Conv2d(3, width, 8, stride=8)

        def forward(self, x):
            return self.patches(x).flatten(2).transpose(1, 2)

    old = nn.Sequential(Tokens(12), nn.Linear(12, 4))
    model = nn.Sequential(adapt(Tokens(9), like=old[0], inputs=X), old[1]).eval()
    folded = fold(model, at="0", inputs=X)
    assert folded[1].in_features == 9
    assert_alike([folded(X)], [model(X)])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "padding_mode": "reflect"}, {"padding": "same"}])
def test_an_offset_reaches_padded_borders_by_a_channel_of_ones(options):
    model = adapted(Model(consumers(**options)), 6, 7)
    folded = fold(model, inputs=X)
    for x in (X, torch.randn(1, 3, 20, 48)):
        assert_alike(folded(x), model(x))
    pads_zeros = "padding_mode" not in options
    assert folded.backbone.folded.ones == ("1",) * pads_zeros
    assert [layer.in_channels for layer in folded.consumers] == [6, 7 + pads_zeros]
    of_ones = 2 * 5 * 9 * 8 * 8  # two samples, five channels made of one by 3 x 3 at 8 x 8 places
    assert folded.backbone.folded.multiply_adds_of_ones == of_ones * pads_zeros
    assert ("project_bias=False need none" in str(folded.backbone.folded)) == pads_zeros
    nn.init.zeros_(model.backbone.get_parameter("adapters.1.project.bias"))
    folded = fold(model, inputs=X)
    assert folded.consumers[1].in_channels == 7
    assert_alike(folded(X), model(X))


class Between(nn.Module):
    """Something before the consumer."""

    def __init__(self, consumer, function):
        super().__init__()
        self.consumer, self.function = consumer, function

    def forward(self, level):
        return self.consumer(self.function(level))


class Twice(nn.Module):
    def __init__(self, consumer):
        super().__init__()
        self.consumer = consumer

    def forward(self, level):
        return self.consumer(level) + level.mean()


class Called(nn.Module):
    def __init__(self, consumer):
        super().__init__()
        self.consumer = consumer

    def forward(self, level):
        return self.consumer(level) + self.consumer(2 * level)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("consumer", "reason"),
    [
        (Between(nn.Conv2d(10, 5, 1), torch.relu), "torch.relu"),
        (Twice(nn.Conv2d(10, 5, 1)), "consumer, torch.mean"),
        (Called(nn.Conv2d(10, 5, 1)), "another call of consumers.1.consumer"),
        (nn.Conv2d(10, 10, 1, groups=5), "groups=5"),
        (nn.BatchNorm2d(10), "torch.batch_norm"),
        (Between(nn.Conv2d(10, 5, 1), lambda level: level.add_(1)), "torch.add_"),
        (Between(nn.Conv2d(10, 5, 1), lambda level: level * torch.arange(10.0)[:, None, None]), "torch.mul"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(10, 5, 1)), "a ParametrizedConv2d"),
    ],
    ids=["activation", "two readers", "two calls", "groups", "norm", "number", "factors", "parametrised"],
)
def test_anything_in_between_is_named(consumer, reason):
    model = adapted(Model([nn.Conv2d(8, 4, 1), consumer]), 6, 7)
    with pytest.raises(BuildError, match="1 of 1 projections cannot be folded") as caught:
        fold(model, inputs=X, outputs=["1"])
    assert reason in str(caught.value)
    folded = fold(model, inputs=X)  # the other one is
    assert reason in folded.backbone.folded.stays[0].reader
    assert (folded.consumers[0].in_channels, len(folded.backbone.adapters)) == (6, 1)
    assert_alike(folded(X), model(X))


def test_an_output_that_nothing_reads_loses_its_adapter_and_one_that_the_caller_gets_keeps_it():
    model = adapted(Model([nn.Conv2d(8, 4, 1)]), 6, 7)
    folded = fold(model, inputs=X, outputs=["1"])
    assert str(folded.backbone.folded) == "folded: output 1\nnothing reads a value of output 1"
    assert_alike(folded(X), model(X))
    sequential = nn.Sequential(adapt(nn.Conv2d(3, 4, 1), like=nn.Conv2d(3, 8, 1), inputs=X))
    with pytest.raises(BuildError, match="the caller of the model"):
        fold(sequential, inputs=X, at="0")


def test_there_must_be_a_consumer_and_a_projection():
    net = adapt(nn.Conv2d(3, 4, 1), like=nn.Conv2d(3, 8, 1), inputs=X)
    with pytest.raises(BuildError, match="what reads the adapter must be in the model"):
        fold(net, inputs=X)
    same = nn.Conv2d(3, 8, 1)
    with pytest.raises(BuildError, match="no projection to fold"):
        fold(nn.Sequential(adapt(same, like=same, inputs=X), nn.Conv2d(8, 2, 1)), at="0", inputs=X)
    model = adapted(Model(consumers()), 6, 7)
    with pytest.raises(BuildError, match="no such projection to fold"):
        fold(model, inputs=X, outputs=["5"])


def test_equal_channels_are_folded_where_a_projection_was_put():
    model = adapted(Model(consumers()), 8, 10, project="always")
    assert_alike(fold(model, inputs=X)(X), model(X))


class Picked(nn.Module):
    """A detector in small: of the cells of a map it returns those that score above a threshold, which may be none."""

    def __init__(self, threshold):
        super().__init__()
        self.backbone, self.score = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 1, 1)
        self.threshold = threshold

    def forward(self, x):
        scores = self.score(self.backbone(x)).flatten()
        return scores[scores > self.threshold]


@pytest.mark.parametrize("threshold", [0.0, 1e6])
def test_a_model_that_may_return_nothing_is_folded(threshold):
    model, x = Picked(threshold), torch.randn(1, 3, 16, 16)
    model.backbone = adapt(nn.Conv2d(3, 5, 2, stride=2), like=model.backbone, inputs=x)
    folded = fold(model, at="backbone", inputs=x)
    assert folded.score.in_channels == 5
    torch.testing.assert_close(folded(x), model(x))


class Counted(nn.Module):
    """Returns as many cells as its layer has parameters, so that a folded one answers in another shape."""

    def __init__(self):
        super().__init__()
        self.backbone, self.score = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return self.score(self.backbone(x)).flatten()[: self.score.weight.numel()]


def test_an_answer_of_another_shape_is_refused():
    model, x = Counted(), torch.randn(1, 3, 16, 16)
    model.backbone = adapt(nn.Conv2d(3, 5, 2, stride=2), like=model.backbone, inputs=x)
    with pytest.raises(BuildError, match=r"answers with a shape of \[5\], and of \[8\] before"):
        fold(model, at="backbone", inputs=x)


@pytest.mark.slow
def test_the_backbone_stays_as_it_was_built_where_other_channels_or_sizes_are_read():
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, num_classes=0
    )
    for new, steps in ((First(Levels(5, 6)), ["channels"]), (vit, ["native", "channels"])):
        model, x = nn.Sequential(nn.Conv2d(4, 8, 4, stride=4), nn.Conv2d(8, 2, 1)).eval(), torch.randn(1, 4, 32, 24)
        swap(model, "0", new, inputs=x)
        assert [step.op for step in model[0].plan.inputs[0].steps][: len(steps)] == steps
        folded = fold(model, inputs=x)
        torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
        assert not list(folded[0].adapters.parameters())


def followed(error: BuildError) -> dict[str, object]:
    """The arguments that a refusal says to give instead."""
    remedies = {fault.remedy for fault in error.mismatches}
    assert len(remedies) == 1
    call = re.fullmatch(r"(?:fold\(\.\.\., )?(\w+)=(.+?)\)?", remedies.pop())
    assert call is not None
    return {call[1]: ast.literal_eval(call[2])}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("asked", [{"outputs": ["1"]}, {"outputs": ["7"]}, {"outputs": ["1", "0"]}, {"outputs": "0"}])
def test_what_a_refusal_says_to_fold_instead_can_be_folded(asked):
    model = adapted(Model(nn.ModuleList([nn.Conv2d(8, 4, 3), nn.Conv2d(10, 10, 3, groups=2)])), 5, 6)
    for _ in range(3):  # a name that there is not is told first, then what cannot be folded
        with pytest.raises(BuildError) as caught:
            fold(model, inputs=X, **asked)
        asked = followed(caught.value)
        if asked == {"outputs": ["0"]}:
            break
    assert_alike(model(X), fold(model, inputs=X, **asked)(X))


def test_where_nothing_can_be_folded_it_is_said_and_no_other_output_is_named():
    model = adapted(Model(nn.ModuleList([nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(10, 10, 3, groups=2)])), 5, 6)
    for outputs in (None, ["0"], ["1"]):
        with pytest.raises(BuildError, match="cannot be folded, nor any other of this module") as caught:
            fold(model, inputs=X, outputs=outputs)
        assert {fault.remedy for fault in caught.value.mismatches} == {'aa.export(model, "model.onnx", inputs=x)'}


def test_a_model_without_layers_to_fold_is_exported_as_it_is():
    model = adapted(Model(consumers()), 8, 10)
    for outputs in (None, [], ["0"]):
        with pytest.raises(BuildError, match="there is no projection to fold, and") as caught:
            fold(model, inputs=X, outputs=outputs)
        assert caught.value.mismatches[0].remedy == 'aa.export(model, "model.onnx", inputs=x)'


def test_a_place_that_is_wrong_is_told_with_those_that_are_right():
    two = nn.ModuleDict({"left": adapted(Model(consumers()), 5, 6), "right": adapted(Model(consumers()), 5, 6)})
    for at in (None, "left", "left.backbone.backbone"):
        with pytest.raises(BuildError, match="what reads the adapter must be in the model") as caught:
            fold(two, inputs=X, at=at)
        remedy = 'fold(..., at="left.backbone")\nfold(..., at="right.backbone")'
        assert caught.value.mismatches[0].remedy == remedy
    for alone in (two["left"].backbone, nn.Conv2d(3, 4, 1)):
        with pytest.raises(BuildError, match="what reads the adapter must be in the model") as caught:
            fold(alone, inputs=X)
        assert caught.value.mismatches[0].remedy == "aa.fold(aa.swap(model, path, new, inputs=x), inputs=x)"


def to_even(level):
    """Pad odd sizes with zeros, as decoders do that halve and double again."""
    height, width = level.shape[2:]
    return nn.functional.pad(level, (0, width % 2, 0, height % 2))


def test_what_happens_at_other_sizes_than_the_example_is_followed_too():
    model = adapted(Model([nn.Conv2d(8, 4, 1), Between(nn.Conv2d(10, 5, 1), to_even)]), 6, 7)
    folded = fold(model, inputs=X)  # 8 x 8 cells, which are not padded
    assert folded.backbone.folded.ones == ("1",)
    for height, width in ((32, 32), (36, 44), (44, 32)):
        x = torch.randn(1, 3, height, width)
        assert_alike(folded(x), model(x))


@pytest.mark.parametrize("dims", [1, 3])
def test_other_lengths_of_sound_and_clips_are_followed_too(dims):
    layer, x = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1], torch.randn(1, 3, *(8, 4, 4)[:dims])
    odd = AtTimes(layer(8, 4, 1), lambda _, level: level.shape[2] % 2 == 1)
    model = nn.Sequential(adapt(layer(3, 5, 1), like=layer(3, 8, 1), inputs=x), odd).eval()
    with pytest.raises(BuildError, match=r"torch\.relu"):
        fold(model, at="0", inputs=x)


class Fuse(nn.Module):
    """Adds a level to another; without weights, so that nothing keeps people from sharing it."""

    def forward(self, level, other):
        return level + torch.nn.functional.interpolate(other, level.shape[-2:])


class Fusing(nn.Module):
    """Fuses the same levels the other way round, with one module; the third has a reader of its own."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.fuse = backbone, Fuse()
        self.first, self.second, self.own = (nn.Conv2d(8, 4, 1) for _ in range(3))

    def forward(self, x):
        one, two, three = self.backbone(x)
        return self.first(self.fuse(one, two)), self.second(self.fuse(two, one)), self.own(three)


def test_a_shared_module_without_weights_is_folded_at_each_of_its_calls():
    backbone = adapt(Levels(5, 6, 7), like=Levels(8, 8, 8), inputs=X)
    model = Fusing(backbone).eval()
    folded = fold(model, inputs=X)
    assert not folded.backbone.folded.stays
    assert [one.in_channels for one in (folded.first, folded.second, folded.own)] == [11, 11, 7]
    for size in (32, 40):
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))


def test_what_a_shared_module_keeps_from_folding_is_what_it_is_given_alone():
    model = Fusing(adapt(Levels(5, 6, 7), like=Levels(8, 8, 8), inputs=X)).eval()
    model.second.register_forward_pre_hook(lambda _, args: (model.fuse(args[0].relu(), args[0].relu()),))
    folded = fold(model, inputs=X)
    assert {stay.output for stay in folded.backbone.folded.stays} == {"0", "1"}
    assert folded.own.in_channels == 7
    assert_alike(folded(X), model(X))


class AtTimes(nn.Module):
    """Cuts what is negative off at some sizes, or while it trains."""

    def __init__(self, consumer, when):
        super().__init__()
        self.consumer, self.when = consumer, when

    def forward(self, level):
        return self.consumer(level.relu() if self.when(self, level) else level)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "when",
    [
        lambda _, level: level.shape[-1] % 2 == 1,
        lambda self, _: self.training,
        lambda _, level: len(level) == 1,
        lambda _, level: level.shape[-1] < 8,
        lambda _, level: len(level) % 2,
    ],
    ids=["odd", "training", "one sample", "small", "odd samples"],
)
def test_what_is_not_linear_at_another_size_or_in_training_keeps_its_adapter(when):
    model = adapted(Model([nn.Conv2d(8, 4, 1), AtTimes(nn.Conv2d(10, 5, 1), when)]), 6, 7)
    folded = fold(model, inputs=X)
    assert [(stay.output, "torch.relu" in stay.reader) for stay in folded.backbone.folded.stays] == [("1", True)]
    for size in (16, 32, 36):
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))


class Picks(nn.Module):
    """Reads channels, or places, that a buffer tells."""

    def __init__(self, function, picked):
        super().__init__()
        self.consumer, self.function = nn.Conv2d(picked, 5, 1), function
        self.register_buffer("which", torch.arange(8))

    def forward(self, level):
        return self.consumer(self.function(level, self.which))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("function", "is_folded"),
    [
        (lambda level, which: level[:, which], False),
        (lambda level, which: level.index_select(1, which), False),
        (lambda level, which: level[:, which >= 0], False),
        (lambda level, which: level[:, :, which], True),
        (lambda level, which: level[:, [2, 1, 0]], True),
        (lambda level, which: level[:, which[:3]], False),
        (lambda level, which: level[..., which, :, :], False),
        (lambda level, which: level[..., which], True),
        (lambda level, which: level.index_select(3, which), True),
    ],
)
def test_channels_that_a_tensor_tells_are_not_folded_since_it_may_change(function, is_folded):
    picked = function(torch.zeros(1, 8, 16, 16), torch.arange(8)).shape[1]
    model = adapted(Model([Picks(function, picked), nn.Conv2d(10, 5, 1)]), 2, 7)
    folded = fold(model, inputs=X)
    assert [stay.output for stay in folded.backbone.folded.stays] == ["0"] * (not is_folded)
    assert is_folded or "may hold other numbers" in folded.backbone.folded.stays[0].why
    for one in (model, folded):
        one.consumers[0].which.copy_(torch.arange(8).flip(0))
    assert_alike(folded(X), model(X))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "function", [lambda x: torch.div(x, 3, rounding_mode="floor"), lambda x: x.to(torch.int8) * 1.0]
)
def test_rounding_is_named(function):
    model = adapted(Model([nn.Conv2d(8, 4, 1), Between(nn.Conv2d(10, 5, 1), function)]), 6, 7)
    (stay,) = fold(model, inputs=X).backbone.folded.stays
    assert "torch.div" in stay.reader or stay.why == "it rounds"


@pytest.mark.slow
@pytest.mark.parametrize("drop", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_is_passed_in_eval_mode_and_keeps_the_adapter_of_a_model_that_trains(drop):
    last = Between(nn.Conv2d(10, 5, 3, padding=1), drop)
    model = adapted(Model([nn.Conv2d(8, 4, 1), last]), 6, 7)
    assert not fold(model, inputs=X).backbone.folded.stays
    (stay,) = fold(model.train(), inputs=X).backbone.folded.stays
    assert (stay.output, stay.why) == ("1", "it drops channels")
    before = torch.get_rng_state()
    folded = fold(model, inputs=X)
    assert torch.equal(before, torch.get_rng_state())
    assert all(one.training for one in folded.modules())


def narrow(level):
    """With the width written into the code."""
    return level.narrow(1, 0, 10)


@pytest.mark.slow
def test_an_output_that_fails_when_the_folded_model_runs_keeps_its_adapter_alone():
    model = adapted(Model([nn.Conv2d(8, 4, 1), Between(nn.Conv2d(10, 5, 1), narrow)]), 6, 7)
    folded = fold(model, inputs=X)
    (stay,) = folded.backbone.folded.stays
    assert (stay.output, stay.reader) == ("1", "consumers.1.consumer")
    assert "does not run" in stay.why
    assert folded.consumers[0].in_channels == 6
    assert_alike(folded(X), model(X))
    with pytest.raises(BuildError, match="output 1") as caught:
        fold(model, inputs=X, outputs=["0", "1"])
    assert followed(caught.value) == {"outputs": ["0"]}


def test_a_model_does_not_become_heavier_unless_the_output_is_named():
    model = adapted(Model(consumers(padding=1)), 5, 64)
    folded = fold(model, inputs=X)
    (stay,) = folded.backbone.folded.stays
    assert stay.output == "1"
    assert "the model would be heavier" in stay.why
    before, after = folded.backbone.folded.multiply_adds
    assert after < before
    asked = fold(model, inputs=X, outputs=["1"])
    assert "the model is heavier than it was: " in str(asked.backbone.folded)
    assert_alike(asked(X), model(X))


class Branches(nn.Module):
    """Has a layer of its own for large maps."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(10, 5, 1), nn.Conv2d(10, 5, 1)

    def forward(self, level):
        return (self.large if level.shape[-1] > 50 else self.small)(level)


def test_a_layer_that_was_never_seen_refuses_channels_that_it_does_not_read():
    folded = fold(adapted(Model([nn.Conv2d(8, 4, 1), Branches()]), 6, 7), inputs=X)
    assert folded.backbone.folded.unseen == ("consumers.1.large",)
    for one in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        one(X)
        with pytest.raises(RuntimeError, match=r"given 7 channels and reads 10: the model was folded"):
            one(torch.randn(1, 3, 32, 512))


class Aliased(Model):
    """Calls its backbone by another of its names."""

    def __init__(self, consumers):
        super().__init__(consumers)
        self.alias = self.backbone

    def forward(self, x):
        levels = self.alias(x)
        return [consumer(level) for consumer, level in zip(self.consumers, levels, strict=True)]


def test_an_adapted_module_of_several_names_is_folded_at_all_of_them():
    model = swap(Aliased(consumers()).eval(), "backbone", Levels(6, 7), inputs=X)
    folded = fold(model, inputs=X)
    assert folded.alias is folded.backbone
    assert [layer.in_channels for layer in folded.consumers] == [6, 7]
    assert_alike(folded(X), model(X))
