"""A map of its own at each place, where there are a few of them at every input size."""

import copy
import pickle

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import BuildError


class Maps(nn.Module):
    """Maps of 2 x 3 cells, of images of one size."""

    def __init__(self, channels, cells=(2, 3)):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 4, stride=4)
        self.size = tuple(4 * side for side in cells)

    def forward(self, x):
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"images of {self.size}, not {tuple(x.shape[2:])}")
        return self.conv(x)


class Tokens(Maps):
    """The same with channels last."""

    def forward(self, x):
        return super().forward(x).flatten(2).transpose(1, 2)


def adapted(old, new, **options):
    return aa.adapt(new, like=old, inputs=torch.zeros(2, 1, 8, 12), project="places", **options)


def test_the_plan_says_that_each_place_has_its_own_map():
    net = adapted(Maps(6), Maps(5))
    (route,) = net.plan.routes
    assert [str(step) for step in route.steps] == [
        "b c x y -> b (x y c) 1",
        "6 x 5->6",
        "b (x y c) 1 -> b c x y",
    ]
    assert route.parameters == 6 * (5 * 6 + 6) == sum(p.numel() for p in net.adapters.parameters())
    assert "6 x 5->6" in str(net.plan)
    assert aa.Plan.model_validate_json(net.plan.model_dump_json()) == net.plan


@pytest.mark.parametrize("kind", [Maps, Tokens])
def test_each_place_goes_through_its_own_map_and_no_other(kind):
    net = adapted(kind(6), kind(5))
    net.verify().raise_if_failed()
    x = torch.randn(3, 1, 8, 12)
    features, made = net.backbone(x), net(x)
    if kind is Maps:
        features, made = (each.flatten(2).transpose(1, 2) for each in (features, made))
    layer = next(net.adapters.parameters()).detach().reshape(6, 6, 5)
    for place in range(6):
        torch.testing.assert_close(made[:, place], features[:, place] @ layer[place].T)


def test_where_the_number_of_places_varies_or_is_large_there_is_one_map():
    free = aa.adapt(
        nn.Conv2d(1, 5, 4, 4), like=nn.Conv2d(1, 6, 4, 4), inputs=torch.zeros(2, 1, 8, 12), project="places"
    )
    many = aa.adapt(Maps(5, (5, 5)), like=Maps(6, (5, 5)), inputs=torch.zeros(2, 1, 20, 20), project="places")
    assert [len(net.plan.routes[0].steps) for net in (free, many)] == [1, 1]
    assert free(torch.zeros(1, 1, 16, 16)).shape == (1, 6, 4, 4)


def test_copies_folders_and_source_keep_the_maps(tmp_path):
    new = Maps(5)
    net = adapted(Maps(6), new).eval()
    x = torch.randn(3, 1, 8, 12)
    expected = net(x)
    aa.save(net, tmp_path / "saved")
    others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), aa.restore(tmp_path / "saved", new=Maps(5))]
    for other in others:
        assert torch.equal(other(x), expected)
    aa.to_source(net, tmp_path / "standalone.py")
    names: dict = {}
    exec(compile((tmp_path / "standalone.py").read_text(), "standalone.py", "exec"), names)
    alone = names["Adapted"](copy.deepcopy(net.backbone))
    alone.load_state_dict(net.state_dict())
    assert torch.equal(alone(x), expected)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), expected)


def test_folding_says_that_the_reader_has_one_weight_for_all_places():
    model = nn.Sequential(Maps(6), nn.Conv2d(6, 4, 1))
    model[0] = adapted(model[0], Maps(5))
    with pytest.raises(BuildError, match="cannot be folded") as caught:
        aa.fold(model, at="0", inputs=torch.zeros(2, 1, 8, 12))
    (fault,) = caught.value.mismatches
    assert (fault.expected, fault.found) == (
        "layers that read it and are linear over its channels",
        "6 x 5->6, a map for each place",
    )
    assert fault.why == "its reader has one weight"
