"""Backbones in the habits of other people's code: each is exact, or refused by name."""

import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class KeywordOnly(Pyramid):
    def forward(self, *, pixel_values):
        return super().forward(pixel_values)


class FrozenWithin(Pyramid):
    """Computes its first stage without gradients, as detectors freeze theirs."""

    def forward(self, x):
        with torch.no_grad():
            first = self.stages[0](x)
        return [first, self.stages[1](first)]


class MakesALayer(Pyramid):
    """Makes its last layer when it sees how many channels there are."""

    def __init__(self, *args):
        super().__init__(*args)
        self.last = None

    def forward(self, x):
        *first, last = super().forward(x)
        if self.last is None:
            self.last = nn.Conv2d(last.shape[1], 4, 1).to(last.device)
        return [*first, self.last(last)]


class Remembers(Pyramid):
    """Reads what its own hooks kept, which hold it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.kept = {}
        for name, stage in self.stages.named_children():
            stage.register_forward_hook(lambda _module, _args, made, name=name: self.kept.update({name: made}))

    def forward(self, x):
        super().forward(x)
        return list(self.kept.values())


def test_a_new_module_that_takes_its_image_by_keyword_alone_gets_it():
    new, x = KeywordOnly(4, 8).eval(), image()
    net = aa.adapt(new, like=Pyramid(6, 8).eval(), inputs=x)
    with torch.no_grad():
        assert torch.equal(net(x)[1], new(pixel_values=x)[1])


def test_gradients_that_the_bare_backbone_cuts_off_are_its_own():
    report = aa.adapt(FrozenWithin(4, 8), like=Pyramid(6, 8), inputs=image()).verify(image())
    assert report.passed, report
    assert "the bare backbone does not keep: inputs" in report["gradients"].detail


@pytest.mark.sampled(1)
@pytest.mark.parametrize("as_new", [True, False])
def test_layers_that_a_call_makes_are_asked_for_first(as_new):
    odd, plain = MakesALayer(4, 8).eval(), Pyramid(6, 8).eval()
    new, old = (odd, plain) if as_new else (plain, odd)
    with pytest.raises(aa.CaptureError, match="makes layers when it is called: run the model once first"):
        aa.adapt(new, like=old, inputs=image())
    assert odd.last is None
    odd(image())
    assert aa.adapt(new, like=old, inputs=image()).verify(image()).passed


def test_hooks_that_hold_the_original_run_on_the_copy():
    new = Remembers(4, 8).eval()
    net = aa.adapt(new, like=Pyramid(6, 8).eval(), inputs=image())
    assert not new.kept
    assert all(torch.equal(left, right) for left, right in zip(net.backbone(image()), new(image()), strict=True))
