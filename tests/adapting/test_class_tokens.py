"""Class tokens: where the old module handed one out, one of the new module serves it; registers are left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from torch import nn

import autoadapt as aa
from autoadapt.adapting.layers import resample

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    made = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": 0, **options},
    )
    return made.eval()


class Tokens(nn.Module):
    """What a transformer returns before its head."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk.forward_features(x)


def tokens(model: nn.Module) -> torch.Tensor:
    return model.forward_features(IMAGES)


def dinov2(kind: type[nn.Module] | None = None, **options: object) -> nn.Module:
    config = transformers.Dinov2WithRegistersConfig(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=3,
        **options,
    )  # fmt: skip
    return (kind or transformers.Dinov2WithRegistersModel)(config).eval()


def class_attention() -> nn.Module:
    return timm.create_model("cait_xxs24_224", img_size=32, depth=2, embed_dim=48, num_heads=2, num_classes=0).eval()


class Pooled(nn.Module):
    """The pooled output of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).pooler_output


HANDING_OUT: dict[str, Callable[[], nn.Module]] = {
    "timm": vit,
    "scores": lambda: vit(num_classes=5),
    "transformers": lambda: Pooled(dinov2()),
    "class attention": class_attention,
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("old", HANDING_OUT)
def test_a_class_token_comes_from_the_class_token_among_the_new_tokens_not_from_their_mean(old):
    new = Tokens(vit(reg_tokens=4, embed_dim=32, num_heads=2))
    net = aa.adapt(new, like=HANDING_OUT[old](), inputs=IMAGES, project="always")
    (route,) = net.plan.routes
    assert [step.op for step in route.steps] == ["take", "project"]
    assert torch.allclose(net(IMAGES), net.adapters["output"](tokens(new.trunk)[:, 0]))


@pytest.mark.slow
def test_where_the_new_module_averages_its_last_tokens_the_class_token_of_its_last_block_serves():
    new = vit(global_pool="avg", num_classes=7)
    net = aa.adapt(new, like=vit(), inputs=IMAGES)
    assert (net.plan.routes[0].source, [step.op for step in net.plan.routes[0].steps]) == ("blocks.1", ["take"])
    assert torch.equal(net(IMAGES), tokens(new)[:, 0])


@pytest.mark.slow
def test_what_the_scores_are_made_of_goes_before_the_tokens_where_it_is_a_class_token_itself():
    new = vit(num_classes=7)
    net = aa.adapt(new, like=vit(), inputs=IMAGES)
    assert net.plan.routes[0].steps == ()
    assert torch.equal(net(IMAGES), new.forward_head(tokens(new), pre_logits=True))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_a_vector_that_was_no_class_token_is_made_as_before(pool):
    new = Tokens(vit())
    old = vit(global_pool=pool, class_token=False)
    assert not aa.capture(old, IMAGES).outputs.leaves[0].class_token
    net = aa.adapt(new, like=old, inputs=IMAGES)
    assert torch.allclose(net(IMAGES), tokens(new.trunk)[:, 1:].mean(1), atol=1e-6)


class Mixed(nn.Module):
    """Class token and mean beside each other, as linear probes of DINOv2 read them."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.trunk.forward_features(x)
        return torch.cat([made[:, 0], made[:, 1:].mean(1)], 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("model", "told"),
    [
        (vit, True),
        (lambda: vit(reg_tokens=4), True),
        (lambda: vit(num_classes=7), True),
        (lambda: Pooled(dinov2()), True),
        (class_attention, True),
        (lambda: Mixed(vit()), False),
        (lambda: vit(global_pool="avg"), False),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), False),
        (lambda: Tokens(vit()), False),
    ],
)
def test_a_vector_is_known_to_be_a_class_token(model, told):
    assert aa.capture(model(), IMAGES).outputs.leaves[0].class_token is told


def test_registers_are_left_out_and_the_class_token_stays():
    new = Tokens(vit(reg_tokens=4))
    net = aa.adapt(new, like=Tokens(vit()), inputs=IMAGES)
    assert [step.op for step in net.plan.routes[0].steps] == ["drop"]
    made = tokens(new.trunk)
    assert torch.equal(net(IMAGES), torch.cat([made[:, :1], made[:, 5:]], 1))
    assert "drop 4 after 1" in str(net.plan)


def test_registers_are_left_out_before_cells_go_to_another_grid():
    new = Tokens(vit(reg_tokens=4, patch_size=4))
    net = aa.adapt(new, like=Tokens(vit(embed_dim=32)), inputs=IMAGES)
    made = tokens(new.trunk)
    assert [step.op for step in net.plan.routes[0].steps] == ["drop", "resize tokens", "project"]
    assert torch.allclose(net(IMAGES)[:, 0], net.adapters["output"](made[:, 0]), atol=1e-6)
    cells = made[:, 5:].unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    between = resample(cells, [0.5, 0.5], [2.0, 2.0], [4, 4]).flatten(2).transpose(1, 2)
    assert torch.allclose(net(IMAGES)[:, 1:], net.adapters["output"](between), atol=1e-5)


def test_tokens_that_the_new_module_lacks_are_still_refused():
    with pytest.raises(aa.AdaptError, match="5 leading tokens and the source 1 leading token"):
        aa.adapt(Tokens(vit()), like=Tokens(vit(reg_tokens=4)), inputs=IMAGES)
