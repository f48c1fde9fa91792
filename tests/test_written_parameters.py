"""No verb changes what it was given, also where a forward writes to its own parameters."""

import contextlib
import copy

import pytest
import torch
from small_models import Pyramid
from torch import nn
from written_parameters import KINDS, Writing, WritingHead, write_an_array

import autoadapt as aa

X = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


class Whole(nn.Module):
    """A model around a backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x)[1])


@contextlib.contextmanager
def unchanged(*models):
    """Every tensor of the models has the value, and every parameter is the object, that it was."""
    before = [(m, copy.deepcopy(m.state_dict()), {n: id(p) for n, p in m.named_parameters()}) for m in models]
    yield
    for model, values, objects in before:
        assert {n: id(p) for n, p in model.named_parameters()} == objects
        assert [n for n, t in model.state_dict().items() if not torch.equal(t, values[n])] == []


def dry_run(old, new):
    aa.swap(Whole(old), "backbone", new, inputs=X, dry_run=True, nondeterministic="allow")


def swap(old, new):
    aa.swap(Whole(old), "backbone", new, inputs=X, nondeterministic="allow")


def verify(old, new):
    like = aa.capture(Pyramid(4, 8), X)
    net = aa.adapt(new, like=like, inputs=X, nondeterministic="allow")
    with unchanged(net):
        aa.verify(net, like, inputs=X)
    with unchanged(old):
        aa.verify(old, like, inputs=X)


def calibrate(old, new):
    net = aa.adapt(new, like=old, inputs=X, project="always", nondeterministic="allow")
    aa.calibrate(net, like=old, data=[X, X + 1])


def rank(old, new):
    aa.rank({"one": new, "two": Pyramid(4, 8)}, like=old, inputs=X, data=[X, X + 1], images=4)


VERBS = {
    "capture": lambda old, new: (aa.capture(old, X), aa.capture(new, X, inner=True)),
    "capture inside": lambda old, _new: aa.capture(Whole(old), X, at="backbone"),
    "adapt": lambda old, new: aa.adapt(new, like=old, inputs=X, nondeterministic="allow"),
    "verify": verify,
    "dry run": dry_run,
    "swap": swap,
    "calibrate": calibrate,
    "rank": rank,
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_verb_changes_parameters_that_a_forward_writes_to(verb, kind):
    torch.manual_seed(0)
    old, new = KINDS[kind](4, 8), KINDS[kind](6, 10)
    with unchanged(old, new), contextlib.suppress(aa.AdaptError):
        VERBS[verb](old, new)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("verb", ["capture", "adapt", "verify"])
def test_weights_that_are_written_as_an_array_of_numpy_are_put_back_too(verb):
    old, new = Writing(write_an_array, 4, 8), Writing(write_an_array, 6, 10)
    with unchanged(old, new):
        VERBS[verb](old, new)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", [lambda head: head, lambda head: head.forward])
def test_nor_those_of_a_head(part):
    torch.manual_seed(0)
    old, new, head = Pyramid(4, 8), Pyramid(6, 10), WritingHead()
    net = aa.adapt(new, like=old, inputs=X, project="always")
    with unchanged(head):
        aa.calibrate(net, like=old, data=[X, X + 1], head=part(head))
        aa.rank({"one": new, "two": Pyramid(4, 8)}, like=old, inputs=X, data=[X, X + 1], images=4, head=part(head))


def test_afterwards_the_model_still_shares_its_weights_with_the_net_and_with_views_of_them():
    old, new = Pyramid(4, 8), Pyramid(6, 10)
    seen = new.stages[0][0].weight.detach()[0]
    net = aa.adapt(new, like=old, inputs=X)
    assert aa.verify(net, aa.capture(old, X), inputs=X).passed
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.fill_(2.0)
    assert all((parameter == 2.0).all() for parameter in new.parameters())
    assert (seen == 2.0).all()
