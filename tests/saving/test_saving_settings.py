"""Plain attributes of a whole model: another one that changes what it returns is refused, and no other."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autoadapt as aa
from autoadapt.saving.folder_configs import checksum

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """Scales and pools; counts its calls, and notes the last size."""

    def __init__(self, scale=2.0, mode="mean", eps=1e-5, act=F.relu, name="head", heads=(2, 4), checkpointing=False):
        super().__init__()
        self.scale, self.mode, self.eps, self.act, self.name = scale, mode, eps, act, name
        self.heads, self.checkpointing = heads, checkpointing
        self.calls, self._size = 0, None
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        self.calls, self._size = self.calls + 1, tuple(x.shape[2:])
        x = self.act(x) * (1 + self.gate * self.scale) / (x.std() + self.eps)
        if self.checkpointing:
            x = torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False)
        else:
            x = torch.tanh(x)
        x = x.unflatten(1, (self.heads[0], -1)).amax(2)
        return x.mean((2, 3)) if self.mode == "mean" else x.amax((2, 3))


class Net(nn.Module):
    def __init__(self, shift=0.0, drop=0.1, momentum=0.1, path=None, **options):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 4, stride=4)
        self.norm, self.drop = nn.BatchNorm2d(8, momentum=momentum), nn.Dropout(drop) if drop else nn.Identity()
        self.shift, self.path = shift, path
        self.head = Head(**options)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.backbone(x)))) + self.shift


def saved(folder, inputs=X, **options):
    torch.manual_seed(1)
    model = aa.swap(Net(**options), "backbone", nn.Conv2d(3, 5, 2, stride=2), inputs=inputs)
    model.train()
    model(X)
    model.eval()
    with torch.no_grad():
        model.head.gate += 1
    aa.save(model, folder)
    return model


def restored(folder, **options):
    return aa.restore(folder, nn.Conv2d(3, 5, 2, stride=2), model=Net(**options))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("before", "after", "where", "expected", "found"),
    [
        ({"shift": 0.5}, {}, "shift", "0.5", "0"),
        ({"scale": 0.5}, {}, "head.scale", "0.5", "2"),  # at fresh weights, whose gate is zero, it would change nothing
        ({"eps": 0.1}, {}, "head.eps", "0.1", "1e-05"),
        ({"mode": "max"}, {}, "head.mode", "'max'", "'mean'"),
        ({"heads": (4, 2)}, {}, "head.heads", "(4, 2)", "(2, 4)"),
        ({"act": F.silu}, {}, "head.act", "silu", "relu"),
    ],
)
def test_another_attribute_that_changes_the_outputs_is_refused(tmp_path, before, after, where, expected, found):
    model = saved(tmp_path, **before)
    fresh = Net(**after)
    with pytest.raises(aa.SavingError, match="works otherwise") as raised:
        aa.restore(tmp_path, nn.Conv2d(3, 5, 2, stride=2), model=fresh)
    (fault,) = raised.value.mismatches
    assert (fault.where, fault.expected, fault.found) == (where, expected, found)
    assert isinstance(fresh.backbone, nn.Conv2d)
    assert aa.restore(tmp_path, nn.Conv2d(3, 5, 2, stride=2), model=fresh, strict=False) is fresh
    assert torch.equal(restored(tmp_path, **before).eval()(X), model.eval()(X))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "after",
    [
        {"momentum": 0.5},
        {"drop": 0.5},
        {"drop": 0},
        {"name": "another"},
        {"checkpointing": True},
        {"heads": (2, 5)},
    ],
    ids=str,
)
def test_another_attribute_that_changes_no_output_is_taken(tmp_path, after):
    model = saved(tmp_path)
    assert model.head.calls > 0
    assert torch.equal(restored(tmp_path, **after).eval()(X), model(X))


def test_of_two_the_one_that_changes_the_outputs_is_told(tmp_path):
    saved(tmp_path, scale=0.5, name="another")
    with pytest.raises(aa.SavingError) as raised:
        restored(tmp_path)
    assert [fault.where for fault in raised.value.mismatches] == ["head.scale"]


def test_a_model_that_cannot_be_run_is_refused_but_for_what_counts_in_training_alone(tmp_path):
    saved(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content.pop("checksum")
    content["call"] = []  # as of a detector, whose images come in a list
    content["settings"]["head"]["calls"] = "0"
    content["settings"]["head"]["_size"] = "None"
    (tmp_path / "model.json").write_text(json.dumps({**content, "checksum": checksum(content)}))
    restored(tmp_path, momentum=0.5, drop=0.5)
    with pytest.raises(aa.SavingError) as raised:
        restored(tmp_path, name="another")
    (fault,) = raised.value.mismatches
    assert fault.where == "head.name"
    assert "was not run" in fault.why


@pytest.mark.parametrize(("text", "is_taken"), [("10000000000", True), ("'/tmp/a'", False), ("f(", False)])
def test_what_a_file_says_does_no_harm_in_a_trial(tmp_path, text, is_taken):
    saved(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content.pop("checksum")
    content["settings"]["head"]["name"] = text
    (tmp_path / "model.json").write_text(json.dumps({**content, "checksum": checksum(content)}))
    if is_taken:
        restored(tmp_path)
    else:
        with pytest.raises(aa.SavingError, match="works otherwise"):
            restored(tmp_path)


def test_folders_of_before_have_constants_behind_the_class(tmp_path):
    saved(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content.pop("checksum")
    del content["settings"]
    content["kinds"]["norm"] = "BatchNorm(affine=True, eps=1e-05, momentum=0.1, num_features=8)"
    (tmp_path / "model.json").write_text(json.dumps({**content, "checksum": checksum(content)}))
    restored(tmp_path, shift=3.0)


def test_a_trial_leaves_the_model_and_the_weights_as_they_are(tmp_path):
    model = saved(tmp_path, name="another")
    fresh = Net()
    before = copy.deepcopy(fresh.state_dict())
    made = aa.restore(tmp_path, nn.Conv2d(3, 5, 2, stride=2), model=fresh)
    assert made.head.calls == 0
    assert made.head.name == "head"
    assert before.keys() != made.state_dict().keys()
    left, right = model.state_dict(), made.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_path_on_another_machine_is_no_difference(tmp_path):
    model = saved(tmp_path, path="/data/one.pt")
    assert torch.equal(restored(tmp_path, path="/home/two.pt").eval()(X), model(X))


@dataclass(frozen=True)
class Config:
    """What a head reads when it runs, and what it does not."""

    scale: float = 2.0
    mode: str = "mean"
    name_or_path: str = "one"
    hidden_dropout: float = 0.1
    labels: dict[int, str] = field(default_factory=lambda: {0: "cat", 1: "dog"})
    _commit: str = "a"
    itself: list[Any] = field(default_factory=list)
    """Holds the config, as those of some libraries do."""


CONFIGS = {
    "dataclass": lambda config: config,
    "namespace": lambda config: SimpleNamespace(**vars(config)),
    "dict": lambda config: dict(vars(config)),
    "list": lambda config: [SimpleNamespace(head=dict(vars(config)))],
}


class Configured(nn.Module):
    """A network whose modules all hold one config, as those of transformers do, and read it when they run."""

    def __init__(self, form="dataclass", slope=0.1, **changes):
        super().__init__()
        self.stem, self.form = nn.Conv2d(3, 8, 4, stride=4), form
        self.act = functools.partial(F.leaky_relu, negative_slope=slope)
        self.config = CONFIGS[form](replace(Config(), **changes))
        if form == "dataclass":
            self.config.itself.append(self.config)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1))
        self.body.config = self.config

    def forward(self, x):
        config = self.body.config[0].head if self.form == "list" else self.body.config
        read = config.get if isinstance(config, dict) else functools.partial(getattr, config)
        x = self.act(self.body(self.stem(x))) * read("scale")
        return x.mean((2, 3)) if read("mode") == "mean" else x.amax((2, 3))


def saved_configured(folder, form):
    torch.manual_seed(1)
    model = aa.swap(Configured(form), "stem", nn.Conv2d(3, 5, 2, stride=2), inputs=X).eval()
    aa.save(model, folder)
    return model


def restored_configured(folder, form, **changes):
    return aa.restore(folder, nn.Conv2d(3, 5, 2, stride=2), model=Configured(form, **changes))


@pytest.mark.parametrize("form", CONFIGS)
def test_of_configs_what_changes_the_outputs_is_refused_and_nothing_else(tmp_path, form):
    model = saved_configured(tmp_path, form)
    for changes, where in (({"scale": 0.5}, "scale"), ({"mode": "max", "hidden_dropout": 0.5}, "mode")):
        with pytest.raises(aa.SavingError, match="in 1 places") as raised:
            restored_configured(tmp_path, form, **changes)
        assert raised.value.mismatches[0].where == f"config.{'0.head.' if form == 'list' else ''}{where}"
    others = {"name_or_path": "two", "hidden_dropout": 0.5, "labels": {0: "horse", 1: "cow"}, "_commit": "b"}
    made = restored_configured(tmp_path, form, **others)
    assert torch.equal(made.eval()(X), model(X))


def test_another_argument_that_is_bound_to_a_function_is_refused(tmp_path):
    saved_configured(tmp_path, "dict")
    with pytest.raises(aa.SavingError, match="works otherwise") as raised:
        restored_configured(tmp_path, "dict", slope=0.3)
    (fault,) = raised.value.mismatches
    assert (fault.where, fault.expected) == ("act", "partial(leaky_relu, negative_slope=0.1)")


def test_a_config_of_many_modules_is_noted_once_and_private_entries_are_not(tmp_path):
    saved_configured(tmp_path, "dataclass")
    noted = json.loads((tmp_path / "model.json").read_text())["settings"]
    assert noted[""]["config.labels.0"] == "'cat'"
    assert not any("config" in name for path, names in noted.items() if path for name in names)
    assert not any("_commit" in name or "itself" in name for name in noted[""])


class Single(SimpleNamespace):
    """A config that is its own copy."""

    def __deepcopy__(self, memo):
        return self


def test_a_config_that_is_not_copied_is_not_tried_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "single", lambda config: Single(**vars(config)))
    saved_configured(tmp_path, "single")
    fresh = Configured("single", name_or_path="two")
    with pytest.raises(aa.SavingError, match="in 1 places"):
        aa.restore(tmp_path, nn.Conv2d(3, 5, 2, stride=2), model=fresh)
    assert fresh.config.name_or_path == "two"
