"""Smallest sizes: modules that refuse small images, and that such a refusal leaves changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import SEWConfig, SEWModel

import autoadapt as aa


class Windowed(nn.Module):
    """Makes its windows smaller for small images, and stays so; its bias fits windows of 7 cells alone, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 7
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.bias = nn.Parameter(torch.zeros(7, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.window = min(self.window, *x.shape[2:])
        x[:, :, : self.window, : self.window] += self.bias
        return x


IMAGE = torch.zeros(1, 3, 64, 64)


def test_the_smallest_size_that_runs_is_found_where_smaller_ones_are_refused() -> None:
    signature = aa.capture(Windowed(), IMAGE)
    assert {name: (sizes.smallest, sizes.bounded) for name, sizes in signature.axes.items() if name != "B"} == {
        "H": (28, True),
        "W": (28, True),
    }
    assert str(signature.axes["H"]) == "28 and more"
    assert signature.unverified == ()


def test_images_below_it_are_enlarged_so_that_no_call_changes_the_module() -> None:
    new = Windowed().eval()
    contract = aa.Signature.parse("f32[B, 4, floor(H/4), floor(W/4)]", inputs="f32[B, 3, H, W]")
    net = aa.adapt(new, like=contract, inputs=IMAGE).eval()
    for height, width in ((64, 64), (12, 40), (20, 20), (64, 64)):
        assert net(torch.zeros(2, 3, height, width)).shape == (2, 4, height // 4, width // 4)
    x = torch.randn(2, 3, 64, 48)
    assert torch.equal(net(x), copy.deepcopy(new)(x))


def test_sizes_without_such_a_bound_are_not_enlarged() -> None:
    signature = aa.capture(nn.Conv2d(3, 4, 4, 4), IMAGE)
    assert not any(sizes.bounded for sizes in signature.axes.values())
    assert aa.Signature.model_validate_json(signature.model_dump_json()) == signature


@pytest.mark.slow
def test_sound_whose_frames_are_pooled_is_taken_from_the_length_on_that_runs() -> None:
    widths = {"hidden_size": 16, "intermediate_size": 16, "conv_dim": (8,) * 13, "num_conv_pos_embeddings": 8}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_conv_pos_embedding_groups": 2}
    new, sound = SEWModel(SEWConfig(**widths, **layers)).eval(), torch.randn(1, 4000)
    inputs = {"input_values": sound, "attention_mask": torch.ones(1, 4000, dtype=torch.long)}
    contract = aa.capture(new, inputs, inner=True)
    (pool,) = [one for one in contract.inner if one.name == "encoder.pool"]
    assert str(pool.spec.dims[-1]) == "floor((N - 80)/640)"
    assert new(sound[:, :720]).last_hidden_state.shape[1] == 2
    with pytest.raises(RuntimeError, match="size"):
        new(sound[:, :719])
