"""A module that holds every call to the size of its first one is refused, and nothing of a probe stays behind."""

from __future__ import annotations

import pytest
import torch
from first_call_modules import (
    Follows,
    Grid,
    Grows,
    InAttribute,
    InClassDict,
    InClosure,
    KeepsSize,
    OnClass,
    Ramp,
    Samples,
    Sequence,
    Strided,
)

import autoadapt as aa

X = torch.rand(2, 3, 64, 48)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kind", "expected", "found"),
    [
        (InAttribute, "[1, 4, 32, 24]", "[1, 4, 112, 112] in a real run"),
        (KeepsSize, "[1, 4, 32, 24]", "[1, 4, 112, 112] in a real run"),
        (Grid, "[1, 4, 32, 24]", "[1, 4, 112, 112] in a real run"),
        (OnClass, "[1, 4, 112, 112]", "[1, 4, 32, 24] in a real run"),
        (InClassDict, "[1, 4, 112, 112]", "[1, 4, 32, 24] in a real run"),
        (InClosure, "[1, 4, 112, 112]", "[1, 4, 32, 24] in a real run"),
        (Ramp, "equal values in two runs on one input", "other values"),
        (Samples, "[2, 4, 33, 25]", "[4, 4, 33, 25] in a first call"),
    ],
)
def test_what_is_kept_of_the_first_call_is_told_and_refused(kind, expected, found):
    (told,) = aa.capture(kind(), X).contradictions
    assert (told.expected, told.found) == (expected, found)
    with pytest.raises(aa.PlanError, match="is not deterministic, or is another function at another size"):
        aa.adapt(Strided(6), like=kind(), inputs=X)


def test_it_is_told_of_modules_without_values_too():
    (told,) = aa.capture(InAttribute().to("meta"), X.to("meta")).contradictions
    assert (told.expected, told.found) == ("[4, 4, 32, 24]", "[4, 4, 33, 25] in a first call")


def test_it_is_told_of_modules_that_need_values_too():
    (told,) = aa.capture(Sequence(), torch.rand(2, 3, 64)).contradictions
    assert (told.expected, told.found) == ("[2, 2, 64]", "[2, 2, 63] in a real run")


@pytest.mark.parametrize("kind", [OnClass, InClassDict, InClosure])
def test_sizes_of_a_probe_do_not_stay_with_the_users_module(kind):
    module = kind()
    aa.capture(module, X)
    assert module(torch.rand(1, 3, 96, 80)).shape == (1, 4, 48, 40)
    OnClass.size = None
    InClassDict.sizes.clear()


@pytest.mark.parametrize("kind", [Follows, Grows])
def test_what_is_made_anew_for_another_size_is_no_fault(kind):
    old = kind()
    net = aa.adapt(Strided(6), like=old, inputs=X)
    assert net.verify().passed
    for sizes in [(64, 48), (128, 96), (33, 41)]:
        images = torch.rand(1, 3, *sizes)
        assert net(images).shape == old(images).shape
