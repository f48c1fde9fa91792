"""Remedies that can be pasted and words that fit: what a newcomer met, by the text of each error and its code."""

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.testing import assert_adapts, assert_gradients_flow, assert_signature_locked

X = torch.randn(2, 3, 32, 32)


def old():
    return nn.Conv2d(3, 8, 4, 4)


def new():
    return nn.Conv2d(3, 4, 4, 4)


def error_of(call, kind=aa.AdaptError):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("like", "remedy"),
    [
        ("f32[64, H//4, W//4]", '"f32[B, 64, floor(H/4), floor(W/4)]"  # B for the number of samples'),
        ("f32[2, 64, H//4, W//4]", '"f32[B, 64, floor(H/4), floor(W/4)]"  # B for the number of samples'),
        ("f32[B, 4, H, W], f32[B, 8]", '["f32[B, 4, H, W]", "f32[B, 8]"]'),
        ("[f32[B, 4, H, W]; f32[B, 8]]", '["f32[B, 4, H, W]", "f32[B, 8]"]'),
        ("f32[B, -3, H, W]", "3"),
    ],
)
def test_a_contract_in_a_text_is_mended_by_what_the_error_says(like, remedy):
    error = error_of(lambda: aa.adapt(new(), like=like, inputs=X))
    assert error.mismatches[0].remedy == remedy
    assert error.code


def test_as_many_names_of_channels_are_shown_as_the_image_has():
    error = error_of(lambda: aa.adapt(new(), like=old(), inputs=X, channels=("b", "g")))
    assert error.mismatches[0].remedy == "channels=('b', 'g', 'r')"
    assert aa.adapt(new(), like=old(), inputs=X, channels=("b", "g", "r"))(X).shape[1] == 8


def test_both_sides_of_a_pair_are_named():
    error = error_of(lambda: aa.adapt(new(), like=old(), inputs=X, pairs={"foo": "bar"}))
    told = [(one.where, one.expected, one.found) for one in error.mismatches]
    assert told == [
        ("pairs, foo", "an output of the old module", "nothing of that name"),
        ("pairs, bar", "an output or module of the new one", "nothing of that name"),
    ]


def test_a_plan_of_another_module_is_not_built():
    plan = aa.plan(aa.capture(new(), X), aa.capture(old(), X))
    assert aa.build(new(), plan)(X).shape == old()(X).shape
    error = error_of(lambda: aa.build(nn.Conv2d(3, 6, 4, 4), plan), aa.BuildError)
    assert (error.summary, error.code) == ("Conv2d is another module than the plan was made for", "AA0724")
    assert [(one.expected, one.found) for one in error.mismatches] == [("[2, 4, 8, 8]", "[2, 6, 8, 8]")]
    in_a_list = nn.Module()
    in_a_list.forward = lambda input: [input[:, :1]]
    assert "is another module" in str(error_of(lambda: aa.build(in_a_list, plan), aa.BuildError))


def test_a_list_in_place_of_a_signature_is_told_how_one_is_made():
    error = error_of(lambda: aa.verify(new(), [64], inputs=X))
    assert error.mismatches[0].remedy == "aa.verify(net, aa.capture(old, inputs), inputs=inputs)"


def test_a_contract_without_a_name_is_verified_under_that_of_the_module():
    assert str(aa.verify(new(), aa.Signature.parse("f32[B, 4, H//4, W//4]"), inputs=X)).startswith("Conv2d: keeps")


def test_a_candidate_without_a_scheme_is_mended_by_a_candidate():
    told = str(aa.rank(["resnet18"], like=old(), inputs=X))
    assert '"timm:resnet18"' in told
    assert "load(" not in told


@pytest.mark.parametrize(
    ("like", "made"),
    [
        (nn.Conv2d(3, 8, 2, 2), "aa.capture(like, inputs)"),
        ("f32[B, 8, H//2, W//2]", "aa.Signature.parse('f32[B, 8, H//2, W//2]')"),
    ],
)
def test_what_shows_the_other_faults_can_be_pasted(like, made):
    with pytest.raises(AssertionError) as caught:
        assert_adapts(nn.Conv2d(3, 8, 4, 4), X, like=like)
    call = str(caught.value).partition("more, which ")[2].partition(" shows")[0]
    assert call == f"print(aa.verify(net, {made}, inputs=inputs))"
    eval(call, {"aa": aa, "net": nn.Conv2d(3, 8, 4, 4), "inputs": X, "like": like})


@pytest.mark.parametrize("name", [X, "", "../../evil", "/evil"])
def test_what_is_no_name_of_a_locked_signature_is_refused(name):
    error = error_of(lambda: assert_signature_locked(new(), name, X, update=True))
    assert error.code
    assert error.mismatches[0].where == "name"


class WritesWhatIsNeeded(nn.Conv2d):
    def forward(self, x):
        maps = super().forward(x).exp()
        return maps * 1 + maps.add_(1)


def test_gradients_that_a_write_stops_are_told_in_a_line():
    with pytest.raises(AssertionError) as caught:
        assert_gradients_flow(WritesWhatIsNeeded(3, 4, 1), X)
    assert str(caught.value) == (
        "gradients do not flow through WritesWhatIsNeeded: one of the variables needed for gradient computation has "
        "been modified by an inplace operation"
    )


@pytest.mark.slow
def test_an_axis_without_a_formula_has_a_code():
    class Odd(nn.Module):
        def forward(self, x):
            return x[..., : 1 + (x.shape[3] * x.shape[3]) % 13]

    error = error_of(lambda: aa.capture(Odd(), X), aa.CaptureError)
    assert (error.summary, error.code) == ("an axis of the output cannot be explained by the input", "AA0336")


class Judging(nn.Module):
    """A detector whose own code looks at values."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = old(), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        found = self.head(self.backbone(x))
        return found if float(found.sum()) > 0 else found + 1


@pytest.mark.slow
def test_a_model_that_was_never_exported_is_blamed_itself(tmp_path):
    model = aa.swap(Judging(), "backbone", new(), inputs=X)
    fault = error_of(lambda: aa.export(model, tmp_path / "net.pt2", inputs=X), aa.ExportError).mismatches[0]
    assert fault.where.startswith("test_pasted_remedies.py:")
    assert fault.why == (
        "`backbone`, which was swapped, goes through alone; Judging itself does not, with its old module either: "
        "return found if float(found.sum()) > 0 else found + 1"
    )
    assert 'aa.export(model.get_submodule("backbone"), "backbone.onnx")' in fault.remedy


def test_a_file_of_a_saved_model_leads_to_its_folder(tmp_path):
    model = aa.swap(Judging(), "backbone", new(), inputs=X)
    aa.save(model, tmp_path / "w")
    error = error_of(lambda: aa.restore(tmp_path / "w" / "model.json", model=Judging()), aa.SavingError)
    assert error.mismatches[0].remedy == f'aa.restore("{tmp_path / "w"}", model=build())'
    assert aa.restore(tmp_path / "w", model=Judging(), new={"backbone": new()}).backbone.plan
