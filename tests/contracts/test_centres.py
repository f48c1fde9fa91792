"""Where cells lie: followed on the meta device, and as ramps of positions through real kernels tell it."""

import json

import pytest
import timm
import torch
from hypothesis import example, given, settings, strategies as st
from ramps import averaging, inner_cells, ramp
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import centres
from autoadapt.contracts.capturing.centres import CentresFollowed

KERNELS = st.tuples(
    st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from(["conv", "pool", "pad"])
)


def layer(spatial, kernel, stride, padding, dilation, kind):
    if kind == "pool":
        pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[spatial - 1]
        return pool(kernel, stride, min(padding, kernel // 2))
    if kind == "pad":
        return nn.Sequential(
            (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)[spatial - 1]((padding, 0) * spatial, 0.0),
            averaging(spatial, kernel, stride=stride),
        )
    return averaging(spatial, kernel, stride=stride, padding=padding, dilation=dilation)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2), st.lists(KERNELS, min_size=1, max_size=4))
@example(1, [(1, 1, 0, 1, "pool")])  # whose axes are told by nothing
def test_centres_are_where_a_ramp_of_positions_comes_out(spatial, kernels):
    net = nn.Sequential(*(layer(spatial, *one) for one in kernels)).eval()
    size = 480  # four kernels of nine pixels and strides of three see 321
    spec = aa.capture(net, ramp(spatial, size)).outputs.leaves[0]
    centres = next(one for one in spec.centres if spec.dims[2].axes == {one.axis})
    found, inside = inner_cells(net, spatial, size)
    expected = centres.first + centres.step * torch.arange(len(found))
    assert inside.any()
    torch.testing.assert_close(found[inside], expected[inside])


def test_a_module_without_padding_has_its_first_cell_where_its_window_ends_at_the_border():
    kernels = [(11, 2), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1)]
    net = nn.Sequential(*(nn.Conv2d(3, 3, kernel, stride) for kernel, stride in kernels))
    spec = aa.capture(net, torch.zeros(1, 3, 127, 127)).outputs.leaves[0]
    assert str(spec.dims[2]) == "ceil((H - 86)/8)"
    assert [str(one) for one in spec.centres] == ["43 + 8 i", "43 + 8 i"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet10t", (0, 32)),
        ("convnext_atto", (15.5, 32)),
        ("swin_tiny_patch4_window7_224", (15.5, 32)),  # patches are merged by reshaping
        ("twins_svt_small", (15.5, 32)),
        ("hrnet_w18_small", (0, 32)),  # parallel branches, joined by sums
        ("densenet121", (14, 32)),  # padded stem, pooled transitions
        ("inception_v3", (37, 32)),
        ("vit_tiny_patch16_224", (7.5, 16)),
        ("xcit_nano_12_p16_224", (0, 16)),  # a stem of padded convolutions
        ("hiera_tiny_224", (14, 32)),  # a padded stem, and maxima over listed windows
    ],
)
def test_centres_of_real_models(name, last):
    model = timm.create_model(name, features_only=True)
    centres = aa.capture(model, torch.zeros(2, 3, 224, 224)).outputs.leaves[-1].centres
    assert {one.axis: (one.first, one.step) for one in centres} == {"H": last, "W": last}


def test_padding_that_follows_the_size_leaves_no_centres_that_hold_at_all_sizes():
    model = timm.create_model("tf_efficientnet_lite0", features_only=True)
    assert all(leaf.centres == () for leaf in aa.capture(model, torch.zeros(2, 3, 224, 224)).outputs.leaves)


class Shuffled(nn.Module):
    """Cells in groups by reshaping, and back into parts."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        coarse = self.mix(x.reshape(batch, channels * 4, height // 2, width // 2))
        return [coarse, nn.functional.pixel_shuffle(coarse, 2), coarse[:, :, 1::2, 1::2], coarse.mean((2, 3))]


def test_cells_that_are_regrouped_or_sliced_are_followed():
    leaves = aa.capture(Shuffled(), torch.zeros(2, 3, 64, 48)).outputs.leaves
    assert [[str(one) for one in leaf.centres] for leaf in leaves] == [
        ["0.5 + 2 i"] * 2,
        ["0 + 1 i"] * 2,
        ["2.5 + 4 i"] * 2,
        [],
    ]


class Merged(nn.Module):
    """Tokens of 24 channels in rows of cells, of which four become one, as transformers' Swin merges patches."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 24, 4, stride=4), nn.Linear(24, 24)
        self.merge = nn.Linear(96, 48)

    def forward(self, x):
        made = self.patches(x)
        batch, channels, height, width = made.shape
        tokens = made.flatten(2).transpose(1, 2)
        tokens = self.mix(tokens)
        cells = tokens.view(batch, height, width, channels)
        parts = [cells[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        merged = self.merge(torch.cat(parts, -1).view(batch, -1, 4 * channels))
        return merged.view(batch, height // 2, width // 2, 48).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (96, 96), (64, 64)])
def test_as_many_channels_as_rows_or_columns_are_not_taken_for_these(size):
    """At 96 pixels there are 24 rows: of three axes of 24, the one of channels was taken for one of cells."""
    (leaf,) = aa.capture(Merged(), torch.zeros(1, 3, *size)).outputs.leaves
    assert {one.axis: str(one) for one in leaf.centres} == {"H": "3.5 + 8 i", "W": "3.5 + 8 i"}


class RowsMixed(nn.Module):
    """Rows are mixed in a branch whose sum comes first; then every second cell is taken."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(10, 10)

    def forward(self, x):
        mixed = self.rows(x.transpose(2, 3)).transpose(2, 3)
        return (mixed + x)[:, :, ::2, ::2]


@pytest.mark.parametrize(
    ("model", "size", "wanted"),
    [(Merged, (96, 128), (3.5, 8)), (Merged, (128, 96), (3.5, 8)), (RowsMixed, (10, 14), (0, 2))],
)
def test_one_run_tells_cells_from_channels(model, size, wanted):
    """A module of one size has no other run that would."""
    x = torch.zeros(1, 3, *size)
    with CentresFollowed([(x, ("B", "C", "H", "W"))]) as followed, torch.no_grad():
        grid = followed.grid(model()(x))
    assert {name: (cells.first, cells.step) for name, cells in grid.items()} == {"H": wanted, "W": wanted}


@pytest.mark.parametrize(
    ("cut", "wanted"),
    [
        (lambda x: x.unfold(2, 4, 2).mean(-1), (1.5, 2)),
        (lambda x: x[:, :, 3::2], (3, 2)),
        (lambda x: x.narrow(2, 4, 8), (4, 1)),
        (lambda x: x.split(6, 2)[1], (6, 1)),
        (lambda x: x.split([5, 7, 8], 2)[2], (12, 1)),
        (lambda x: x.chunk(4, 2)[3], (15, 1)),
        (lambda x: x.unsafe_split(6, 2)[1], (6, 1)),
        (lambda x: x.select(2, 3), None),
        (lambda x: x.unbind(2)[3], None),
    ],
)
def test_cells_of_windows_and_cuts_are_followed(cut, wanted):
    """torch calls the axis of windows `dimension` and all others `dim`: no tensor of such a module had centres."""
    x = torch.zeros(1, 3, 20, 14)
    with CentresFollowed([(x, ("B", "C", "H", "W"))]) as followed:
        grid = followed.grid(cut(x * 2))
    found = {name: (cells.first, cells.step) for name, cells in grid.items()}
    assert found == ({"H": wanted} if wanted else {}) | {"W": (0, 1)}


def test_transposing_as_many_rows_as_columns_leaves_centres():
    """Its arguments were not told where the shape stays the same: following raised, and no tensor had centres."""
    x = torch.zeros(1, 3, 14, 14)
    with CentresFollowed([(x, ("B", "C", "H", "W"))]) as followed:
        grids = [followed.grid(turn(x * 2)) for turn in (lambda x: x.mT, lambda x: x.permute(0, 1, 3, 2))]
    assert all({*grid} == {"H", "W"} for grid in grids)


class Windows(nn.Module):
    """Patches at half the size, and a mean over overlapping windows of them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)

    def forward(self, x):
        maps = self.patches(x)
        return [maps, maps.unfold(2, 4, 2).unfold(3, 4, 2).mean((-1, -2))]


def test_every_level_of_a_module_that_reads_overlapping_windows_has_centres_and_its_table_says_where():
    signature = aa.capture(Windows(), torch.zeros(2, 3, 64, 64))
    assert [[str(one) for one in leaf.centres] for leaf in signature.outputs.leaves] == [
        ["0.5 + 2 i"] * 2,
        ["3.5 + 4 i"] * 2,
    ]
    assert "1  3.5 + 4 i along H and W" in str(signature)


def test_points_that_are_picked_have_no_centres():
    class Picked(nn.Module):
        def forward(self, x):
            return x[:, torch.arange(0, x.shape[1], 2)]

    centres = aa.capture(Picked(), torch.zeros(2, 64, 3)).outputs.leaves[0].centres
    assert "N" not in {one.axis for one in centres}


def test_signatures_without_centres_are_read_and_equal_those_with_them():
    signature = aa.capture(averaging(2, 3, stride=2), ramp(2, 32))
    text = signature.model_dump_json()
    read = json.loads(text)
    for leaf in (*read["inputs"]["leaves"], *read["outputs"]["leaves"]):
        del leaf["centres"]  # as files of earlier versions are
    bare = aa.Signature.model_validate(read)
    assert signature.outputs.leaves[0].centres
    assert bare.outputs.leaves[0].centres == ()
    assert bare.outputs == signature.outputs
    assert not bare.diff(signature)
    assert aa.Signature.model_validate_json(text).outputs.leaves[0].centres == signature.outputs.leaves[0].centres


def test_cells_over_half_a_step_away_are_a_difference():
    padded = nn.Sequential(nn.ConstantPad2d((0, 4, 0, 4), 0.0), averaging(2, 5, stride=2))
    low = nn.Sequential(nn.ConstantPad2d((4, 0, 4, 0), 0.0), averaging(2, 5, stride=2))
    left, right = (aa.capture(module, ramp(2, 64)) for module in (low, padded))
    faults = left.diff(right)
    assert [fault.where for fault in faults] == ["output, cells along H", "output, cells along W"]
    assert (faults[0].expected, faults[0].found) == ("pixels -2 + 2 i", "pixels 2 + 2 i")


class Spectrum(nn.Module):
    """Amplitudes of frequencies, in the shape of maps; beside what passes the transform by, if asked."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.patches, self.residual = nn.Conv2d(3, 8, 4, stride=4), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.patches(x)
        amplitudes = torch.fft.fft2(maps).abs()
        return maps + amplitudes if self.residual else amplitudes


@pytest.mark.parametrize(("residual", "places"), [(False, 0), (True, 2)])
def test_frequencies_lie_at_no_place_of_the_input(residual, places):
    signature = aa.capture(Spectrum(residual=residual).eval(), torch.zeros(1, 3, 64, 64))
    assert len(signature.outputs["output"].centres) == places


def test_a_rule_that_raises_costs_the_cells_of_its_result_alone(monkeypatch):
    def raising(*_):
        raise KeyError("dim")

    monkeypatch.setitem(centres._ALONG, "slice", raising)

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2, 1)

        def forward(self, x):
            return (found := self.conv(x)), found[:, :, 1:]

    whole, cut = aa.capture(Cut(), torch.zeros(2, 3, 32, 48)).outputs.leaves
    assert [bool(one.centres) for one in (whole, cut)] == [True, False]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_no_rule_raises_where_axes_of_one_are_added_and_removed(axes):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](3, 8, 3, 2, 1)
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1]
    x = torch.empty(2, 3, *[32] * axes)
    with CentresFollowed([(x, ("BCN", "BCHW", "BCTHW")[axes - 1])]) as followed, torch.no_grad():
        pool(1)(pool(4)(conv(x)).transpose(1, 2).unsqueeze(1).squeeze(1).transpose(1, 2)).flatten(1)
    assert followed.unfollowed == set()


FAMILIES = (
    *(
        "resnet18",
        "swin_tiny_patch4_window7_224",
        "vit_tiny_patch16_224",
        "hiera_tiny_224",
        "halonet26t",
        "maxvit_nano_rw_256",
    ),
    *("convnext_atto", "coatnet_nano_rw_224", "edgenext_xx_small", "pvt_v2_b0", "xcit_nano_12_p16_224", "mvitv2_tiny"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_no_rule_raises_in_real_models(name):
    model = timm.create_model(name).eval().to("meta")
    size = model.pretrained_cfg["input_size"][1:]
    images = torch.empty(2, 3, *size, device="meta")
    with CentresFollowed([(images, "BCHW")]) as followed, torch.no_grad():
        model(images)
    assert followed.unfollowed == set()
