"""What the bare backbone does as well, and what only looks like a fault, is said and not blamed on the adapter."""

import pytest
import torch
from noisy_models import Noisy
from small_models import Pyramid, image
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

import autoadapt as aa


class ResetsItself(nn.Module):
    """As the layers of einops: a copy is constructed anew, and so in train mode."""

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.__init__()

    def forward(self, x):
        return x


def test_a_layer_whose_own_copy_resets_its_mode_is_no_fault_of_the_module_around_it():
    new = Pyramid(4, 8)
    new.stages[0].append(ResetsItself())
    new.eval()
    report = aa.adapt(new, like=Pyramid(6, 8), inputs=image()).eval().verify(image())
    assert report["deepcopy, pickle"].outcome == "passed", report


def test_what_the_bare_backbone_does_between_calls_is_said_and_not_blamed():
    report = aa.adapt(Noisy(4), like=Pyramid(6), inputs=image()).verify()
    assert report["calls"].outcome == "passed", report
    assert report["calls"].detail.startswith("writable; the bare backbone does not keep: equal values, ")
    count = sum("the bare backbone does not keep" in check.detail for check in report.checks)
    assert f" passed, {count} of them but for the backbone, " in report.total()


class Mixed(Pyramid):
    """In a batch, each item has something of the one before."""

    def forward(self, x):
        return [one + one.roll(1, 0) for one in super().forward(x)]


def test_what_the_bare_backbone_does_not_keep_is_not_claimed_beside_it():
    report = aa.adapt(Mixed(4), like=Pyramid(6), inputs=image()).verify()
    also = "; the bare backbone does not keep: items alone, one item"
    assert report["calls"].detail == "repeatable, writable, stateless" + also, report


def test_an_output_that_learns_nothing_yet_in_the_bare_backbone_is_no_fault():
    """Norms that begin at zero give their branch no gradient."""
    new = Pyramid(4, 8)
    nn.init.zeros_(new.stages[1][1].weight)
    report = aa.adapt(new, like=Pyramid(6, 8), inputs=image()).verify(image())
    assert report["gradients"].outcome == "passed", report


def test_an_example_of_zeros_tells_a_shape_alone():
    report = aa.adapt(Pyramid(4, 8), like=Pyramid(6, 8), inputs=torch.zeros(2, 3, 40, 56)).verify(
        torch.zeros(2, 3, 40, 56)
    )
    assert report.passed, report


class Doubling(nn.Module):
    """Writes to its input where a condition holds that captures at 64 pixels and two images do not meet."""

    def __init__(self, holds):
        super().__init__()
        self.conv, self.holds = nn.Conv2d(3, 8, 3, 2, 1), holds

    def forward(self, image):
        if self.holds(image):
            image.mul_(2)
        return self.conv(image)


WRITING = {
    "sizes": lambda image: image.shape[3] > 100,
    "train mode": lambda image: len(image) == 1,
    "gradients": lambda image: torch.is_grad_enabled(),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("check", WRITING)
def test_a_backbone_that_writes_to_its_input_under_one_condition_is_no_excuse(check):
    given = torch.randn(2, 3, 64, 64)
    net = aa.adapt(Doubling(WRITING[check]).eval(), like=nn.Conv2d(3, 8, 4, 4), inputs=given)
    faults = net.verify(given)[check].faults
    seen = check == "gradients"  # by the capture, so that the adapted module clones its input: what is left are values
    assert {fault.found for fault in faults} == {"other values" if seen else "written to by the call"}


class NoNumbers(nn.Conv2d):
    """Returns NaN."""

    def forward(self, image):
        return super().forward(image) * float("nan")


def test_outputs_of_nan_are_said_in_the_plan_and_in_verification_by_their_name():
    given, new = torch.randn(2, 3, 64, 64), NoNumbers(3, 8, 4, 4)
    net = aa.adapt(new, like=nn.Conv2d(3, 8, 4, 4), inputs=given)
    report = net.verify(given)
    assert net.plan.remarks == ("NoNumbers returned NaN or infinity for the example (output), as the adapted one will",)
    assert [(fault.where, fault.found) for fault in report["calls"].faults] == [("output", "NaN")]
    assert report["deepcopy, pickle"].outcome == "passed"


class Viewed(nn.Conv2d):
    """Takes its output to lie row by row in memory."""

    def forward(self, image):
        made = super().forward(image)
        return made.view(len(image), -1).view(made.shape)


def test_a_backbone_that_cannot_run_in_channels_last_itself_is_not_called_broken():
    given = torch.randn(2, 3, 64, 64)
    row = aa.adapt(Viewed(3, 8, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=given).verify(given)["channels_last"]
    assert row.outcome == "not applicable"
    assert row.detail.startswith("the bare backbone fails in channels-last memory: RuntimeError: view size")


class SmallerInTraining(nn.Conv2d):
    """Returns every second row in train mode."""

    def forward(self, image):
        return super().forward(image)[:, :, :: 1 + self.training]


def test_other_sizes_in_train_mode_are_remarked_as_what_they_are():
    given = torch.randn(2, 3, 64, 64)
    net = aa.adapt(SmallerInTraining(3, 8, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=given)
    assert net.plan.remarks[0].endswith("in train mode; the contract is that of eval mode, and not kept in training")
    assert "output as f32[" in net.plan.remarks[0]


class TopPoints(nn.Module):
    """The points of the largest first coordinate, which are others after rounding."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count, self.mlp = count, nn.Linear(3, width)

    def forward(self, xyz: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        indices = xyz[..., 0].topk(self.count).indices
        points = xyz.gather(1, indices[..., None].expand(-1, -1, 3))
        return points, self.mlp(points).transpose(1, 2), indices


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", [5, 10])
def test_points_that_are_chosen_otherwise_after_rounding_are_no_fault_of_their_features(seed):
    torch.manual_seed(seed)
    signature = aa.capture(TopPoints(16, 24), torch.randn(2, 64, 3))
    net = aa.adapt(TopPoints(24, 9), like=signature, inputs=torch.randn(2, 64, 3))
    report = aa.verify(net, net.signature, seed=seed)
    assert report.passed, report


def speech(width: int) -> Wav2Vec2Model:
    sizes = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"conv_dim": (width,) * 3, "conv_stride": (5, 4, 2), "conv_kernel": (10, 8, 4)}
    return Wav2Vec2Model(Wav2Vec2Config(**sizes, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)).eval()


@pytest.mark.slow
def test_masks_that_are_drawn_leave_each_item_a_frame_of_short_sound():
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 300:] = 0
    net = aa.adapt(speech(16), like=speech(12), inputs={"input_values": torch.randn(2, 400), "attention_mask": mask})
    report = net.verify()
    assert report.passed, report
