"""The families of models that the zoo benchmark tries, and how a model of each is made, without weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks import modalities
from benchmarks.judged_levels import judged_taps
from benchmarks.unlisted_models import create_unlisted

__all__ = ["FAMILIES", "create"]


def timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def torchvision_names() -> list[str]:
    """All but optical flow and quantised models, which are no backbones."""
    import torchvision.models as models

    kinds = (models, models.segmentation, models.detection, models.video)
    return [name for kind in kinds for name in models.list_models(module=kind)]


def transformers_names() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return [name for name in MODEL_FOR_BACKBONE_MAPPING_NAMES if name != "timm_backbone"]  # which needs a timm name


FAMILIES: dict[str, Callable[[], list[str]]] = {
    "timm": timm_names,
    "torchvision": torchvision_names,
    "hf": transformers_names,
    "unlisted": lambda: list(judged_taps()),
    **{family: partial(modalities.pair_names, family) for family in modalities.FAMILIES},
}


def create(family: str, name: str, device: str) -> tuple[nn.Module, Any]:
    """A model without weights, and inputs where it does not tell its own."""
    with torch.device(device):
        if family == "timm":
            import timm

            return timm.create_model(name), None
        if family == "torchvision":
            return create_torchvision(name)
        if family == "unlisted":
            return create_unlisted(name)
        return create_transformers(name)


def create_torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision.models as models

    builder = models.get_model_builder(name)
    options = {"weights": None} | ({"weights_backbone": None} if "weights_backbone" in str(builder.__doc__) else {})
    model = models.get_model(name, **options)
    module = builder.__module__
    if ".video" in module:
        return model, torch.empty(2, 3, 16, 224, 224)
    if ".detection" in module:
        return model.backbone, torch.empty(2, 3, 224, 224)
    weights = models.get_model_weights(name)
    sizes = [one.transforms.keywords.get("crop_size", 224) for one in weights] if len(weights) else []
    size = sizes[0] if sizes and isinstance(sizes[0], int) else 224
    return model, torch.empty(2, 3, size, size)


def create_transformers(name: str) -> tuple[nn.Module, Any]:
    from transformers import AutoBackbone, AutoConfig

    default = AutoConfig.for_model(name)
    tiny = {key: value for key, value in TINY.items() if isinstance(getattr(default, key, None), int)}
    lists = (
        {"hidden_sizes": list(default.hidden_sizes)} if isinstance(getattr(default, "hidden_sizes", 0), tuple) else {}
    )
    config = AutoConfig.for_model(name, **tiny, **lists)
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return AutoBackbone.from_config(config), torch.empty(2, 3, height, width)


TINY = {"num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4}
"""What makes most transformers small; others keep their own size."""
