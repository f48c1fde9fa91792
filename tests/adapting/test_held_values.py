"""What holds of the old values at every input holds of the new ones: vectors of norm 1, probabilities."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autoadapt as aa

IMAGE = (2, 3, 32, 32)


class Embedding(nn.Module):
    def __init__(self, channels, end=None, dim=1, pooled=True):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end, self.dim, self.pooled = nn.Conv2d(3, channels, 8, 8), end, dim, pooled

    def forward(self, x):
        values = self.stem(x)
        values = values.mean((2, 3)) if self.pooled else values
        return values if self.end is None else self.end(values, dim=self.dim)


KINDS = {"norm 1": F.normalize, "probabilities": F.softmax, "log-probabilities": F.log_softmax}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooled", [True, False])
def test_what_holds_of_values_is_captured_restored_and_verified(kind, pooled):
    old = Embedding(16, KINDS[kind], pooled=pooled)
    held = aa.capture(old, torch.randn(IMAGE)).outputs.leaves[0].holds
    assert str(held) == f"{kind} along axis 1"
    net = aa.adapt(Embedding(8, pooled=pooled), like=old, inputs=torch.randn(IMAGE))
    for size in (32, 64):
        assert held.is_kept_by(net(torch.randn(3, 3, size, size)))
    assert net.verify().passed


def test_a_module_that_keeps_it_itself_gets_no_operation():
    old, new = Embedding(8, F.normalize), Embedding(8, F.normalize)
    net = aa.adapt(new, like=old, inputs=torch.randn(IMAGE))
    assert net.plan.routes[0].steps == ()
    image = torch.randn(IMAGE)
    assert torch.equal(net(image), new(image))


def test_class_scores_become_probabilities_where_the_channels_agree():
    net = aa.adapt(Embedding(8), like=Embedding(8, F.softmax), inputs=torch.randn(IMAGE))
    image = torch.randn(IMAGE)
    torch.testing.assert_close(net(image), F.softmax(Embedding(8)(image), 1))


def test_values_that_no_longer_hold_are_a_fault():
    old = Embedding(16, F.normalize)
    report = aa.verify(Embedding(16), aa.capture(old, torch.randn(IMAGE)))
    assert not report.passed
    assert "norm 1 along axis 1" in str(report)


def test_a_contract_by_hand_may_ask_for_it():
    spec = aa.TensorSpec.parse("f32[B, 16] norm 1 along axis 1")
    assert aa.TensorSpec.parse(spec.in_full).holds == spec.holds
    contract = aa.Signature.parse("f32[B, 16] norm 1 along axis 1", inputs="f32[B, 3, H, W]")
    net = aa.adapt(Embedding(8), like=contract, inputs=torch.randn(IMAGE))
    torch.testing.assert_close(net(torch.randn(IMAGE)).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("f32[B, N, 16] norm 1", '"f32[B, N, 16] norm 1 along axis 2"'),
        ("f32[B, 16, H, W] log-probabilities = a", '"f32[B, 16, H, W] log-probabilities along axis 1 = a"'),
        ("f32[B, N, 16] class token norm 1 along axis 3 on", '"f32[B, N, 16] class token norm 1 along axis 2 on"'),
        ("f32[B, H, W] probabilities", '"f32[B, H, W] probabilities along axis 1"'),
    ],
)
def test_vectors_of_which_the_axis_is_not_told_are_refused_with_what_to_write(text, remedy):
    with pytest.raises(aa.SignatureError, match="holds along one axis") as caught:
        aa.TensorSpec.parse(text)
    assert caught.value.mismatches[0].remedy == remedy
    aa.TensorSpec.parse(remedy.strip('"'))


def test_vectors_that_have_one_axis_alone_need_not_name_it_nor_do_bounds():
    assert aa.TensorSpec.parse("f32[B, 16] norm 1").holds == aa.TensorSpec.parse("f32[B, 16] norm 1 along axis 1").holds
    assert aa.TensorSpec.parse("f32[B, N, 16] never negative").holds is not None


def test_calibration_fits_what_stands_before_the_norm():
    old, new = Embedding(16, F.normalize), Embedding(24)
    net = aa.adapt(new, like=old, inputs=torch.randn(IMAGE))
    images = [torch.randn(32, 3, 32, 32) for _ in range(4)]
    before = F.cosine_similarity(net(images[0]), old(images[0])).mean()
    aa.calibrate(net, like=old, data=images)
    after = F.cosine_similarity(net(images[0]), old(images[0])).mean()
    assert after > before


def test_the_norm_stands_in_source_and_in_saved_folders(tmp_path):
    net = aa.adapt(Embedding(8), like=Embedding(16, F.normalize), inputs=torch.randn(IMAGE))
    assert "F.normalize(" in net.code
    aa.save(net, tmp_path / "net")
    image = torch.randn(IMAGE)
    again = aa.restore(tmp_path / "net", Embedding(8))
    torch.testing.assert_close(again(image), net(image))


def heat(maps, dim):
    """Maps of which each sums to 1."""
    return maps.flatten(2).softmax(2).view_as(maps)


def test_maps_of_places_sum_to_one_at_every_size():
    old = Embedding(6, heat, pooled=False)
    held = aa.capture(old, torch.randn(IMAGE)).outputs.leaves[0].holds
    assert str(held) == "probabilities along axis 2 on"
    assert aa.TensorSpec.parse("f32[B, 6, H, W] probabilities along axis 2 on").holds == held
    net = aa.adapt(Embedding(8, pooled=False), like=old, inputs=torch.randn(IMAGE))
    torch.testing.assert_close(net(torch.randn(3, 3, 64, 48)).sum((2, 3)), torch.ones(3, 6))
    assert net.verify().passed


class Finer(Embedding):
    """Cells of half the size."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stem = nn.Conv2d(3, self.stem.out_channels, 4, 4)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("end", "expected"), [(F.softmax, ["resample"]), (F.normalize, ["resample", "restore"])])
def test_means_of_probabilities_over_cells_are_probabilities_and_those_of_norms_are_none(end, expected):
    old, new = Embedding(8, end, pooled=False), Finer(8, end, pooled=False)
    net = aa.adapt(new, like=old, inputs=torch.randn(IMAGE))
    assert [step.op for step in net.plan.routes[0].steps] == expected
    assert net.verify().passed


def test_probabilities_of_places_are_none_of_other_places():
    net = aa.adapt(Finer(8, heat, pooled=False), like=Embedding(8, heat, pooled=False), inputs=torch.randn(IMAGE))
    assert [step.op for step in net.plan.routes[0].steps] == ["resample", "restore"]


def test_an_example_of_zeros_hides_no_norm():
    old = Embedding(16, F.normalize)
    nn.init.zeros_(old.stem.bias)
    assert str(aa.capture(old, torch.zeros(IMAGE)).outputs.leaves[0].holds) == "norm 1 along axis 1"


def test_cells_of_zeros_have_no_norm():
    def rectified(values, dim):
        return F.normalize(values.relu() * (values[:, :1] > 0), dim=dim)

    old = Embedding(16, rectified, pooled=False)
    assert not old(torch.randn(IMAGE)).any(1).all()
    assert str(aa.capture(old, torch.randn(IMAGE)).outputs.leaves[0].holds) == "norm 1 along axis 1"
    assert aa.adapt(old, like=old, inputs=torch.randn(IMAGE)).verify().passed


def remarks(new, old):
    return " ".join(aa.adapt(new, like=old, inputs=torch.randn(IMAGE)).plan.remarks)


def test_a_softmax_of_what_may_be_probabilities_already_is_said():
    old, image = aa.capture(Embedding(8, F.softmax), torch.randn(IMAGE)), torch.randn(IMAGE)
    with torch.device("meta"):
        new = Embedding(8, F.softmax)
    told = "no real run told whether it holds probabilities already"
    assert told in " ".join(aa.plan(aa.capture(new, image), old).remarks)
    assert told not in remarks(Embedding(8, F.softmax), old)
    assert told not in remarks(Embedding(8), old)
    assert "and holds probabilities already" in remarks(Embedding(8, F.softmax), Embedding(8, F.log_softmax))


def test_probabilities_in_the_place_of_scores_are_said():
    assert "output of Embedding holds probabilities along axis 1" in remarks(Embedding(8, F.softmax), Embedding(8))
    assert "holds" not in remarks(Embedding(6, F.softmax), Embedding(8))


class Activated(nn.Module):
    """A map behind an activation."""

    def __init__(self, channels, end, pooled=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end, self.pooled = nn.Conv2d(3, channels, 8, 8), end, pooled

    def forward(self, x):
        maps = self.end(self.stem(x)).permute(0, 2, 3, 1)
        return maps.mean((1, 2)) if self.pooled else maps


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("end", "held", "step"), [(torch.sigmoid, "between 0 and 1", "sigmoid"), (torch.tanh, "between -1 and 1", "tanh")]
)
def test_values_within_bounds_of_an_activation_stay_within_them(end, held, step):
    old, images = Activated(16, end, pooled=step == "tanh"), torch.randn(IMAGE)
    spec = aa.capture(old, images).outputs.leaves[0]
    assert str(spec.holds) == held
    assert aa.TensorSpec.parse(spec.in_full).holds == spec.holds
    net = aa.adapt(Activated(8, nn.Identity(), pooled=step == "tanh"), like=old, inputs=images)
    assert step in str(net.plan)
    assert spec.holds.is_kept_by(net(100 * torch.randn(1, 3, 40, 64)))
    assert net.verify().passed
    wide = Activated(16, lambda x: 9 * x, pooled=step == "tanh")
    assert not aa.verify(wide, aa.capture(old, 9 * images), inputs=9 * images).passed
    plain = [torch.randn(32, 3, 1, 1).expand(32, 3, 32, 32) for _ in range(4)]  # three numbers tell all of one
    before = F.mse_loss(net(plain[0]), old(plain[0]))
    aa.calibrate(net, like=old, data=plain)
    assert F.mse_loss(net(plain[0]), old(plain[0])) < before / 20


def test_maps_behind_tanh_are_left_as_they_are_and_it_is_said():
    net = aa.adapt(Activated(8, nn.Identity()), like=Activated(16, torch.tanh), inputs=torch.randn(IMAGE))
    assert "tanh" not in str(net.plan.routes[0].steps)
    assert net.plan.remarks == ("output of Activated is between -1 and 1, and what serves it need not be",)
    assert net.verify().passed


def test_an_activation_of_ones_own_that_keeps_the_bounds_gets_no_second_one():
    old, new = Activated(8, torch.tanh), Activated(8, torch.sigmoid)
    assert aa.adapt(new, like=old, inputs=torch.randn(IMAGE)).plan.routes[0].steps == ()


def test_what_a_relu_leaves_is_noted_and_of_vectors_it_is_said_that_they_may_be_negative_then():
    old, images = Activated(16, torch.relu, pooled=True), torch.randn(IMAGE)
    assert str(aa.capture(old, images).outputs.leaves[0].holds) == "never negative"
    net = aa.adapt(Activated(8, torch.relu), like=old, inputs=images)
    assert net.plan.remarks == ("output of Activated is never negative, and what serves it need not be",)
    assert net.verify().passed
    assert aa.adapt(Activated(16, torch.relu, pooled=True), like=old, inputs=images).plan.remarks == ()
    maps = Activated(16, torch.relu)
    assert str(aa.capture(maps, images).outputs.leaves[0].holds) == "never negative"
    assert aa.adapt(Activated(8, torch.relu), like=maps, inputs=images).plan.remarks == ()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("end", "held"),
    [
        (nn.functional.relu6, "never negative"),
        (lambda x: x.clamp(min=0), "never negative"),
        (lambda x: x.clamp(max=3), "None"),
        (nn.ReLU6(inplace=True), "never negative"),
        (lambda x: x.clamp(0, 3), "never negative"),
        (nn.functional.hardtanh, "None"),
    ],
)
def test_what_is_cut_off_below_0_is_never_negative_either(end, held):
    old, images = Activated(16, end, pooled=True), torch.randn(IMAGE)
    assert str(aa.capture(old, images).outputs.leaves[0].holds) == held
    told = aa.adapt(Activated(8, torch.relu), like=old, inputs=images).plan.remarks
    assert any("is never negative, and what serves it need not be" in one for one in told) == (held != "None")


def test_small_values_are_within_no_bounds_by_chance():
    assert aa.capture(Activated(8, lambda x: x * x), 1e-3 * torch.randn(IMAGE)).outputs.leaves[0].holds is None


def test_without_a_real_run_it_is_said_that_probabilities_may_get_a_second_softmax():
    softmax = aa.capture(Embedding(8, F.softmax), torch.randn(IMAGE))
    plan = aa.plan(aa.capture(Embedding(8, F.softmax), torch.randn(IMAGE), confirm=False), softmax)
    assert any("no real run told whether it holds probabilities already" in remark for remark in plan.remarks)


def test_what_is_written_to_behind_an_activation_is_within_no_bounds():
    def overwritten(x):
        values = torch.relu(x)
        values[:, 0] = -1
        return values

    assert aa.capture(Activated(8, overwritten), torch.randn(IMAGE)).outputs.leaves[0].holds is None
