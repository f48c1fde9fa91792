"""What the rest of a model reads only in train mode is said, where the model stands in eval mode."""

import warnings

import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

SAID = (
    "in train mode the model reads 0 of `backbone`, in eval mode only 1; it is in eval mode, so that is left out. "
    "model.train() first, or inputs= can be a training step, or outputs=['0', '1']"
)


class WithAuxiliary(nn.Module):
    """A head on the deeper level, and in train mode one on the other too."""

    def __init__(self):
        super().__init__()
        self.backbone = Pyramid(4, 8)
        self.head, self.auxiliary = nn.Conv2d(8, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        maps = self.backbone(x)
        answer = self.head(maps[1])
        return (answer, self.auxiliary(maps[0])) if self.training else answer


class NeedsTargets(WithAuxiliary):
    """Refuses to run in train mode without targets."""

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets")
        return super().forward(x)


def in_eval(model):
    model.eval()
    return model


def test_a_level_that_is_read_in_train_mode_alone_gives_a_warning():
    model = in_eval(WithAuxiliary())
    with pytest.warns(UserWarning, match="in train mode the model reads 0") as caught:
        aa.swap(model, "backbone", Strided(), inputs=image())
    assert [str(one.message) for one in caught] == [SAID]
    assert model.backbone.swapped.parts[0].remarks == (SAID,)
    assert not model.training


class Strided(nn.Module):
    """One map where the deeper level stands, so that the other costs a layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4)))


@pytest.mark.parametrize(("kind", "training"), [(WithAuxiliary, True), (NeedsTargets, False)])
def test_no_warning_where_the_model_is_in_train_mode_or_cannot_run_there(kind, training):
    model = kind()
    model.train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aa.swap(model, "backbone", Strided() if not training else Pyramid(6, 12), inputs=image())
    assert torch.is_tensor(in_eval(model)(image()))
