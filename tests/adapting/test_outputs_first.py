"""Outputs as sources: what is handed out twice, or is an input, is no feature of its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa


def contract(*levels: str) -> aa.Signature:
    return aa.Signature.parse(list(levels), inputs={"x": "f32[B, 3, H, W]"})


class Echoing(nn.Module):
    """Returns the image beside its features, as batch dicts and smp's encoders do."""

    def __init__(self, width: int = 3, *, as_dict: bool = False) -> None:
        super().__init__()
        self.same, self.down = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 8, 3, stride=2, padding=1)
        self.as_dict = as_dict

    def forward(self, x: torch.Tensor) -> object:
        first = self.same(x)
        second = self.down(first)
        return {"image": x, "first": first, "second": second} if self.as_dict else [x, first, second]


@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("as_dict", [False, True])
def test_an_output_that_is_an_input_serves_no_feature_even_with_equal_dims(width, as_dict):
    torch.manual_seed(0)
    model, x = Echoing(width, as_dict=as_dict).eval(), torch.randn(2, 3, 16, 16)
    net = aa.adapt(model, like=contract("f32[B, 3, H, W]", "f32[B, 8, ceil(H/2), ceil(W/2)]"), inputs=x)
    features = model(x)
    first, second = list(features.values())[1:] if as_dict else features[1:]
    assert [route.source for route in net.plan.routes] == (["first", "second"] if as_dict else ["1", "2"])
    assert torch.equal(net(x)[1], second)
    assert width != 3 or torch.equal(net(x)[0], first)


def test_an_image_that_is_wanted_is_still_handed_through():
    x = torch.randn(2, 3, 16, 16)
    net = aa.adapt(Echoing().eval(), like=Echoing().eval(), inputs=x)
    assert net(x)[0] is x


class Twice(nn.Module):
    """Four maps of one stride, the last three of them listed again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return [*found, *found[1:]]


def test_an_output_that_stands_twice_takes_no_share_of_the_others():
    net = aa.adapt(Twice().eval(), like=contract(*["f32[B, 4, H, W]"] * 4), inputs=torch.randn(2, 3, 16, 16))
    assert [route.source for route in net.plan.routes] == ["0", "1", "2", "3"]


def test_the_second_place_of_a_tensor_may_still_be_asked_for():
    net = aa.plan(aa.capture(Twice().eval(), torch.randn(2, 3, 16, 16)), contract("f32[B, 4, H, W]"), pairs={"0": "4"})
    assert net.routes[0].source == "4"


def vit(**options):
    sizes = {"img_size": 64, "depth": 4, "embed_dim": 32, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **sizes, **options)


def convolutions_in_front():
    return timm.create_model("xcit_nano_12_p16_224", depth=4, embed_dim=32, num_heads=2)


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [8, 32])
@pytest.mark.parametrize("make", [convolutions_in_front, lambda: Whole(convolutions_in_front())])
def test_tokens_of_another_stride_come_from_the_blocks_not_from_a_convolution_in_front_of_them(make, patch_size):
    old = Whole(vit(patch_size=patch_size, class_token=False, global_pool="avg"))
    made = aa.plan(
        aa.capture(make(), torch.zeros(2, 3, 64, 64), inner=True), aa.capture(old, torch.zeros(2, 3, 64, 64))
    )
    assert made.routes[0].source.partition(".")[0] in ("blocks", "output")
    assert made.kept.share > 0.7  # without the blocks that mix class tokens alone
    assert made.kept.depth > 0.75


@pytest.mark.slow
def test_levels_of_a_pyramid_still_come_from_what_stands_in_front_of_the_blocks():
    old = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3))
    new = aa.capture(convolutions_in_front(), torch.zeros(2, 3, 64, 64), inner=True)
    made = aa.plan(new, aa.capture(old, torch.zeros(2, 3, 64, 64)))
    *fine, coarse = (route.source for route in made.routes)
    assert [source.partition(".")[0] for source in fine] == ["patch_embed"] * 2
    assert coarse == "blocks.3"


class Whole(nn.Module):
    """What a transformer returns before its head."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.forward_features(x)


@pytest.mark.parametrize("words", [12, 32])
def test_an_output_as_wide_as_there_are_words_is_no_score_where_layers_read_that_many(words):
    class Speech(nn.Module):
        """Convolutions to what is returned too, and layers behind them that keep the width."""

        def __init__(self, width):
            super().__init__()
            self.config = SimpleNamespace(vocab_size=words)
            self.convolutions = nn.Conv1d(1, 12, 8, 4)
            self.project = nn.Linear(12, width)
            self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

        def forward(self, wave):
            features = self.convolutions(wave[:, None]).mT
            tokens = self.project(features)
            return {"last_hidden_state": tokens + self.layers(tokens), "extract_features": features}

    net = aa.adapt(Speech(12), like=Speech(20), inputs=torch.randn(2, 64))
    assert {route.target: route.source for route in net.plan.routes} == {
        "last_hidden_state": "last_hidden_state",
        "extract_features": "extract_features",
    }


class Patches(nn.Module):
    """Blocks behind a patch embedding, with what is returned after each beside the result, as MONAI's ViT."""

    def __init__(self, blocks: int, width: int, *, listing: bool, patch: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 1, 16, 0.0, batch_first=True) for _ in range(blocks)
        )
        self.norm, self.listing = nn.LayerNorm(width), listing

    def forward(self, x: torch.Tensor) -> object:
        tokens, states = self.embed(x).flatten(2).mT, []
        for block in self.blocks:
            tokens = block(tokens)
            states.append(tokens)
        return (self.norm(tokens), states) if self.listing else self.norm(tokens)


def cut_at_8() -> nn.Module:
    model = timm.create_model("resnet10t")
    return nn.Sequential(model.conv1, model.bn1, model.act1, model.maxpool, model.layer1, model.layer2)


def sources(new: nn.Module, old: nn.Module, x: torch.Tensor) -> dict[str, str]:
    made = aa.plan(aa.capture(new.eval(), x, inner=True), aa.capture(old.eval(), x))
    return {route.target: route.source for route in made.routes}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("old", "blocks"),
    [(lambda: nn.Conv2d(3, 8, 8, 8), 6), (cut_at_8, 2), (lambda: nn.Conv2d(3, 8, 8, 8), 2), (cut_at_8, 6)],
    ids=["one layer-6", "cut network-2", "one layer-2", "cut network-6"],
)
def test_a_single_result_is_served_by_what_a_transformer_returns_not_by_one_of_its_blocks(old, blocks):
    x = torch.zeros(2, 3, 64, 64)
    assert sources(Patches(blocks, 12, listing=True), old(), x) == {"output": "0"}
    assert sources(Patches(blocks, 12, listing=False), old(), x) == {"output": "output"}


def test_shallow_levels_of_a_list_are_still_served_by_shallow_blocks():
    levels = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2))
    found = sources(Patches(6, 12, listing=False), levels, torch.zeros(2, 3, 64, 64))
    assert found == {"0": "blocks.1", "1": "blocks.2"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("width", [12, 16])
def test_a_result_beside_a_list_of_states_is_served_by_the_result_not_by_the_last_state(width):
    old, new = Patches(2, 16, listing=True), Patches(2, width, listing=True)
    assert sources(new, old, torch.zeros(2, 3, 64, 64)) == {"0": "0", "1.0": "1.0", "1.1": "1.1"}


def test_what_a_transformer_of_clips_returns_is_deepest_where_patches_are_cut_frame_by_frame():
    class Clips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv3d(3, 16, (1, 8, 8), (1, 8, 8))
            self.blocks = nn.Sequential(
                *(nn.TransformerEncoderLayer(16, 1, 16, 0.0, batch_first=True) for _ in range(4))
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(self.embed(x).flatten(2).mT)

    seen = aa.capture(Clips().eval(), torch.zeros(2, 3, 4, 32, 32), inner=True)
    assert seen.outputs.leaves[0].depth == 5
    assert [one.spec.depth for one in seen.inner if one.name.startswith("blocks.") and one.layers > 1] == [2, 3, 4, 5]
