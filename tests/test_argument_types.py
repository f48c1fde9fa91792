"""Arguments of another type are refused by name, with what to write, by verbs that only read them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

X = torch.zeros(1, 3, 8, 8)
CALLS = {
    "load": lambda value: aa.load(value),
    "list_models": lambda value: aa.list_models(value),
    "restore": lambda value: aa.restore(value),
    "rank": lambda value: aa.rank(value, nn.Conv2d(3, 8, 4, 4), inputs=X),
    "dynamic_shapes": lambda value: aa.dynamic_shapes(NET, value),
}
NET = aa.adapt(nn.Conv2d(3, 5, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=X)


@pytest.mark.parametrize("value", [3, [1], nn.Conv2d, object()], ids=["number", "list", "class", "object"])
@pytest.mark.parametrize("verb", CALLS)
def test_an_argument_of_another_type_is_refused_with_what_to_write(verb: str, value: object) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        CALLS[verb](value)
    assert all(fault.expected and fault.found and fault.remedy for fault in caught.value.mismatches)
