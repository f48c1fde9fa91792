"""Functions between an output and its reader: those that are linear over channels fold, and the others are named."""

import copy

import pytest
import torch
from test_folding import Between, Model, X, adapted, assert_alike
from torch import nn
from torch.nn import functional

from autoadapt.errors import BuildError
from autoadapt.swapping.folding import fold, settling

SIZES = (32, 36, 52)


class Through(Between):
    """Its layer reads a map, or features of each sample."""

    def forward(self, level):
        made = super().forward(level)
        return made if made.dim() == 4 else made[..., None, None]


def built(function, shape=(2, 10, 8, 8)):
    """A model whose level of ten channels goes through a function to a layer for what that returns, which pads."""
    torch.manual_seed(0)
    made = function(torch.randn(shape))
    reader = nn.Linear(made.shape[1], 4) if made.dim() == 2 else nn.Conv2d(made.shape[1], 4, 3, padding=1)
    return adapted(Model([nn.Conv2d(8, 4, 1), Through(reader, function)]), 6, 7)


def is_folded(model):
    folded = fold(model, inputs=X, outputs=["1"])
    assert [name for name, _ in folded.backbone.adapters.named_children()] == ["0"]
    for size in SIZES:
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))
    return folded


def mixed_places(level):
    weights = torch.arange(level.shape[2] * level.shape[3] + 0.0).softmax(0)
    return level.flatten(2) @ weights


def moved(level):
    """As a flow field moves a map."""
    grid = functional.affine_grid(torch.tensor([[[0.9, 0.1, 0.3], [0.0, 1.2, 0.0]]]), (1, 1, *level.shape[2:]), False)
    return functional.grid_sample(level, grid.expand(len(level), -1, -1, -1), align_corners=False)


def attended(level):
    """As object regions take features of places, with weights that the image tells."""
    weights = torch.linspace(-2, 2, level.shape[2] * level.shape[3]).repeat(len(level), 3, 1).softmax(2)
    return torch.einsum("bkn,bcn->bck", weights, level.flatten(2))[..., None]


def gathered(level):
    """The three places of the largest mean, as of key points."""
    places = torch.tensor([[[5, 0, 3]]]).expand(len(level), level.shape[1], -1)
    return level.flatten(2).gather(2, places)[..., None]


def valued(level):
    """Values of an attention whose scores come from elsewhere."""
    keys = torch.linspace(-1, 1, level.shape[2] * level.shape[3] * 4).reshape(1, -1, 4).expand(len(level), -1, -1)
    values = level.flatten(2).transpose(1, 2)
    return functional.scaled_dot_product_attention(keys[:, :3], keys, values).transpose(1, 2)[..., None]


def reorganised(level):
    """As the passthrough layer of YOLOv2: four places become channels, before those of the level."""
    batch, channels, height, width = level.shape
    cells = level.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(batch, -1, height // 2, width // 2)


def masked(level):
    return level.masked_fill(torch.arange(level.shape[-1]) > 3, 0.0)


def added(level):
    made = 1.0 * level
    return made.add_(level.flip(2), alpha=2)


FUNCTIONS = {
    "sum": lambda level: level.sum((2, 3)),
    "mixed places": mixed_places,
    "grid_sample": moved,
    "masked": masked,
    "gathered": gathered,
    "values of attention": valued,
    "unfold": lambda level: functional.unfold(level, 3, padding=1)[..., None],
    "pixel_unshuffle": lambda level: functional.pixel_unshuffle(level[:, :, :8, :8], 2),
    "unshuffled beside": lambda level: torch.cat(
        [functional.pixel_unshuffle(level[:, :, :8, :8], 2), level[..., :4, :4]], 1
    ),
    "flip": lambda level: level.flip(3),
    "reflect": lambda level: functional.pad(level, (1, 2, 2, 1), mode="reflect"),
    "number": lambda level: 0.3 * level / 2,
    "in place": lambda level: (1.0 * level).mul_(0.5),
    "map": lambda level: level * torch.linspace(0, 1, level.shape[-1]),
    "cumsum": lambda level: level.cumsum(2),
    "beside another": lambda level: torch.cat([level, -level, torch.ones(len(level), 10, 2, level.shape[3])], 2),
    # Near relatives of those above.
    "einsum": attended,
    "folded back": lambda level: functional.fold(functional.unfold(level, 2), level.shape[2:], 2),
    "unshuffled added": lambda level: (
        functional.pixel_unshuffle(level[..., :8, :8], 2) + torch.linspace(0, 1, 40)[:, None, None]
    ),
    "reorganised": lambda level: torch.cat([reorganised(level[..., :8, :8]), level[..., :4, :4]], 1),
    "focus": lambda level: torch.cat([level[..., ::2, :8:2], level[..., ::2, 1:8:2]], 1),
    "shuffled back": lambda level: functional.pixel_shuffle(functional.pixel_unshuffle(level[..., :8, :8], 2), 2),
    "stacked": lambda level: torch.stack([level, 2 * level.roll(1, 3)], 2).flatten(2, 3),
    "added in place": added,
    "read for its shape": lambda level: level * level.new_ones(level.shape[-2:]),
    "where": lambda level: torch.where(torch.arange(level.shape[-1]) > 3, level, 0.0),
    "half of unshuffled": lambda level: functional.pixel_unshuffle(level[:, :, :8, :8], 2).chunk(2, 1)[1],
    "unshuffled and stacked": lambda level: torch.stack(
        [reorganised(level[..., :8, :8]), reorganised(2 * level[..., :8, :8])], 2
    )[:, :, 1],
    "unshuffled beside another": lambda level: torch.cat(
        [reorganised(level[..., :8, :8]), torch.ones(len(level), 40, 2, 4)], 2
    ),
    "roll": lambda level: level.roll((1, 2), (2, 3)),
    "replicate": lambda level: functional.pad(level, (1, 2, 2, 1), mode="replicate"),
    "circular": lambda level: functional.pad(level, (1, 2, 2, 1), mode="circular"),
    "pooled times map": lambda level: level.mean((2, 3), keepdim=True) * torch.linspace(0, 1, 8),
    "beside itself": lambda level: torch.cat([level, level.flip(3)], 2),
    "like another": lambda level: torch.ones(1, dtype=torch.float64).to(level) * level,
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_that_does_the_same_to_every_channel_is_folded(name):
    is_folded(built(FUNCTIONS[name]))


def added_unseen(level):
    made = 1.0 * level
    made.add_(level.flip(2), alpha=2)
    return made


NOT_LINEAR = {
    "a factor for each": (lambda level: level * torch.ones(10, 1, 1), "it is not the same for all channels"),
    "channels made places": (lambda level: functional.pixel_shuffle(level[:, :8], 2), "mixes them with places"),
    "places of each": (lambda level: level.gather(2, level.argsort(2)), "other places of each channel"),
    "a number": (lambda level: functional.pad(level, (1, 1), value=2.0), "adds a number"),
    "itself": (lambda level: level * level, "torch.mul"),
    "read by its old name": (added_unseen, "`a = a.add_(b)` in place of `a.add_(b)` folds"),
    "a mask for each": (lambda level: level.masked_fill(torch.zeros(10, 1, 1, dtype=torch.bool), 0.0), "not the same"),
    "channels and places": (lambda level: level.flip((1, 2)), "channels and places at once"),
    "over channels": (lambda level: level.sum(1, keepdim=True).expand(-1, 10, -1, -1), "mixes them with places"),
    "division": (lambda level: 1 / (3 + level), "it adds a number"),
    "whole numbers": (lambda level: torch.div(level, 3, rounding_mode="floor"), "torch.div"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", NOT_LINEAR)
def test_one_that_does_not_is_named(name):
    function, why = NOT_LINEAR[name]
    with pytest.raises(BuildError, match="cannot be folded") as caught:
        fold(built(function), inputs=X, outputs=["1"])
    assert why in str(caught.value)


class ShapeOnly(nn.Module):
    """Reads the second level for its size alone."""

    def __init__(self, function):
        super().__init__()
        self.consumer, self.function = nn.Conv2d(8, 4, 1), function

    def forward(self, levels):
        return self.consumer(functional.interpolate(levels[0], levels[1].shape[2:])) * self.function(levels[1])


def has_ten(level):
    assert level.shape[1] == 10
    return 1.0


class OfAll(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.backbone, self.head = Model([]).backbone, ShapeOnly(function)

    def forward(self, x):
        return [self.head(self.backbone(x))]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "function",
    [
        lambda level: 1.0,
        lambda level: torch.zeros_like(level)[:, :1] + 1,
        lambda level: level.shape[1] / 10,
        has_ten,
        lambda level: torch.ones(1, 1, 1, 1).expand_as(level).mean(),
        lambda level: level.size(1) + level[0].numel() + len(level[0]),
        # Near relatives of those above.
        lambda level: level.new_ones(level.shape[2:]),
        lambda level: torch.ones(1).to(level),
        lambda level: torch.ones_like(level).sum(),
        lambda level: torch.ones(10).expand(level.shape[1]).sum(),
    ],
)
def test_a_level_of_which_only_the_shape_is_read_has_no_adapter(function):
    model = adapted(OfAll(function), 6, 7)
    folded = fold(model, inputs=X)
    assert not list(folded.backbone.adapters.children())
    assert folded.backbone.folded.unread == ("1",)
    assert "nothing reads a value of output 1" in str(folded.backbone.folded)
    for size in SIZES:
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda level: level.stride(0) / level.stride(1), "answers otherwise"),
        (lambda level: torch.ones(10).expand(level.stride(0) // level.stride(1)).sum(), "does not run"),
    ],
)
def test_a_level_whose_number_of_channels_is_read_otherwise_keeps_it(function, why):
    model = adapted(OfAll(function), 6, 7)
    folded = fold(model, inputs=X)
    (stay,) = folded.backbone.folded.stays
    assert (stay.output, stay.reader) == ("1", "what reads its shape")
    assert why in stay.why
    assert_alike(folded(X), model(X))


def test_a_search_follows_the_same_outputs_in_each_run_once(monkeypatch):
    asked, follow = [], settling.readings

    def noted(model, path, call, levels, fronts, *, wide, in_training):
        asked.append((call, tuple(levels), frozenset(fronts), str(wide), in_training))
        return follow(model, path, call, levels, fronts, wide=wide, in_training=in_training)

    monkeypatch.setattr(settling, "readings", noted)
    model = adapted(OfAll(lambda level: level.stride(0) / level.stride(1)), 6, 7)
    assert fold(model, inputs=X).backbone.folded.stays
    assert len({levels for _, levels, *_ in asked}) > 2
    assert len(asked) == len(set(asked))


class Placed(nn.Module):
    """Adds what it makes for each channel and place, and puts ones beside places."""

    def __init__(self, function=lambda level: level.shape[1]):
        super().__init__()
        self.function, self.read = function, nn.Conv2d(10, 4, 3, padding=1)

    def forward(self, level):
        rates = torch.arange(1.0, 1 + self.function(level), device=level.device)[:, None, None]
        places = torch.arange(level.shape[2] * 1.0, device=level.device)[:, None]
        beside = torch.ones_like(level[:, :, :1])
        return self.read(torch.cat([level + torch.sin(places / rates), beside], 2))


def test_a_compiled_part_is_followed_and_stays_compiled():
    between = torch.compile(nn.Sequential(nn.Conv2d(10, 4, 1), nn.ReLU()), backend="eager")
    model = adapted(Model([nn.Conv2d(8, 4, 1), between]), 6, 7)
    folded = fold(model, inputs=X)
    assert not folded.backbone.folded.stays
    assert type(folded.consumers[1]) is type(between)
    with torch.no_grad():
        assert_alike(folded(X), model(X))


@pytest.mark.slow
def test_a_traced_graph_whose_additions_cannot_be_rerouted_keeps_the_adapter():
    graph = torch.fx.symbolic_trace(Placed(lambda level: 10))
    model = adapted(Model([nn.Conv2d(8, 4, 1), graph]), 6, 7)
    folded = fold(model, inputs=X)
    assert [stay.output for stay in folded.backbone.folded.stays] == ["1"]
    assert_alike(folded(X), model(X))


class Cached(nn.Module):
    """Adds positions that the first call makes, by additions and from shapes, and further ones find."""

    def __init__(self, width):
        super().__init__()
        self.read, self.cached, self.width = nn.Conv2d(10, 4, 1), None, width

    def forward(self, level):
        if self.cached is None or self.cached.shape[-2:] != level.shape[-2:]:
            self.cached = torch.linspace(0, 1, self.width(level)).add(1.0)[:, None, None].expand(level.shape[1:])
        return self.read(level.add(self.cached))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("width", [lambda level: 10, lambda level: level.shape[1]])
def test_a_model_that_keeps_what_its_first_call_made_answers_at_the_second_one_too(width):
    model = adapted(Model([nn.Conv2d(8, 4, 1), Cached(width)]), 6, 7)
    model.consumers[1].cached = None
    folded = fold(model, inputs=X)
    for x in (X, X, torch.randn(1, 3, 36, 36), X):
        assert_alike(folded(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [lambda level: level.shape[1], lambda level: level.size()[1], lambda level: level.size(1)]
)
def test_tensors_that_are_made_from_a_shape_keep_their_channels(function):
    model = adapted(Model([nn.Conv2d(8, 4, 1), Placed(function)]), 6, 7)
    folded = is_folded(model)
    assert_alike(torch.compile(folded, backend="eager")(X), model(X))
    assert_alike(copy.deepcopy(folded)(X), model(X))
    twice = fold(fold(model, inputs=X, outputs=["1"]), inputs=X, outputs=["0"])
    assert_alike(twice(X), model(X))


@pytest.mark.slow
def test_a_shape_that_is_read_for_channels_and_for_a_view_keeps_the_adapter_and_advises_nothing_that_does_not_help():
    def function(level):
        samples, channels, height, width = level.shape
        return level.view(samples, channels, height * width).sum(2)[..., None, None] + torch.ones(channels, 1, 1)

    with pytest.raises(BuildError, match=r"torch.add is given tensors of \(8, 8\) channels") as met:
        fold(built(function), inputs=X, outputs=["1"])
    assert "fold with inputs=" not in str(met.value)


class Queried(nn.Module):
    """Attention of PyTorch with learned queries behind a level, and code that looks at values."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 4))
        self.read, self.decode = nn.Conv2d(10, 4, 1), nn.TransformerDecoderLayer(4, 2, 8, batch_first=True)

    def forward(self, level):
        made = self.decode(self.queries.expand(len(level), -1, -1), self.read(level).flatten(2).mT)
        return made[..., None] * (1.0 if float(made.detach().sum()) < 1e9 else 0.0)


def test_a_trained_transformer_that_looks_at_values_is_folded_and_its_cost_is_told():
    before, after = is_folded(adapted(Model([nn.Conv2d(8, 4, 1), Queried()]), 6, 7)).backbone.folded.multiply_adds
    assert 0 < after < before
