"""Generated layers keep variance, and indices found from coordinates are the right ones."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from autoadapt.adapting.layers import conv1x1, least_multiple, linear, pool, recover_indices
from autoadapt.adapting.token_layers import resize_tokens

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)


@pytest.mark.parametrize(("source", "target"), [(16, 512), (512, 16), (300, 300)])
def test_projections_keep_the_variance_of_what_goes_in(source, target):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    images = torch.randn(8, source, 12, 12, generator=generator)
    assert conv1x1(source, target, spatial=2)(images).std().item() == pytest.approx(1, abs=0.06)
    assert linear(source, target)(images.movedim(1, -1)).std().item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_a_convolution_maps_channels_and_leaves_the_grid(spatial):
    layer = conv1x1(3, 5, spatial=spatial)
    assert layer(torch.randn(2, 3, *range(4, 4 + spatial))).shape == (2, 5, *range(4, 4 + spatial))
    assert torch.equal(layer.bias, torch.zeros(5))
    assert conv1x1(3, 5, spatial=spatial, bias=False).bias is None


@pytest.mark.parametrize(
    ("grid", "sizes", "kernel"), [((4, 6), (8, 9), ()), ((8, 12), (4, 6), (2, 2)), ((7,), (3,), ())]
)
def test_tokens_are_resized_on_their_grid_and_those_before_and_behind_it_stay(grid, sizes, kernel):
    cells = torch.randn(2, 5, *grid)
    tokens = torch.cat([torch.full((2, 3, 5), 9.0), cells.flatten(2).transpose(1, 2)], 1)
    made = resize_tokens(tokens, 3, grid, sizes, kernel or None)
    behind = torch.full((2, 2, 5), 7.0)
    followed = resize_tokens(torch.cat([tokens, behind], 1), 3, grid, sizes, kernel or None, trailing=2)
    assert torch.equal(followed, torch.cat([made, behind], 1))
    if kernel:
        expected = nn.functional.avg_pool2d(cells, kernel)
    else:
        mode = "bilinear" if len(grid) == 2 else "linear"
        expected = nn.functional.interpolate(cells, size=sizes, mode=mode)
    assert torch.equal(made[:, :3], tokens[:, :3])
    torch.testing.assert_close(made[:, 3:].transpose(1, 2).unflatten(2, sizes), expected)


@SETTINGS
@given(st.tuples(*[st.integers(1, 7)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_clips_are_averaged_cell_by_cell_also_where_they_are_smaller_than_the_kernel(sizes, kernel):
    clips = torch.randn(2, 3, *sizes)
    made = pool(clips, kernel)
    assert made.shape == (2, 3, *(-(-size // cells) for size, cells in zip(sizes, kernel, strict=True)))
    if all(size >= cells for size, cells in zip(sizes, kernel, strict=True)):
        expected = nn.functional.avg_pool3d(clips, kernel, ceil_mode=True, count_include_pad=False)
        torch.testing.assert_close(made, expected)
    last = [slice((count - 1) * cells, None) for count, cells in zip(made.shape[2:], kernel, strict=True)]
    torch.testing.assert_close(made[:, :, -1, -1, -1], clips[(slice(None), slice(None), *last)].mean((2, 3, 4)))


@given(st.integers(1, 5000), st.integers(1, 600))
@SETTINGS
def test_the_least_multiple_is_the_size_rounded_up(size, step):
    assert least_multiple(size, step) == -(-size // step) * step


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(0, 9999))
def test_recovered_indices_are_the_ones_that_took_the_points(batch, count, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, count, columns, generator=generator)
    index = torch.randint(count, (batch, 2 * count), generator=generator)
    width = min(columns, 3)
    points = values[..., :width].gather(1, index.unsqueeze(-1).expand(-1, -1, width))
    found = recover_indices(points, values, torch.int32)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), index)


def test_of_equal_points_the_first_is_taken():
    values = torch.tensor([[[1.0, 2], [3, 4], [1, 2]]])
    assert recover_indices(values[:, 2:], values, torch.int64).tolist() == [[0]]


def test_more_points_than_are_compared_at_once_are_found():
    values = torch.randn(1, 700, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(recover_indices(values, values, torch.int64), torch.arange(700)[None])


def test_a_point_that_is_no_row_is_refused():
    values = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="a coordinate is no row of the input, so its index cannot be recovered"):
        recover_indices(values + 1e-7, values, torch.int64)
