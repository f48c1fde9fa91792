"""A capture runs a module no more often than it takes to tell its sizes."""

from typing import ClassVar

import pytest
import torch
from torch import nn

import autoadapt as aa


class Counting(nn.Module):
    """Patches of images, and how often all copies of it ran, with values and without."""

    ran: ClassVar[list[str]] = []

    def __init__(self, patch, also=1):
        super().__init__()
        self.patch, self.also = nn.Conv2d(3, 4, patch, patch), also

    def forward(self, x):
        Counting.ran.append("without" if x.is_meta else "real")
        sizes = [size % (self.patch.kernel_size[0] * self.also) for size in x.shape[2:]]
        if any(sizes):
            raise ValueError("sizes must be whole patches")
        return self.patch(x)


@pytest.mark.parametrize(("patch", "also", "most"), [(16, 1, 18), (14, 1, 20), (1, 1, 11), (4, 3, 27)])
def test_steps_are_looked_for_at_the_patches_of_a_module(patch, also, most):
    Counting.ran.clear()
    signature = aa.capture(Counting(patch, also), torch.zeros(1, 3, 168 * 4, 168 * 4))
    assert (signature.axes["H"].step, signature.axes["W"].step) == (patch * also, patch * also)
    assert Counting.ran.count("without") <= most
    assert Counting.ran.count("real") <= 3
