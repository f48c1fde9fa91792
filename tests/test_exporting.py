"""Adapted modules leave PyTorch: torch.export and ONNX, run at sizes that they were not exported at."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from torch.export import Dim

import autoadapt as aa


def pyramid():
    return timm.create_model("resnet18", features_only=True).eval()


def named_levels():
    levels = {"p3": "f32[B, 32, ceil(H/8), ceil(W/8)]", "p4": "f32[B, 64, ceil(H/16), ceil(W/16)]"}
    return aa.Signature.parse(levels, inputs="f32[B, 3, H, W]")


ADAPTED = {
    "convolutions": (lambda: timm.create_model("resnet10t", features_only=True), pyramid),
    "taps at one image size": (lambda: timm.create_model("vit_tiny_patch16_224", depth=4), pyramid),
    "a dict of levels": (lambda: torchvision.models.mobilenet_v3_small(weights=None), named_levels),
}


@pytest.mark.parametrize("name", ADAPTED)
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_holds_at_sizes_it_was_not_exported_at(name, tmp_path):
    make, like = ADAPTED[name]
    net = aa.adapt(make().eval(), like=like(), inputs=torch.randn(2, 3, 128, 160)).eval()
    shapes = {2: Dim("height", min=64, max=1024), 3: Dim("width", min=64, max=1024), 0: Dim("batch", min=1, max=64)}
    path = tmp_path / "net.onnx"
    x = torch.randn(2, 3, 128, 160)
    torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=(shapes,), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for height, width, batch in ((96, 224, 3), (97, 131, 1)):  # the second divides by no stride
        x = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = net(x)
        expected = list(expected.values()) if isinstance(expected, dict) else expected
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-4, rtol=1e-3)
