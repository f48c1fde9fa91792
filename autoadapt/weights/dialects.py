"""A dialect: another spelling of the same names, as a list of rewrite rules.

The rules lead from a dialect to a common spelling. They are applied to both sides, so that one
list serves both directions, and a dialect that both sides speak does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from autoadapt.contracts.facts import MadeByHand


class Rule(MadeByHand):
    """One rewrite: a regex and its replacement, as in `re.sub`."""

    pattern: str
    replacement: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


def rewrite(names: Iterable[str], rules: Iterable[Rule]) -> list[str]:
    """Apply rules in turn, to many names at once.

    Example:
        >>> rewrite(["backbone.conv1.weight"], [Rule(pattern="^backbone[.]", replacement="")])
        ['conv1.weight']
    """
    rewritten = list(names)
    for rule in rules:
        search, change, new = rule.regex.search, rule.regex.sub, rule.replacement
        rewritten = [change(new, name) if search(name) else name for name in rewritten]
    return rewritten


class Dialect(MadeByHand):
    """Rewrite rules to the common spelling, and what stands where the common spelling has a dot.

    Args:
        name: What the report calls it.
        rules: Applied in turn.
        joiner: What stands for a dot; buffers cannot have dots in their names, so that averaged
            copies kept in buffers write `_` or nothing.

    Example:
        >>> Dialect(name="mine", rules=(Rule(pattern="^trunk\\\\.", replacement=""),)).common(["trunk.fc.bias"])
        ['fc.bias']
        >>> Dialect(name="flat", joiner="_").common(["layer1.0.running_mean"])
        ['layer1_0_running_mean']
    """

    name: str
    rules: tuple[Rule, ...] = ()
    joiner: str = "."

    def common(self, names: Iterable[str]) -> list[str]:
        """Names in the common spelling."""
        rewritten = rewrite(names, self.rules)
        return rewritten if self.joiner == "." else [name.replace(".", self.joiner) for name in rewritten]


def _dialect(name: str, *rules: tuple[str, str], joiner: str = ".") -> Dialect:
    made = tuple(Rule(pattern=pattern, replacement=replacement) for pattern, replacement in rules)
    return Dialect(name=name, rules=made, joiner=joiner)


def _segment(start: str) -> str:
    """A regex for what a segment starts with; with `(^|\\.)` in front, its search would be ten times as slow."""
    return rf"{start}(?<![^.]{start})"


# DistributedDataParallel, torch.compile, FSDP, activation checkpointing, PEFT: anywhere in a name.
_WRAPPING = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
WRAPPERS = _dialect("wrappers", *((_segment(word) + r"\.", "") for word in _WRAPPING))

PLAIN = _dialect("")
"""No other spelling."""

DIALECTS: tuple[Dialect, ...] = (
    WRAPPERS,
    _dialect("lightning", (r"^(?:_forward_module\.)?(?:model|net|network|module|lit_model)\.", "")),
    _dialect(
        "torchvision-timm",
        (r"^(?:head\.fc|last_linear|classifier)\.", "fc."),
        (r"^(?:layer0|stem)\.(?=conv1|bn1)", ""),
        (r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    ),
    _dialect(
        "mmengine",
        (r"^backbone\.", ""),
        # ResNetV1d keeps its three first convolutions in one Sequential; its last norm is bn1 elsewhere.
        (r"^stem\.([0-6])\.", r"conv1.\1."),
        (r"^stem\.7\.", "bn1."),
        (r"^(?:cls_)?head\.fc\.", "fc."),
    ),
    _dialect(
        "detectron2",
        (r"^backbone\.(?:bottom_up\.)?", ""),
        (r"^stem\.", ""),
        *((rf"^res{stage}\.", f"layer{stage - 1}.") for stage in range(2, 6)),
        (_segment("conv") + r"(\d)\.norm\.", r"bn\1."),
        (r"\.shortcut\.norm\.", ".downsample.1."),
        (r"\.shortcut\.", ".downsample.0."),
    ),
    _dialect("ema underscores", (r"^(?:model_)?ema[._]", ""), joiner="_"),
    _dialect("ema without dots", (r"^(?:model_)?ema[._]", ""), joiner=""),
)
"""The dialects that are tried without being asked for, in this order."""
