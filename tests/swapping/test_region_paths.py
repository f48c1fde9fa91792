"""Paths through a model that its example did not take: what stand-ins do not serve there is never read in silence."""

import copy
import io

import pytest
import region_models as written
import torch
import torch.nn.functional as F
from made_once import made_once
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

SPAN = "conv1:layer2"


class Branching(written.Crossing):
    """Reads a level in the middle on some paths alone."""

    path = "none"

    def forward(self, x, mask=None, mode="sum"):
        x = F.relu(self.conv1(x))
        middle = self.layer1(x)
        if self.path == "padded":  # goes back into the region, as functions between modules do
            middle = F.pad(middle, (0, 1, 0, 1))
        deep = self.layer2(middle) if mask is None and mode == "sum" else self.layer2(middle, mask=mask, mode=mode)
        self.kept = middle
        match self.path:
            case "layer":
                return self.head(middle)
            case "function":
                return deep.mean() + torch.cat([x, x * 2], 1).mean()
            case "returned":
                return x, middle
            case "size":
                return F.interpolate(deep, size=middle.shape[-2:])
            case "values":
                return self.head(deep) if x.amax() > 0 else deep
            case "written":
                deep[:, :1] = middle[:, :1]
        return self.head(deep)


class Masked(written.Block):
    def forward(self, x, mask=None, mode="sum"):
        x = super().forward(x)
        return x if mask is None else x * mask


@made_once
def swapped(**options):
    torch.manual_seed(0)
    model = Branching()
    model.layer2 = Masked(8, 8, 1)
    return aa.swap(model, SPAN, Pyramid(6, 12), inputs=image(2, 64, 64), **options).eval()


def take(model, path, *args, **kwargs):
    model.path = path
    with torch.no_grad():
        return model(image(2, 64, 64), *args, **kwargs)


@pytest.mark.parametrize(
    ("path", "reader", "place"),
    [
        ("layer", "conv2d", "layer1"),
        ("size", "shape", "layer1"),
        ("values", "__bool__", "conv1"),
        ("written", "__setitem__", "layer1"),
    ],
)
def test_what_was_not_read_when_the_region_was_swapped_says_so_on_the_path_that_reads_it(path, reader, place):
    model = swapped()
    expected = take(model, "none")
    with pytest.raises(RuntimeError) as raised:
        take(model, path)
    assert str(raised.value) == (
        f"{place} stands in for a module of a swapped region, and nothing read what that returned when the model was "
        f"swapped; now {reader} reads it: name it in swap(..., outputs=[...]), or swap with inputs= that take this path"
    )
    torch.testing.assert_close(take(model, "none"), expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", ["function", "returned"])
def test_what_functions_make_of_it_and_what_is_returned_tells_no_values(path):
    returned = take(swapped(), path)
    for one in returned if isinstance(returned, tuple) else [returned]:
        assert "nothing read it" in f"{one} {one!r}"
        for read in (torch.Tensor.tolist, torch.Tensor.sum, lambda one: F.l1_loss(one, one - 1)):
            with pytest.raises(RuntimeError, match="nothing read what that returned when the model was swapped"):
                bool(read(one))


def test_functions_between_modules_that_only_other_sizes_ask_for_run_as_before():
    model = swapped()
    torch.testing.assert_close(take(model, "padded"), take(model, "none"), rtol=0, atol=0)


def test_what_is_named_as_an_output_is_served_on_every_path():
    model = swapped(outputs=("layer1", "layer2"))
    with torch.no_grad():
        level = model.conv1.alone()(image(2, 64, 64))["layer1"]
    torch.testing.assert_close(take(model, "layer"), model.head(level), rtol=0, atol=0)
    assert torch.equal(model.kept, level)


def test_inputs_that_take_both_paths_have_both_served():
    def both(model):
        model.path = "none"
        first = model(image(2, 64, 64))
        model.path = "layer"
        return first, model(image(2, 64, 64))

    torch.manual_seed(0)
    model = aa.swap(Branching(), SPAN, Pyramid(6, 12), inputs=both).eval()
    assert model.conv1.hand_on.handing.served == ("layer1", "layer2")
    assert take(model, "layer").shape == take(Branching().eval(), "layer").shape


def test_a_model_that_keeps_what_nobody_read_is_copied_and_pickled():
    model = swapped()
    take(model, "none")
    kept = io.BytesIO()
    torch.save(model.kept, kept)
    kept.seek(0)
    for one in (copy.deepcopy(model).kept, torch.load(kept, weights_only=False)):
        with pytest.raises(RuntimeError, match="layer1 stands in for a module"):
            one.tolist()


@pytest.mark.parametrize(
    ("given", "form"),
    [({"mask": torch.ones(1)}, "tensor, mask=tensor, mode='sum'"), ({"mode": "max"}, "tensor, mask=None, mode='max'")],
)
def test_arguments_that_a_later_module_was_not_given_are_refused(given, form):
    model = swapped()
    with pytest.raises(RuntimeError) as raised:
        take(model, "none", **given)
    assert str(raised.value) == (
        f"layer2 stands in for a module of a swapped region and takes no arguments: it is given ({form}), and was "
        f"given (tensor) when the region was swapped; swap with inputs= that give these"
    )


def test_a_parameter_that_a_later_module_is_given_is_remarked():
    class Queried(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.layer2 = nn.Conv2d(3, 8, 3, 2, 1), Masked(8, 8, 1)
            self.head, self.query = nn.Conv2d(8, 2, 1), nn.Parameter(torch.ones(1, 8, 1, 1))

        def forward(self, x):
            return self.head(self.layer2(self.conv1(x), self.query))

    report = aa.swap(Queried(), SPAN, Pyramid(6, 12), inputs=image(), dry_run=True)
    assert "query of the model has no effect any more" in str(report)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("path", ["none", "function"])
def test_a_compiled_model_gets_no_numbers_of_it(path):
    model = swapped()
    expected = take(model, "none")
    model.path = path
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(image(2, 64, 64))
    if path == "none":
        torch.testing.assert_close(found, expected)
    else:
        assert found.isnan().all()


class Dropping(nn.Module):
    """Leaves a layer out at times, as stochastic depth does."""

    def __init__(self):
        super().__init__()
        self.conv1, self.mid, self.layer2 = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Conv2d(8, 12, 3, 2, 1),
        )
        self.head, self.drops = nn.Conv2d(12, 2, 1), False

    def forward(self, x):
        x = self.conv1(x)
        if not self.drops:
            x = x + self.mid(x)
        return self.head(self.layer2(x))


def test_a_layer_that_training_leaves_out_is_not_missed_and_in_eval_mode_is():
    torch.manual_seed(0)
    model, x = aa.swap(Dropping(), SPAN, Pyramid(6, 12), inputs=image()).train(), image()
    expected = model(x)
    model.drops = True
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    with pytest.raises(RuntimeError, match="which runs in this order: conv1, mid, layer2"):
        model.eval()(x)
