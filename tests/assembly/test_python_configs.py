"""Python configs are read from their syntax tree: data comes out, everything else is refused by line, nothing runs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from autoadapt.assembly import assemble
from autoadapt.assembly.documents import read_document
from autoadapt.assembly.python_documents import read_python
from autoadapt.errors import AssemblyError

MODEL = """model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, loss=dict(type='CrossEntropyLoss')))
"""


def spelt(code: str) -> str:
    """An expression as an error quotes it, in the spelling of this Python."""
    return f"`{ast.unparse(ast.parse(code, mode='eval'))}`"


MALFORMED = {
    "an import": ("import os\n", 1, "`import os`"),
    "a call": ("x = 1\nopen('TRACE', 'w')\n", 2, "`open('TRACE', 'w')`"),
    "a call as a value": ("x = dict(y=open('TRACE', 'w'))\n", 1, "`open('TRACE', 'w')`"),
    "an imported function called": ("from pathlib import Path\nPath('TRACE').touch()\n", 2, "`Path('TRACE').touch()`"),
    "an import of the dunder": ("x = __import__('os').system('touch TRACE')\n", 1, "`__import__('os').system("),
    "a star import": ("from os import *\n", 1, "`from os import *`"),
    "a function": ("\ndef f():\n    open('TRACE', 'w')\n", 2, "`def f():`"),
    "a class": ("class A:\n    x = open('TRACE', 'w')\n", 1, "`class A:`"),
    "a condition": ("if open('TRACE', 'w'):\n    x = 1\n", 1, "`if open('TRACE', 'w'):`"),
    "a loop": ("for i in range(3):\n    x = i\n", 1, "`for i in range(3):`"),
    "a call in a comprehension": ("x = [open('TRACE', 'w') for i in (1,)]\n", 1, "`open('TRACE', 'w')`"),
    "a call that a comprehension reads": ("x = [i for i in open('TRACE')]\n", 1, "`open('TRACE')`"),
    "a comprehension with a condition": ("x = [i for i in (1, 2) if i]\n", 1, "`[i for i in (1, 2) if i]`"),
    "a comprehension of a number": ("x = [i for i in 3]\n", 1, "`[i for i in 3]`"),
    "a comprehension of unequal pairs": ("x = [a for a, b in [(1, 2, 3)]]\n", 1, spelt("[a for a, b in [(1, 2, 3)]]")),
    "a comprehension's name behind it": ("x = [i for i in (1, 2)]\ny = i\n", 2, "`i`"),
    "a comprehension that grows": ("x = [0 for i in range(9) for j in range(999999)]\n", 1, "`range(999999)`"),
    "a slice by a text": ("x = [1, 2]['a':]\n", 1, "`[1, 2]['a':]`"),
    "a slice by steps of nothing": ("x = [1, 2][::0]\n", 1, "`[1, 2][::0]`"),
    "another function": ("x = sorted([2, 1])\n", 1, "`sorted([2, 1])`"),
    "a function of that name": ("sum = open\nx = sum(['TRACE'])\n", 1, "`open`"),
    "a number of a text": ("x = int('2')\n", 1, "`int('2')`"),
    "a sum of texts": ("x = sum(['a'], 'b')\n", 1, "`sum(['a'], 'b')`"),
    "a call in a text": ("x = f\"{open('TRACE', 'w')}\"\n", 1, "`open('TRACE', 'w')`"),
    "a text with a format": ("x = f'{1:>9999999999}'\n", 1, "`f'{1:>9999999999}'`"),
    "a text that doubles": ("x = 'ab'\n" + "x = x + x\n" * 60, 17, "`x + x`"),
    "a template": ("x = '{{ fileOwner }}'\n", 1, "`'{{ fileOwner }}'`"),
    "a template of a template": ("x = '{{ fileBasename }}{{ PATH:/ }}'\n", 1, "{{ PATH:/ }}'`"),
    "a power too high": ("x = 2 ** 100\n", 1, "`2 ** 100`"),
    "a power that is not real": ("x = -8\ny = x ** 0.5\n", 2, "`x ** 0.5`"),
    "an unpacked list": ("y = [1]\nx = dict(**y)\n", 2, "`y`"),
    "an unpacked key again": ("y = dict(a=1)\nx = dict(**y, a=2)\n", 2, "`a` again"),
    "a name that is not there": ("x = dict(a=norm_cfg)\n", 1, "`norm_cfg`"),
    "an entry of nothing": ("x = dict(a=1)\nx['b']['a'] = 2\n", 2, "`x['b']['a']`"),
    "an entry behind the end": ("x = [1]\nx[1] = 2\n", 2, "`x[1]`"),
    "an entry by a name": ("k = 'a'\nx = dict(a=1)\nx[k] = 2\n", 3, "`x[k]`"),
    "a slice": ("x = [1, 2]\nx[:1] = [3]\n", 2, "`x[:1]`"),
    "what holds itself": ("x = dict(a=1)\nx['b'] = [x]\n", 2, "`[x]`"),
    "an entry added to": ("x = dict(a=1)\nx['a'] += 1\n", 2, "`x['a'] += 1`"),
    "a deleted entry": ("x = dict(a=1)\ndel x['a']\n", 2, "`del x['a']`"),
    "another method": ("x = dict(a=1)\nx.pop('a')\n", 2, "`x.pop('a')`"),
    "a method's value": ("x = dict(a=1)\ny = x.copy()\n", 2, "`x.copy()`"),
    "a division by nothing": ("x = 1 / 0\n", 1, "`1 / 0`"),
    "a power of a power": ("x = 9 ** 9 ** 9\n", 1, "`9 ** 9 ** 9`"),
    "an attribute of a plain mapping": ("x = dict(a=1)\ny = x.a\n", 2, "`x.a`"),
    "a merge into a plain mapping": ("x = dict(a=1)\nx.merge(dict(a=2))\n", 2, "`x.merge(dict(a=2))`"),
    "a text repeated": ("x = 'a' * 10 ** 9\n", 1, "`'a' * 10 ** 9`"),
    "a list repeated too often": ("x = [0] * 999999999\n", 1, "`[0] * 999999999`"),
    "texts and numbers": ("x = 'a' + 1\n", 1, "`'a' + 1`"),
    "a number that grows": ("x = 10 * 999999999999999999\n", 1, "`10 * 999999999999999999`"),
    "a walrus": ("x = (y := 1)\n", 1, "`(y := 1)`"),
    "a condition in a value": ("x = 1 if True else 2\n", 1, "`1 if True else 2`"),
    "a base's value without a base": ("x = {{_base_.n}}\n", 1, "`{{_base_.n}}`"),
    "a base's value by attribute": ("x = _base_.n\n", 1, "`_base_.n`"),
    "a base's value in quotes": ("x = '{{_base_.n}}'\n", 1, "`'{{_base_.n}}'`"),
    "an exit": ("raise SystemExit\n", 1, "`raise SystemExit`"),
    "a with": ("with open('TRACE', 'w') as f:\n    x = 1\n", 1, "`with open('TRACE', 'w') as f:`"),
    "an exec": ("exec(\"open('TRACE', 'w')\")\n", 1, "exec("),
    "several targets": ("a = b = 1\n", 1, "`a = b = 1`"),
    "a lambda": ("x = lambda: open('TRACE', 'w')\n", 1, spelt("lambda: open('TRACE', 'w')")),
    "a decorated dict": ("dict = open\nx = dict(file='TRACE')\n", 1, "`open`"),
    "no Python": ("x = (1,\n", 1, "never closed"),
    "a base that is not there": ("_base_ = './nothing.py'\n", 1, "nothing.py"),
    "a base that leads back": ("_base_ = './config.py'\n", 1, "config.py"),
    "a base that is computed": ("_base_ = ['a' + '.py']\n", 1, "`'a' + '.py'`"),
    "a base of another kind": ("_base_ = 'base.yaml'\n", 1, "base.yaml"),
    "a key written twice": ("x = {'a': 1, 'a': 2}\n", 1, "`a` again"),
    "a class as a value": ("from a.b import C\nx = dict(cls=C)\n", 2, "`C`"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_more_than_data_is_refused_by_line_and_nothing_runs(name: str, tmp_path: Path) -> None:
    text, line, found = MALFORMED[name]
    trace = tmp_path / "trace"
    with pytest.raises(AssemblyError) as caught:
        assemble(_written(tmp_path, text.replace("TRACE", str(trace)) + MODEL))
    assert f"config.py (line {line})" in {fault.where for fault in caught.value.mismatches}
    assert any(found.replace("TRACE", str(trace))[:40] in fault.found for fault in caught.value.mismatches)
    assert not trace.exists()


def test_a_file_that_would_write_when_it_is_imported_is_only_read(tmp_path: Path) -> None:
    text = f"{MODEL}\nfrom pathlib import Path\nPath({str(tmp_path / 'trace')!r}).touch()\nimport os\n"
    with pytest.raises(AssemblyError, match=r"config\.py is more than data") as caught:
        assemble(_written(tmp_path, text))
    assert [fault.where for fault in caught.value.mismatches] == ["config.py (line 8)", "config.py (line 9)"]
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]


def _written(folder: Path, text: str, name: str = "config.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _model(path: Path) -> Any:
    return read_document(path).data["model"]


def test_values_keep_their_kind_and_their_lines(tmp_path: Path) -> None:
    path = _written(
        tmp_path,
        '"""A docstring."""\nnorm_cfg = dict(type="BN", eps=-1e-3)\n'
        "model = {'backbone': dict(\n    type='A',\n    norm_cfg=norm_cfg, x=(1, [2, None]), y=True)}\n"
        "lr = 0.1\n",
    )
    document = read_document(path)
    expected = {"type": "A", "norm_cfg": {"type": "BN", "eps": -1e-3}, "x": (1, [2, None]), "y": True}
    assert document.data == {"model": {"backbone": expected}}
    assert document.where(("model", "backbone", "x")) == "model.backbone.x (line 5)"


def test_bases_are_followed_and_merged_as_mmengine_does(tmp_path: Path) -> None:
    _written(tmp_path, "model = dict(backbone=dict(type='A', depth=18), neck=dict(type='N', k=1))\n", "base/model.py")
    _written(tmp_path, "lr = 1\n", "base/schedule.py")
    text = (
        "_base_ = ['base/model.py', 'base/schedule.py']\n"
        "model = dict(backbone=dict(depth=50), neck=dict(_delete_=True, type='M'))\n"
    )
    path = _written(tmp_path, text)
    assert _model(path) == {"backbone": {"type": "A", "depth": 50}, "neck": {"type": "M"}}
    document = read_document(path)
    assert document.where(("model", "backbone", "type")) == "model.backbone.type (line 1 of model.py)"
    assert document.where(("model", "backbone", "depth")) == "model.backbone.depth (line 2)"
    _written(tmp_path, "model = dict()\n", "base/schedule.py")
    with pytest.raises(AssemblyError, match=r"model again in schedule\.py"):
        read_document(path)


BASE = """model = dict(backbone=dict(type='A', depth=18), neck=[dict(k=1), dict(k=2)], head=dict(type='H', n=5))
n = 7
name = 'x'
"""
AS_MMENGINE = {
    "values of a base": "model = dict(head=dict(n={{_base_.n}}, m=_base_.n, d={{ _base_.model.backbone.depth }}))",
    "entries of a base": "_base_.model.head.n = 9\n_base_.model['neck'][-1]['k'] = 3",
    "arithmetic": "a = dict(b=5 + 2, c='x/' + _base_.name, d=[0] * 3, e=(1,) + (2,), f=7 // 2, g=1 / 4, h=-3 * 2)",
    "slices": "a = [1, 2, 3]\nb = a[::-1]\n"
    "c = dict(d=(_base_.model.neck[1:], _base_.model['neck'][:1]), e=_base_.name[-1:])",
    "comprehensions": "s = [320, 640]\na = [dict(type='R', scale=i, x=[i // 32]) for i in s]\n"
    "b = [[dict(p=r, f=f) for f in [True, False]] for r in s]\nc = [(i, k) for i in (1, 2) for k in (3, 4)]\n"
    "d = [k for k, _ in [(1, 2), (3, 4)]]\nr = 5\ne = [r for r in (1, 2)]\nf = r\ng = tuple([i // 32 for i in s])",
    "functions": "a = sum([18, 36, 72, 144])\nb = [len(_base_.model.neck), max(1, 3), min([2, 1]), list((1, 2))]\n"
    "c = [dict(n=i) for i in range(1, 4)]\nd = sum(i * 2 for i in range(3))\n"
    "e = [[round(x * 0.1), int(640 * x * 0.1), round(2.5), -c[0]['n'], -1e-3] for x in range(5, 21)]",
    "texts with values": "root = 'data/'\na = f'{root}train_{2017}/x{0.5}'\nb = dict(c=f'{_base_.name}')",
    "powers": "a = dict(b=2**3, c=2**-1, d=0.5 ** 2)",
    "the file's own name": "work_dir = './work/{{ fileBasenameNoExtension }}'\n"
    "f = ['{{fileBasename}}', '{{ fileExtname }}', '{{ fileDirname }}']",
    "entries": "a = dict(b=dict(c=1))\na['b']['c'] = 2\na['d'] = dict(e=3)\na['d'].update(f=4)",
    "a name that is used is no copy": "a = dict(b=1)\nc = dict(d=a, e=[a])\na['f'] = 2\nc['d']['g'] = 3",
    "unpacked": "a = dict(b=1, c=2)\nd = dict(**a, e=3)\nf = {**a, 'b': 4}\ng = dict(a, h=5)",
    "replaced": "a = dict(b=dict(c=1, d=2))\na.update(b=dict(c=3))\na.update(dict(e=4), f=5)",
    "merged into the base": "model = dict(backbone=dict(depth=50), head=dict(_delete_=True, type='M'))",
}
LAZY = {
    "update": "model.update(dict(head=dict(n=10)))\nmodel.update(backbone=dict(type='B'), neck=dict(k=3))",
    "a plain mapping put in": "h = dict(n=1)\nmodel.head = h\nh['n'] = 2\nmodel.head.update(m=dict(k=1))",
    "a mapping of the base in a plain one": "x = dict(m=model)\nx['m'].head.n = 8\nx.update(m=dict(k=1))",
    "lists": "model.neck[1]['k'] = model.neck[0].k + 8",
    "merge goes deep": "model.merge(dict(head=dict(n=10), backbone=dict(_delete_=True, type='B')))",
    "attributes": "model.head.n = 3\nmodel.neck[0].k = 4\nmodel.head.update(m=model.head.n + 1)",
}


def _as_mmengine_reads(path: Path) -> Any:
    config = pytest.importorskip("mmengine.config").Config.fromfile(str(path), import_custom_modules=False)
    return config.to_dict()


@pytest.mark.parametrize("kind", AS_MMENGINE)
def test_what_is_data_is_what_mmengine_makes_of_it_by_running_it(kind: str, tmp_path: Path) -> None:
    _written(tmp_path, BASE, "base.py")
    path = _written(tmp_path, f"_base_ = ['base.py']\n{AS_MMENGINE[kind]}\n")
    found = dict(read_python(path, path.read_text())[0])
    assert found == _as_mmengine_reads(path)


@pytest.mark.parametrize("kind", LAZY)
def test_the_lazy_form_is_what_mmengine_makes_of_it(kind: str, tmp_path: Path) -> None:
    _written(tmp_path, BASE.partition("\n")[0], "base.py")
    text = "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
    path = _written(tmp_path, f"{text}{LAZY[kind]}\n")
    assert read_python(path, path.read_text())[0] == _as_mmengine_reads(path)


def test_entries_that_are_assigned_have_their_lines(tmp_path: Path) -> None:
    path = _written(tmp_path, "model = dict(head=dict(n=1))\nmodel['head']['n'] = 2\nmodel['neck'] = dict(k=3)\n")
    document = read_document(path)
    assert document.where(("model", "head", "n")) == "model.head.n (line 2)"
    assert document.where(("model", "neck", "k")) == "model.neck.k (line 3)"


@pytest.mark.parametrize("grown", ["a['z'] = [" + "1, " * 900 + "]\n", "a.update(z=[" + "1, " * 900 + "])\n"])
def test_what_names_share_does_not_grow_without_bound(grown: str, tmp_path: Path) -> None:
    pairs = [f"b{i} = dict(x={name}, y={name})\n" for i, name in enumerate(["a", *(f"b{i}" for i in range(13))])]
    with pytest.raises(AssemblyError, match="the config is too large"):
        read_document(_written(tmp_path, "a = dict()\n" + "".join(pairs) + grown + MODEL))
    with pytest.raises(AssemblyError, match="the config is too large"):
        read_document(_written(tmp_path, "x = dict()\n" + "x = dict(a=x)\n" * 2000 + MODEL))


def test_a_mapping_for_what_is_none_in_the_base_is_refused_as_mmengine_does(tmp_path: Path) -> None:
    _written(tmp_path, "model = dict(neck=[1])\n", "base.py")
    path = _written(tmp_path, "_base_ = 'base.py'\nmodel = dict(\n    neck=dict(k=1))\n")
    with pytest.raises(AssemblyError, match=r"config\.py \(line 3\)\n.*_delete_=True"):
        read_document(path)
    _written(tmp_path, "_base_ = 'base.py'\nmodel = dict(\n    neck=dict(_delete_=True, k=1))\n")
    assert _model(path) == {"neck": {"k": 1}}


def test_a_fault_in_a_base_is_told_with_its_file(tmp_path: Path) -> None:
    _written(tmp_path, "\nimport os\n", "base.py")
    with pytest.raises(AssemblyError) as caught:
        read_document(_written(tmp_path, "_base_ = 'base.py'\n" + MODEL))
    assert [fault.where for fault in caught.value.mismatches] == ["base.py (line 2)"]


def test_the_lazy_form_takes_classes_by_name_and_names_from_files_beside(tmp_path: Path) -> None:
    base = (
        "from mmpretrain.models import LinearClsHead, ResNet as Net\n"
        "model = dict(backbone=dict(type=Net, depth=18), head=dict(type=LinearClsHead, num_classes=1000))\n"
        "lr = 1\n"
    )
    _written(tmp_path, base, "_base_/model.py")
    text = (
        "from mmengine.config import read_base\n"
        "with read_base():\n    from ._base_.model import *\n"
        "model.update(dict(head=dict(num_classes=10)))\n"
    )
    expected = {"backbone": {"type": "ResNet", "depth": 18}, "head": {"type": "LinearClsHead", "num_classes": 10}}
    assert _model(_written(tmp_path, text)) == expected
    assert _model(_written(tmp_path, text.replace("import *", "import model"))) == expected
    with pytest.raises(AssemblyError, match=r"one of model, lr\n  found     modl\n  try       model"):
        _model(_written(tmp_path, text.replace("import *", "import modl, model")))


def test_a_config_of_training_alone_has_no_model(tmp_path: Path) -> None:
    with pytest.raises(AssemblyError, match="the config has no model"):
        assemble(_written(tmp_path, "lr = 1\n"))


def test_a_python_config_assembles_and_its_faults_have_their_lines(tmp_path: Path) -> None:
    path = _written(tmp_path, MODEL + "optim_wrapper = dict(lr=0.1)\n")
    assert assemble(path).head.fc.out_features == 10
    with pytest.raises(AssemblyError) as caught:
        assemble(_written(tmp_path, MODEL.replace("depth=18", "depth=20").replace("num_classes", "num_clases")))
    assert {fault.where for fault in caught.value.mismatches} >= {"head.num_clases (line 5)"}
    with pytest.raises(AssemblyError, match="18, 34, 50, 101, 152") as caught:
        assemble(_written(tmp_path, MODEL.replace("depth=18", "depth=20")))
    assert [fault.where for fault in caught.value.mismatches] == ["backbone.depth (line 3)"]
