"""Imports run downwards only, importing is cheap, and the exported names are the ones promised."""

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autoadapt

PACKAGE = Path(autoadapt.__file__).parent

ORDER = [
    "errors",
    "versions",
    "files",
    "showing",
    "contracts",
    "weights",
    "sources",
    "adapting",
    "swapping",
    "saving",
    "assembly",
    "testing",
    "demo",
    "calibration",
    "ranking",
    "reports",
    "cli",
]
"""From the ground up. A new room gets its place here, above everything that it imports."""

INSIDE = {
    "contracts": [
        "clocks",
        "facts",
        "leaves",
        "registered",
        "trees",
        "remaking",
        "dims",
        "signature",
        "allocations",
        "instances",
        "layer_kinds",
        "plain_modules",
        "kept_weights",
        "deep_copies",
        "origins",
        "modes",
        "caches",
        "made_tables",
        "meta_tensors",
        "norm_rules",
        "shape_rules",
        "meta_device",
        "randomness",
        "other_threads",
        "uncopyable",
        "closures",
        "unfit",
        "views",
        "native",
        "tapping",
        "capturing",
        "costs",
    ],
    "adapting": [
        "layers",
        "mask_layers",
        "token_layers",
        "operations",
        "coarse_steps",
        "asked_options",
        "layouts",
        "taps",
        "aligning",
        "refusals",
        "pairings",
        "matching",
        "thinning",
        "planning",
        "verification",
        "building",
        "given_contracts",
        "steps",
    ],
}
"""The same within a room: its files and folders from the ground up."""

FACADE = {"__init__", "__main__"}
"""They re-export, and hand over to the command line; nothing imports them."""

OPTIONAL = (
    "timm",
    "torchvision",
    "transformers",
    "rich",
    "segmentation_models_pytorch",
    "matplotlib",
    "typer",
    "joblib",
    "cloudpickle",
)

EXPORTED = [
    "AdaptError",
    "AdaptedModule",
    "AssemblyError",
    "BuildError",
    "Calibration",
    "CalibrationError",
    "CaptureError",
    "Dim",
    "Distillation",
    "ExportError",
    "Exported",
    "MatchError",
    "Mismatch",
    "Plan",
    "PlanError",
    "Ranking",
    "RankingError",
    "Saved",
    "SavingError",
    "Signature",
    "SignatureError",
    "SourceError",
    "Statistics",
    "Swap",
    "SwapError",
    "TensorSpec",
    "Transfer",
    "TransferError",
    "Verification",
    "VerificationError",
    "adapt",
    "assemble",
    "build",
    "calibrate",
    "capture",
    "describe",
    "distil",
    "dynamic_shapes",
    "export",
    "fold",
    "list_models",
    "load",
    "param_groups",
    "plan",
    "progress",
    "rank",
    "regions",
    "register",
    "restore",
    "save",
    "swap",
    "to_source",
    "transfer",
    "verify",
    "write_html",
]


COMING = {
    "Calibration",
    "Swap",
    "Transfer",
    "assemble",
    "calibrate",
    "load",
    "swap",
    "transfer",
}
"""Promised by the design; they move to EXPORTED when they are there."""


def parts(path):
    """Where a file stands, from the top: its room, then what is inside."""
    found = path.relative_to(PACKAGE).with_suffix("").parts
    return found[:-1] if found[-1] == "__init__" else found


def room(path):
    """The room that a file belongs to: the file itself, or the folder it stands in."""
    return parts(path)[0] if parts(path) else "__init__"


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if room(path) not in FACADE)


@functools.cache
def imported(path):
    """The modules of the package that a file imports, as parts, wherever in the file that stands, with the line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "autoadapt" and rest:
                found.append((tuple(rest), node.lineno))
    return found


def upward():
    """Imports of what stands above: among the rooms, and among the parts of one room that has an order inside."""
    for path in files():
        here = parts(path)
        for there, line in imported(path):
            same_room = here[0] == there[0]
            order = INSIDE.get(here[0], []) if same_room else ORDER
            left, right = (one[same_room : same_room + 1] for one in (here, there))
            if {*left, *right} <= set(order) and left and right and order.index(right[0]) > order.index(left[0]):
                yield f"{path.relative_to(PACKAGE)}:{line} imports {right[0]}, which stands above {left[0]}"


def test_the_top_level_holds_the_rooms_and_nothing_else():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix != ".typed" and path.name != "__pycache__"}
    assert sorted(found) == sorted([*ORDER, *FACADE])


def test_every_room_has_its_place_in_the_order():
    missing = sorted({room(path) for path in files()} - set(ORDER))
    assert not missing, (
        f"{', '.join(missing)}: not in ORDER of tests/test_architecture.py; put each above all that it imports"
    )


@pytest.mark.parametrize("wing", INSIDE)
def test_everything_inside_a_wing_has_its_place_in_the_order(wing):
    found = {parts(path)[1] for path in files() if room(path) == wing and len(parts(path)) > 1}
    assert sorted(found) == sorted(INSIDE[wing])


def test_imports_run_downwards_only():
    assert not list(upward())


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((name, ORDER[-1]) for name in ORDER[:-1]),
        *((f"{wing}.{name}", f"{wing}.{inside[-1]}") for wing, inside in INSIDE.items() for name in inside[:-1]),
    ],
)
def test_an_upward_import_is_found(low, high, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    planted = tmp_path.joinpath(*low.split("."), "planted.py")
    planted.parent.mkdir(parents=True)
    planted.write_text(f"from autoadapt.{high} import anything\n", encoding="utf-8")
    assert len(list(upward())) == 1


def test_within_a_folder_no_two_files_import_each_other():
    cycles = []
    for package in sorted({path.parent for path in files()} - {PACKAGE}):
        edges = {path.stem: siblings(path, package) for path in package.glob("*.py") if path.stem != "__init__"}
        cycles += [f"{package.name}.{name}" for name in edges if name in reachable(edges, edges[name])]
    assert not cycles


def siblings(path, package):
    """The files of its own folder that a file imports."""
    inside = parts(package / "__init__.py")
    found = [there for there, _ in imported(path) if there[: len(inside)] == inside and len(there) > len(inside)]
    return {there[len(inside)] for there in found}


def reachable(edges, start):
    """Everything that can be reached from some files by their imports."""
    found, left = set(), list(start)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += edges.get(name, ())
    return found


@pytest.mark.parametrize("name", ["contracts/leaves.py", "adapting/layers.py", "adapting/mask_layers.py"])
def test_what_source_inlines_imports_torch_alone(name):
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert {name.split(".")[0] for name in names} <= {"torch", "einops", *sys.stdlib_module_names}


def used_values(path):
    """Lines that use what `train()` or `eval()` of a module returns."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text if ".train(" in text or ".eval(" in text else "")
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [node.lineno for node in calls if node.func.attr in ("train", "eval") and id(node) not in alone]


def test_nobody_uses_what_train_or_eval_of_a_module_returns():
    """Many backbones that keep stages frozen override `train()` and return nothing."""
    roots = [PACKAGE, PACKAGE.parent / "examples", PACKAGE.parent / "benchmarks"]
    found = [
        f"{path.name}:{line}"
        for root in roots
        for path in sorted(root.rglob("*.py"))
        for line in used_values(path)
        if "digits.train(" not in path.read_text(encoding="utf-8").splitlines()[line - 1]
    ]
    assert not found


def test_the_facade_only_re_exports_lazily():
    """Names, where each comes from, and the two functions of PEP 562; the same names for type checkers."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    functions = [node.name for node in rest if isinstance(node, ast.FunctionDef)]
    assert functions == ["__getattr__", "__dir__"]
    allowed = (ast.ImportFrom, ast.Assign, ast.If, ast.Expr, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in rest)
    (checked,) = [node for node in rest if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in checked.body for alias in node.names}
    assert typed == autoadapt._PLACES
    assert set(typed) == set(autoadapt.__all__)


@pytest.mark.parametrize("name", EXPORTED)
def test_what_is_promised_is_exported(name):
    assert name in autoadapt.__all__
    assert getattr(autoadapt, name) is not None


def test_nothing_else_is_exported():
    assert set(autoadapt.__all__) - set(EXPORTED) <= COMING


def test_the_exported_names_are_sorted_unique_and_there():
    assert autoadapt.__all__ == sorted(set(autoadapt.__all__))
    assert all(hasattr(autoadapt, name) for name in autoadapt.__all__)


def test_everything_a_room_promises_is_there():
    for path in (path for path in files() if "__all__" in path.read_text(encoding="utf-8")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        typed = [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]  # imported on demand
        for node in [*tree.body, *typed]:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
            defined |= {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        promised = [ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and is_all(n)]
        for name in promised[0] if promised else []:
            assert name in defined, f"{path.name} promises {name}"


PRINTED = {"adapting/layers.py", "adapting/mask_layers.py", "adapting/token_layers.py", "contracts/leaves.py"}
"""Files that source inlines: its printer asks for their names."""


def test_underscores_alone_tell_what_a_file_offers():
    """A list of names beside them goes stale: 43 names that others imported were in none."""
    listing = {path.relative_to(PACKAGE).as_posix() for path in files() if "__all__ =" in path.read_text("utf-8")}
    assert {name for name in listing if not name.endswith("__init__.py")} == PRINTED


def test_nobody_imports_what_begins_with_an_underscore():
    found = [
        f"{path.relative_to(PACKAGE)}:{line} imports {'.'.join(there)}"
        for path in files()
        for there, line in imported(path)
        if there[-1].startswith("_")
    ]
    assert not found


def test_no_file_is_longer_than_400_lines():
    lengths = {path.relative_to(PACKAGE): path.read_text("utf-8").count("\n") for path in files()}
    assert not {path: count for path, count in lengths.items() if count > 400}


def test_no_function_has_more_than_40_lines_of_code():
    """Without its arguments and docstring, empty lines and remarks."""
    found = {}
    for path in files():
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[ast.get_docstring(node, clean=False) is not None :]
                span = lines[body[0].lineno - 1 : node.end_lineno] if body else []
                code = [line for line in span if line.strip() and not line.lstrip().startswith("#")]
                found[f"{path.relative_to(PACKAGE)}: {node.name}"] = len(code)
    assert not {place: count for place, count in found.items() if count > 40}


def is_all(node):
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"


def run(code):
    """What a new interpreter prints; it may keep compiled files, as that of anybody who installed the package does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_it_imports_no_optional_package():
    found = run(
        "import autoadapt, sys, json; from autoadapt import *;"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    assert {"autoadapt", "torch"} <= set(found)
    assert not set(OPTIONAL) & set(found)


IMPORT_TIMES = """
import json, time
start = time.process_time()
import torch
then = time.process_time()
from autoadapt import adapt, calibrate, capture, swap, transfer, verify
print(json.dumps([then - start, time.process_time() - then]))
"""


def test_importing_it_alone_imports_no_torch():
    assert not run(
        "import autoadapt, sys, json; print(json.dumps([n for n in ('torch', 'numpy') if n in sys.modules]))"
    )


@pytest.mark.measures
def test_importing_it_adds_less_than_a_third_to_importing_torch():
    """Of the processor's time, and the least of several turns: what else runs on a machine only adds to it."""
    run(IMPORT_TIMES)  # the first one reads from disk
    times = [run(IMPORT_TIMES) for _ in range(5)]
    torch_seconds = min(torch for torch, _ in times)
    added_seconds = min(added for _, added in times)
    assert added_seconds < torch_seconds / 3, times
