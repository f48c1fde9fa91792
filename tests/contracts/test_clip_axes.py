"""Clips and volumes: tokens of three axes are read as what they are, and asked for where nothing tells."""

import einops
import pytest
import torch
from clip_models import ListedClip
from torch import nn

import autoadapt as aa

ORDERS = {"thw": "rows", "wht": "columns", "htw": "HTW", "hwt": "HWT", "twh": "TWH", "wth": "WTH"}


def dims(spec):
    return [str(dim) for dim in spec.dims]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("before", [0, 1])
def test_cells_of_a_clip_are_read_in_the_order_in_which_they_stand(order, before):
    free, held = ListedClip(order, before), ListedClip(order, before, (8, 32, 48))
    tokens = "floor(T/2)*floor(H/8)*floor(W/8)" + f" + {before}" * bool(before)
    for module in (free, held):
        spec = aa.capture(module, torch.randn(2, 3, 8, 32, 48)).outputs.leaves[0]
        assert (dims(spec), spec.cells) == (["B", tokens, "12"], ORDERS[order])


def test_a_volume_of_4_x_4_x_4_tokens_is_no_image_of_8_x_8():
    module = ListedClip(size=(64, 64, 64), patch=(16, 16, 16))
    captured = aa.capture(module, torch.randn(1, 3, 64, 64, 64))
    assert dims(captured.outputs.leaves[0])[1] == "floor(T/16)*floor(H/16)*floor(W/16)"
    assert [captured.axes[axis].step for axis in "THW"] == [0, 0, 0]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("patch", [(8, 8, 4), (4, 8, 8), (8, 4, 8)])
def test_cells_of_volumes_may_be_flatter_along_any_axis(patch):
    module = ListedClip(size=(32, 32, 32), patch=patch)
    found = dims(aa.capture(module, torch.randn(1, 3, 32, 32, 32)).outputs.leaves[0])[1]
    assert found == "*".join(f"floor({axis}/{side})" for axis, side in zip("THW", patch, strict=True))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("layout", ["b c t h w", "b t c h w", "b t h w c"])
def test_the_axes_of_clips_are_named_in_each_layout(layout):
    clip = einops.rearrange(torch.randn(2, 3, 8, 32, 48), f"b c t h w -> {layout}")
    captured = aa.capture(ListedClip(layout=layout), clip)
    assert dims(captured.inputs.leaves[0]) == [name.upper() if name != "c" else "3" for name in layout.split()]


def test_grey_clips_are_told_from_volumes_by_which_axis_may_grow():
    class Grey(nn.Conv3d):
        def forward(self, x):
            return super().forward(x.transpose(1, 2))

    captured = aa.capture(Grey(1, 8, 3, padding=1), torch.randn(2, 10, 1, 32, 32))
    assert dims(captured.inputs.leaves[0]) == ["B", "T", "1", "H", "W"]


class Folded(nn.Module):
    """Tokens of each frame: folded into the batch, or on an axis beside the frames."""

    def __init__(self, folded):
        super().__init__()
        self.embed, self.folded = nn.Conv2d(3, 12, 8, 8), folded

    def forward(self, x):
        tokens = self.embed(einops.rearrange(x, "b c t h w -> (b t) c h w")).flatten(2).transpose(1, 2)
        return tokens if self.folded else einops.rearrange(tokens, "(b t) n c -> b t n c", b=len(x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("folded", "expected"),
    [(True, ["B*T", "floor(H/8)*floor(W/8)", "12"]), (False, ["B", "T", "floor(H/8)*floor(W/8)", "12"])],
)
def test_frames_are_found_in_the_batch_and_beside_tokens(folded, expected):
    assert dims(aa.capture(Folded(folded), torch.randn(2, 3, 4, 32, 48)).outputs.leaves[0]) == expected


def test_a_grid_of_a_clip_is_told_with_its_frames_first():
    module = ListedClip("thw", 1, (8, 32, 48)).to("meta")
    told = aa.capture(module, torch.randn(2, 3, 8, 32, 48), grid={"output": (4, 4, 6, 1)})
    assert dims(told.outputs.leaves[0])[1] == "floor(T/2)*floor(H/8)*floor(W/8) + 1"


def test_a_grid_of_a_clip_that_is_told_like_that_of_an_image_is_refused():
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(ListedClip(), torch.randn(2, 3, 8, 32, 48), grid={"output": (4, 6, 1)})
    assert "four or five whole numbers" in str(caught.value)
    assert "(frames, rows, columns, leading_tokens, trailing_tokens)" in str(caught.value)
