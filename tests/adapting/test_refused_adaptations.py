"""What `adapt` refuses, each message by its text: the place, what was expected, what was found, what to do."""

import pytest
import torch
from plan_kinds import texts
from point_clouds import cloud
from small_models import Mixed, Plain, Pyramid, image
from torch import nn

import autoadapt as aa


class Raising(nn.Module):
    """Raises whatever it is given."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4)

    def forward(self, x):
        raise RuntimeError("needs a licence file\nand more")


class Growing(nn.Module):
    """Returns another leaf at large sizes."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4, 8)

    def forward(self, x):
        fine, coarse = self.body(x)
        return {"fine": fine, "coarse": coarse} if x.shape[2] > 60 else {"fine": fine}


class Counting(nn.Module):
    """Returns as many rows as there are positive values: a size that no input size explains."""

    def __init__(self):
        super().__init__()
        self.body = Pyramid(4)

    def forward(self, x):
        return x.flatten()[x.flatten() > 0][:, None]


class Digits(nn.Module):
    """An axis as long as the sum of the digits of the height."""

    def forward(self, x):
        return x.new_zeros(len(x), sum(map(int, str(x.shape[2]))) + 1)


class Coordinates(nn.Module):
    """Returns points of its input."""

    def forward(self, points):
        return {"xyz": points[:, ::2, :3].contiguous()}


class Boxed(nn.Module):
    """Returns an object of a class of its own."""

    def forward(self, x):
        return Box(x)


class Box:
    """Holds a tensor where nobody sees it."""

    def __init__(self, tensor):
        self.tensor = tensor


def stages(*strides):
    return [f"f32[B, 8, ceil(H/{stride}), ceil(W/{stride})]" for stride in strides]


REFUSED = {
    "a new module that raises at the given input": (
        lambda: aa.adapt(Raising(), like=Pyramid(4), inputs=image()),
        aa.CaptureError,
        ["Raising raises at the given input", "a forward pass", "RuntimeError: needs a licence file", "call the model"],
    ),
    "an old module that raises at the given input": (
        lambda: aa.adapt(Pyramid(4), like=Raising(), inputs=image()),
        aa.CaptureError,
        ["Raising raises at the given input", "RuntimeError: needs a licence file"],
    ),
    "inputs with too few channels": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(4), inputs=torch.randn(2, 1, 32, 32)),
        aa.CaptureError,
        ["Pyramid raises at the given input", "RuntimeError", "channels"],
    ),
    "no inputs, and neither model tells them": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(6)),
        aa.CaptureError,
        [
            "Pyramid does not tell what it takes",
            "a model that tells its input size",
            "inputs=torch.randn(2, 3, 224, 224)",
        ],
    ),
    "inputs that do not fit the arguments": (
        lambda: aa.capture(Pyramid(4), (image(), image())),
        aa.CaptureError,
        ["the inputs do not fit Pyramid", "a call that fits forward(x", "too many positional arguments"],
    ),
    "like of an unknown type": (
        lambda: aa.adapt(Pyramid(4), like=7, inputs=image()),
        aa.SignatureError,
        ["`like` is of the wrong type", "a module, a Signature, texts", "found     7, of type int", "the model itself"],
    ),
    "like a file that is not there": (
        lambda: aa.adapt(Pyramid(4), like="nowhere.json", inputs=image()),
        aa.SignatureError,
        [
            "nowhere.json cannot be read",
            "a signature file (JSON)",
            "no such file",
            'aa.capture(old, inputs).save("nowhere.json")',
        ],
    ),
    "indices that only floats could serve": (
        lambda: aa.adapt(Pyramid(8), like=texts({"ids": "i32[B, 4] index"}), inputs=image()),
        aa.MatchError,
        ["`ids`", "expected  i32[B, 4], index", "f32[B, 8, ceil(H/2), ceil(W/2)]", "no such integers"],
    ),
    "integers that only floats could serve": (
        lambda: aa.adapt(
            Pyramid(8), like=texts({"ids": "i32[B, ceil(H/2), ceil(W/2)]", "x": stages(2)[0]}), inputs=image()
        ),
        aa.MatchError,
        ["`ids`", "i32[B, ceil(H/2), ceil(W/2)]", "f32 values are no i32 values", "outputs=['x']"],
    ),
    "coordinates from features": (
        lambda: aa.adapt(
            nn.Linear(4, 3),
            like=aa.capture(Coordinates(), cloud()),
            inputs=cloud(),
        ),
        aa.MatchError,
        ["`xyz`", "coordinate values", "coordinates are passed on, never made from features"],
    ),
    "a pair that names no source": (
        lambda: aa.adapt(Plain(), like=texts({"c": stages(4)[0]}), inputs=image(), pairs={"c": "map.0"}),
        aa.PlanError,
        ["pairs, map.0", "an output or module of the new one", "pairs={'c': 'maps.0'}"],
    ),
    "outputs that do not exist": (
        lambda: aa.adapt(Plain(), like=Mixed(), inputs=image(), outputs=["1.p5"]),
        aa.PlanError,
        ["outputs names something that the old module does not return", "1.p5", "one of 1.p"],
    ),
    "an empty tensor": (
        lambda: aa.adapt(Pyramid(4), like=Pyramid(4), inputs=torch.zeros(0, 3, 32, 32)),
        aa.CaptureError,
        [
            "an input is empty",
            "x",
            "a tensor with at least one value",
            "an empty tensor",
            "torch.randn(2, 3, 224, 224)",
        ],
    ),
    "an axis that no size explains": (
        lambda: aa.capture(Digits(), image()),
        aa.CaptureError,
        [
            "an axis of the output cannot be explained by the input",
            "output, axis 1",
            "an exact function of the input axes",
            "at (B=2, C=3, H=40, W=56)",
            "Signature.parse({...})",
        ],
    ),
    "an axis that depends on values": (
        lambda: aa.capture(Counting(), image()),
        aa.CaptureError,
        ["an axis of the output cannot be explained by the input", "output, axis 0"],
    ),
    "a leaf that appears only at some sizes": (
        lambda: aa.capture(Growing(), image()),
        aa.CaptureError,
        ["the outputs are not the same at every input size", "coarse", "dict of 1", "dict of 2"],
    ),
    "an object that cannot be looked into": (
        lambda: aa.capture(Boxed(), image()),
        aa.CaptureError,
        ["Boxed returns an object that autoadapt cannot look into", "tensors in containers", "Box"],
    ),
    "models on different devices": (
        lambda: aa.adapt(Pyramid(4), like=OnAnotherDevice(), inputs=image()),
        aa.AdaptError,
        ["the two modules are on different devices", "new", "expected  xla:0", "found     cpu", 'new.to("xla:0")'],
    ),
    "a submodule that does not exist": (
        lambda: aa.capture(Plain(), image(), at="bodi"),
        aa.CaptureError,
        ["there is no module at `bodi`", "a path in named_modules()", "nearest: body", 'at="body"'],
    ),
}


class OnAnotherDevice(Pyramid):
    """Says that its parameters stand elsewhere, as there is no second device on every machine."""

    def __init__(self):
        super().__init__(4)

    def parameters(self, recurse=True):
        for parameter in super().parameters(recurse):
            yield Elsewhere(parameter)


class Elsewhere:
    """What is asked of a parameter here."""

    def __init__(self, parameter):
        self.device = torch.device("xla:0")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_with_the_place_what_was_expected_found_and_to_do(name):
    call, error, said = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value).__module__ == "autoadapt.errors"
    for text in said:
        assert text in str(caught.value)


def test_sources_that_are_equally_good_are_listed_as_arguments_to_paste():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Pyramid(4, 6), Pyramid(4, 6)

        def forward(self, x):
            return {"left": self.left(x)[1], "right": self.right(x)[1]}

    like = texts({"wanted": stages(4)[0]})
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(Twins(), like=like, inputs=image())
    said = str(caught.value)
    assert "equally good: left f32[B, 6, ceil(H/4), ceil(W/4)], right" in said
    assert 'pairs={"wanted": "left"}' in said
    assert 'pairs={"wanted": "right"}' in said
    net = aa.adapt(Twins(), like=like, inputs=image(), pairs={"wanted": "right"})
    assert net.plan.routes[0].source == "right"


def test_two_faults_are_shown_as_two():
    like = texts({"a": "i32[B, 4] index", "b": "i64[B, 7] index", "c": stages(2)[0]})
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(Pyramid(8), like=like, inputs=image())
    assert [fault.where for fault in caught.value.mismatches] == ["a", "b"]
    assert str(caught.value).startswith("2 outputs cannot be served by Pyramid")


def test_a_refusal_changes_nothing():
    new = Plain()
    before = dict(new.__dict__), [len(m._forward_hooks) for m in new.modules()]
    with pytest.raises(aa.MatchError):
        aa.adapt(new, like=texts({"ids": "i32[B, 4] index"}), inputs=image())
    assert (dict(new.__dict__), [len(m._forward_hooks) for m in new.modules()]) == before


def test_errors_can_be_pickled_for_other_processes():
    import pickle

    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(Pyramid(4), like=7, inputs=image())
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value)
    assert str(again) == str(caught.value)
    assert again.mismatches == caught.value.mismatches
