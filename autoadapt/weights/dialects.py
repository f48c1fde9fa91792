"""A dialect: another spelling of the same names, as a list of rewrite rules.

The rules lead from a dialect to a common spelling. They are applied to both sides, so that one
list serves both directions, and a dialect that both sides speak does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from pydantic import BaseModel, ConfigDict

__all__ = ["DIALECTS", "WRAPPERS", "Dialect", "Rule", "rewrite"]


class Rule(BaseModel):
    """One rewrite: a regex and its replacement, as in `re.sub`."""

    model_config = ConfigDict(frozen=True)

    pattern: str
    replacement: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


def rewrite(name: str, rules: Iterable[Rule]) -> str:
    """Apply rules in turn.

    Example:
        >>> rewrite("backbone.conv1.weight", [Rule(pattern="^backbone\\\\.", replacement="")])
        'conv1.weight'
    """
    for rule in rules:
        name = rule.regex.sub(rule.replacement, name)
    return name


class Dialect(BaseModel):
    """Rewrite rules to the common spelling, and what stands where the common spelling has a dot.

    Args:
        name: What the report calls it.
        rules: Applied in turn.
        joiner: What stands for a dot; buffers cannot have dots in their names, so that averaged
            copies kept in buffers write `_` or nothing.

    Example:
        >>> Dialect(name="mine", rules=(Rule(pattern="^trunk\\\\.", replacement=""),)).common("trunk.fc.bias")
        'fc.bias'
        >>> Dialect(name="flat", joiner="_").common("layer1.0.running_mean")
        'layer1_0_running_mean'
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rules: tuple[Rule, ...] = ()
    joiner: str = "."

    def common(self, name: str) -> str:
        """A name in the common spelling."""
        return rewrite(name, self.rules).replace(".", self.joiner)


def _dialect(name: str, *rules: tuple[str, str], joiner: str = ".") -> Dialect:
    made = tuple(Rule(pattern=pattern, replacement=replacement) for pattern, replacement in rules)
    return Dialect(name=name, rules=made, joiner=joiner)


WRAPPERS = _dialect(
    "wrappers",
    # DistributedDataParallel, torch.compile, FSDP, activation checkpointing: anywhere in a name.
    (r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+", r"\1"),
)

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
        (r"(^|\.)conv(\d)\.norm\.", r"\1bn\2."),
        (r"\.shortcut\.norm\.", ".downsample.1."),
        (r"\.shortcut\.", ".downsample.0."),
    ),
    _dialect("ema underscores", (r"^(?:model_)?ema[._]", ""), joiner="_"),
    _dialect("ema without dots", (r"^(?:model_)?ema[._]", ""), joiner=""),
)
"""The dialects that are tried without being asked for, in this order."""
