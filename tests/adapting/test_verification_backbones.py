"""What verification says of backbones that draw numbers, or that choose their dtype themselves."""

import numpy as np
import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class NumpyNoise(Pyramid):
    """Other numbers at every call, drawn from numpy."""

    def forward(self, x):
        return [one + float(np.random.randn()) for one in super().forward(x)]


def test_noise_that_the_bare_backbone_draws_from_numpy_is_not_put_down_to_copies():
    net = aa.adapt(NumpyNoise(4), like=Pyramid(6), inputs=image(), nondeterministic="allow")
    report = net.verify()
    assert report.passed, report
    assert "the bare backbone does not keep: equal values" in report["calls"].detail


KEPT = []


class Keeping(Pyramid):
    """Keeps a copy of all that it returned."""

    def forward(self, x):
        made = super().forward(x)
        if not x.is_meta:
            KEPT.append(made[0].detach().clone())
        return made


class Seeding(Pyramid):
    """Begins each call with the seed that is there."""

    def forward(self, x):
        torch.manual_seed(torch.initial_seed())
        return super().forward(x)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("new", "said"),
    [
        (Keeping, "memory: expected tensors freed with their last use, found those of each call are kept"),
        (Seeding, "torch's seed: expected left alone by the call, found set by the module"),
    ],
)
def test_harm_to_the_program_around_is_a_fault_also_where_the_bare_backbone_does_it(new, said):
    report = aa.adapt(new(4), like=Pyramid(6), inputs=image()).verify()
    KEPT.clear()
    assert f"calls: {said}; so does the bare backbone" in str(report)


class Careful(Pyramid):
    """Draws from a seed of its own, and puts the generator back."""

    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            noise = torch.rand(())
        return [one + noise for one in super().forward(x)]


def test_a_generator_that_is_put_back_is_no_fault():
    report = aa.adapt(Careful(4), like=Pyramid(6), inputs=image()).verify()
    assert report["calls"].outcome == "passed", report


class Odd(Pyramid):
    """Mixes the items of a batch at 224 x 224 alone."""

    def forward(self, x):
        made = super().forward(x)
        return [one - one.mean(0) for one in made] if x.shape[-1] == 224 and len(x) > 1 else made


def test_the_smallest_usual_size_is_run_for_real_and_what_the_backbone_does_there_is_said():
    report = aa.adapt(Odd(4), like=Pyramid(6), inputs=image()).verify()
    assert report["sizes"].outcome == "passed", report
    assert "the bare backbone does not keep: 0 of the first item at 224x224" in report["sizes"].detail


class Narrow(nn.Module):
    """Has autocast of its own, in bfloat16."""

    def __init__(self, widen):
        super().__init__()
        self.conv, self.widen = nn.Conv2d(3, 8, 3, 2, 1), widen

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            made = self.conv(x)
        return made.float() if self.widen else made


class TableOnce(nn.Module):
    """Multiplies by a table in float32 that it makes on first use."""

    def __init__(self):
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 8, 3, 2, 1), None

    def forward(self, x):
        made = self.conv(x)
        if self.table is None:
            self.table = torch.linspace(0, 1, 8)[:, None, None].to(x.device)
        return made * self.table


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("new", "dtype", "returns"),
    [
        (Narrow(widen=False), torch.float32, "bf16"),
        (Narrow(widen=True), torch.float32, "f32"),
        (TableOnce().half(), torch.float16, "f32"),
        (TableOnce().bfloat16(), torch.bfloat16, "f32"),
    ],
    ids=["own autocast", "own autocast, widened", "a table beside float16", "a table beside bfloat16"],
)
def test_a_backbone_that_chooses_its_dtype_itself_is_no_fault_of_the_cast(new, dtype, returns):
    x = torch.randn(2, 3, 32, 40, dtype=dtype)
    net = aa.adapt(new, like=nn.Conv2d(3, 5, 3, 2, 1).to(dtype), inputs=x)
    assert net(x).dtype == dtype
    report = net.verify(x)
    assert report.passed, report
    assert report["float16"].detail == f"the bare backbone returns {returns} whatever it is cast to"


class ComplexPairs(nn.Module):
    """Complex numbers, of which pairs of channels are the two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_complex(self.patches(x).unflatten(1, (4, 2)).movedim(2, -1).contiguous())


def test_complex_outputs_pass_where_their_cells_lie_and_half_of_their_precision() -> None:
    module = ComplexPairs().eval()
    report = aa.adapt(module, like=module, inputs=torch.zeros(1, 3, 64, 64)).verify()
    assert report.passed, report
    assert {"centres", "float16"} <= {check.name for check in report.checks if check.outcome == "passed"}
