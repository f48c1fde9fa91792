"""Where a module runs without values too, the cheaper runs are taken, and the signature is the same by either."""

import pytest
import torch
from point_clouds import SetAbstraction, cloud
from torch import nn

from autoadapt.contracts.capturing import capture, starting
from autoadapt.contracts.capturing.arguments import bind
from autoadapt.contracts.capturing.starting import start


class Points(nn.Module):
    """A set abstraction that runs on the meta device, by a loop of many small operations."""

    def __init__(self) -> None:
        super().__init__()
        self.sa = SetAbstraction(32, 1, 16, together=True)

    def forward(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        """`points [B, N, 4]`."""
        xyz, features, index = self.sa(points[..., :3].contiguous(), points[..., 3:].transpose(1, 2))
        return {"xyz": xyz, "features": features, "inds": index.int()}


@pytest.mark.parametrize(
    ("patience", "without_values", "with_values", "real"),
    [(1.0, 0.9, 0.1, False), (0.0, 0.9, 0.1, True), (0.0, 0.1, 0.9, False)],
)
def test_runs_for_real_are_taken_where_those_without_values_are_slow(
    patience, without_values, with_values, real, monkeypatch
):
    def timed(probe, follow=()):
        return probe.run(follow=follow), with_values if probe.real else without_values

    monkeypatch.setattr(starting, "_timed", timed)
    net = Points().eval()
    begun = start(net, bind(net, cloud()), inner=False, real=False, patience=patience)
    assert begun.probe.real is real
    assert not begun.needs_values


@pytest.mark.sampled(1)
@pytest.mark.parametrize("inner", [False, True])
def test_the_signature_does_not_depend_on_which_was_taken(inner, monkeypatch):
    taken = []
    for patience in (float("inf"), 0.0):
        monkeypatch.setitem(starting.start.__kwdefaults__, "patience", patience)
        taken.append(capture(Points().eval(), cloud(), inner=inner))
    assert taken[0] == taken[1]
    assert len(taken[0].invariants) == 1


def test_images_and_modules_without_values_are_never_tried_for_real():
    conv = nn.Conv2d(3, 4, 1)
    assert not start(conv, bind(conv, torch.zeros(1, 3, 8, 8)), inner=False, real=False, patience=0.0).probe.real
    on_meta = Points().to("meta")
    assert not start(on_meta, bind(on_meta, cloud()), inner=False, real=False, patience=0.0).probe.real
