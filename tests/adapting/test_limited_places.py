"""Networks that take images up to a size, which shows only in values, are networks of one size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autoadapt as aa

IMAGE = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


class Relative(nn.Module):
    """Patches with a table of relative places, as of timm's mvitv2: those beyond it are no rows of the table.

    Args:
        size: Of the largest image.
        listed: Whether the patches are listed as tokens in between.
    """

    def __init__(self, size: int = 224, *, listed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.listed = nn.Conv2d(3, 12, 16, 16), listed
        self.table = nn.Parameter(torch.randn(2 * (size // 16) - 1, 12))
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: `[B, 3, H, W]` -> `[B, 12, floor(H/16), floor(W/16)]`."""
        maps = self.patches(x)
        height, width = maps.shape[2:]
        places = torch.arange(height, device=x.device)
        apart = places[:, None] - places[None] + height - 1
        maps = maps + self.table[apart.long()].mean(1).T[:, :, None]
        if self.listed:
            maps = self.norm(maps.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (height, width))
        return maps


def old() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(8, 6, 3, 4, 1)).eval()


@pytest.mark.parametrize("listed", [False, True])
def test_a_new_one_reads_images_that_were_resized(listed: bool) -> None:
    new = Relative(listed=listed).eval()
    net = aa.adapt(new, like=old(), inputs=IMAGE).eval()
    for sides in ((256, 320), (96, 224), (224, 224)):
        image = torch.rand(1, 3, *sides)
        assert net(image).shape == old()(image).shape
    assert "resize to 224" in str(net.plan)


@pytest.mark.parametrize("listed", [False, True])
def test_an_old_one_is_a_contract_of_its_size(listed: bool) -> None:
    contract = Relative(listed=listed).eval()
    signature = aa.capture(contract, IMAGE)
    assert not signature.contradictions
    assert "H" not in signature.axes or signature.axes["H"].step == 0
    net = aa.adapt(old(), like=contract, inputs=IMAGE).eval()
    assert net(IMAGE).shape == contract(IMAGE).shape


def test_one_that_takes_larger_images_too_reads_them_as_they_are() -> None:
    net = aa.adapt(Relative(4096).eval(), like=old(), inputs=IMAGE)
    assert "resize to" not in str(net.plan)
