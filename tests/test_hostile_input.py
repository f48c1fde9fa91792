"""Whatever a file holds, it is read within limits, runs nothing, fetches nothing, and fails as an `AdaptError`."""

import ast
import contextlib
import inspect
import json
import os
import socket
import zipfile

import pytest
import torch
from hostile_files import restored
from torch import nn

import autoadapt as aa
from autoadapt.calibration.projections import set_weights
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature
from autoadapt.errors import AdaptError, AssemblyError, Mismatch, SignatureError, SourceError
from autoadapt.sources import load, load_backbone, zoos
from autoadapt.sources.permissions import refuse_foreign
from autoadapt.sources.zoos import nothing_fetched

EVIL = 'x"""\nimport os\nos.ran = True\n"""'


# Names


def adapted(name="Conv2d"):
    kind = type(name, (nn.Conv2d,), {})
    return aa.adapt(kind(3, 5, 2, 2), like=type(name, (nn.Conv2d,), {})(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", [EVIL, "a\nb", 'quote"', '"""', "back\\slash", "\x1b[31m", "\u202eabc"])
def test_a_class_of_any_name_becomes_a_file_of_one_class(name):
    text = aa.to_source(adapted(name))
    made = [type(node).__name__ for node in ast.parse(text).body]
    assert made == [type(node).__name__ for node in ast.parse(aa.to_source(adapted())).body]
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize("name", ["a = 1; import os  #", '"""\nimport os', "a\\", "\x1b[31m"])
def test_an_attribute_whose_name_is_none_is_left_out_and_told(name):
    net = adapted()
    setattr(net, name, 3)
    tree = ast.parse(aa.to_source(net))
    assert "Not in this file: " in ast.get_docstring(tree)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node.names[0].name == "os"]
    assert "setattr" not in ast.unparse(tree.body[1:])


@pytest.mark.parametrize("name", ["a\nb", "\x9b1m", "\u202e", "\x1b]0;x"])
def test_a_signature_whose_name_is_no_line_is_refused(tmp_path, name):
    data = json.loads(Signature.parse("f32[B]", inputs="f32[B]").model_dump_json())
    (tmp_path / "one.json").write_text(json.dumps(data | {"name": name}))
    with pytest.raises(SignatureError) as caught:
        Signature.load(tmp_path / "one.json")
    assert str(caught.value).isprintable() or all(line.isprintable() for line in str(caught.value).splitlines())


@pytest.mark.parametrize("name", ["x, y=print(1)", "__debug__", "lambda", "a b"])
def test_an_argument_that_is_no_name_is_refused(name):
    with pytest.raises(SignatureError, match="a name that Python does not allow"):
        Signature.parse("f32[B]", inputs={name: "f32[B]"})


def test_errors_show_control_characters_as_text():
    error = AdaptError("bad \x1b[31m", [Mismatch("a\u202e", "b\x9b", "c", "d\x07")])
    assert str(error).replace("\n", "").isprintable()
    assert r"\x1b[31m" in str(error)


# Nothing is fetched


@pytest.mark.parametrize(
    ("source", "options", "asked"),
    [
        ("timm:hf-hub:someone/model", {}, "hf-hub:someone/model"),
        ("hf:someone/model", {}, "someone/model"),
        ("timm:resnet18", {"pretrained_cfg": {"url": "https://a.b/c"}}, "https://a.b/c"),
        ("timm:resnet18", {"checkpoint_path": "/etc/passwd"}, "/etc/passwd"),
        ("timm:resnet18", {"checkpoint_path": "weights"}, "weights"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "DEFAULT"),
        ("hf:detr", {"use_pretrained_backbone": True}, "True"),
    ],
)
def test_what_a_folder_asks_to_be_fetched_or_read_is_refused_and_listed(source, options, asked):
    with pytest.raises(SourceError) as caught:
        refuse_foreign("source", source, options, [])
    assert asked in caught.value.summary
    refuse_foreign("source", source, options, [asked])


def test_a_folder_cannot_allow_its_own_code(tmp_path):
    """`allow` among the options of the backbone reached `load` as if its caller had said it, and the command ran."""
    ran = tmp_path / "ran"
    for name, options in [
        ("os:system", {"allow": ["os"], "command": f"touch {ran}"}),
        ("torch.nn:Conv2d", {"allow": ["torch"], "in_channels": 3, "out_channels": 2, "kernel_size": 1}),
    ]:
        with pytest.raises(AdaptError, match="allow"):
            restored(tmp_path, name, **options)
    with pytest.raises(AdaptError, match="allow"):
        aa.assemble(
            {"backbone": {"type": "timm:test_resnet", "allow": ["os"]}, "head": {"type": "linear", "classes": 3}}
        )
    assert not ran.exists()


@pytest.mark.parametrize("verb", [load, load_backbone])
def test_whatever_only_a_caller_may_say_to_load_is_refused_of_a_file(verb):
    own = set(inspect.signature(verb).parameters) - {"options", "pretrained"}  # a file may ask for published weights
    for name in own:
        with pytest.raises(SourceError, match=name):
            refuse_foreign("source", "timm:resnet18", {name: "x"}, ["x"])


@pytest.mark.parametrize("options", [{}, {"drop_path_rate": 0.1, "out_indices": [1, 2]}, {"act_layer": "gelu"}])
def test_options_that_read_nothing_are_let_through(options):
    refuse_foreign("source", "timm:vit_tiny_patch16_224.augreg_in21k", options, [])


def test_a_config_may_ask_for_published_weights_but_for_no_address():
    refuse_foreign("backbone", "timm:resnet18", {"pretrained": True}, [], published=True)
    with pytest.raises(AdaptError, match="hf-hub:someone"):
        aa.assemble({"backbone": {"type": "timm:hf-hub:someone/model"}, "head": {"type": "linear", "classes": 3}})


# Limits


@pytest.mark.parametrize(
    "text",
    [
        "*".join(f"(H + {i})*(W + {i})" for i in range(1, 21)),
        " + ".join(f"floor(H/{i})" for i in range(2, 20_002)),
        "*".join(["(B + C + D + E + F + G)"] * 12),
        "-" * 5000 + "H",
    ],
)
def test_a_dim_of_too_many_terms_is_refused_by_its_length(text):
    with pytest.raises(SignatureError):
        Dim.parse(text)


def signature_text(**changes):
    data = json.loads(Signature.parse(["f32[B, 8]"], inputs="f32[B, 3, H]").model_dump_json())
    return json.dumps(data | changes)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema_version": ' + "1" * 5000 + "}",
        "",
        "null",
        signature_text(name=3),
        signature_text(outputs=[]),
        signature_text(outputs={"tree": {"tree": "tensor"}, "leaves": []}),
        signature_text(outputs={"tree": {"tree": "tensor"}, "leaves": [{"dtype": "f32", "dims": ["0 - 5"]}]}),
        signature_text(axes={"B": {"example": 10**6}, "H": {"example": 10**6}}),
    ],
)
def test_a_file_that_holds_no_signature_is_an_error_of_ours(tmp_path, text):
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(SignatureError):
        Signature.load(tmp_path / "one.json")


@pytest.mark.parametrize("name", ["nul\0l", "a" * 300])
def test_a_name_that_no_file_has_is_an_error_of_ours(name):
    for read in (Signature.load, aa.restore, aa.assemble):
        with pytest.raises(AdaptError):
            read(name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    for read in (lambda: Signature.load(tmp_path / "config.json"), lambda: aa.restore(tmp_path)):
        with pytest.raises(AdaptError) as caught:
            read()
        assert "a pipe or a device" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "1:" * 5000 + "1\nb: 2",
        "a: 2\nb: " + "[" * 900 + "]" * 900,
        "a: 1\n" * 500_000,
        "a: 2\nb: " + "1" * 5000,
        "a: 2\nb: \0",
        "{" * 5000 + "\n",
    ],
)
def test_a_config_beyond_the_limits_is_refused(text):
    with pytest.raises(AssemblyError):
        aa.assemble(text)


def test_an_index_that_names_itself_or_very_many_shards_is_refused(tmp_path):
    index = tmp_path / "pytorch_model.bin.index.json"
    for names in ({"a": index.name}, {str(i): f"{i}.bin" for i in range(200_000)}, {"a": 3}, ["a"], {"a": "b\0"}):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(SourceError):
            aa.transfer(index, nn.Linear(2, 2))


def test_a_compressed_pickle_and_dicts_that_share_each_other_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.zeros(2, 2)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(SourceError, match="compressed inside"):
        aa.transfer(tmp_path / "b.pth", nn.Linear(2, 2))
    shared: dict[str, object] = {"weight": torch.zeros(2, 2)}
    for _ in range(5):
        shared = {str(i): shared for i in range(60)}
    torch.save(shared, path)
    with pytest.raises(AdaptError, match="too many containers"):
        aa.transfer(path, nn.Linear(2, 2))


# All or nothing in models


class InterruptingError(BaseException):
    """As Ctrl-C between two writes."""


def test_calibrated_weights_are_written_to_all_adapters_or_to_none():
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    before = [parameter.detach().clone() for layer in layers for parameter in layer.parameters()]

    class Fails(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise InterruptingError

    good, bad = torch.ones(2, 2), torch.ones(2, 2).as_subclass(Fails)
    with pytest.raises(InterruptingError):
        set_weights(layers, [(good, torch.ones(2)), (bad, torch.ones(2))])
    after = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_a_swap_of_a_pattern_that_is_interrupted_leaves_every_place_as_it_was():
    class Heads(nn.ModuleDict):
        stops = False

        def register_module(self, name, module):
            if name == "b" and self.stops:
                self.stops = False
                raise InterruptingError
            super().register_module(name, module)

    from autoadapt.swapping.places import set_modules

    model = nn.Sequential(Heads({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
    before = dict(model.named_modules())
    model[0].stops = True
    with pytest.raises(InterruptingError):
        set_modules(model, {"0.a": nn.Identity(), "0.b": nn.Identity()})
    assert dict(model.named_modules()) == before


@pytest.fixture
def asked(monkeypatch):
    """The hosts that are asked for; none is found."""
    hosts = []

    def refuse(host, *_args, **_options):
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return hosts


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["hf:gpt2-xl", "hf:no-such-model", "torchvision:ssdlite320_mobilenet_v3_large"])
def test_a_name_of_the_hub_without_an_owner_is_not_fetched_either(name, tmp_path, asked):
    with pytest.raises(AdaptError):
        restored(tmp_path, name)
    assert asked == []
    with contextlib.suppress(AdaptError):
        aa.assemble({"input": "f32[B, 3, 64, 64]", "backbone": {"type": name}, "neck": "gap", "head": "linear"})
    assert asked == []


def test_a_config_in_the_cache_is_read_without_asking_anybody(tmp_path, monkeypatch, asked):
    saved = tmp_path / "models--tiny-net" / "snapshots" / "1"
    saved.mkdir(parents=True)
    (tmp_path / "models--tiny-net" / "refs").mkdir()
    (tmp_path / "models--tiny-net" / "refs" / "main").write_text("1")
    (saved / "config.json").write_text('{"model_type": "resnet", "embedding_size": 8}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with nothing_fetched():
        config = zoos._config("tiny-net")
    assert (config.embedding_size, config.name_or_path, asked) == (8, "tiny-net", [])
