"""What the suites of timm, torchvision, smp and transformers ask of a backbone, asked of an adapted one."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from transformers import (
    BertConfig,
    BertModel,
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import autoadapt as aa
from autoadapt.swapping import swap

IMAGES = torch.zeros(1, 3, 64, 64)


def plain(name: str = "test_resnet") -> nn.Module:
    return timm.create_model(name).eval()


def test_timm_features_keep_their_info_channels_reductions_and_indices():
    old = timm.create_model("test_convnext", features_only=True, out_indices=(1, 2, 3)).eval()
    net = aa.adapt(plain(), like=old, inputs=IMAGES)
    assert net.feature_info.channels() == old.feature_info.channels()
    assert net.feature_info.reduction() == old.feature_info.reduction()
    assert net.feature_info.out_indices == old.feature_info.out_indices
    made = net(torch.randn(2, 3, 96, 64))
    for level, channels, stride in zip(made, net.feature_info.channels(), net.feature_info.reduction(), strict=True):
        assert level.shape == (2, channels, 96 // stride, 64 // stride)


def test_timm_features_with_channels_last_say_so_and_come_so():
    sizes = {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
    old = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, strict_img_size=False, **sizes).eval()
    assert old.output_fmt == "NHWC"
    net = aa.adapt(plain(), like=old, inputs=IMAGES)
    assert net.output_fmt == "NHWC"
    assert [level.shape[-1] for level in net(IMAGES)] == net.feature_info.channels()


def detector_backbone() -> nn.Module:
    body = torchvision.models.resnet18(weights=None)
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    return BackboneWithFPN(body, layers, [128, 256, 512], 16)


def train_and_detect(model: nn.Module) -> None:
    images = [torch.rand(3, 64, 80), torch.rand(3, 72, 64)]
    boxes = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in images]
    losses = model.train()(images, boxes)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)
    found = model.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2


def test_torchvision_detectors_train_and_detect_with_an_adapted_backbone():
    backbone = aa.adapt(plain(), like=detector_backbone().eval(), inputs=IMAGES)
    assert backbone.out_channels == 16
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4)
    sizes = {"num_classes": 3, "min_size": 64, "max_size": 96}
    train_and_detect(FasterRCNN(backbone, rpn_anchor_generator=anchors, **sizes))
    train_and_detect(RetinaNet(backbone, anchor_generator=anchors, **sizes))


@pytest.mark.slow
def test_smp_decoders_take_an_adapted_encoder():
    for architecture in (smp.Unet, smp.FPN, smp.DeepLabV3Plus):
        model = architecture("resnet18", encoder_weights=None, classes=4).eval()
        old = model.encoder
        model.encoder = aa.adapt(plain(), like=old, inputs=IMAGES)
        assert model.encoder.out_channels == old.out_channels
        assert model.encoder.output_stride == old.output_stride
        assert model(torch.randn(2, 3, 64, 96)).shape == (2, 4, 64, 96)
        shapes = [level.shape for level in model.encoder(IMAGES)]
        assert shapes == [level.shape for level in old(IMAGES)]


def upernet() -> nn.Module:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    body = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, layer_type="basic", out_features=stages
    )
    sizes = {"hidden_size": 16, "pool_scales": [1, 2], "num_labels": 3, "auxiliary_in_channels": 16}
    return UperNetForSemanticSegmentation(UperNetConfig(backbone_config=body, **sizes)).eval()


@pytest.mark.slow
def test_transformers_segmenters_take_an_adapted_backbone_by_hand_and_by_swap():
    by_hand, swapped = upernet(), upernet()
    old = by_hand.backbone
    by_hand.backbone = aa.adapt(plain(), like=old, inputs=IMAGES)
    swap(swapped, "backbone", plain(), inputs={"pixel_values": IMAGES})
    for model in (by_hand, swapped):
        assert model.backbone.channels == old.channels
        assert model.backbone.out_features == old.out_features
        assert model.backbone.backbone_type == old.backbone_type
        for asked in ({}, {"output_hidden_states": False}, {"output_attentions": True}):
            assert model(torch.randn(2, 3, 64, 96), **asked).logits.shape == (2, 3, 64, 96)
        with pytest.raises(ValueError, match=r"output_hidden_states was (None|False) when this module was adapted"):
            model(torch.randn(2, 3, 64, 96), output_hidden_states=True)


def test_a_transformers_backbone_is_replaced_with_its_names_types_and_hidden_states():
    old = upernet().backbone
    asked = {"output_hidden_states": True, "output_attentions": True}
    net = aa.adapt(plain(), like=old, inputs={"pixel_values": IMAGES, **asked})
    facts = (
        "channels",
        "out_features",
        "out_indices",
        "stage_names",
        "num_features",
        "backbone_type",
        "main_input_name",
    )
    for name in facts:
        assert getattr(net, name) == getattr(old, name)
    images = torch.randn(2, 3, 96, 64)
    found, wanted = net(images, **asked), old(images, **asked)
    assert type(found) is type(wanted)
    assert list(found.keys()) == list(wanted.keys())
    for key in ("feature_maps", "hidden_states"):
        assert [level.shape for level in found[key]] == [level.shape for level in wanted[key]]
    assert len(found.hidden_states) == len(net.stage_names)
    assert found.attentions is None


@pytest.mark.slow
def test_what_writes_token_by_token_goes_on_writing_with_another_encoder():
    """`generate` asks the encoder how its first argument is called."""
    sizes = {"num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, **sizes))
    new = BertModel(BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    ids = torch.randint(2, 50, (2, 7))
    model = swap(model, "encoder", new, inputs={"input_ids": ids, "decoder_input_ids": ids[:, :3]}).eval()
    with torch.no_grad():
        first = model(input_ids=ids, decoder_input_ids=ids[:, :1] * 0).logits[:, -1].argmax(-1)
        written = model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)
    assert torch.equal(written[:, 1], first)
