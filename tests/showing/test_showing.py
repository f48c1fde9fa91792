"""Tables, pages and pictures from the same parts: texts stay texts, boxes stay apart, everything fits its columns."""

import io
import string
from html.parser import HTMLParser
from typing import get_args
from xml.etree import ElementTree

import pytest
from colour_sheets import told_colours
from hypothesis import given, settings, strategies as st
from rich.console import Console

from autoadapt.adapting.operations import Operation
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.printable import visible
from autoadapt.showing import (
    Badge,
    Box,
    Code,
    Column,
    Diagram,
    Facts,
    Faults,
    Folded,
    Lane,
    Name,
    Section,
    Share,
    Shown,
    Step,
    Steps,
    Table,
    fragment,
    narrow_svg,
    section_of,
    svg,
)
from autoadapt.showing.blocks import FONTS, text_width, wrapped
from autoadapt.showing.colours import COLOURS
from autoadapt.showing.rendering import svg_of
from autoadapt.showing.shapes import Text

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100, database=None)
TEXTS = st.text(st.characters(codec=None), max_size=60)
"""Anything at all, also control characters and unpaired surrogates."""


class Read(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@SETTINGS
@given(text=TEXTS, value=TEXTS)
def test_whatever_a_text_holds_it_is_read_back_as_that_text(text, value):
    steps = Steps((Step("", text, "", gives=value),))
    read = Read(fragment(Section("", "", (Facts(((text, steps),)),))))
    assert [names["title"] for _, names in read.tags if "title" in names] == ([visible(value)] if value else [])
    assert "".join(read.texts).endswith(visible(text) * 2)


@SETTINGS
@given(text=TEXTS)
def test_visible_texts_can_be_stored_and_move_nothing(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert visible(shown) == shown
    assert not set(shown) & {"\x00", "\x1b", "\r", "\u202e", "\u2066", "\ufeff", "\ufffe"}
    ElementTree.fromstring(svg_of(text, 9, 9, [Text(text, 0, 0, text)]))


@pytest.mark.parametrize("char", "\x00\x07\x1b\x7f\x85\xad\u200b\u200e\u202e\u2028\u2066\ud800\ufeff\uffff")
def test_what_cannot_be_seen_or_turns_the_direction_is_escaped(char):
    shown = visible(f"a{char}b")
    assert shown.isascii()
    assert shown.encode().decode("unicode_escape") == f"a{char}b"


def test_letters_of_every_script_stay():
    for text in ("größe", "行列", "می\u200cخواهم", "👩\u200d🔬", "é", "a\nb"):
        assert visible(text) == text


@SETTINGS
@given(text=TEXTS, style=st.sampled_from(sorted(FONTS)), room=st.floats(60, 400))
def test_wrapped_lines_fit_and_lose_nothing(text, style, room):
    lines = wrapped(text, style, room, 1000)
    assert all(text_width(line.rstrip(), style) <= room for line in lines)
    assert "".join(lines) == visible(text).replace("\n", " ")
    cut = wrapped(text, style, room, 2)
    assert len(cut) <= 2
    assert all(text_width(line.rstrip(), style) <= room for line in cut)


def test_a_line_that_is_cut_says_so():
    assert wrapped("a" * 100, "name", 100, 2)[-1].endswith("…")


names = st.one_of(st.text(string.ascii_lowercase + "._", min_size=1, max_size=80), TEXTS)
steps = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from([*COLOURS, "unheard of"]),
        text=names,
        label=names,
        says=st.just("what it does"),
        note=st.sampled_from(["", "24.6k"]),
        gives=st.one_of(st.just(""), names),
    ),
    max_size=6,
).map(tuple)


@st.composite
def diagrams(draw):
    boxes = st.builds(Box, names, names)
    inputs = tuple(draw(st.lists(st.tuples(boxes, steps), min_size=1, max_size=3)))
    sources = tuple(draw(st.lists(boxes, max_size=5)))
    count = len(inputs) + len(sources)
    free = st.integers(0, count - 1)
    served = [*range(len(inputs), count), *draw(st.lists(free, min_size=1, max_size=4))]
    lanes = [
        Lane(i, draw(steps), draw(boxes), draw(st.sampled_from(["", "a remark", "r" * 90])))
        for i in draw(st.permutations(served))
    ]
    target = draw(st.tuples(names, names))
    return Diagram(draw(names), draw(names), target, inputs, sources, tuple(lanes), ("cost",), ("cut", draw(names)))


SVG = "{http://www.w3.org/2000/svg}"


def rectangle(shape):
    left, top, width, height = (float(shape.get(name, 0)) for name in ("x", "y", "width", "height"))
    return left, top, left + width, top + height


def meet(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.2 and min(a[3], b[3]) - max(a[1], b[1]) > 0.2


def inside(a, b):
    return a[0] >= b[0] - 0.2 and a[1] >= b[1] - 0.2 and a[2] <= b[2] + 0.2 and a[3] <= b[3] + 0.2


def text_rectangle(text):
    style = text.get("class").removeprefix("aa-")
    left, baseline = float(text.get("x")), float(text.get("y"))
    size = FONTS[style].size
    return left, baseline - 0.78 * size, left + text_width(text.text or "", style), baseline + 0.24 * size


@pytest.mark.sampled(1)
@pytest.mark.parametrize("draw", [svg, narrow_svg])
@settings(SETTINGS, max_examples=40)
@given(diagram=diagrams())
def test_in_any_picture_boxes_stay_apart_and_texts_in_their_places(draw, diagram):
    root = ElementTree.fromstring(draw(diagram, alone=True))
    whole = (0.0, 0.0, float(root.get("width")), float(root.get("height")))
    groups = [group for group in root.iter(f"{SVG}g") if "aa-swatch" not in group.get("class")]
    boxes = [rectangle(group.find(f"{SVG}rect")) for group in groups]
    assert len(boxes) >= len(diagram.inputs) + len(diagram.sources) + 2 * len(diagram.lanes)
    for i, box in enumerate(boxes):
        assert inside(box, whole)
        assert not any(meet(box, other) for other in boxes[:i])
        assert all(inside(text_rectangle(text), box) for text in groups[i].iter(f"{SVG}text"))
    for text in root.iter(f"{SVG}text"):
        assert inside(text_rectangle(text), whole)
    loose = [text_rectangle(text) for text in root.findall(f"{SVG}text")]
    for i, text in enumerate(loose):
        assert not any(meet(text, other) for other in [*boxes, *loose[:i]])


def test_a_narrow_picture_has_the_same_texts_in_the_width_of_a_telephone():
    lane = Lane(1, (Step("project", "384->64", "384→64"),) * 4, Box("c2", "f32[B, 64]"), "seen from afar")
    diagram = Diagram("", "New", ("Old", "list of 1"), ((Box("x", "f32[B, 3]"), ()),), (Box("blocks.2", ""),), (lane,))
    wide, narrow = (ElementTree.fromstring(draw(diagram)) for draw in (svg, narrow_svg))
    assert float(narrow.get("width")) == 352 < float(wide.get("width"))
    assert float(narrow.get("height")) > float(wide.get("height"))
    texts = [{text.text for text in root.iter(f"{SVG}text")} for root in (wide, narrow)]
    assert texts[0] - texts[1] == {"adapters"}
    assert len(narrow.findall(f"{SVG}path[@class='aa-tip']")) == 5


def test_sources_stand_in_their_own_order_whichever_order_they_are_asked_for_in():
    sources = tuple(Box(f"block{i}", "f32[B, 8]") for i in range(4))
    lanes = tuple(Lane(4 - i, (), Box(f"out{i}", "f32[B, 8]")) for i in range(4))
    pictures = [
        svg(Diagram("", "New", ("Old", ""), ((Box("x", "f32[B]"), ()),), sources, asked))
        for asked in (lanes, lanes[::-1])
    ]
    root, in_order = map(ElementTree.fromstring, pictures)
    assert root.get("height") == in_order.get("height")
    tops = {text.text: float(text.get("y")) for text in root.iter(f"{SVG}text")}
    assert [tops[f"block{i}"] for i in range(4)] == sorted(tops[f"block{i}"] for i in range(4))
    assert [tops[f"out{i}"] for i in range(4)] == sorted(tops[f"out{i}"] for i in range(4))


def test_a_remark_of_many_lanes_is_written_out_once():
    lanes = tuple(Lane(0, (), Box(f"out{i}", ""), "seen from afar" if i else "only here") for i in range(6))
    picture = svg(Diagram("", "New", ("Old", ""), ((Box("x", ""), ()),), (), lanes))
    assert picture.count("seen from afar") == 1
    assert picture.count(">note 1<") == 5
    assert picture.count("only here") == 1


def test_every_operation_has_a_word_and_colours_of_its_own():
    kinds = get_args(get_args(Operation)[0])
    assert {kind.model_fields["op"].default.split()[0] for kind in kinds} == set(COLOURS)
    assert all(kind.says for kind in kinds)
    for which in ("light", "dark"):
        told = told_colours(which)
        assert len({(told[f"{name}-fill"], told[f"{name}-edge"]) for name in COLOURS}) == len(COLOURS)


def luminance(colour):
    def linear(value):
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """As WCAG 2 has it."""
    dark, bright = sorted((luminance(one), luminance(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("which", ["light", "dark"])
def test_texts_and_edges_stand_out_from_what_is_behind_them(which):
    told = told_colours(which)
    for behind in (told["back"], told["panel"], *(told[f"{name}-fill"] for name in COLOURS)):
        assert contrast(told["ink"], behind) >= 7
        assert contrast(told["muted"], behind) >= 4.5
    for name in ("good", "bad"):
        assert contrast(told[name], told["back"]) >= 4.5
    for name in COLOURS:
        assert contrast(told[f"{name}-edge"], told["back"]) >= 3
    assert contrast(told["wire"], told["panel"]) >= 2.5


TABLE = Table(
    (Column("name"), Column("chain"), Column("count", right=True), Column("empty"), Column("long", brief=False)),
    (
        (Name("[red]a[/red]"), Steps(()), "12", "", "only on a page"),
        (Name("\x1b[31mb", strong=True), Steps((Step("project", "3→5", "3→5"), Step("x", "y", ""))), "3", "", ""),
    ),
    "a title",
)
SECTION = Section(
    "Kind",
    "of everything",
    (
        TABLE,
        Facts((("label", "text"), ("share", Share(0.5, "50 %")), ("ended", Badge("well", "good")))),
        Faults((Mismatch("[bold]c5", "32", "16", "pad\nor crop"),)),
        Folded("more", (Code("unfolded"),)),
        Code("print(1 < 2)"),
        Section("", "inner", ()),
    ),
    Badge("failed", "bad"),
)


class Everything(Shown):
    """A result with parts of every kind."""


@section_of.register
def _(result: Everything) -> Section:
    return SECTION


def printed(result, width=80):
    """What rich writes to a terminal without colours."""
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False)
    console.print(result)
    return console.file.getvalue()


def test_in_a_terminal_names_are_no_markup_and_no_escape_codes():
    text = printed(Everything())
    assert [line.rstrip() for line in text.splitlines()] == [
        "Kind  of everything   failed",
        "",
        "a title",
        " name          chain     count",
        " [red]a[/red]  as it is     12",
        r" \x1b[31mb     3→5 · y       3",
        "",
        " label  text",
        " share  50 %",
        " ended  well",
        "",
        "[bold]c5",
        "  expected  32",
        "  found     16",
        "  try       pad",
        "            or crop",
        "",
        " more",
        "",
        "print(1 < 2)",
        "",
        "inner",
    ]


def test_steps_are_broken_between_and_never_within():
    chain = tuple(Step("rearrange", text, "") for text in ("b (h w) c → b c h w", "384→2048", "resize"))
    table = Table((Column("chain"), Column("n", right=True)), ((Steps(chain), "1"),))

    class Narrow(Shown):
        """A result with one chain."""

    section_of.register(Narrow, lambda result: Section("", "chain", (table,)))
    for width, lines in ((80, 1), (40, 2), (26, 2)):
        text = printed(Narrow(), width)
        assert all(len(line.rstrip()) <= width for line in text.splitlines())
        assert all(step.text in text for step in chain)
        assert sum(any(step.text in line for step in chain) for line in text.splitlines()) == lines


def test_on_a_page_parts_of_every_kind_are_what_they_are_called():
    read = Read(fragment(SECTION))
    tags = [tag for tag, _ in read.tags]
    assert {"table", "caption", "dl", "details", "summary", "pre", "h2", "h3"} <= set(tags)
    assert "empty" not in read.texts
    assert {"only on a page", "[red]a[/red]", r"\x1b[31mb", "as it is", "print(1 < 2)", "unfolded"} <= set(read.texts)
    assert ("span", {"class": "aa-badge aa-bad"}) in read.tags


def test_long_words_may_be_broken_without_a_change_of_their_text():
    long = "encoder.layer.attention.self.query" + "x" * 40
    read = Read(fragment(Section("", "", (Facts((("name", Name(long)),)),))))
    assert ("wbr", {}) in read.tags
    assert long in "".join(read.texts)


def test_a_result_that_says_no_more_shows_its_text():
    class Plain(Shown):
        def __str__(self):
            return "plain <text>"

    assert "<pre>plain &lt;text&gt;</pre>" in Plain()._repr_html_()
    assert "plain <text>" in printed(Plain())


def test_what_is_no_result_is_refused_with_what_to_pass_instead():
    with pytest.raises(AdaptError) as caught:
        section_of(object())
    assert str(caught.value).splitlines() == [
        "this is no result that could be shown",
        "results",
        "  expected  a Plan, a Verification or another result",
        "  found     builtins.object",
        "  try       net.plan, net.verify()",
    ]
