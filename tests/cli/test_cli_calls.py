"""Calls that are wrong in themselves, and what a shell says of an error: every line of it, by text and exit code."""

import pytest
from command_runs import model_folder, run  # noqa: F401 (a fixture)

OLD, NEW, IMAGE = ("--like", "mine.py:old"), "mine.py:narrow", ("--input", "f32[1, 3, 64, 64]")


def said(*words):
    """What a call that fails says, in one line, and its exit code."""
    result = run(*words)
    return " ".join(result.stderr.split()), result.exit_code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("adapt", NEW, "--like", "f32[B, 8, H, W]", "--like=f32[B, 4, H, W]"),
            "--like is given 2 times and takes one value try "
            """--like '["f32[B, 8, H, W]", "f32[B, 4, H, W]"]' # several outputs""",
        ),
        (("plan", NEW, *OLD, *OLD), "--like is given 2 times and takes one value try --like mine.py:old"),
        (
            ("adapt", NEW, *OLD, "--fit", "pad", "--fit", "resize"),
            "--fit is given 2 times and takes one value try --fit pad --fit resize",
        ),
        (
            ("adapt", NEW, *OLD, "--project-bias", "--no-project-bias"),
            "takes one value try --project-bias --no-project-bias",
        ),
    ],
)
def test_an_option_of_one_value_that_is_given_twice_is_refused(folder, words, says):
    text, code = said(*words)
    assert code == 2
    assert says in text


def test_an_option_of_several_values_may_be_given_again(folder):
    assert run("plan", NEW, *OLD, *IMAGE, "--allow", "mine.py", "--allow", "timm").exit_code == 0


def test_why_something_is_refused_is_said(folder):
    text, code = said("plan", NEW, "--like", "f32[8, ceil(H/4), ceil(W/4)]", *IMAGE)
    assert code == 1
    assert "why samples of a batch are not averaged, and the target has no axis B for them try --like" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", NEW, *OLD, "--input", "x.npy"), "there is no file x.npy: expected a file, found no such file"),
        (("plan", NEW, *OLD, "--input", "x.safetensors"), "try --input 'f32[2, 3, 224, 224]'"),
        (
            ("adapt", NEW, *OLD, *IMAGE, "--channels", "b,g"),
            "expected 3 names, found 2 (b, g) try --channels b,g,r see",
        ),
        (("adapt", NEW, *OLD, *IMAGE, "--out", "mine.py"), "mine.py is a file, where a folder is to be written"),
        (
            ("swap", "mine.py:Net", "bakbone", NEW, *IMAGE),
            "there is no module at `bakbone`: expected the path of a submodule, found no module of that name; nearest: "
            "backbone, backbone.1, backbone.0 try autoadapt swap mine.py:Net backbone mine.py:narrow",
        ),
        (("swap", "mine.py:Net", "bakbone:head", NEW, *IMAGE), "try autoadapt swap mine.py:Net backbone:head"),
    ],
)
def test_a_call_with_a_wrong_name_exits_with_two_and_says_what_was_meant(folder, words, says):
    text, code = said(*words)
    assert code == 2
    assert says in text


@pytest.mark.parametrize("words", [("adapt", NEW, *OLD, "--resolution", "huge"), ("models", "--count", "-1")])
def test_no_words_of_pydantic_are_said(folder, words):
    text, code = said(*words)
    assert code == 2
    assert "Value error" not in text
    assert "Input should" not in text
