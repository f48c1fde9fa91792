"""Channels of a whole model of a registry that its own backbone does not give are refused where they are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

DETECTOR: dict[str, Any] = {
    "type": "mm:channels.Whole",
    "backbone": {"type": "Stages", "widths": [4, 8, 6]},
    "neck": {"type": "Mapper", "in_channels": [4, 8, 6], "out_channels": 5},
    "bbox_head": {"type": "Score", "in_channels": 5},
}
SEGMENTOR: dict[str, Any] = {
    "type": "mm:channels.Whole",
    "backbone": {"type": "Stages", "widths": [4, 8, 6]},
    "decode_head": {"type": "Score", "in_channels": 6, "in_index": 2},
    "auxiliary_head": [{"type": "Score", "in_channels": 8, "in_index": 1}, {"type": "Score", "in_channels": 6}],
}


@pytest.fixture
def registry() -> Iterator[Any]:
    root, model = guest("mmengine.registry").MODELS, guest("mmengine.model")
    models = type(root)("model", parent=root, scope="channels")

    class Stages(nn.Module):
        def __init__(self, widths: Sequence[int]) -> None:
            super().__init__()
            pairs = zip([3, *widths], widths, strict=False)
            self.stages = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(x := stage(x) for stage in self.stages)

    class Mapper(nn.Module):
        def __init__(self, in_channels: Sequence[int], out_channels: int, reverse: bool = False) -> None:
            super().__init__()
            self.reverse, self.convs = reverse, nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels)

        def forward(self, levels: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            pairs = zip(self.convs, levels[::-1] if self.reverse else levels, strict=True)
            return tuple(conv(level) for conv, level in pairs)

    class Score(nn.Module):
        def __init__(self, in_channels: int, in_index: int = -1) -> None:
            super().__init__()
            self.in_index, self.conv = in_index, nn.Conv2d(in_channels, 2, 1)

        def forward(self, levels: tuple[torch.Tensor, ...]) -> torch.Tensor:
            scores: torch.Tensor = self.conv(levels[self.in_index])
            return scores

    class Whole(model.BaseModel):  # type: ignore[misc]
        def __init__(self, backbone: Any, neck: Any = None, data_preprocessor: Any = None, **heads: Any) -> None:
            super().__init__(data_preprocessor)
            self.backbone, self.neck = models.build(backbone), models.build(neck) if neck else None
            described = [each for head in heads.values() for each in (head if isinstance(head, list) else [head])]
            self.heads = nn.ModuleList(models.build(each) for each in described)

        def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
            levels = self.backbone(inputs)
            levels = levels if self.neck is None else self.neck(levels)
            return [head(levels) for head in self.heads]

    for part in (Stages, Mapper, Score, Whole):
        models.register_module(module=part)
    yield models
    del root.children["channels"]


def changed(config: dict[str, Any], key: str, **arguments: Any) -> dict[str, Any]:
    return {"input": "f32[B, 3, 32, 32]", **config, key: {**config[key], **arguments}}


@pytest.mark.guest
@pytest.mark.parametrize(
    ("config", "where", "expected", "found", "remedy"),
    [
        (
            changed(DETECTOR, "neck", in_channels=[4, 9, 6]),
            "whole.neck.in_channels",
            "[4, 8, 6]",
            "[4, 9, 6]",
            "[4, 8, 6]",
        ),
        (changed(DETECTOR, "neck", in_channels=[4, 8]), "whole.neck.in_channels", "[4, 8, 6]", "[4, 8]", "[4, 8, 6]"),
        (changed(DETECTOR, "bbox_head", in_channels=6), "whole.bbox_head.in_channels", "5", "6", "5"),
        (changed(SEGMENTOR, "decode_head", in_channels=8), "whole.decode_head.in_channels", "6", "8", "6"),
        (changed(SEGMENTOR, "decode_head", in_index=1), "whole.decode_head.in_channels", "8", "6", "8"),
        (changed(SEGMENTOR, "decode_head", in_index=3), "whole.decode_head.in_index", "0 to 2", "3", "2"),
        (changed(SEGMENTOR, "backbone", widths=[4, 8, 7]), "whole.decode_head.in_channels", "7", "6", "7"),
    ],
)
def test_channels_that_the_registry_s_backbone_does_not_give_are_refused(
    registry: Any, config: dict[str, Any], where: str, expected: str, found: str, remedy: str
) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(config)
    fault = caught.value.mismatches[0]
    assert (fault.where, fault.found) == (where, found)
    assert fault.expected.startswith(f"{expected}, ")
    assert fault.remedy == f"{where.rpartition('.')[2]}: {remedy}"


@pytest.mark.guest
def test_a_whole_that_reads_its_levels_in_another_order_is_none_of_our_business(registry: Any) -> None:
    config = changed(DETECTOR, "neck", in_channels=[6, 8, 4], reverse=True)
    assert assemble(config)(torch.rand(1, 3, 32, 32))[0].shape == (1, 2, 16, 16)
