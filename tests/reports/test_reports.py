"""Every result as a page, in a notebook and in a terminal: the same facts, whatever users call their outputs."""

import io
import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import timm
import torch
from plan_kinds import KINDS, example, spoiled_plans
from rich.console import Console
from shown_results import HOSTILE, RESULTS, hostile, result
from small_models import Mixed, Plain, image

import autoadapt as aa
from autoadapt.assembly import Assembly, Comparison, Config
from autoadapt.calibration import Calibration
from autoadapt.errors.printable import visible
from autoadapt.reports import html_report, plan_svg, write_html
from autoadapt.showing import Section, Shown, section_of
from autoadapt.showing.tables import human_count

IMAGE = "f32[B, 3, H, W]"
SHOWN = (
    *(aa.Signature, aa.Plan, aa.Verification, Calibration, aa.Transfer, aa.Swap, aa.Ranking),
    *(Assembly, Config, Comparison),
)
VOID = ("meta", "link", "br", "wbr")


class Page(HTMLParser):
    """A page as it nests: every element that is opened is closed, in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts += [] if "style" in self.open else [data]

    @property
    def text(self):
        return "".join(self.texts)


def printed(shown, width=80):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(shown)
    return console.file.getvalue()


def level(stride, channels):
    return f"f32[B, {channels}, ceil(H/{stride}), ceil(W/{stride})]"


def planned(new, old):
    source = aa.Signature.parse(new, inputs=IMAGE, name="Backbone")
    return aa.plan(source, aa.Signature.parse(old, inputs=IMAGE, name="Old"))


@pytest.mark.parametrize("kind", SHOWN)
def test_every_kind_of_result_shows_itself_in_its_own_way(kind):
    assert issubclass(kind, Shown)
    assert section_of.dispatch(kind) is not section_of.dispatch(Shown)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", RESULTS)
def test_a_page_nests_and_holds_nothing_that_runs_or_asks(name):
    page = Page(html_report(result(name)))
    assert set(page.tags) <= {
        *(
            "html",
            "head",
            "meta",
            "link",
            "title",
            "style",
            "body",
            "main",
            "div",
            "section",
            "footer",
            "h1",
            "h2",
            "h3",
            "h4",
        ),
        *("span", "b", "i", "wbr", "p", "pre", "table", "caption", "thead", "tbody", "tr", "th", "td", "dl", "dt"),
        *("dd", "details", "summary", "svg", "g", "rect", "circle", "path", "text"),
    }
    assert [value for key, value in page.attributes if key in ("href", "src")] == ["data:,"]
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes
    assert "url(" not in html_report(result(name))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", RESULTS)
def test_rich_stays_within_eighty_columns(name):
    text = printed(result(name))
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, kind in RESULTS.items() if name != "config"])
def test_a_notebook_gets_the_section_with_its_style(name):
    made = result(name)._repr_html_()
    assert made.startswith('<div class="autoadapt"><style>')
    assert Page(made).text in Page(html_report(result(name))).text


def test_a_plan_in_a_terminal():
    new = [level(4, 5), level(8, 5), level(16, 5)]
    plan = planned(new, {"fine": level(2, 8), "p3": level(4, 8), "p4": level(8, 5)})
    assert [line.rstrip() for line in printed(plan).splitlines()] == [
        "Plan  Backbone → contract of Old (dict of 3)   96 parameters",
        " input     x  f32[B, 3, H, W]",
        " adapters  96 parameters, 1.51M multiply-adds at B=1, H=224, W=224".replace(
            "1.51M", human_count(plan.multiply_adds)
        ),
        "",
        " target  is                        source  chain         params",
        " fine    f32[B, 8, ceil(H/2), ..]  0       5→8 · resize      48",
        " p3      f32[B, 8, ceil(H/4), ..]  0       5→8               48",
        " p4      f32[B, 5, ceil(H/8), ..]  1       as it is",
        "",
        " remark  fine: finer than its source (stride 4): detail is interpolated, not",
        "         seen",
    ]


def test_a_page_tells_the_facts_of_a_plan():
    plan = result("five levels")
    text = Page(html_report(plan)).text
    assert "(VisionTransformer) → contract of timm:resnet50 (FeatureListNet) (list of 5)" in text
    for route in plan.routes:
        assert route.source in text
        assert str(route.specs[-1]) in text
    assert "1.50M parameters" in text
    assert "finer than its source (stride 16): detail is interpolated, not seen; its cells lie up to 1.5 pixels" in text
    assert "norm, fc_norm, head_drop, head" in text


def picture(plan):
    return ElementTree.fromstring(plan_svg(plan))


def picture_texts(plan):
    return [text.text for text in picture(plan).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_tells_taps_chains_dims_and_costs():
    texts = picture_texts(result("five levels"))
    for said in ("blocks.2", "blocks.11", "f32[B, 197, 384]", "first 1", "b (h w) c → b c h w", "384→2048"):
        assert said in texts
    for said in ("[B, 196, 384]", "[B, 384, 14, 14]", "project  788k", "to target size", "to 224", "1.50M parameters"):
        assert said in texts
    for said in ("no longer run: 386k parameters", "norm, fc_norm, head_drop, head", "list of 5"):
        assert said in texts
    assert any("multiply-adds at B=1, H=224, W=224" in text for text in texts)


@pytest.mark.slow
def test_taps_stand_in_the_order_in_which_they_are_made():
    texts = picture_texts(result("twelve taps"))
    taps = [text for text in texts if text.startswith("blocks.")]
    assert taps == [f"blocks.{i}" for i in range(12)]
    new = timm.create_model("resnet18")
    plan = aa.adapt(new, like={"deep": level(32, 8), "shallow": level(4, 8)}, inputs=torch.zeros(1, 3, 64, 64)).plan
    assert [route.target for route in plan.routes] == ["deep", "shallow"]
    assert [text for text in picture_texts(plan) if text.startswith("layer")] == ["layer1.1", "layer4.1"]


@pytest.mark.slow
def test_a_tap_that_serves_several_outputs_stands_once():
    plan = result("twenty-four outputs")
    taps = [text for text in picture_texts(plan) if text in plan.taps]
    assert taps == list(plan.taps)
    assert len(taps) < len(plan.routes) == 24


def test_outputs_that_nothing_reads_are_named():
    assert "not used" in picture_texts(planned([level(4, 8), level(8, 8)], [level(4, 8)]))


def test_a_remark_that_holds_for_all_outputs_says_so():
    plan = planned([level(8, 5)], [level(2, 8), level(4, 8)])
    assert "all: finer than its source (stride 8): detail is interpolated, not seen" in Page(html_report(plan)).text


def test_an_input_that_is_handed_through_has_its_line():
    texts = picture_texts(result("many kinds"))
    assert texts.count("as it is") == 1
    assert "image as x" in texts


def test_an_input_that_only_the_old_module_takes_can_be_handed_through():
    inputs = {"x": IMAGE, "mask": "bool[B, H, W]"}
    old = aa.Signature.parse({"map": level(4, 8), "mask": "bool[B, H, W] = inputs.mask"}, inputs=inputs, name="Old")
    plan = aa.plan(aa.Signature.parse([level(4, 8)], inputs={"x": IMAGE}), old)
    assert picture_texts(plan).count("as it is") == 2
    assert "bool[B, H, W]" in picture_texts(plan)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_that_was_edited_into_nonsense_is_shown_all_the_same(kind):
    for _, spoiled in spoiled_plans(example(kind)[1].plan):
        assert picture_texts(spoiled)
        assert spoiled._repr_html_()


@pytest.mark.slow
def test_equal_plans_have_equal_pictures():
    plan = result("five levels")
    again = aa.Plan.model_validate(json.loads(plan.model_dump_json()))
    assert plan_svg(again) == plan_svg(plan)
    assert html_report(again) == html_report(plan)


def test_a_failed_verification_says_where_and_folds_what_is_too_much():
    report = result("failing")
    page = html_report(report)
    text = Page(page).text
    assert "DOES NOT keep its signature" in text
    assert "✗ failed" in text
    assert "ordered dict of 2: p3, p2" in text
    folded = len(report["sizes"].faults) - 3
    assert f"{folded} more faults of sizes" in text
    assert text.count("sizes: container at") == len(report["sizes"].faults)


def test_checks_that_were_not_run_are_not_green():
    page = html_report(result("passing"))
    assert page.count("✓ passed") == sum(check.outcome == "passed" for check in result("passing").checks)
    assert '<span class="aa-badge aa-quiet">not run</span>' in page


def test_a_calibration_shows_the_floors_beside_the_fit():
    made = result("calibration")
    text = Page(html_report(made)).text
    for label, score in (("random adapter", made.random), ("mean only", made.mean_only), ("calibrated", made.head)):
        assert f"{label}{score.agreement:.3f} ± {score.agreement_error:.3f}{score.loss:.3f} ±" in text
    assert f"{len(made.trials)} solvers tried" in text
    assert ("written" if made.written else "left as it was") in text


def test_a_transfer_shows_every_tensor_that_did_not_come():
    text = Page(html_report(result("transfer"))).text
    assert "loaded 99.9 % of parameters" in text
    assert "3 -> 1 on the input axis" in text
    assert "slice: 10 -> 7 on the output axis" in text
    assert "only in the checkpoint (1)module.<b>auxiliary</b>.*" in text


@pytest.mark.slow
def test_a_swap_shows_its_plan_and_its_call_and_a_refused_one_its_faults():
    assert 'model = aa.swap(model, "body", new, inputs=inputs)' in Page(html_report(result("swap"))).text
    assert "aa-picture" in html_report(result("swap"))
    text = Page(html_report(result("refused swap"))).text
    assert "refused" in text
    assert "channels and cells that stand on one axis" in text


@pytest.mark.slow
def test_an_assembly_shows_parts_and_adapters_and_a_comparison_what_does_not_fit():
    text = Page(html_report(result("assembly"))).text
    assert "backbone.c3 f32[B, 8, ceil(H/8), ceil(W/8)]" in text
    assert "16→8" in text
    assert "in_channels: [8, 8, 8, 8]" in Page(html_report(result("config"))).text
    assert isinstance(result("config"), Config)
    assert "`widht`" in Page(html_report(result("comparison"))).text


def test_several_results_are_listed_at_the_head():
    page = Page(html_report(result("many kinds"), result("failing"), title="A swap"))
    assert [value for key, value in page.attributes if key == "href"] == ["data:,", "#result-1", "#result-2"]
    assert {"result-1", "result-2"} <= {value for key, value in page.attributes if key == "id"}
    assert page.texts.count("A swap") == 2


def test_nothing_that_users_name_is_markup():
    page = Page(html_report(hostile(), title=HOSTILE[0]))
    assert not {"script", "img", "iframe"} & set(page.tags)
    for name in HOSTILE:
        assert visible(name) in page.text
    assert picture(hostile()).tag == "{http://www.w3.org/2000/svg}svg"


def test_in_a_terminal_hostile_names_write_nothing_but_themselves():
    text = printed(hostile(), 200)
    assert not set(text) & {"\x1b", "\x00", "\x07", "\u202e"}
    assert "[red]no markup[/red]" in text


def test_a_page_is_written_as_utf8_and_a_fault_writes_nothing(tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(aa.AdaptError, match="nothing to report") as caught:
        write_html(path)
    assert 'try       aa.write_html("report.html", net.plan, net.verify())' in str(caught.value)
    with pytest.raises(aa.AdaptError, match="no result that could be shown") as caught:
        aa.write_html(path, aa.adapt(Plain(), like=Mixed(), inputs=image()))
    assert "net.plan, net.verify()" in str(caught.value)
    assert not path.exists()
    aa.write_html(path, result("many kinds"), title="größer → ✓")
    assert path.read_text(encoding="utf-8") == html_report(result("many kinds"), title="größer → ✓")


def test_a_new_kind_of_result_joins_by_one_function():
    class Ranking(Shown):
        """A result that this package does not know."""

    section_of.register(Ranking, lambda ranking: Section("Ranking", "of two backbones", ()))
    assert "of two backbones" in html_report(Ranking(), result("many kinds"))
    assert "of two backbones" in Ranking()._repr_html_()


def test_pages_and_pictures_are_plain_texts(tmp_path):
    plan = planned([level(4, 5)], [level(4, 8)])
    assert {type(made) for made in (html_report(plan), plan_svg(plan), plan._repr_html_())} == {str}
