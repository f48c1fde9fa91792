"""What code keeps outside a module is as it was after the module was probed."""

import functools

import pytest
import stateful_modules
import torch
from odd_caches import ODD
from stateful_modules import CACHING, InClassDict, InLruCache, OnItsType, Positions
from torch import nn

import autoadapt as aa
from autoadapt.contracts.costs import cost_of, peak_without_values

X = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def expected(module, x):
    return module.conv(x) + torch.arange(x.shape[-1] // 2)


def assert_right(module):
    with torch.no_grad():
        for size in (24, 32, 46):
            x = torch.randn(1, 3, 8, size)
            assert torch.equal(module(x), expected(module, x))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [*CACHING, *ODD])
def test_old_and_new_model_work_after_they_were_captured_and_adapted(kind):
    old, new = kind(), kind(6)
    signature = aa.capture(old, X)
    assert str(signature.outputs["output"]) == "f32[B, 4, floor(H/2), floor(W/2)]"
    assert_right(old)
    net = aa.adapt(new, like=old, inputs=X)
    for module in (new, old, kind()):
        assert_right(module)
    assert torch.equal(net(X), net.adapters.get_submodule("output")(new(X)))


def test_what_was_cached_before_stays():
    stateful_modules.TABLES[7], InClassDict.tables[7] = torch.ones(7), torch.ones(7)
    before = stateful_modules.TABLES[7], InClassDict.tables[7]
    for kind in (stateful_modules.InModuleDict, InClassDict):
        aa.capture(kind(), X)
    assert (stateful_modules.TABLES[7] is before[0], InClassDict.tables[7] is before[1]) == (True, True)


def test_a_table_that_the_user_had_in_use_does_not_stand_in_the_way():
    OnItsType.kept = torch.arange(12).float()
    net = aa.adapt(OnItsType(6), like=OnItsType(), inputs=X)
    assert str(net.signature.outputs["output"]) == "f32[B, 4, floor(H/2), floor(W/2)]"
    assert_right(OnItsType())


def test_a_cache_without_tensors_of_the_probe_is_not_emptied():
    model = WithSetting()
    setting()
    aa.capture(model, X)
    assert setting.cache_info().currsize == 1


@functools.lru_cache
def setting():
    return {"scale": 2}


class WithSetting(Positions):
    """Reads a setting that is made once."""

    def table(self, size):
        return torch.full((size,), setting()["scale"])


def test_the_users_own_tensors_on_the_meta_device_stay():
    InClassDict.tables[5] = kept = torch.empty(5, device="meta")
    aa.capture(InClassDict(), X)
    assert InClassDict.tables.pop(5) is kept


def test_a_cache_of_an_inner_module_of_another_file_is_found():
    model = nn.Sequential(nn.Identity(), nn.Sequential(InLruCache(), nn.ReLU()))
    aa.capture(model, X, inner=True)
    assert_right(model[1][0])


def test_caches_are_put_back_where_the_probe_raises():
    with pytest.raises(aa.CaptureError):
        aa.capture(Fails(), X)
    assert_right(InLruCache())


class Fails(InLruCache):
    """Raises after it has filled its cache."""

    def forward(self, x):
        super().forward(x)
        raise ValueError("no")


def test_verify_leaves_no_trace_either():
    net = aa.adapt(InClassDict(6), like=InClassDict(), inputs=X)
    net.verify(X).raise_if_failed()
    assert_right(InClassDict())


class Levels(nn.Module):
    """A level, and a head that adds tables; nothing serves what comes of it."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 3, 3, 1, 1)), kind()

    def forward(self, x):
        level = self.body(x)
        return {"level": level, "head": self.head(level)}


@pytest.mark.parametrize("kind", ODD)
def test_a_user_s_model_works_after_its_cost_was_told_and_a_part_of_it_was_cut(kind):
    small = torch.randn(2, 3, 16, 20, device="meta")  # a size that nobody ran at before
    peak_without_values(kind(), small), cost_of(kind(), torch.randn(2, 3, 20, 28))
    assert_right_at(kind(), 10, 14)
    new = Levels(kind)
    aa.adapt(new, like={"level": "f32[B, 4, floor(H/2), floor(W/2)]"}, inputs=torch.randn(5, 3, 36, 52))
    assert_right_at(new.head, 13, 26)


def assert_right_at(module, *sizes):
    for size in sizes:
        x = torch.randn(1, 3, 8, 2 * size)
        assert torch.equal(module(x), expected(module, x))
