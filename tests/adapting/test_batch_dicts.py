"""Modules that read and fill in one dict, as detectors of point clouds hand it from part to part."""

import numpy as np
import torch
from torch import nn

import autoadapt as aa


class Part(nn.Module):
    """Reads one key of the dict and fills in another; other entries pass through."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.size = nn.Conv2d(8, channels, 3, 2, 1), 0

    def forward(self, batch_dict):
        self.size = batch_dict["batch_size"]
        batch_dict["spatial_features_2d"] = self.layer(batch_dict["spatial_features"])
        return batch_dict


class Scatter(nn.Module):
    def forward(self, batch_dict):
        batch_dict["spatial_features"] = batch_dict["points"].reshape(batch_dict["batch_size"], 8, 16, 16)
        return batch_dict


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.scatter, self.backbone_2d, self.head = Scatter(), Part(12), nn.Conv2d(12, 4, 1)

    def forward(self, batch_dict):
        batch_dict = self.backbone_2d(self.scatter(batch_dict))
        return self.head(batch_dict["spatial_features_2d"]), batch_dict["frame_id"]


def batch(count):
    names = [f"frame {i}" for i in range(count)]
    return {"spatial_features": torch.randn(count, 8, 16, 16), "batch_size": count, "frame_id": names}


def test_what_is_no_tensor_in_a_dict_is_the_callers_at_every_call():
    net = aa.adapt(Part(6), like=Part(12), inputs=(batch(2),))
    given = batch(3)
    returned = net(given)
    assert returned is given
    assert (given["batch_size"], given["frame_id"]) == (3, ["frame 0", "frame 1", "frame 2"])
    assert given["spatial_features_2d"].shape == (3, 12, 8, 8)
    assert net.backbone.size == 3
    assert net.verify().passed


def test_an_entry_that_is_not_given_is_what_it_was():
    net = aa.adapt(Part(6), like=Part(12), inputs=(batch(2),))
    given = batch(2)
    del given["frame_id"]
    assert net(given)["spatial_features_2d"].shape == (2, 12, 8, 8)


def test_a_part_of_a_detector_is_swapped_whose_batches_have_names_in_arrays():
    model = Detector()

    def called(count):
        names = np.array([f"frame {i}" for i in range(count)])
        return {"points": torch.randn(count, 8 * 256), "batch_size": count, "frame_id": names}

    aa.swap(model, "backbone_2d", Part(6), inputs=(called(2),))
    scores, names = model(called(3))
    assert scores.shape == (3, 4, 8, 8)
    assert list(names) == ["frame 0", "frame 1", "frame 2"]


def test_a_module_of_tensors_serves_a_dict():
    torch.manual_seed(0)
    new = nn.Conv2d(8, 12, 3, 2, 1)
    net = aa.adapt(new, like=Part(12), inputs=(batch(2),))
    given = batch(3)
    torch.testing.assert_close(net(given)["spatial_features_2d"], new(given["spatial_features"]))
    assert given["batch_size"] == 3
