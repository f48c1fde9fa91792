"""Reports in a real browser: nothing is cut off or lies on anything else, nothing runs, nothing is asked for."""

import re

import pytest
from browser import BROWSER, DARK, asked_for, measured, opened
from colour_sheets import told_colours
from shown_results import HOSTILE, PLANS, RESULTS, hostile, result

from autoadapt.errors.printable import visible
from autoadapt.reports import html_report, plan_svg, write_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed"),
]

WIDE, MIDDLE, NARROW = 1280, 1000, 400
SMALLEST_LETTERS = 7.8
"""In pixels, of the smallest text of a picture; where it would be smaller another, narrow picture is shown."""


@pytest.fixture(scope="module")
def pages():
    made = {name: html_report(result(name)) for name in RESULTS}
    made["everything"] = html_report(*map(result, RESULTS), title="Everything")
    made["hostile"] = html_report(hostile(), title=HOSTILE[0])
    made["notebook"] = f'<body data-jp-theme-light="false">{result("five levels")._repr_html_()}'
    made["svg"] = f"<!doctype html><body>{plan_svg(result('many kinds'))}"
    return made


@pytest.fixture(scope="module")
def light(pages, tmp_path_factory):
    return measured(pages, (WIDE, MIDDLE, NARROW), tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def dark(pages, tmp_path_factory):
    return measured(pages, (WIDE,), tmp_path_factory.mktemp("dark"), DARK)


def rgb(colour):
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


@pytest.mark.parametrize("width", [WIDE, MIDDLE, NARROW])
@pytest.mark.parametrize("name", [*RESULTS, "everything", "hostile"])
def test_nothing_is_cut_off_or_lies_on_anything_else(light, name, width):
    found = light[f"{name} at {width}"]
    assert found["texts"] > 10
    assert found["too_wide"] == 0
    assert (found["outside"], found["cut"], found["overlaps"], found["picture_faults"]) == ([], [], [], [])


@pytest.mark.parametrize("name", PLANS)
def test_the_picture_can_be_read_where_it_is_shown(light, name):
    for width in (WIDE, MIDDLE, NARROW):
        assert light[f"{name} at {width}"]["pictures"] == 1
        assert light[f"{name} at {width}"]["smallest_letters"] >= SMALLEST_LETTERS


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PLANS)
def test_every_output_stands_in_the_page_with_and_without_the_picture(light, name, width):
    assert light[f"{name} at {width}"]["names"] == [route.target for route in result(name).routes]


def test_no_badge_is_higher_than_its_line(light):
    for width in (WIDE, MIDDLE, NARROW):
        assert light[f"everything at {width}"]["badges"] == [22]


def test_hostile_names_are_texts_and_nothing_else(light):
    for width in (WIDE, NARROW):
        found = light[f"hostile at {width}"]
        assert found["names"] == [visible(name) for name in HOSTILE]
        assert found["alien"] == []


def test_hostile_names_are_inert_even_without_the_policy_of_the_page(pages, tmp_path):
    page = tmp_path / "report.html"
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", pages["hostile"])
    assert len(bare) < len(pages["hostile"])
    page.write_text(bare, encoding="utf-8")
    found = opened(page, tmp_path)
    assert "<title>owned</title>" not in found.elements
    assert found.console == []


def test_the_report_opens_from_disk_and_has_nothing_to_say(light, tmp_path):
    page = tmp_path / "report.html"
    write_html(page, *map(result, RESULTS), hostile())
    found = opened(page, tmp_path)
    assert found.console == []
    assert found.elements.count("<section") > len(RESULTS)
    assert light[f"everything at {WIDE}"]["alien"] == []


@pytest.mark.parametrize("name", ["everything", "hostile"])
def test_a_report_asks_for_nothing_but_itself(pages, name, tmp_path):
    assert asked_for(pages[name], tmp_path) == ["/page"]


def test_the_page_follows_the_reader_in_light_and_dark(light, dark):
    for found, colours in ((light, told_colours("light")), (dark, told_colours("dark"))):
        for name in ("five levels", "everything"):
            page = found[f"{name} at {WIDE}"]
            assert (page["ink"], page["back"]) == (rgb(colours["ink"]), rgb(colours["back"]))
            assert page["picture_ink"] == rgb(colours["ink"])


def test_a_picture_alone_has_its_own_colours(light, dark):
    assert light[f"svg at {WIDE}"]["picture_ink"] == rgb(told_colours("light")["ink"])
    assert dark[f"svg at {WIDE}"]["picture_ink"] == rgb(told_colours("dark")["ink"])
    assert light[f"svg at {WIDE}"]["picture_faults"] == []


def test_in_a_notebook_the_theme_of_the_notebook_decides(light):
    assert light[f"notebook at {WIDE}"]["ink"] == rgb(told_colours("dark")["ink"])
    assert light[f"notebook at {WIDE}"]["overlaps"] == []


def test_a_picture_opens_as_a_file(tmp_path):
    picture = tmp_path / "plan.svg"
    picture.write_text(plan_svg(hostile()), encoding="utf-8")
    found = opened(picture, tmp_path)
    assert found.console == []
    assert "parsererror" not in found.elements
    assert "384→" not in found.elements
    assert found.elements.count("<text") > 30


PLANTED = {
    "too_wide": '<p style="width:2000px">far</p>',
    "outside": '<p style="position:absolute;left:-50px">gone</p>',
    "cut": '<p style="width:40px;overflow:hidden;white-space:nowrap">much too long a line</p>',
    "overlaps": '<p>below</p><p style="margin-top:-24px">above</p>',
    "alien": '<img src="missing.png">',
    "text out of its box": '<svg width="90" height="40">'
    '<g><rect width="20" height="20"/><text y="15">long</text></g></svg>',
    "boxes on each other": '<svg width="90" height="40"><g><rect width="20" height="20"/></g>'
    '<g><rect x="9" width="20" height="20"/></g></svg>',
    "text out of the picture": '<svg width="20" height="40"><text y="15">much too long</text></svg>',
    "text on a box": '<svg width="90" height="40"><g><rect width="20" height="20"/></g><text y="15">long</text></svg>',
    "line through a box": '<svg width="90" height="40"><g><rect x="9" width="20" height="20"/></g>'
    '<path d="M0 9H80"/></svg>',
}


def test_every_fault_that_is_looked_for_would_be_seen(tmp_path):
    found = measured({name: f"<!doctype html><body>{body}" for name, body in PLANTED.items()}, (NARROW,), tmp_path)
    for name in PLANTED:
        page = found[f"{name} at {NARROW}"]
        seen = page[name] if name in page else [fault for fault in page["picture_faults"] if fault.startswith(name)]
        assert seen, name
    assert asked_for(f"<!doctype html><body>{PLANTED['alien']}", tmp_path)[:2] == ["/page", "/missing.png"]


def test_a_script_in_the_page_would_be_stopped_and_heard_of(tmp_path, pages):
    page = tmp_path / "report.html"
    page.write_text(pages["one output"].replace("</body>", "<script>1</script></body>"), encoding="utf-8")
    assert "Content Security Policy" in "".join(opened(page, tmp_path).console)
