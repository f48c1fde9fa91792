"""Models: what a config becomes, a plain module that runs its parts in order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.assembly.configs import Config
from autoadapt.assembly.results import Assembly
from autoadapt.contracts.trees import Key, Tree, rebuild
from autoadapt.errors import AssemblyError, Mismatch, nearest


@dataclass(frozen=True)
class Pick:
    """A value within what a part returned."""

    producer: str
    path: tuple[Key, ...] = ()

    def take(self, values: Mapping[str, Any]) -> Any:
        """Follow the path through mappings, sequences and objects with attributes."""
        value = values[self.producer]
        for key in self.path:
            by_name = isinstance(key, str) and not isinstance(value, Mapping)
            value = getattr(value, str(key)) if by_name else value[key]
        return value


@dataclass(frozen=True)
class Feed:
    """One argument of a part: a value, or several in a container."""

    picks: tuple[Pick, ...]
    container: Literal["one", "tuple", "list", "dict"] = "one"
    names: tuple[str, ...] = ()
    """Keys, where the container is a dict."""
    tree: Tree | None = None
    """The containers to put the values into, where they are handed on as they were."""

    def take(self, values: Mapping[str, Any]) -> Any:
        """The argument, from what earlier parts returned."""
        taken = [pick.take(values) for pick in self.picks]
        if self.tree is not None:
            return rebuild(self.tree, taken)
        match self.container:
            case "one":
                return taken[0]
            case "tuple":
                return tuple(taken)
            case "list":
                return taken
            case "dict":
                return OrderedDict(zip(self.names, taken, strict=True))


@dataclass(frozen=True)
class Step:
    """One part at work: its name, what it is given, and for a loss the target it compares with."""

    name: str
    feeds: tuple[Feed, ...]
    target: str = ""


class AssembledModel(nn.Module):
    """A backbone with its necks, heads and losses.

    `model(x)` gives the output of the head, or of several heads by name; `model(x, targets)` gives the losses by name.
    Where the config names a model of mmengine's registry, that one is `model.whole`: `model(x)` runs its mode `tensor`,
    `model(x, data_samples)` its mode `loss`, behind its own preprocessor.
    `model.config` is the resolved config, `print(model.report)` what was found and put between.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module], steps: tuple[Step, ...], config: Config, report: Assembly
    ) -> None:
        super().__init__()
        for name, module in parts.items():
            group, _, own = name.partition(".")
            if own and not hasattr(self, group):
                self.add_module(group, nn.Module())
            (self.get_submodule(group) if own else self).add_module(own or group, module)
        self._steps = tuple(step for step in steps if not step.target)
        self._losses = tuple(step for step in steps if step.target)
        self._config = config
        self._report = report

    @property
    def config(self) -> Config:
        """The config with everything that was found; it assembles to the same model."""
        return self._config

    @property
    def report(self) -> Assembly:
        """What was found, and what was put between the parts."""
        return self._report

    def forward(self, x: torch.Tensor, targets: Any = None) -> Any:
        """Predict, or with targets compute the losses.

        Args:
            x: The input.
            targets: One value for the only target, or one for each by name; a mapping as the value of a target
                gives a loss several arguments, such as `{"target": y, "weight": w, "avg_factor": n}`.

        Raises:
            AssemblyError: A target is missing or unknown; or there is none though the model is in training mode.
        """
        if "whole" in self._modules:
            return _run_whole(self.get_submodule("whole"), x, targets)
        values = self._values(x)
        if targets is None and not (self.training and self._losses):
            return _returned(values)
        if not self._losses:
            remedy = "loss: {type: CrossEntropyLoss}\nmodel(x)  # to predict"
            fault = Mismatch("loss", "a loss that compares with the targets", "none in the config", remedy)
            raise AssemblyError("targets are given, and there is no loss", [fault])
        given = self._given(targets)
        return {
            step.name.removeprefix("loss.") if "." in step.name else "loss": self._loss(step, values, given)
            for step in self._losses
        }

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        """The accuracies that `topk` in the config asks for, in the mode that the model is in.

        Args:
            x: The input.
            targets: As `forward` takes them; class indices `[B]`, or probabilities `[B, K]`.

        Returns:
            The share of samples whose class is among the `k` highest scores, as `accuracy_top1`; behind the name of
            the head and a dot where there are several.

        Raises:
            AssemblyError: The config asks for none, or a target is missing.
        """
        if not self._config.topk:
            fault = Mismatch("topk", "which accuracies to give", "none in the config", "topk: [1, 5]")
            raise AssemblyError("the config asks for no accuracies", [fault])
        values, given = self._values(x), self._given(targets)
        found: dict[str, torch.Tensor] = {}
        for name, counts in self._config.topk.items():
            head = f"head.{name}" if name else "head"
            step = next(s for s in self._losses if s.feeds[0].picks[0].producer == head)
            target, scores = given[step.target], step.feeds[0].take(values)
            classes = target["target"] if isinstance(target, Mapping) else target  # of a loss with several arguments
            for count in counts:
                key = f"accuracy_top{count}"
                found[f"{name}.{key}" if name else key] = accuracy(scores, classes, count)
        return found

    def _values(self, x: torch.Tensor) -> dict[str, Any]:
        """What every part but the losses gives, by its name."""
        if "preprocessor" in self._modules:
            x = self.get_submodule("preprocessor")(x)
        values: dict[str, Any] = {"backbone": self.get_submodule("backbone")(x)}
        for step in self._steps:
            values[step.name] = self.get_submodule(step.name)(*(feed.take(values) for feed in step.feeds))
        return values

    def _loss(self, step: Step, values: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
        loss, predictions = self.get_submodule(step.name), [feed.take(values) for feed in step.feeds]
        target = given[step.target]
        return loss(*predictions, **target) if isinstance(target, Mapping) else loss(*predictions, target)

    def _given(self, targets: Any) -> Mapping[str, Any]:
        """Targets by name, all that the losses need."""
        needed = list(dict.fromkeys(step.target for step in self._losses))
        if len(needed) == 1 and targets is not None and not (isinstance(targets, Mapping) and needed[0] in targets):
            return {needed[0]: targets}
        given: Mapping[str, Any] = targets if isinstance(targets, Mapping) else {}
        missing = [name for name in needed if name not in given]
        if missing:
            raise AssemblyError("the losses lack a target", [_missing(name, targets, needed) for name in missing])
        return given


def accuracy(scores_BK: torch.Tensor, target: torch.Tensor, k: int) -> torch.Tensor:
    """The share of samples whose class is among the `k` highest scores.

    Args:
        scores_BK: One score for each class.
        target: Class indices `[B]`, or probabilities `[B, K]`, of which the highest counts.
        k: How many scores count, at most all.

    Example:
        >>> accuracy(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1]), 1)
        tensor(0.5000)
    """
    classes_B = target.argmax(1) if target.dim() == 2 else target
    highest_Bk = scores_BK.topk(k, dim=1).indices
    return (highest_Bk == classes_B[:, None]).any(1).to(scores_BK.dtype).mean()


def _returned(values: Mapping[str, Any]) -> Any:
    """What the heads gave; without heads what came last."""
    heads = {name.partition(".")[2]: value for name, value in values.items() if name.partition(".")[0] == "head"}
    if not heads:
        return list(values.values())[-1]
    return heads.get("", heads)


def _run_whole(whole: Any, x: torch.Tensor, data_samples: Any) -> Any:
    """A model of mmengine, called as a Runner calls it; its losses as single numbers, as it adds them up."""
    data = whole.data_preprocessor({"inputs": x, "data_samples": data_samples}, whole.training)
    if data_samples is None:
        return whole(**data, mode="tensor")
    losses: dict[str, Any] = whole(**data, mode="loss")
    return {name: _total(value) for name, value in losses.items() if "loss" in name}


def _total(loss: Any) -> torch.Tensor:
    """A loss may be a list, with one for each level."""
    return torch.stack([each.mean() for each in (loss if isinstance(loss, (list, tuple)) else [loss])]).sum()


def _missing(name: str, targets: Any, needed: list[str]) -> Mismatch:
    given = list(targets) if isinstance(targets, Mapping) else []
    found = "no targets" if targets is None else f"a {type(targets).__name__}"
    found = f"only {', '.join(map(str, given))}" if given else found
    near = nearest(name, map(str, given), count=1)
    example = ", ".join(f'"{other}": ...' for other in needed)
    remedy = f"rename `{near[0]}` to `{name}`" if near else f"model(x, {{{example}}}), or model.eval() to predict"
    return Mismatch(f"targets.{name}", f"the target `{name}`", found, remedy)
