"""What `resample` takes: tables of positions, by their names or a grid that is told, and kernels of patches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from weights_models import randomised, snapshot

from autoadapt.weights import transfer


class Holds(nn.Module):
    """A table under a name, and a layer beside it."""

    def __init__(self, name: str, table: nn.Module | nn.Parameter) -> None:
        super().__init__()
        *path, last = name.split(".")
        owner: nn.Module = self
        for word in path:
            inner = nn.Module()
            owner.add_module(word, inner)
            owner = inner
        setattr(owner, last, table)
        self.rest = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("query_embed", 100, 900),
        ("model.query_position_embeddings", 100, 900),
        ("decoder.query_pos", 100, 900),
        ("word_embeddings", 400, 625),
        ("embeddings.position_embeddings", 256, 1024),
    ],
)
def test_tables_of_queries_words_and_steps_have_no_grid(name: str, old: int, new: int) -> None:
    source, model = randomised(Holds(name, nn.Embedding(old, 3)), 1), randomised(Holds(name, nn.Embedding(new, 3)), 2)
    before = snapshot(model)
    report = transfer(source, model, shapes="resample")
    assert torch.equal(model.get_parameter(f"{name}.weight"), before[f"{name}.weight"])
    entry = next(entry for entry in report.sources if entry.name.startswith(name))
    tell = f'grid={{"{name}.weight": (old, new, tokens)}} tells one'
    assert entry.how.endswith(f"not known by its name as a table of positions on a grid; {tell}")


def test_a_grid_that_is_told_is_taken_whatever_the_name() -> None:
    source, model = randomised(Holds("anchors", nn.Embedding(6, 3)), 1), Holds("anchors", nn.Embedding(24, 3))
    report = transfer(source, model, grid={"anchors": ((2, 3), (4, 6), 0)})
    assert report.sources[0].how == "resample: 2x3 -> 4x6 grid"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pos_embed", (1, 16, 3), (1, 25, 3)),
        ("encoder.pos_embedding", (1, 17, 3), (1, 26, 3)),
        ("absolute_pos_embed", (1, 3, 4, 4), (1, 3, 6, 6)),
        ("attn.relative_position_bias_table", (169, 3), (529, 3)),
        ("vision_model.position_embedding", (16, 3), (25, 3)),
        ("visual.positional_embedding", (50, 3), (197, 3)),
    ],
)
def test_tables_of_positions_are_known_by_their_names(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    source, model = Holds(name, nn.Parameter(torch.ones(old))), Holds(name, nn.Parameter(torch.zeros(new)))
    transfer(source, model, shapes="resample")
    torch.testing.assert_close(model.get_parameter(name), torch.ones(new))


@pytest.mark.parametrize(("old", "new"), [(16, 8), (8, 16), (14, 16)])
def test_a_kernel_of_patches_answers_as_before_on_resized_images(old: int, new: int) -> None:
    from timm.layers import resample_patch_embed

    source, model = (nn.Sequential(nn.Conv2d(3, 4, k, stride=k)) for k in (old, new))
    randomised(source, 1)
    report = transfer(source, model, shapes="resample")
    expected = resample_patch_embed(source[0].weight, [new, new])
    torch.testing.assert_close(model[0].weight, expected, rtol=1e-3, atol=1e-3)
    assert report.sources[0].how == f"resample: patches of {old}x{old} -> {new}x{new}, by the pseudo-inverse"
    patch = torch.ones(1, 3, 16, 16)
    answers = [net(patch)[0, :, 0, 0] for net in (source, model)]
    torch.testing.assert_close(*answers, rtol=0.05, atol=0.05)


def test_kernels_that_are_no_patches_are_left() -> None:
    for old, new in (
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)),
        (nn.ConvTranspose2d(3, 4, 2, 2), nn.ConvTranspose2d(3, 4, 4, 4)),
    ):
        report = transfer(old, new, shapes="resample")
        assert report.sources[0].how.endswith("resample does not apply")
