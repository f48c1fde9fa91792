"""Swapped regions in models that torch.fx has traced, or traces."""

import pickle

import torch
import torch.nn.functional as F
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class Between(nn.Module):
    """A plain chain with a resize between two members, so that shapes are needed at every size."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x):
        return self.head(self.c3(F.interpolate(self.c2(self.c1(x)).relu(), scale_factor=2.0)))


def test_a_swapped_graph_module_is_pickled_and_loaded():
    torch.manual_seed(0)
    model = aa.swap(torch.fx.symbolic_trace(Between()), "c1:c3", Pyramid(6, 7, 9), inputs=image()).eval()
    made = pickle.loads(pickle.dumps(model))
    assert [node.target for node in made.graph.nodes if node.op == "call_module"] == ["c1", "c2", "c3", "head"]
    assert torch.equal(made(image(2, 64, 96)), model(image(2, 64, 96)))


def test_a_swapped_model_is_followed_by_torch_fx_and_loaded_from_a_pickle_of_that():
    torch.manual_seed(0)
    model = aa.swap(Between(), "c1:c3", nn.Conv2d(3, 9, 5, 4, 2), inputs=image()).eval()
    traced = torch.fx.symbolic_trace(model)
    x = image(2, 64, 96)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), model(x))
