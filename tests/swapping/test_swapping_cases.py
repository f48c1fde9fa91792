"""The three hard systems: a point-cloud detector, layers inside a graph network, an oriented detector."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from made_once import made_once
from point_clouds import PointTransformer, cloud, rows_of
from point_detector import PointDetector
from snapshots import snapshot
from torch import nn
from whole_models import GROUPS, GraphNetwork, Levels, OrientedDetector

from autoadapt.contracts.capturing import Arguments
from autoadapt.errors import SwapError
from autoadapt.swapping import swap
from autoadapt.swapping.model_outputs import broken_invariants


def scene(batch=2, count=64):
    return ({"point_clouds": cloud(batch, count)},)


@made_once
def detector_and_new():
    new = PointTransformer()
    return swap(PointDetector(), "backbone_net", new, inputs=scene()), new


@pytest.fixture
def swapped_points():
    return detector_and_new()


@pytest.mark.slow
def test_a_point_detector_runs_on_another_backbone_with_its_features_projected_and_nothing_else(swapped_points):
    detector, _ = swapped_points
    part = detector.backbone_net.swapped.parts[0]
    assert part.read == ("fp2_features", "fp2_xyz", "fp2_inds")
    steps = {route.target: [step.op for step in route.steps] for route in detector.backbone_net.plan.routes}
    assert steps["fp2_features"] == ["project"]
    assert steps["fp2_xyz"] == []
    assert steps["fp2_inds"] == ["cast"]
    assert part.generated == 256 * 288 + 288


@pytest.mark.parametrize(("batch", "count"), [(2, 64), (1, 100), (3, 47)])
def test_points_and_indices_are_those_of_the_new_backbone_bit_for_bit(swapped_points, batch, count):
    detector, new = swapped_points
    points = cloud(batch, count)
    made, own = detector.backbone_net(points, {}), new(points)
    assert torch.equal(made["fp2_xyz"], own["fp_xyz"][-1])
    assert made["fp2_inds"].dtype is torch.int32
    assert torch.equal(made["fp2_inds"].long(), own["fp_indices"][-1])
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])


def test_the_invariant_of_the_indices_is_in_the_report(swapped_points):
    text = str(swapped_points[0].backbone_net.swapped)
    assert "always    gather(inputs.cloud[..., :3], 1, fp2_inds) == fp2_xyz" in text
    assert "sa1_features" in text.partition("left out")[2].splitlines()[0]


def test_adapter_weights_change_features_only(swapped_points):
    detector, _ = swapped_points
    points = cloud()
    before = detector.backbone_net(points, {})
    for parameter in detector.backbone_net.adapters.parameters():
        parameter.data += 1.0
    after = detector.backbone_net(points, {})
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fp2_features"}


def test_what_the_detector_only_hands_on_is_absent_and_the_rest_is_as_before(swapped_points):
    before, after = PointDetector()(*scene()), swapped_points[0](*scene())
    assert {"fp2_features", "fp2_xyz", "fp2_inds", "seed_inds", "seed_xyz", "center"} <= set(after)
    assert set(before) - set(after) == set(swapped_points[0].backbone_net.swapped.parts[0].left_out)
    assert "sa2_inds" not in after, "it points into points of the old backbone's own"


def test_a_dict_that_holds_something_is_filled_in(swapped_points):
    given = {"label": torch.zeros(1)}
    made = swapped_points[0].backbone_net(cloud(), given)
    assert made is given
    assert "fp2_inds" in given


def test_a_loss_outside_the_model_counts_where_a_training_step_is_given():
    def step(model):
        return model(*scene())["sa1_features"].square().mean() + 0 * model(*scene())["center"].sum()

    report = swap(PointDetector(), "backbone_net", PointTransformer(), inputs=step, dry_run=True)
    assert not report.passed
    assert [(fault.where, fault.why) for fault in report.faults] == [
        ("sa1_features", 'there are 16 points or tokens and 32 are wanted; thin="repeat" takes some of them again')
    ]


@pytest.mark.slow
def test_a_backbone_without_indices_is_refused_by_name_or_recovers_them():
    detector = PointDetector()
    before = snapshot(detector)
    with pytest.raises(SwapError, match="fp2_inds") as caught:
        swap(detector, "backbone_net", PointTransformer(indices=False), inputs=scene())
    assert 'swap(..., indices="recover")' in str(caught.value)
    assert snapshot(detector) == before
    swap(detector, "backbone_net", PointTransformer(indices=False), inputs=scene(), indices="recover")
    points = cloud(3)
    made = detector.backbone_net(points, {})
    assert torch.equal(rows_of(points[..., :3], made["fp2_inds"]), made["fp2_xyz"])


# Layers inside a network.


def images(batch=2):
    return torch.rand(batch, 3, 32, 32)


def test_the_cost_of_a_flat_linear_layer_is_told_and_refused_before_it_is_built():
    network = GraphNetwork()
    before = snapshot(network)
    with pytest.raises(SwapError, match="37,754,880 parameters") as caught:
        swap(network, "heads.gat1", "linear", inputs=images())
    assert "allow_cost=True" in str(caught.value)
    assert snapshot(network) == before
    report = swap(network, "heads.gat1", "linear", inputs=images(), dry_run=True)
    assert report.parts[0].generated == 37_754_880
    assert not report.passed


def test_all_inner_layers_are_swapped_in_one_call_and_rows_stay_apart():
    network = GraphNetwork(wide=32, narrow=16)
    swap(network, "heads.gat2s.*", "linear", inputs=images(), allow_cost=True)
    assert [layer.linear.weight.shape[0] for layer in network.heads.gat2s] == [16 * count for count in GROUPS]
    for batch in (1, 3, 512):
        pooled = torch.rand(batch, 32)
        assert network.heads(pooled).shape == (batch, 80)
    pooled = torch.rand(4, 32)
    other = pooled.clone()
    other[2] += 1
    same = torch.isclose(network.heads(pooled), network.heads(other)).all(1)
    assert same.tolist() == [True, True, False, True]


def test_one_report_covers_all_places_of_a_pattern():
    report = swap(GraphNetwork(32, 16), "heads.gat2s.*", "linear", inputs=images(), allow_cost=True, dry_run=True)
    assert [part.path for part in report.parts] == [f"heads.gat2s.{i}" for i in range(12)]
    assert report.parameters_after == sum((16 * n) ** 2 + 16 * n for n in GROUPS)
    assert "12 places" in str(report)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["channel_linear", "identity", "mlp"])
def test_other_layers_work_at_every_number_of_nodes(kind):
    network = GraphNetwork(32, 16)
    swap(network, "heads.gat2s.*", kind, inputs=images(), allow_cost=True)
    assert network(images(3)).shape == (3, 80)
    assert network.heads.gat2s[0](torch.rand(2, 9, 16)).shape == (2, 9, 16)


def test_a_trunk_is_replaced_by_a_narrower_network_with_its_adapters_inside():
    network = GraphNetwork(32, 16)
    swap(network, "features", timm.create_model("resnet18", features_only=True), inputs=images())
    assert network(torch.rand(3, 3, 64, 96)).shape == (3, 80)
    names = [name for name, _ in network.features.named_parameters()]
    assert any(name.startswith("adapters.") for name in names)


# An oriented detector.


def shapes(detector, size):
    with torch.no_grad():
        return {name: tuple(head.shape) for name, head in detector.eval()(torch.rand(1, 3, size, size)).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet18", features_only=True),
        lambda: torchvision.models.mobilenet_v2(weights=None),
    ],
    ids=["resnet18", "mobilenet_v2"],
)
def test_an_oriented_detector_keeps_its_decoder_and_its_shapes(make):
    detector = OrientedDetector()
    decoder = {name: id(module) for name, module in detector.named_modules() if not name.startswith("base_network")}
    before = {size: shapes(detector, size) for size in (512, 200, 221)}
    swap(detector, "base_network", make(), inputs=torch.rand(1, 3, 96, 96))
    after = {name: id(module) for name, module in detector.named_modules() if not name.startswith("base_network")}
    assert after == decoder
    assert {size: shapes(detector, size) for size in (512, 200, 221)} == before
    image = torch.rand(1, 3, 64, 64)
    assert detector.base_network(image)[0] is image


def test_a_level_that_nobody_reads_says_so_when_it_is_used():
    detector = OrientedDetector()
    swap(detector, "base_network", Levels((16, 32, 48, 64, 80)), inputs=torch.rand(1, 3, 64, 64))
    unread = detector.base_network(torch.rand(1, 3, 64, 64))[1]
    for use in (lambda: unread.shape, lambda: unread + 1, lambda: torch.relu(unread), lambda: torch.cat([unread])):
        with pytest.raises(TypeError, match=r"left out|unsupported"):
            use()


class Shifted(nn.Module):
    """Levels at twice the strides of the old ones, under the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, stride=2, padding=1)
        self.rest = Levels((64, 256, 512, 1024, 2048))

    def forward(self, image):
        return self.rest(self.first(image))[1:]


@pytest.mark.slow
def test_shifted_strides_are_brought_back():
    detector = OrientedDetector()
    before = {size: shapes(detector, size) for size in (96, 221)}
    swap(detector, "base_network", Shifted(), inputs=torch.rand(1, 3, 96, 96))
    assert {size: shapes(detector, size) for size in (96, 221)} == before
    sources = {route.target: route.source for route in detector.base_network.plan.routes}
    assert sources["3"] != "3"


@pytest.mark.slow
def test_indices_that_do_not_take_the_points_are_refused_by_their_values():
    class Crossed(PointTransformer):
        """Tells the right indices of small clouds, as captures see them, and wrong ones of the caller's."""

        def forward(self, points):
            made = super().forward(points)
            if points.shape[1] == 64 and points.shape[0] == 2:
                made["fp_indices"][-1] = made["fp_indices"][-1].flip(1)
            return made

    signature = swap(PointDetector(), "backbone_net", PointTransformer(), inputs=scene()).backbone_net.signature
    points = cloud()
    made = Crossed()(points)
    values = {
        "fp2_features": torch.zeros(2, 288, 16),
        "fp2_xyz": made["fp_xyz"][-1],
        "sa2_xyz": made["fp_xyz"][-1],
        "fp2_inds": made["fp_indices"][-1],
    }
    faults = broken_invariants(signature, Arguments({"cloud": points}, 1), values)
    assert {fault.where for fault in faults} == {"fp2_inds"}


class _Spread(nn.Module):
    """Two blocks, a classifier, and a parameter of which only the classifier's answer depends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.over = nn.ReLU(inplace=True)
        self.deep = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 2)
        self.prompt = nn.Parameter(torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.deep(self.over(self.stem(x))).mean((2, 3)) + self.prompt)


def test_what_serves_no_output_takes_no_gradient_after_a_swap_either():
    model = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.ReLU(), nn.Conv2d(5, 1, 1))
    x = torch.randn(2, 3, 32, 32)
    swap(model, "0", _Spread(), inputs=x, taps={"output": "stem"})
    assert not model[0].backbone.prompt.requires_grad
    model.train()(x).mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
