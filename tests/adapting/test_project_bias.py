"""Projections without offset: planned, built, calibrated, and folded into layers that pad without a channel of ones."""

import pytest
import torch
from torch import nn

import autoadapt as aa

X = torch.randn(8, 3, 16, 16)


def old():
    torch.manual_seed(1)
    return nn.Conv2d(3, 8, 2, stride=2)


def new():
    torch.manual_seed(2)
    return nn.Conv2d(3, 12, 2, stride=2)


@pytest.mark.parametrize("project", ["needed", "places"])
def test_projections_have_no_offset_and_the_plan_counts_none(project):
    net = aa.adapt(new(), like=old(), inputs=X, project=project, project_bias=False)
    assert [name for name, _ in net.adapters.named_parameters()] == ["output.project.weight"]
    assert net.plan.parameters == sum(p.numel() for p in net.adapters.parameters()) == 12 * 8
    assert net.plan.parameters == aa.adapt(new(), like=old(), inputs=X).plan.parameters - 8
    assert net.verify().passed


def test_a_linear_projection_of_tokens_has_none_either():
    tokens = [nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Flatten(2), Turned()) for width in (8, 5)]
    net = aa.adapt(tokens[1], like=tokens[0], inputs=X, project_bias=False)
    assert isinstance(net.adapters.output.project, nn.Linear)
    assert net.adapters.output.project.bias is None


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_the_fit_without_offset_is_least_squares_through_zero():
    net = aa.adapt(new(), like=old(), inputs=X, project_bias=False)
    batch = torch.rand(16, 3, 16, 16) + 1  # means far from zero
    with torch.no_grad():
        x, y = (made(batch).movedim(1, -1).flatten(0, 2).double() for made in (new(), old()))
    expected = torch.linalg.lstsq(x, y).solution
    found = aa.calibrate(net, like=old(), data=[batch], solver="least_squares", augment=0)
    assert found.written
    torch.testing.assert_close(net.adapters.output.project.weight.flatten(1).T.double(), expected, rtol=1e-3, atol=1e-4)
    assert any("fitted without offset, so R2 counts from zero" in remark for remark in found.remarks)


@pytest.mark.parametrize("refine", [0, 4])
def test_a_head_answers_as_before_and_decides(refine):
    torch.manual_seed(0)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net = aa.adapt(new(), like=old(), inputs=X, project_bias=False)
    batch = torch.randn(32, 3, 16, 16)
    found = aa.calibrate(net, like=old(), data=[batch], head=head, refine=refine)
    assert found.written
    assert found.head.loss < found.random.loss / 3
    with torch.no_grad():
        error = (net(batch) - old()(batch)).norm() / old()(batch).norm()
    assert error < 0.5  # the offset of the old layer is all that it cannot follow
    assert net.adapters.output.project.bias is None


def test_classifiers_are_refused_where_their_map_needs_an_offset():
    net = aa.adapt(new(), like=old(), inputs=X, project_bias=False)
    heads = nn.Conv2d(8, 4, 1), nn.Conv2d(12, 4, 1)
    with pytest.raises(aa.CalibrationError, match="classifiers say nothing") as caught:
        aa.calibrate(net, like=old(), data=None, head=heads[0], own_head=heads[1])
    assert "one without offset" in str(caught.value)


def test_a_reader_that_pads_needs_no_channel_of_ones():
    channels = {}
    for project_bias in (True, False):
        model = nn.Sequential(old(), nn.Conv2d(8, 4, 3, padding=1)).eval()
        model = aa.swap(model, "0", new(), inputs=X, project_bias=project_bias)
        for parameter in model[0].adapters.parameters():
            nn.init.normal_(parameter)
        folded = aa.fold(model, inputs=X, outputs=["output"])
        torch.testing.assert_close(folded(X), model(X), rtol=1e-4, atol=1e-4)
        channels[project_bias] = folded[1].in_channels
    assert channels == {True: 13, False: 12}


def test_the_call_of_a_dry_run_says_it_and_other_values_are_refused():
    model = nn.Sequential(old(), nn.Conv2d(8, 4, 3))
    assert "project_bias=False" in aa.swap(model, "0", new(), inputs=X, project_bias=False, dry_run=True).call
    with pytest.raises(aa.SwapError) as caught:
        aa.swap(model, "0", new(), inputs=X, project_bias="no")
    assert caught.value.mismatches[0].remedy == "project_bias=False"


def test_it_is_saved_restored_and_written_as_plain_source(tmp_path):
    net = aa.adapt(new(), like=old(), inputs=X, project_bias=False)
    aa.save(net, tmp_path / "net")
    back = aa.restore(tmp_path / "net", new=new())
    torch.testing.assert_close(back(X), net(X), rtol=0, atol=0)
    assert "bias=False" in aa.to_source(net, tmp_path / "plain.py").read_text()
