"""Every part keeps the mode that its owner gave it, whatever mixture that is, and building runs no statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from saved_models import contract
from small_models import image, stage
from torch import nn

import autoadapt as aa
from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.views import clone_buffers, copy_module

LEVELS = ["f32[B, 6, ceil(H/2), ceil(W/2)]", "f32[B, 7, ceil(H/4), ceil(W/4)]"]


class ForgetsItsMode(nn.Module):
    """Its copies are in train mode, as those of einops layers are, since they run `__init__` anew."""

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if self.training else x


class Classifier(nn.Module):
    """Two stages with norms, a part that forgets its mode, and a head that is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.forgets, self.second = stage(3, 4), ForgetsItsMode(), stage(4, 5)
        self.head = nn.Linear(5, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.forgets(self.first(x))).mean((2, 3)))


PATHS = [path for path, _ in Classifier().named_modules()]
MIXTURES = st.lists(st.booleans(), min_size=len(PATHS), max_size=len(PATHS))


def mixed(modes: list[bool]) -> Classifier:
    torch.manual_seed(0)
    new = Classifier()
    for part, mode in zip(new.modules(), modes, strict=True):
        part.training = mode
    return new


def modes_of(module: nn.Module) -> dict[str, bool]:
    return {path: part.training for path, part in module.named_modules()}


PLAN = aa.adapt(mixed([False] * len(PATHS)), like=contract(LEVELS), inputs=image()).plan


def wholly(net: AdaptedModule) -> AdaptedModule:
    return net


@pytest.mark.sampled(1)
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("twin", [wholly, copy.deepcopy, lambda net: copy_module(net, clone_buffers)])
@settings(max_examples=12, deadline=None)
@given(modes=MIXTURES)
def test_each_part_is_in_the_mode_that_it_has_in_the_new_module(share, twin, modes):
    new = mixed(modes)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    net = twin(aa.build(new, PLAN, share=share))
    assert modes_of(net.backbone) == modes_of(new) == dict(zip(PATHS, modes, strict=True))
    assert {net.training, *(part.training for part in net.adapters.modules())} == {modes[0]}
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in before.items())


def test_statistics_of_norms_that_are_kept_in_eval_mode_stay_as_they_are_in_the_new_module_too():
    new = mixed([True] * len(PATHS))
    for norm in (new.first[1], new.second[1]):
        norm.eval()
    before = [buffer.clone() for buffer in new.buffers()]
    net = aa.adapt(new, like=contract(LEVELS), inputs=image())
    net(image())
    assert net.training
    assert all(map(torch.equal, new.buffers(), before))


class Whole(nn.Module):
    """A model whose body is swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.BatchNorm2d(5), nn.Dropout(0.5))
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@settings(max_examples=8, deadline=None)
@given(modes=st.lists(st.booleans(), min_size=4, max_size=4), training=st.booleans(), frozen=st.booleans())
def test_in_a_bigger_model_the_whole_goes_with_its_place_and_what_differed_from_the_whole_stays(
    modes, training, frozen
):
    new = nn.Sequential(nn.Conv2d(3, 7, 4, stride=4), nn.BatchNorm2d(7), nn.Dropout(0.5))
    for part, mode in zip(new.modules(), modes, strict=True):
        part.training = mode
    model = Whole().train(training)
    model.body[1].training = training and not frozen
    aa.swap(model, "body", new, inputs=image())
    expected = modes if modes[0] == training else [training] * 4
    if training and any(modes):  # what is in eval mode beside parts that train is kept so
        expected = [True, *modes[1:]]
    if frozen or not training:  # as the norms of the old body, which are all in eval mode
        expected[2] = False
    net = model.body
    assert {net.training, *(part.training for part in net.adapters.modules())} == {training}
    assert [part.training for part in net.backbone.modules()] == expected
