"""Point clouds whose points stand in rows in one module and in columns in the other."""

from __future__ import annotations

import pytest
import torch
from cloud_models import Distances, PerPoint, Sampled, WithFeatures, turned
from torch import nn

import autoadapt as aa


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def laid_out(cloud_BNC: torch.Tensor, *, first: bool) -> torch.Tensor:
    return turned(cloud_BNC) if first else cloud_BNC


def _apply(net: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = net(*inputs)
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize("first", [True, False])
def test_as_many_points_as_channels_are_told_apart_by_what_moves(first: bool) -> None:
    new, old, x = Sampled(16, 16, first=not first).eval(), Sampled(16, 16, first=first).eval(), torch.randn(2, 64, 3)
    net = aa.adapt(new, like=old, inputs=x)
    assert torch.equal(_apply(net, x), turned(_apply(new, x)))
    assert net.verify(inputs=x).passed


def test_as_many_coordinates_as_channels_are_told_apart_as_well() -> None:
    new, old = (Sampled(16, 16, first=first, coordinates=True).eval() for first in (False, True))
    x = torch.randn(2, 64, 3)
    with torch.no_grad():
        found = aa.adapt(new, like=old, inputs=x)(x)
        expected = new(x)
    assert all(torch.equal(left, turned(right)) for left, right in zip(found, expected, strict=True))


def test_sixteen_points_are_no_sixteen_channels() -> None:
    old, x = Sampled(16, 8, first=False).eval(), torch.randn(2, 64, 3)
    for first in (True, False):
        with pytest.raises(aa.MatchError, match="nothing in Sampled can serve `output`"):
            aa.adapt(Sampled(8, 16, first=first).eval(), like=old, inputs=x)


def test_channels_are_projected_where_sizes_alone_would_say_points() -> None:
    new, old, x = Sampled(16, 8, first=True).eval(), Sampled(16, 16, first=False).eval(), torch.randn(2, 64, 3)
    net = aa.adapt(new, like=old, inputs=x)
    assert torch.equal(_apply(net, x), _apply(net.adapters["output"], turned(_apply(new, x))))
    (layer,) = [one for one in net.adapters.modules() if isinstance(one, nn.Linear)]
    assert (layer.in_features, layer.out_features) == (8, 16)


def test_a_contract_remembers_which_axis_lists_points(tmp_path) -> None:  # type: ignore[no-untyped-def]
    signature = aa.capture(Sampled(16, 16, first=True).eval(), torch.randn(2, 64, 3))
    assert signature.outputs["output"].in_full.endswith("points on axis 2")
    signature.save(tmp_path / "cloud.json")
    new, x = Sampled(16, 16, first=False).eval(), torch.randn(2, 64, 3)
    net = aa.adapt(new, like=aa.Signature.load(tmp_path / "cloud.json"), inputs=x)
    assert torch.equal(_apply(net, x), turned(_apply(new, x)))
    assert "points on axis 1" in str(aa.capture(new, x).diff(signature))


def test_where_nothing_is_known_of_the_points_of_a_contract_sizes_say_what_serves_it() -> None:
    new, x = Sampled(16, 16, first=True).eval(), torch.randn(2, 64, 3)
    net = aa.adapt(new, like=aa.Signature.parse("f32[B, 16, 16]", inputs="f32[B, N, 3]"), inputs=x)
    assert torch.equal(_apply(net, x), _apply(new, x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("channels", [3, 5, 16, 32, 64])
@pytest.mark.parametrize("first", [True, False])
def test_points_with_any_number_of_channels_are_turned(channels: int, first: bool) -> None:
    new, old = PerPoint(channels, first=not first).eval(), PerPoint(channels, first=first).eval()
    cloud = torch.randn(2, 32, channels)
    net = aa.adapt(new, like=old, inputs=laid_out(cloud, first=first))
    cloud = torch.randn(3, 20, channels)
    expected = _apply(new, laid_out(cloud, first=not first))
    assert torch.allclose(_apply(net, laid_out(cloud, first=first)), turned(expected), atol=1e-6)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("channels", [3, 16, 32])
@pytest.mark.parametrize("old_first", [(False, True), (True, True)])
@pytest.mark.parametrize("new_first", [(False, True), (True, False), (False, False)])
def test_each_of_two_inputs_is_turned_as_it_needs(
    channels: int, old_first: tuple[bool, bool], new_first: tuple[bool, bool]
) -> None:
    old, new = (WithFeatures(channels, points_first=p, first=f).eval() for p, f in (old_first, new_first))
    points, features = torch.randn(2, 32, 3), torch.randn(2, 32, channels)
    given = laid_out(points, first=old_first[0]), laid_out(features, first=old_first[1])
    net = aa.adapt(new, like=old, inputs=given)
    assert net.plan.target.axes["N"].step == 1
    expected = _apply(new, laid_out(points, first=new_first[0]), laid_out(features, first=new_first[1]))
    assert torch.allclose(_apply(net, *given), expected, atol=1e-6)


def test_features_given_before_the_points_are_named_by_them() -> None:
    class Exchanged(WithFeatures):
        def forward(self, features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
            return super().forward(points, features)

    module = Exchanged(16, points_first=False, first=True).eval()
    signature = aa.capture(module, (torch.randn(2, 16, 32), torch.randn(2, 32, 3)))
    assert [str(spec) for spec in signature.inputs.leaves] == ["f32[B, 16, N]", "f32[B, N, 3]"]


def test_the_axis_that_outputs_follow_lists_points() -> None:
    new, old, cloud = Distances(first=True).eval(), Distances(first=False).eval(), torch.randn(2, 32, 5)
    net = aa.adapt(new, like=old, inputs=cloud)
    assert torch.allclose(_apply(net, cloud), turned(_apply(new, turned(cloud))), atol=1e-6)


def test_where_nothing_tells_points_from_channels_the_plan_says_so() -> None:
    new, old = (Distances(first=first, pooled=True).eval() for first in (True, False))
    net = aa.adapt(new, like=old, inputs=torch.randn(2, 32, 5))
    assert net.plan.remarks == (
        "Distances and Distances take any number of points and of channels, so that nothing tells in which order"
        " x lists them: it is given as it is",
    )
