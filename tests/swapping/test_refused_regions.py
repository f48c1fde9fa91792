"""What is no region is refused by text, and the model is as it was."""

import pytest
import region_models as written
import torch
import torch.nn.functional as F
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


def refusal(model, region, inputs=None, new=None):
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(
            model, region, Pyramid(6, 12, 20, 28) if new is None else new, inputs=image() if inputs is None else inputs
        )
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert not model._forward_hooks
    return str(raised.value)


def test_modules_of_the_rest_between_those_of_a_region_are_named_with_the_region_that_is_closed():
    text = refusal(written.PoseNet(), ["conv1", "bn1", "relu", "maxpool", "layer1", "layer3"])
    assert "is no region: other modules stand between its own" in text
    assert "layer2" in text
    assert "it reads what comes out of the region, and what comes of that goes back into it" in text
    assert "['conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3']" in text


def test_a_part_that_the_rest_of_the_model_holds_as_well_is_named():
    class Tied(written.PoseNet):
        def __init__(self):
            super().__init__()
            self.extra = nn.Sequential(self.layer3.conv1)

    assert refusal(Tied(), "conv1:layer3").splitlines() == [
        "`conv1:layer3` is not swapped: `conv1:layer3` shares `layer3` with the rest of the model",
        "  expected  modules of which the rest of the model holds nothing",
        "  found     extra.0.weight is a part of it",
        "  try       a region without layer3",
    ]


def test_a_module_that_the_rest_of_the_model_runs_again_is_named():
    class Again(written.Crossing):
        def __init__(self):
            super().__init__()
            self.neck = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = self.layer2(self.layer1(F.relu(self.conv1(x))))
            return self.head(self.layer2(self.neck(x)))

    assert refusal(Again(), ["conv1", "layer1", "layer2"]).splitlines() == [
        "`conv1, layer1, layer2` is not swapped: `conv1, layer1, layer2` is no region: the rest of the model runs a "
        "part of it again",
        "  expected  modules that run within the region alone",
        "  found     it runs 2 times, also on what neck makes of the region",
        "  try       a region without layer2",
    ]


def test_unknown_paths_are_named_with_the_nearest():
    assert refusal(written.PoseNet(), ["conv1", "layer12"]).splitlines() == [
        "`conv1, layer12` is not swapped: there is no module at `layer12`",
        "  expected  a path in named_modules()",
        "  found     no module of that name; nearest: layer2, layer1, layer3",
        "  try       layer2",
    ]
    assert "there is no module at `layr3`" in refusal(written.PoseNet(), "conv1:layr3")


def test_modules_that_never_run_are_named():
    model = written.PoseNet()
    model.spare = nn.Conv2d(3, 3, 1)
    assert refusal(model, ["conv1", "spare"]).splitlines() == [
        "`conv1, spare` is not swapped: `spare` does not run when the model runs",
        "  expected  a module whose forward runs",
        "  found     it is never called",
        "  try       leave it out, or give an input at which it runs",
    ]


def test_a_span_from_a_later_module_to_an_earlier_one_is_turned_round():
    text = refusal(written.PoseNet(), "layer3:conv1")
    assert "conv1 runs before layer3" in text
    assert 'try       "conv1:layer3"' in text


def test_what_enters_after_the_first_module_is_named_with_the_region_that_has_it_inside():
    class Depth(written.Crossing):
        """Two streams: features of the depth image are added between the stages of the other."""

        def __init__(self):
            super().__init__()
            self.depth = nn.Conv2d(1, 8, 3, 2, 1)

        def forward(self, x, d):
            x = F.relu(self.conv1(x)) + self.depth(d)
            return self.head(self.layer2(self.layer1(x)))

    assert refusal(Depth(), ["conv1", "layer1", "layer2"], inputs=(image(), image()[:, :1])).splitlines() == [
        "`conv1, layer1, layer2` is not swapped: `conv1, layer1, layer2` is no region: other modules stand between its "
        "own",
        "add",
        "  expected  inputs that enter at conv1",
        "  found     what depth makes enters at add",
        "  try       swap its parts one by one",
    ]
    text = refusal(Depth(), "conv1:layer2", inputs=(image(), image()[:, :1]))
    assert "what the model is given enters at depth" in text


def test_a_side_branch_of_the_same_image_is_named_with_the_region_that_has_it_inside():
    class Side(written.Crossing):
        def __init__(self):
            super().__init__()
            self.side = nn.Conv2d(3, 8, 1, 4)

        def forward(self, x):
            x = self.layer1(F.relu(self.conv1(x))) + self.side(x)
            return self.head(self.layer2(x))

    text = refusal(Side(), ["conv1", "layer1", "layer2"])
    assert "what side makes enters at add" in text
    assert "try       ['conv1', 'layer1', 'side', 'layer2']" in text
    assert aa.swap(Side(), ["conv1", "layer1", "layer2", "side"], Pyramid(6, 12), inputs=image()) is not None


def test_a_region_that_is_entered_again_before_it_is_left_is_refused():
    class Woven(written.Siamese):
        def forward(self, template, search):
            z, x = self.conv1(template), self.conv1(search)
            z, x = self.layer1(z), self.layer1(x)
            return self.layer2(z).mean() + self.layer2(x).mean()

    text = refusal(Woven(), ["conv1", "layer1", "layer2"], inputs=(image(), image()))
    assert "is no region: more goes in than its first module is given" in text
    assert "it is entered again before it is left, with other values" in text


def test_functions_between_that_cannot_be_met_are_named():
    class Whitened(written.PoseNet):
        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            gram = torch.einsum("bchw,bdhw->bcd", x, x) + torch.eye(8) * x.abs().amax()
            x = torch.einsum("bcd,bdhw->bchw", torch.linalg.eigh(gram).eigenvectors, x)
            return self.final(self.deconv(self.layer3(self.layer2(self.layer1(x)))))

    text = refusal(Whitened(), "conv1:layer3")
    assert "Whitened raises with the new module" in text
    assert "functions run between the modules of the region: einsum, abs, amax, mul, add, linalg_eigh" in text


def test_a_generated_layer_takes_the_place_of_no_region():
    assert "a generated layer takes the place of one module, not of a region" in refusal(
        written.PoseNet(), "conv1:layer3", new="linear"
    )


def test_outputs_that_are_read_cannot_be_left_out():
    with pytest.raises(aa.SwapError, match="outputs of `enc1:enc4` that are read cannot be left out"):
        aa.swap(written.UNet(), "enc1:enc4", Pyramid(6, 12, 20, 28), inputs=image(), outputs=["enc4"])


@pytest.mark.parametrize(("model", "region"), [(written.UNet, "enc1:enc4"), (written.PoseNet, "conv1:layer3")])
def test_outputs_that_no_module_of_the_region_returns_are_named(model, region):
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(model(), region, Pyramid(6, 12, 20, 28), inputs=image(), outputs=["nope"])
    read = "enc1, enc2, enc3, enc4" if model is written.UNet else "layer3"
    assert str(raised.value).splitlines() == [
        f"outputs of `{region}` are not what its modules return",
        f"  expected  names of what its modules return, such as {read}",
        "  found     'nope'",
        f"  try       outputs={read.split(', ')}",
    ]
