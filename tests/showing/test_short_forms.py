"""What a result says in one line, in a notebook, and of where its models come from."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.verification.results import Check
from autoadapt.assembly import compare
from autoadapt.contracts.origins import name_of
from autoadapt.reports import html_report
from autoadapt.testing import caught_by

CONFIG = {
    "input": "f32[B, 3, 32, 32]",
    "backbone": "timm:test_resnet",
    "neck": "GlobalAveragePooling",
    "head": {"type": "LinearClsHead", "num_classes": 4},
}
OLD, NEW, X = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2), torch.zeros(2, 3, 16, 16)


@pytest.fixture(scope="module")
def net() -> aa.AdaptedModule:
    return aa.adapt(NEW, like=OLD, inputs=X)


@pytest.fixture(scope="module")
def results(net: aa.AdaptedModule) -> dict[str, object]:
    model = nn.Sequential(OLD, nn.Conv2d(8, 2, 1))
    return {
        "plan": net.plan,
        "signature": net.signature,
        "verification": net.verify(),
        "swap": aa.swap(model, "0", NEW, inputs=X, dry_run=True),
        "transfer": aa.transfer(OLD.state_dict(), nn.Conv2d(3, 8, 4, stride=4)),
        "calibration": aa.calibrate(aa.adapt(NEW, like=OLD, inputs=X), like=OLD, data=[torch.randn(8, 3, 16, 16)]),
        "ranking": aa.rank([NEW], like=OLD, inputs=X),
        "assembly": aa.assemble(CONFIG).report,
        "comparison": compare({**CONFIG, "backbone": ["timm:test_resnet"]}),
        "caught": caught_by(lambda _: None, net),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "short"),
    [
        ("plan", r"<Plan Conv2d -> 1 output, 48 parameters>"),
        ("signature", r"<Signature Conv2d: f32\[B, 3, H, W\] -> f32\[B, 8, floor\(H/4\), floor\(W/4\)\]>"),
        ("verification", r"<Verification Conv2d: keeps its signature, \d+ passed, .*>"),
        ("swap", r"<Swap Sequential: fits>"),
        ("transfer", r"<Transfer state dict \(2 tensors\) -> Conv2d \(2\) LOADED 100 % of parameters>"),
        ("calibration", r"<Calibration Conv2d: (NOT )?written, least R2 -?\d\.\d\d on images not fitted on>"),
        ("ranking", r"<Ranking 1 of 1 candidates fit Conv2d \(tensor\)>"),
        ("assembly", r"<Assembly timm:test_resnet -> GlobalAveragePooling -> LinearClsHead, \d+k parameters>"),
        ("comparison", r"<Comparison 1 of 1 backbones fit>"),
        ("caught", r"<Caught 0 of 17 kinds of fault are noticed>"),
    ],
)
def test_the_repr_of_a_result_is_one_short_line_and_str_is_the_table(
    results: dict[str, object], kind: str, short: str
) -> None:
    shown = repr(results[kind])
    assert re.fullmatch(short, shown), shown
    assert len(shown) < 130
    assert "\n" in str(results[kind])
    assert "<" in results[kind]._repr_html_()


def test_a_net_in_a_notebook_cell_shows_its_plan(net: aa.AdaptedModule) -> None:
    assert net._repr_html_() == net.plan._repr_html_()
    assert "contract of" in net._repr_html_()


def test_a_verification_ends_with_a_line_that_adds_up(results: dict[str, object]) -> None:
    report = results["verification"]
    assert isinstance(report, aa.Verification)
    last = str(report).splitlines()[-1]
    numbers = [int(number) for number in re.findall(r"(\d+) (?:passed|failed|not)", last)]
    assert sum(numbers) == len(report.checks)
    assert re.fullmatch(r" \d+ passed, (\d+ not applicable, )?2 not run \(thorough=True\), \d+\.\d s", last)
    assert report.seconds > 0


def test_the_total_names_what_failed_and_what_was_stopped() -> None:
    stopped = Check(name="compile", outcome="not run", detail="stopped after 5 s")
    checks = (Check(name="a", outcome="passed"), Check(name="b", outcome="failed"), stopped)
    assert aa.Verification(name="net", checks=checks, seconds=1.26).total() == "1 passed, 1 failed, 1 not run, 1.3 s"


def test_costs_are_told_for_one_sample_whatever_the_batch() -> None:
    one, four = (aa.adapt(NEW, like=OLD, inputs=torch.zeros(batch, 3, 16, 16)).plan for batch in (1, 4))
    assert one.multiply_adds == four.multiply_adds == 8 * 8 * 5 * 8
    assert "2.56k multiply-adds at B=1, H=16, W=16" in str(four)
    taps = [
        aa.adapt("timm:test_resnet", like="f32[B, 8, ceil(H/8), ceil(W/8)]", inputs=torch.zeros(batch, 3, 64, 64)).plan
        for batch in (1, 3)
    ]
    assert taps[0].saved == taps[1].saved
    assert taps[0].saved.multiply_adds > 0


def test_results_name_models_where_their_origin_is_known() -> None:
    old, new = timm.create_model("test_resnet", features_only=True), timm.create_model("test_resnet")
    made = aa.adapt(new, like=old)
    assert str(made.plan).startswith(
        "timm:test_resnet (ResNet)\n  ->  contract of timm:test_resnet (FeatureListNet) (list of 5)\n"
    )
    assert made.plan.model_dump()["source"]["origin"] == "timm:test_resnet"
    assert "timm:test_resnet (ResNet) → contract of" in html_report(made.plan).partition("<style")[0]
    assert "The backbone is a timm.models.resnet.ResNet" in aa.to_source(made)
    assert "    timm:test_resnet (ResNet)\n      ->  contract of timm:test_resnet" in aa.to_source(made)
    assert "timm:test_resnet (ResNet)" in html_report(aa.capture(new, torch.zeros(1, 3, 64, 64)))


def test_what_was_loaded_by_name_tells_it_and_other_modules_tell_none() -> None:
    assert name_of(aa.load("torchvision:resnet18")) == "torchvision:resnet18"
    assert name_of(OLD) == ""
    assert aa.capture(OLD, X).title == "Conv2d"
    assert "origin" not in aa.capture(OLD, X).model_dump()


def test_a_signature_with_its_origin_comes_back_from_json() -> None:
    signature = aa.capture(aa.load("timm:test_resnet"), torch.zeros(1, 3, 64, 64))
    read = aa.Signature.model_validate_json(signature.model_dump_json())
    assert read == signature
    assert read.title == "timm:test_resnet (ResNet)"


def test_a_page_says_when_and_with_what_it_was_made(net: aa.AdaptedModule) -> None:
    page = html_report(net.plan, command="autoadapt plan <b>")
    foot = page[page.index("<footer") :]
    assert re.search(r"Made \d{4}-\d\d-\d\d \d\d:\d\d UTC with autoadapt \d+\.\d+\.\d+, torch \d", foot)
    assert "<code>autoadapt plan &lt;b&gt;</code>" in foot


def test_the_columns_of_a_calibration_are_explained(results: dict[str, object]) -> None:
    text = " ".join(str(results["calibration"]).split())
    for column in ("R2: share of", "cosine: between", "variance: of", "condition: largest"):
        assert column in text


def test_to_source_gives_the_path_it_wrote_and_without_one_the_text(net: aa.AdaptedModule, tmp_path) -> None:
    assert aa.to_source(net, tmp_path / "net.py") == tmp_path / "net.py"
    assert aa.to_source(net, str(tmp_path / "net.py")).read_text(encoding="utf-8") == aa.to_source(net)


@pytest.mark.parametrize(
    ("make", "kind", "said", "remedy"),
    [
        (
            lambda: aa.Signature(),
            "SignatureError",
            "inputs\n  expected  a value\n  found     nothing",
            "Signature.parse",
        ),
        (lambda: aa.Signature(inputs=3, outputs=4), "SignatureError", "found     3", "capture(model, inputs)"),
        (lambda: aa.Signature("f32[B]"), "SignatureError", "found     'f32[B]'", "Signature.parse"),
        (lambda: aa.Signature(shape=1), "SignatureError", "found     a field that there is not", "Signature.parse"),
        (lambda: aa.TensorSpec(), "SignatureError", "dtype\n  expected  a value", "TensorSpec.parse"),
        (
            lambda: aa.TensorSpec(dtype="f32", dims=3),
            "SignatureError",
            "a list or tuple\n  found     3",
            "TensorSpec.parse",
        ),
        (lambda: aa.Plan(), "AdaptError", "routes\n  expected  a value", "plan(capture(new, inputs, inner=True)"),
        (lambda: aa.Verification(), "AdaptError", "checks", "verify(net, signature, inputs=inputs)"),
    ],
)
def test_a_fact_that_is_made_wrongly_says_so_without_the_words_of_pydantic(
    make: Callable[[], object], kind: str, said: str, remedy: str
) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        make()
    text = str(caught.value)
    assert type(caught.value).__name__ == kind
    assert said in text
    assert remedy in text
    assert "pydantic" not in text
    assert "validation error" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
