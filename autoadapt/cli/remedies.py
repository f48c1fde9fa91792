"""Remedies: what an error says to do in Python, as it is typed in a shell."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping

__all__ = ["in_shell"]

_ARGUMENT = re.compile(r"(?:\w+\((?:\.\.\.|config), )?(?P<name>\w+)=(?P<value>.+)")
_NEW_TENSOR = re.compile(r"torch\.\w+\((?P<sizes>\d+(?:, *\d+)*)\)?")
_LOADED = re.compile(r"""load\(["'](?P<source>[^"']+)["']\)""")
_LISTED = re.compile(r"""list_models\(["'](?P<pattern>[^"']+)["']\)""")
_SAVED = re.compile(r"""aa\.capture\(old, inputs\)\.save\("(?P<path>[^"]+)"\)""")
_WRITTEN = re.compile(r"""[\[{(]?(?:"\w+": )?["']?[a-z]+\d+\[""")
"""The texts of outputs, which `--like` takes as they stand."""
_IN_PYTHON = re.compile(r"[\w.]+\(.*\)|(?:\w+=)?aa\.")
"""A call, which no shell takes."""
_AS_OPTIONS = {"pairs": "pair", "taps": "pair", "grid": "grid"}
_OPTIONS = frozenset(
    ("allow", "allow_cost", "at", "exclude", "expect_missing", "expect_unexpected", "images", "include", "indices",
     "like", "match", "max_parameters", "min_coverage", "outputs", "pretrained", "project", "rename", "scope", "shapes",
     "solver", "thin", "thorough")
)  # fmt: skip
_WHOLE = {
    "pretrained=False, then aa.transfer(file, model)  # with a file that you have": (
        "--random, or a file that you have: --new-weights and --like-weights of calibrate"
    ),
    "autoadapt.assembly.compare(config)": "--compare",
    "aa.fold(aa.swap(model, path, new, inputs=x), inputs=x)": "autoadapt swap MODEL PATH NEW --out FOLDER",
    'aa.export(model, "model.onnx", inputs=x)': "autoadapt export MODEL model.onnx",
    "aa.capture(module, x).save(path)": "autoadapt capture MODEL --out signature.json",
    "inputs=tensor, inputs=(first, second) or inputs={'name': tensor}": (
        "--input SPEC, one for each argument, or --input NAME=SPEC"
    ),
}


def in_shell(remedy: str) -> str:
    """A remedy as an option where it is an argument of a call; any other text as it is.

    Example:
        >>> in_shell('adapt(..., indices="recover")'), in_shell('load("timm:resnet18")')
        ('--indices recover', 'timm:resnet18')
        >>> in_shell("inputs=torch.randn(2, 3, 224, 224)"), in_shell("outputs=['1']  # if nobody reads 0")
        ("--input 'f32[2, 3, 224, 224]'", '--outputs 1  # if nobody reads 0')
        >>> print(in_shell('["f32[B, 64, H, W]", "f32[B, 8]"]'))
        --like '["f32[B, 64, H, W]", "f32[B, 8]"]'
        >>> in_shell('pairs={"c5": "layer4"}'), in_shell("allow_cost=True"), in_shell("pad to 224x256")
        ('--pair c5=layer4', '--allow-cost', 'pad to 224x256')
    """
    if remedy in _WHOLE:
        return _WHOLE[remedy]
    if saved := _SAVED.fullmatch(remedy):
        return f"autoadapt capture MODEL --out {shlex.quote(saved['path'])}"
    if _WRITTEN.match(remedy):
        single = _literal(remedy)
        return f"--like {shlex.quote(single if isinstance(single, str) else remedy)}"
    listed = _LISTED.fullmatch(remedy)
    if listed is not None:
        return f"autoadapt models {shlex.quote(listed['pattern'])}"
    call, gap, note = re.match(r"(.*?)(\s{2,}|$)(.*)", remedy, re.DOTALL).groups()  # type: ignore[union-attr]
    loaded, argument = _LOADED.fullmatch(call), _ARGUMENT.fullmatch(call)
    if loaded is not None:
        return f"{loaded['source']}{gap}{note}"
    option = "" if argument is None else _option(argument["name"], argument["value"])
    if option:
        return f"{option}{gap}{note}"
    return f"in Python: {remedy}" if _IN_PYTHON.match(remedy) else remedy


def _option(name: str, value: str) -> str:
    """An argument and its value as options; empty where there is no such option."""
    tensor = _NEW_TENSOR.fullmatch(value)
    if name == "inputs" and tensor is not None:
        return f"--input 'f32[{tensor['sizes']}]'"
    if name not in _OPTIONS and name not in _AS_OPTIONS:
        return ""
    flag = "--" + _AS_OPTIONS.get(name, name).replace("_", "-")
    read = _literal(value)
    if read is None or read is False:
        return ""
    if read is True:
        return flag
    return " ".join(f"{flag} {shlex.quote(text)}" for text in _texts(read))


def _literal(text: str) -> object:
    """A value as it is written in Python, with or without the bracket that closes the call; None where it is none."""
    for option in (text, text.removesuffix(")")):
        try:
            return ast.literal_eval(option)
        except (ValueError, SyntaxError):
            continue
    return None


def _texts(value: object) -> list[str]:
    """The values of an option that may be given several times."""
    if isinstance(value, Mapping):
        return [f"{key}={_joined(child)}" for key, child in value.items()]
    if isinstance(value, list):
        return [_joined(child, "=") for child in value]
    return [_joined(value)]


def _joined(value: object, sign: str = ",") -> str:
    return sign.join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
