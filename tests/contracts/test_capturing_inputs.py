"""Capture of submodules in place, of several inputs, of dicts and of integers."""

import pytest
import torch
from small_models import Plain, Pyramid, image
from torch import nn

import autoadapt as aa


class Detector(nn.Module):
    """A backbone that is called by keyword, with a mask, inside a model whose head depends on values."""

    def __init__(self):
        super().__init__()
        self.backbone = Masked()

    def forward(self, images):
        levels = self.backbone(images, mask=images[:, 0] > 0, extra={"scale": 2})
        return levels[0][levels[0] > 0]


class Masked(nn.Module):
    """Takes an image, a mask and a dict."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4, 8)

    def forward(self, x, *, mask, extra):
        return [one * extra["scale"] for one in self.body(x * mask[:, None])]


def test_a_submodule_is_captured_in_place_with_the_arguments_it_gets():
    signature = aa.capture(Detector(), image(), at="backbone")
    assert signature.name == "Masked"
    assert list(signature.arguments) == ["x", "mask", "extra"]
    assert signature.positional == 1
    assert [str(spec) for spec in signature.inputs.leaves] == ["f32[B, 3, H, W]", "bool[B, H, W]"]
    assert [str(spec) for spec in signature.outputs.leaves] == [
        "f32[B, 4, ceil(H/2), ceil(W/2)]",
        "f32[B, 8, ceil(H/4), ceil(W/4)]",
    ]


def test_a_submodule_that_does_not_run_is_refused_by_its_path():
    model = Plain()
    model.spare = Pyramid(4)
    with pytest.raises(aa.CaptureError, match="`spare` does not run when the model runs") as caught:
        aa.capture(model, image(), at="spare")
    assert "give the path of a module that is used" in str(caught.value)


class ManyInputs(nn.Module):
    """Two images of their own sizes and a vector of the batch."""

    def forward(self, left, right, weight=None):
        return left.mean((2, 3)) + weight, right[:, :, ::2]


def test_inputs_of_several_tensors_have_axes_of_their_own_where_they_vary_alone():
    signature = aa.capture(ManyInputs(), {"left": image(), "right": image(), "weight": torch.zeros(2, 3)})
    assert [str(spec) for spec in signature.inputs.leaves] == [
        "f32[B, C, H, W]",
        "f32[B, C, H2, W2]",
        "f32[B, C]",
    ]
    assert str(signature.outputs.leaves[1]) == "f32[B, C, ceil(H2/2), W2]"


class TakesDict(nn.Module):
    """Its only argument is a dict."""

    def forward(self, batch):
        return batch["image"].mean(1), batch["ids"].float()


def test_a_dict_may_be_the_one_argument_or_the_keywords():
    batch = {"image": image(), "ids": torch.tensor([[3, 9], [1, 2]])}
    signature = aa.capture(TakesDict(), (batch,))
    assert list(signature.arguments) == ["batch"]
    assert signature.inputs.paths == ("batch.image", "batch.ids")


def test_the_range_of_integer_inputs_is_noted():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids):
            return {"tokens": self.table(ids), "ids": ids}

    signature = aa.capture(Embeds(), torch.tensor([[3, 9, 4], [1, 2, 5]]))
    assert signature.value_ranges == {"ids": (1, 9)}
    assert str(signature.outputs["tokens"]) == "f32[B, N, 4]"
