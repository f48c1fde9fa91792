"""The file that `to_source` writes needs torch alone, loads the state dict, gives the same bits, and is tidy."""

from __future__ import annotations

import ast
import copy
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from plan_kinds import KINDS as PLAN_KINDS, example, texts
from saved_models import KINDS, Made, contract, images, made
from small_models import Pair, Plain, Pyramid, Record, Wrapped, image
from standalone_files import standalone
from torch import nn

import autoadapt as aa
from autoadapt.contracts.trees import flatten

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all the files of this module are, to be looked at together."""
    return tmp_path_factory.mktemp("standalone")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_the_file_gives_the_same_bits_with_the_same_state_dict(kind, folder):
    one = made(kind)
    other = standalone(one.net, one.new, folder / f"model_{list(KINDS).index(kind)}.py")
    assert one.same(other)
    assert one.same(copy.deepcopy(other))


@pytest.mark.parametrize("kind", PLAN_KINDS)
def test_every_kind_of_plan_becomes_a_file(kind, folder):
    one, net = example(kind)
    inputs = one.inputs if isinstance(one.inputs, tuple) else (one.inputs,)
    other = standalone(net, one.new, folder / f"plan_{list(PLAN_KINDS).index(kind)}.py")
    assert Made(net, one.new, inputs).same(other)


@pytest.mark.parametrize("container", [Pair, Record], ids=lambda cls: cls.__name__)
def test_classes_of_outputs_are_imported_from_where_they_are(container, folder):
    new = Pyramid(6, 12)
    net = aa.adapt(new, like=Wrapped(container), inputs=image()).eval()
    other = standalone(net, new, folder / f"{container.__name__.lower()}.py")
    assert Made(net, new, (image(),)).same(other)
    assert type(other(image())) is container


@pytest.fixture(scope="module")
def whole_folder(folder: Path) -> Path:
    """All files, also where this is the only test that runs."""
    for i, kind in enumerate(KINDS):
        if not (folder / f"model_{i}.py").exists():
            aa.to_source(made(kind).net, folder / f"model_{i}.py")
    return folder


def run(*command: object) -> str:
    done = subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("config", [["--isolated"], ["--config", ROOT / "pyproject.toml"]], ids=["default", "ours"])
def test_the_files_pass_ruff_at_any_line_length(config, whole_folder):
    assert len(list(whole_folder.glob("*.py"))) >= len(KINDS)
    assert run("ruff", "check", *config, whole_folder) == ""
    for width in (88, 100, 120):
        assert run("ruff", "format", "--check", *config, "--line-length", width, whole_folder) == ""


@pytest.mark.slow
def test_the_files_pass_mypy_as_strict_as_it_is(whole_folder, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT / "tests"))
    options = ["--strict", "--python-version", "3.10", "--cache-dir", ROOT / ".mypy_cache"]
    (whole_folder / "mypy.ini").write_text("[mypy]\n[mypy-transformers.*]\nfollow_imports = skip\n")
    config = ["--config-file", whole_folder / "mypy.ini"]
    assert run("mypy", *config, *options, *sorted(whole_folder.glob("*.py"))) == ""


@pytest.mark.slow
def test_the_files_import_torch_and_the_classes_of_outputs_alone(whole_folder):
    allowed = {"__future__", "collections", "functools", "math", "threading", "typing", "torch"}
    for i, kind in enumerate(KINDS):
        tree = ast.parse((whole_folder / f"model_{i}.py").read_text(encoding="utf-8"))
        names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        found = {name.partition(".")[0] for name in names} - allowed
        assert found == ({"transformers"} if kind == "a class of transformers" else set())


ALONE = """
import sys
sys.modules["autoadapt"] = None
sys.path[:0] = ["", sys.argv[1]]
import torch, point_clouds, thinned
net = thinned.Adapted(point_clouds.PointTransformer(count=24)).eval()
net.load_state_dict(torch.load(sys.argv[2], weights_only=True))
torch.save(list(net(torch.load(sys.argv[3], weights_only=True)).values()), sys.argv[4])
"""


@pytest.mark.slow
def test_a_process_that_cannot_import_autoadapt_runs_it(tmp_path):
    one = made("points, thinned")
    aa.to_source(one.net, tmp_path / "thinned.py")
    torch.save(one.net.state_dict(), tmp_path / "weights.pt")
    torch.save(one.inputs[0], tmp_path / "x.pt")
    arguments = [tmp_path, tmp_path / "weights.pt", tmp_path / "x.pt", tmp_path / "y.pt"]
    subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True, cwd=ROOT / "tests", capture_output=True)
    found = torch.load(tmp_path / "y.pt", weights_only=True)
    assert all(map(torch.equal, found, one.outputs(one.net)[1]))


@pytest.mark.slow
def test_the_plan_is_the_docstring(whole_folder):
    one = made("vit with taps, at one size")
    lines = ast.get_docstring(ast.parse((whole_folder / "model_1.py").read_text(encoding="utf-8"))).splitlines()
    said = "timm:vit_tiny_patch16_224 (VisionTransformer) in the contract of module, as autoadapt"
    assert lines[:2] == [said, f"{aa.__version__} built it."]
    assert "timm:vit_tiny_patch16_224 (timm.models.vision_transformer.VisionTransformer)" in lines[6]
    for line in str(one.net.plan).splitlines():
        assert f"    {line}".rstrip() in lines


def test_the_class_reads_like_one_that_a_person_wrote():
    text = aa.to_source(made("vit with taps, at one size").net)
    assert text[text.index("class Adapted") :] == EXPECTED


EXPECTED = '''class Adapted(nn.Module):
    """VisionTransformer with the signature of module."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        for path, name, value in NATIVE:  # images are read at their own size
            setattr(backbone.get_submodule(path), name, value)
        for path in UNUSED:  # they only serve what is not read
            is_stage = isinstance(backbone.get_submodule(path), nn.Sequential)
            backbone.set_submodule(path, nn.Sequential() if is_stage else nn.Identity())
        self.backbone = backbone
        self.adapters = nn.ModuleDict(
            {
                "0": nn.Sequential(OrderedDict(project=conv1x1(192, 256, spatial=2))),
                "1": nn.Sequential(OrderedDict(project=conv1x1(192, 512, spatial=2))),
                "2": nn.Sequential(OrderedDict(project=conv1x1(192, 1024, spatial=2))),
            },
        )
        self.adapters.to(backbone.get_parameter("cls_token"))
        for path in TAPS:
            module = backbone.get_submodule(path)
            module.register_forward_hook(partial(self._take, path))
        self._calls = RunningCalls()

    def _take(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        """Keep what an inner module returns, call by call."""
        if self._calls.taken:
            self._calls.taken[-1].setdefault(path, []).append(output)

    def _tapped(self, *args: Any, **kwargs: Any) -> list[Any]:
        """What the inner modules return while the backbone runs."""
        taken: dict[str, list[Any]] = {}
        self._calls.taken.append(taken)
        try:
            self.backbone(*args, **kwargs)
        finally:
            self._calls.taken.pop()
        return [taken[path][0] for path in TAPS]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        height, width = x.shape[2], x.shape[3]
        x = resize(x, [16 * ((height + 15) // 16), 16 * ((width + 15) // 16)])
        features = self._tapped(x)  # blocks.0, blocks.1, blocks.2
        level_0 = features[0][:, 1:]
        level_0 = level_0.unflatten(1, ((height + 15) // 16, (width + 15) // 16))
        level_0 = self.adapters["0"](level_0.permute(0, 3, 1, 2))
        level_0 = resize(level_0, [(height + 3) // 4, (width + 3) // 4])
        level_1 = features[1][:, 1:]
        level_1 = level_1.unflatten(1, ((height + 15) // 16, (width + 15) // 16))
        level_1 = self.adapters["1"](level_1.permute(0, 3, 1, 2))
        level_1 = resize(level_1, [(height + 7) // 8, (width + 7) // 8])
        level_2 = features[2][:, 1:]
        level_2 = level_2.unflatten(1, ((height + 15) // 16, (width + 15) // 16))
        level_2 = self.adapters["2"](level_2.permute(0, 3, 1, 2))
        return [level_0, level_1, level_2]
'''


class Shared(nn.Module):
    """One block that is called twice, and blocks that return more than a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.block = Several()
        self.last = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = self.block(x)["maps"][1]
        return self.last(x)


class Several(nn.Module):
    """A dict with a list in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        made = self.conv(x)
        return {"maps": [x, made.relu()]}


@pytest.mark.parametrize("call", [0, 1])
def test_taps_count_calls_and_look_into_containers(call, tmp_path):
    like = texts(["f32[B, 5, ceil(H/2), ceil(W/2)]", "f32[B, 5, ceil(H/4), ceil(W/4)]"])
    name = f"block{'@1' if call else ''}:maps.1"
    new = Shared()
    net = aa.adapt(new, like=like, inputs=image(), taps={"0": name, "1": "last"}).eval()
    assert net.plan.taps[name].call == call
    other = standalone(net, new, tmp_path / "shared.py")
    assert Made(net, new, (image(),)).same(other)
    assert f'leaf(taken["block"][{call}], "maps.1")' in aa.to_source(net)


def test_what_takes_no_gradient_takes_none_in_the_file(tmp_path):
    new = Plain()
    like = texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"})
    for frozen in ("backbone.body.stages.0", "backbone.body.stages.1.0.weight", ""):
        net = aa.adapt(new, like=like, inputs=image())
        part = net.get_parameter(frozen) if frozen.endswith("weight") else net.get_submodule(frozen)
        part.requires_grad_(False)
        other = standalone(net, new, tmp_path / "frozen.py")
        flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
        assert {name: parameter.requires_grad for name, parameter in other.named_parameters()} == flags
        assert not all(flags.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_adapters_follow_the_backbone_or_keep_a_dtype_of_their_own(dtype, tmp_path):
    new = Plain().to(dtype)
    net = aa.adapt(Plain(), like=texts("f32[B, 5]"), inputs=image(), pairs={"output": "maps.0"}).to(dtype).eval()
    other = standalone(net, new, tmp_path / "cast.py").eval()
    assert {p.dtype for p in other.parameters()} == {dtype}
    assert torch.equal(other(image().to(dtype)), net(image().to(dtype)))
    net.adapters.half()
    other = standalone(net, new, tmp_path / "own.py")
    assert {p.dtype for p in other.adapters.parameters()} == {torch.float16}


def test_plain_attributes_are_in_the_file_and_others_are_named_as_left_out(tmp_path):
    net = aa.adapt(Pyramid(3, 5), like=Pyramid(4, 8), inputs=image())
    net.strides, net.owner = {"c2": 2, "c4": 4}, object()
    other = standalone(net, Pyramid(3, 5), tmp_path / "said.py")
    assert (other.out_channels, other.strides) == ([4, 8], {"c2": 2, "c4": 4})
    assert "Not in this file: owner." in aa.to_source(net)
    net.register_forward_hook(lambda _module, _args, output: output)
    assert "Not in this file: owner, hooks of the module." in aa.to_source(net)


@pytest.mark.slow
def test_the_file_trains_pickles_compiles_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    new = timm.create_model("resnet18")
    net = aa.adapt(
        new, like=contract(["f32[B, 5, ceil(H/4), ceil(W/4)]", "f32[B, 5, ceil(H/8), ceil(W/8)]"]), inputs=images()
    )
    aa.to_source(net, tmp_path / "written_to_be_imported.py")
    other = importlib.import_module("written_to_be_imported").Adapted(copy.deepcopy(new))
    other.load_state_dict(net.state_dict())
    sum(level.square().mean() for level in other(images())).backward()
    assert all(parameter.grad is not None for parameter in other.parameters() if parameter.requires_grad)
    assert other._calls.taken == []
    expected = net.eval()(images())
    other.load_state_dict(net.state_dict())
    again = pickle.loads(pickle.dumps(other.eval()))
    assert all(map(torch.equal, again(images()), expected))
    torch._dynamo.reset()
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    assert all(map(torch.equal, compiled(images()), expected))
    torch._dynamo.reset()


def test_the_names_of_arguments_are_kept():
    old = nn.Conv2d(3, 8, 2, stride=2)
    net = aa.adapt(nn.Conv2d(3, 5, 2, stride=2), like=old, inputs=image())
    assert "def forward(self, input: torch.Tensor) -> torch.Tensor:" in aa.to_source(net)
    assert torch.equal(net(input=image()), net(image()))


# What is refused


def test_layers_that_are_not_those_of_the_plan_are_refused(tmp_path):
    net = aa.adapt(Plain(), like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image())
    net.adapters["c4"].project = nn.Conv2d(12, 5, 3, padding=1)
    with pytest.raises(aa.SavingError) as caught:
        aa.to_source(net, tmp_path / "net.py")
    fault = caught.value.mismatches[0]
    assert (fault.where, fault.expected) == ("adapters.c4.project", "a map of 12 to 5 channels")
    assert fault.remedy.startswith("aa.build(new, net.plan)")
    assert not (tmp_path / "net.py").exists()


def test_only_adapted_modules_become_files():
    with pytest.raises(aa.SavingError) as caught:
        aa.to_source(nn.Sequential(example("map to a vector")[1]))
    assert caught.value.mismatches[0].remedy == 'aa.to_source(model.get_submodule("0"), ...)'


class Named(nn.Module):
    """Calls its image by a name that a file needs for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Pyramid(4)

    def forward(self, torch: torch.Tensor) -> list[torch.Tensor]:
        return self.body(torch)


def test_an_argument_whose_name_the_file_needs_is_refused():
    net = aa.adapt(Pyramid(5), like=Named(), inputs=image())
    with pytest.raises(aa.SavingError, match="argument torch"):
        aa.to_source(net)


def test_a_class_of_a_script_is_refused(monkeypatch):
    net = aa.adapt(Pyramid(6, 12), like=Wrapped(Pair), inputs=image())
    monkeypatch.setattr(Pair, "__module__", "__main__")
    with pytest.raises(aa.SavingError, match="a class that a file can import"):
        aa.to_source(net)


def test_an_older_file_is_whole_when_writing_fails(tmp_path):
    path = tmp_path / "net.py"
    path.mkdir()
    (path / "inside").write_text("here")
    net = aa.adapt(Pyramid(5), like=Pyramid(4), inputs=image())
    with pytest.raises(aa.SavingError, match="nothing was done"):
        aa.to_source(net, path)
    assert [found.name for found in tmp_path.iterdir()] == ["net.py"]
    assert (path / "inside").read_text() == "here"


def test_it_returns_the_text_that_it_writes(tmp_path):
    net = aa.adapt(Pyramid(5), like=Pyramid(4), inputs=image())
    written = aa.to_source(net, tmp_path / "deep" / "net.py")
    assert written == tmp_path / "deep" / "net.py"
    assert written.read_text(encoding="utf-8") == aa.to_source(net)
    assert flatten(net(image()))[0] == flatten(Pyramid(4)(image()))[0]
