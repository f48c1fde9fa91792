"""What no command can take in the place of a model or a file: exit code 2, in a line, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_runs import model_folder, run  # noqa: F401 (a fixture)

import autoadapt as aa

IMAGE = ("--input", "f32[1, 3, 64, 64]")
MODEL_SLOTS = {
    "capture": ("capture", "SOURCE", *IMAGE),
    "plan": ("plan", "SOURCE", "--like", "mine.py:old", *IMAGE),
    "adapt": ("adapt", "SOURCE", "--like", "mine.py:old", *IMAGE),
    "verify": ("verify", "SOURCE"),
    "swap": ("swap", "SOURCE", "backbone", "mine.py:narrow", *IMAGE),
    "regions": ("regions", "SOURCE", *IMAGE),
    "export": ("export", "SOURCE", "out.pt2", *IMAGE),
    "fold": ("fold", "SOURCE", "out.pt2", *IMAGE),
    "rank": ("rank", "SOURCE", "--like", "mine.py:old", *IMAGE),
    "transfer": ("transfer", "weights.pth", "SOURCE"),
    "check": ("check", "SOURCE", "lock.json", *IMAGE),
    "the new one of swap": ("swap", "mine.py:Net", "backbone", "SOURCE", *IMAGE),
    "the new one of calibrate": ("calibrate", "SOURCE", "--like", "mine.py:old", "--images", "pictures"),
}
LIKE_SLOTS = {
    "plan --like": ("plan", "mine.py:narrow", "--like", "SOURCE", *IMAGE),
    "verify --like": ("verify", "mine.py:narrow", "--like", "SOURCE", *IMAGE),
    "rank --like": ("rank", "mine.py:narrow", "--like", "SOURCE", *IMAGE),
}
MISSING = {
    "nosuch.pt2": ("there is no nosuch.pt2", "check the path and the working folder"),
    "nosuch.json": ("there is no nosuch.json", "check the path and the working folder"),
    "min.py": ("there is no min.py", "mine.py"),
    "./nosuch/net": ("there is no ./nosuch/net", "check the path and the working folder"),
    r"C:\nosuch\net": (r"there is no C:\nosuch\net", "check the path and the working folder"),
    "nosuch.py:build": ("there is no file nosuch.py", "mine.py"),
    "mine.py:narow": ("mine.py has no narow", "mine.py:narrow"),
    "nosuch:net": ("unknown scheme `nosuch`", "--allow nosuch"),
    "torchvision:resnet81": ("torchvision has no model `resnet81`", "torchvision:resnet"),
    "empty": ("empty holds no model", "autoadapt adapt MODEL --like OLD --out empty"),
    "weights.pth": ("weights.pth is no model", "autoadapt transfer weights.pth MODEL"),
}
"""By what is typed: what is said, and what to do."""
NO_MODEL = {
    "lock.json": ("lock.json is no model", "autoadapt show lock.json"),
    "text.txt": ("text.txt is no model", "timm:resnet18"),
    "net.onnx": ("net.onnx is no model", "the model that it was exported from"),
    "config.yaml": ("config.yaml is no model", "autoadapt assemble config.yaml"),
    "resnet18": ("'resnet18' has no scheme", "timm:resnet18"),
    "someone/net": ("'someone/net' has no scheme", "hf:someone/net"),
    "": ("the name of a model is empty", "timm:resnet18"),
}


@pytest.fixture(name="files")
def files_of_other_kinds(folder: Path) -> Path:
    """The folder of models, and beside these what is no model."""
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "weights.pth").write_bytes(b"\x80\x02}q\x00.")
    (folder / "text.txt").write_text("hello")
    (folder / "net.onnx").write_bytes(b"\x08\x07")
    (folder / "config.yaml").write_text("backbone: {}\n")
    aa.Signature.parse("f32[B, 8]").save(folder / "lock.json")
    return folder


def check(slot: tuple[str, ...], source: str, said: str, remedy: str) -> None:
    refused = run(*[source if word == "SOURCE" else word for word in slot])
    text = " ".join(refused.stderr.split())
    assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
    assert said in text, text
    assert f"try {remedy}" in text, text


@pytest.mark.sampled(1)
@pytest.mark.parametrize("slot", MODEL_SLOTS)
def test_what_is_no_model_is_a_bad_call_of_every_command(slot: str, files: Path) -> None:
    for source, (said, remedy) in (MISSING | NO_MODEL).items():
        check(MODEL_SLOTS[slot], source, said, remedy)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("slot", LIKE_SLOTS)
def test_what_is_no_specification_is_a_bad_call_of_every_command(slot: str, files: Path) -> None:
    others = {"text.txt": ("text.txt holds no signature", "autoadapt capture MODEL --out signature.json")}
    for source, (said, remedy) in (MISSING | others).items():
        check(LIKE_SLOTS[slot], source, said, remedy)


@pytest.mark.parametrize(
    ("lock", "said", "remedy"),
    [
        ("nosuch.json", "found no such file", "autoadapt capture MODEL --out nosuch.json"),
        ("empty", "found a folder", "autoadapt capture MODEL --out signature.json"),
        ("weights.pth", "found bytes that are no text", "autoadapt capture MODEL --out signature.json"),
        ("mine.py", "found not JSON", "autoadapt capture MODEL --out signature.json"),
        ("ranking.json", "holds no signature", "autoadapt capture MODEL --out signature.json"),
    ],
)
def test_a_lock_that_is_no_signature_is_a_bad_call(lock: str, said: str, remedy: str, files: Path) -> None:
    (files / "ranking.json").write_text(json.dumps({"schema_version": 1, "rows": []}))
    check(("check", "mine.py:Net", "SOURCE", *IMAGE), lock, said, remedy)


@pytest.mark.parametrize(
    ("path", "said", "remedy"),
    [
        ("nosuch.json", "there is no nosuch.json", "check the path"),
        ("lok.json", "there is no lok.json", "lock.json"),
        ("timm:resnet18", "found the name of a model", "autoadapt capture timm:resnet18"),
        ("empty", "empty holds no model", "autoadapt adapt MODEL --like OLD --out empty"),
        ("mine.py", "found a program or code", "autoadapt capture mine.py:NAME --allow mine.py --input"),
        ("weights.pth", "found weights", "autoadapt transfer weights.pth MODEL"),
        ("weights.pt", "found weights", "autoadapt transfer weights.pt MODEL"),
        ("other.pt2", "found a program or code", "autoadapt capture other.pt2 --input"),
        ("other.ts", "a program of another maker", "export it anew"),
        ("text.txt", "holds nothing that can be shown", "autoadapt capture MODEL --out signature.json"),
        ("list.json", "holds nothing that can be shown", "autoadapt capture MODEL --out signature.json"),
        ("ranking.json", "holds nothing that can be shown", "autoadapt capture MODEL --out signature.json"),
    ],
)
def test_what_cannot_be_shown_is_a_bad_call(path: str, said: str, remedy: str, files: Path) -> None:
    (files / "list.json").write_text("[1, 2]")
    (files / "ranking.json").write_text(json.dumps({"schema_version": 1, "rows": 3}))
    for name in ("weights.pt", "other.pt2", "other.ts"):
        torch.save({}, files / name)
    check(("show", "SOURCE"), path, said, remedy)


@pytest.mark.parametrize(
    ("slot", "path", "said", "remedy"),
    [
        (MODEL_SLOTS["plan"], "net.py", "there is no net.py", "mine.py"),  # not net.onnx, which nothing runs
        (LIKE_SLOTS["verify --like"], "lok.json", "expected a signature (JSON), a name", "lock.json"),
        (("show", "SOURCE"), "min", "there is no min", "check the path"),  # not mine.py, which show refuses
        (LIKE_SLOTS["plan --like"], "f32[B, 8, H/4, W/4]", "'H/4' is not a dim", "H//4, which rounds down, or ceil"),
    ],
)
def test_a_remedy_names_what_the_command_takes(
    slot: tuple[str, ...], path: str, said: str, remedy: str, files: Path
) -> None:
    check(slot, path, said, remedy)


CODE_SLOTS = MODEL_SLOTS | LIKE_SLOTS
CODE_SLOTS |= {
    "calibrate --like": ("calibrate", "net", "--like", "SOURCE", "--images", "."),
    "calibrate --head": ("calibrate", "net", "--like", "net", "--head", "SOURCE", "--images", "."),
    "rank --head": ("rank", "net", "--like", "net", "--head", "SOURCE", *IMAGE),
}


@pytest.mark.parametrize("source", ["mine:Net", "torch.nn:Identity"])
def test_a_package_that_is_typed_is_not_allowed_by_that(source: str, folder: Path) -> None:
    refused = run("capture", source, allowed=False)
    assert refused.exit_code == 2
    assert f"try  --allow {source.partition(':')[0].partition('.')[0]}" in refused.stderr


@pytest.mark.slow
def test_code_is_run_by_no_command_without_allow(files: Path) -> None:
    call = ("adapt", "timm:test_resnet", "--like", "f32[B, 8, H//4, W//4]", *IMAGE)
    assert run(*call, "--out", "net", "--source", "net.py").exit_code == 0
    (files / "mine.py").write_text("raise SystemExit('this has run')")
    for source, allowed in {"net.py": "net.py", "mine.py:a": "mine.py"}.items():
        for name, slot in CODE_SLOTS.items():
            words = ["net" if word.startswith("mine.py:") else word for word in slot]
            refused = run(*[source if word == "SOURCE" else word for word in words], allowed=False)
            assert refused.exit_code == 2, (name, refused.output)
            assert f"try  --allow {allowed}" in refused.stderr, (name, refused.stderr)


def test_code_that_adapt_wrote_is_named_by_its_file_alone(files: Path) -> None:
    (files / "net.py").write_text("import torch\n\nclass Adapted(torch.nn.Module):\n    pass\n")
    assert "try  autoadapt capture net.py --allow net.py --input" in run("show", "net.py").stderr


@pytest.mark.slow
def test_results_that_commands_print_as_json_are_shown_again(files: Path) -> None:
    for name, call in {
        "plan": ("plan", "mine.py:narrow", "--like", "mine.py:old", *IMAGE),
        "swap": ("swap", "mine.py:Net", "backbone", "mine.py:narrow", *IMAGE),
        "rank": ("rank", "mine.py:narrow", "--like", "mine.py:old", *IMAGE),
        "capture": ("capture", "mine.py:Net", *IMAGE),
    }.items():
        (files / f"{name}.json").write_text(run(*call, "--json").stdout)
        shown, printed = run("show", f"{name}.json"), run(*call)
        assert shown.exit_code == 0, shown.output
        assert shown.stdout.splitlines()[0] == printed.stdout.splitlines()[0]


def test_a_home_folder_that_the_shell_did_not_write_out_is_that_of_the_user(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "home")
    monkeypatch.setenv("USERPROFILE", "home")
    (files / "home").mkdir()
    assert run("capture", "mine.py:Net", "--out", "~/lock.json", *IMAGE).exit_code == 0
    assert run("check", "mine.py:Net", "~/lock.json", *IMAGE).exit_code == 0
    assert run("show", "~/lock.json").exit_code == 0
    assert run("plan", "mine.py:Net", "--like", "~/lock.json", *IMAGE).exit_code == 0
    assert not (files / "~").exists()
