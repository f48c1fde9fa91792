"""Which axis of a tensor of fixed sizes lists points."""

from __future__ import annotations

import pytest
import torch
from cloud_models import Sampled, turned
from torch import nn

from autoadapt.contracts.capturing import capture
from autoadapt.contracts.capturing.point_axes import CLOUDS, clouds, point_axis
from autoadapt.contracts.signature import TensorSpec


@pytest.mark.sampled
@pytest.mark.parametrize("sizes", [(16, 16), (8, 64), (64, 8)])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_axis_is_found_in_either_layout(sizes: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    module = Sampled(*sizes, first=False).eval()
    with torch.no_grad():
        found = module(clouds(torch.randn(128, 3) * scale))
    assert (point_axis(found), point_axis(turned(found))) == (1, 2)


@pytest.mark.parametrize("seed", range(6))
def test_learned_queries_which_all_answer_alike_are_not_taken_for_channels(seed: int) -> None:
    torch.manual_seed(seed)
    queries_1QC, embed = torch.randn(1, 16, 16), nn.Linear(3, 16)
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        points_RNC = embed(clouds(torch.randn(256, 3)))
        found_RQC = attention(queries_1QC.expand(CLOUDS, -1, -1), points_RNC, points_RNC)[0]
    assert point_axis(found_RQC) != 2


def test_what_does_not_move_or_is_no_number_tells_nothing() -> None:
    still = torch.randn(1, 16, 16).expand(CLOUDS, -1, -1)
    assert point_axis(still) is None
    assert point_axis(torch.full((CLOUDS, 16, 16), torch.nan)) is None


def test_there_is_one_run_for_it_that_leaves_the_generators_alone() -> None:
    runs = []

    class Counted(Sampled):
        def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            runs.append((x.device.type, len(x)))
            return super().forward(x)

    module, x = Counted(16, 16, first=True).eval(), torch.randn(2, 64, 3)
    generator = torch.get_rng_state()
    capture(module, x)
    assert runs.count(("cpu", CLOUDS)) == 1
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_module_on_the_meta_device_is_not_run() -> None:
    signature = capture(Sampled(16, 16, first=True).to("meta"), torch.empty(2, 64, 3, device="meta"))
    assert signature.outputs["output"].point_axis is None


def test_a_module_that_refuses_the_clouds_tells_nothing() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Sampled(16, 16, first=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise ValueError
            found: torch.Tensor = self.inner(x)
            return found

    assert capture(Picky().eval(), torch.randn(1, 64, 3)).outputs["output"].point_axis is None


def test_a_spec_tells_its_axis_of_points_in_full_only() -> None:
    spec = TensorSpec.parse("f32[B, 16, 16] points on axis 2")
    assert (spec.point_axis, str(spec), spec.in_full) == (2, "f32[B, 16, 16]", "f32[B, 16, 16] points on axis 2")
    assert spec == TensorSpec.parse("f32[B, 16, 16]")
