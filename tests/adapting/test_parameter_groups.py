"""Parameter groups: every parameter once, pretrained, generated or neither, wherever the adapted modules stand."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from made_once import made_once
from torch import nn
from torch.nn.utils import parametrizations

import autoadapt as aa
from autoadapt.adapting.building import mark_calibrated

X = torch.zeros(2, 3, 16, 16)


class Backbone(nn.Module):
    """Two levels."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(3, width, 2, stride=2)
        self.second = nn.Conv2d(width, 2 * width, 2, stride=2)

    def forward(self, x):
        first = self.first(x)
        return first, self.second(first)


class Model(nn.Module):
    """A backbone, a head that reads both levels, and a second branch."""

    def __init__(self, width=4):
        super().__init__()
        self.body = Backbone(width)
        self.head = nn.ModuleList([nn.Conv2d(width, 2, 1), nn.Conv2d(2 * width, 2, 1)])

    def forward(self, x):
        return sum(head(level).mean((2, 3)) for head, level in zip(self.head, self.body(x), strict=True))


@made_once
def swapped():
    return aa.swap(Model(4), "body", Backbone(6), inputs=X)


@pytest.fixture
def model():
    return swapped()


def names_of(model):
    """Which names are in which group, and that each parameter is in one."""
    groups = aa.param_groups(model)
    everywhere = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(everywhere) == sorted(map(id, model.parameters()))
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    return {kind: [named[id(parameter)] for parameter in group] for kind, group in groups.items()}


def rates(model, **options):
    return {group["name"]: group["lr"] for group in aa.param_groups(model, lr=1.0, **options)}


def calibrated(model):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(8, 3, 16, 16, generator=generator)]
    return aa.calibrate(model.body, like=Backbone(4), data=images, solver="ridge")


def test_an_adapted_module_inside_a_bigger_model_is_found(model):
    named = names_of(model)
    assert named["backbone"] == [name for name, _ in model.named_parameters() if name.startswith("body.backbone.")]
    assert named["adapters"] == [name for name, _ in model.named_parameters() if name.startswith("body.adapters.")]
    assert named["rest"] == [name for name, _ in model.named_parameters() if name.startswith("head.")]
    assert all(named.values())


def test_fresh_adapters_learn_ten_times_as_fast(model):
    assert rates(model) == {"backbone": 1.0, "adapters": 10.0, "rest": 1.0}
    assert rates(model, fresh=3.0) == {"backbone": 1.0, "adapters": 3.0, "rest": 1.0}
    assert rates(model.body) == {"backbone": 1.0, "adapters": 10.0}


def test_an_optimiser_takes_the_groups(model):
    optimiser = torch.optim.SGD(aa.param_groups(model, lr=0.01))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (model(torch.rand(2, 3, 16, 16)) ** 2).sum().backward()
    optimiser.step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    step = {n: (p.detach() - before[n]).norm() / p.grad.norm() for n, p in model.named_parameters()}
    assert float(step["body.adapters.1.project.weight"] / step["head.0.weight"]) == pytest.approx(10, rel=1e-3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "copied",
    [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), copy.copy],
    ids=["itself", "deepcopy", "pickle", "copy"],
)
def test_calibrated_adapters_learn_as_fast_as_the_backbone(copied):
    torch.manual_seed(0)
    model = aa.swap(Model(4), "body", Backbone(6), inputs=X)
    assert calibrated(model).written
    assert rates(copied(model.body)) == {"backbone": 1.0, "adapters": 1.0}
    assert rates(copied(model.body), calibrated=0.5) == {"backbone": 1.0, "adapters": 0.5}


def test_what_was_calibrated_is_known_after_it_was_saved_and_restored(model, tmp_path):
    assert calibrated(model).written
    aa.save(model, tmp_path)
    again = aa.restore(tmp_path, {"body": Backbone(6)}, model=Model(4))
    assert rates(again) == rates(model) == {"backbone": 1.0, "adapters": 1.0, "rest": 1.0}
    assert again.body.calibrated == model.body.calibrated


def test_adapters_that_were_left_as_they_were_stay_fresh(model, monkeypatch):
    monkeypatch.setattr("autoadapt.calibration.deciding._below_floors", lambda *_: "no better than chance")
    assert not calibrated(model)
    assert rates(model)["adapters"] == 10.0


@pytest.mark.sampled(1)
@pytest.mark.parametrize("written", [False, True])
def test_a_state_dict_says_which_adapters_are_calibrated(tmp_path, written):
    torch.manual_seed(0)
    models = [Model() for _ in range(2)]
    for each in models:
        aa.swap(each, "body", Backbone(3), inputs=X)
    mark_calibrated(models[0].body, ["adapters.0.project"])
    state, other = models[0].state_dict(), models[1].state_dict()
    if written:
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert set(state) == set(other)  # no key of its own
    other = {name: tensor.clone() for name, tensor in other.items()}
    groups = lambda: {group["name"] for group in aa.param_groups(models[1], lr=1.0)}  # noqa: E731
    fresh = groups()
    models[1].load_state_dict(state)
    assert "calibrated_adapters" in groups()
    models[1].load_state_dict(other)  # plain tensors say nothing
    assert "calibrated_adapters" in groups()
    torch.manual_seed(1)
    third = Model()
    aa.swap(third, "body", Backbone(3), inputs=X)
    models[1].load_state_dict(third.state_dict())
    assert groups() == fresh


def test_a_successor_of_a_calibrated_module_is_fresh(model):
    assert calibrated(model).written
    aa.swap(model, "body", Backbone(5), inputs=X)
    assert rates(model)["adapters"] == 10.0


def test_fresh_and_calibrated_parts_have_a_group_each():
    pair = nn.ModuleDict({name: aa.swap(Model(4), "body", Backbone(6), inputs=X) for name in ("left", "right")})
    assert calibrated(pair["left"]).written
    assert rates(pair) == {"backbone": 1.0, "adapters": 10.0, "calibrated_adapters": 1.0, "rest": 1.0}
    named = names_of(pair)
    assert len(named["adapters"]) == 8
    groups = {group["name"]: group["params"] for group in aa.param_groups(pair, lr=1.0)}
    assert {*map(id, groups["adapters"])} == {*map(id, pair["right"].body.adapters.parameters())}


def test_a_module_that_was_adapted_twice_has_adapters_inside_its_backbone():
    inner = aa.adapt(Backbone(6), like=Backbone(4), inputs=X)
    net = aa.adapt(inner, like=Backbone(5), inputs=X)
    named = names_of(net)
    assert len(named["adapters"]) == 8
    assert all(".adapters." not in name for name in named["backbone"])
    assert len(named["backbone"]) == 4


def test_a_weight_that_backbone_and_head_share_is_the_backbones(model):
    model.tied = nn.Linear(1, 1)
    model.tied.weight = model.body.backbone.first.weight
    named = names_of(model)
    assert "body.backbone.first.weight" in named["backbone"]
    assert named["rest"][-1] == "tied.bias"


def test_a_module_that_stands_at_two_places_is_counted_once():
    net = aa.adapt(Backbone(6), like=Backbone(4), inputs=X)
    named = names_of(nn.ModuleList([net.backbone, net, net]))
    assert len(named["backbone"]) == len(named["adapters"]) == 4
    assert named["rest"] == []


def test_frozen_parameters_are_in_their_group(model):
    model.body.backbone.requires_grad_(False)
    assert len(names_of(model)["backbone"]) == 4


def test_parametrized_layers_are_told_apart(model):
    parametrizations.weight_norm(model.body.adapters["1"].project)
    parametrizations.spectral_norm(model.body.backbone.first)
    named = names_of(model)
    assert "body.adapters.1.project.parametrizations.weight.original0" in named["adapters"]
    assert "body.backbone.first.parametrizations.weight.original" in named["backbone"]


def test_a_swapped_region_is_found():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    aa.swap(model, "0:3", nn.Conv2d(3, 5, 4, stride=4), inputs=X)
    named = names_of(model)
    assert len(named["backbone"]) == 2
    assert len(named["adapters"]) == 2
    assert named["rest"] == ["4.weight", "4.bias"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_and_parallel_wrappers_are_looked_into(model):
    assert [len(group) for group in names_of(torch.compile(model)).values()] == [4, 4, 4]
    assert [len(group) for group in names_of(nn.DataParallel(model)).values()] == [4, 4, 4]
    model.body = torch.compile(model.body)
    assert [len(group) for group in names_of(model).values()] == [4, 4, 4]


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore")  # torch's own, of its older wrapper
def test_distributed_wrappers_are_looked_into(model):
    from sharding import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel

    ddp = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    assert [len(group) for group in names_of(ddp).values()] == [4, 4, 4]
    mesh = init_device_mesh("cpu", (1,))
    sharded = fully_shard(copy.deepcopy(model), mesh=mesh)
    assert [len(group) for group in names_of(sharded).values()] == [4, 4, 4]
    single = fully_shard(copy.deepcopy(model.body), mesh=mesh)
    assert [len(group) for group in names_of(single).values()] == [4, 4, 0]
    apart = FullyShardedDataParallel(copy.deepcopy(model), use_orig_params=True, device_id=torch.device("cpu"))
    assert [len(group) for group in names_of(apart).values()] == [4, 4, 4]
    flat = FullyShardedDataParallel(copy.deepcopy(model), device_id=torch.device("cpu"))
    with pytest.raises(aa.AdaptError, match="flat parameter cannot be taken apart") as caught:
        aa.param_groups(flat)
    assert "use_orig_params=True" in str(caught.value)


def test_a_model_without_adapters_is_refused():
    with pytest.raises(aa.BuildError, match="there are no adapters") as caught:
        aa.param_groups(Model())
    assert "aa.swap(model" in str(caught.value)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), "fast", True, float("inf")])
def test_rates_that_are_none_are_refused(model, rate):
    with pytest.raises(aa.BuildError, match="does not take these rates") as caught:
        aa.param_groups(model, lr=1e-3, fresh=rate, calibrated=rate)
    assert {fault.where for fault in caught.value.mismatches} == {"`fresh`", "`calibrated`"}


def test_a_frozen_old_module_freezes_the_new_backbone_and_not_its_adapters():
    model = Model(4)
    model.body.requires_grad_(False)
    aa.swap(model, "body", Backbone(6), inputs=X)
    groups = aa.param_groups(model)
    assert not any(parameter.requires_grad for parameter in groups["backbone"])
    assert all(parameter.requires_grad for parameter in groups["adapters"])
    assert any("its adapters start from random weights and train" in one for one in model.body.swapped.parts[0].remarks)
    model.body.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in model.body.parameters())


def test_a_generated_layer_trains_where_a_frozen_one_stood():
    model = Model(4)
    model.head.requires_grad_(False)
    aa.swap(model, "head.0", "conv1x1", inputs=X)
    assert all(parameter.requires_grad for parameter in model.head[0].parameters())
    assert not any(parameter.requires_grad for parameter in model.head[1].parameters())
