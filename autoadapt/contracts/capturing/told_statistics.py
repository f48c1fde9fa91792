"""Told statistics: the normalisation of images that modules of known libraries have in their configuration.

A reader is a function that knows one library; it only reads attributes, so that no library is imported here.
Statistics are those of a module's published weights, even if these are not loaded.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.origins import origin_of
from autoadapt.contracts.signature import ColourOrder, Statistics, Values, image_of
from autoadapt.errors import AdaptError, SignatureError
from autoadapt.files.reading import read_json, read_text

Reader: TypeAlias = Callable[[nn.Module], Statistics | None]

_READERS: list[Reader] = []


def statistics_reader(reader: Reader) -> Reader:
    """Register the reader of a library, as a decorator; the last one registered is asked first."""
    _READERS.insert(0, reader)
    return reader


def told_statistics(module: nn.Module) -> Statistics | None:
    """The statistics of a module's images; None where no reader finds any."""
    for reader in _READERS:
        with contextlib.suppress(AdaptError, LookupError, TypeError, ValueError, AttributeError):
            found = reader(module)
            if found is not None:
                return found
    return None


def statistics_told(module: nn.Module, inputs: Values) -> Statistics | None:
    """The statistics of the one image among a module's inputs, where they have its number of channels."""
    image, told = image_of(inputs), told_statistics(module)
    fits = told is not None and image is not None and told.channels in (None, image[1])
    return told if fits else None


@statistics_reader
def _of_timm(module: nn.Module) -> Statistics | None:
    """timm's `pretrained_cfg`, also inside of wrappers of transformers and segmentation_models_pytorch."""
    name = type(module).__module__
    if name.startswith(("transformers.models.timm_", "segmentation_models_pytorch.encoders.timm")):
        inner = [child for child in module.children() if "pretrained_cfg" in vars(child)]
        module = inner[0] if len(inner) == 1 else module
    told = vars(module).get("pretrained_cfg") or vars(module).get("default_cfg")
    return _from_mapping(told) if isinstance(told, Mapping) else None


def _from_mapping(told: Mapping[str, Any]) -> Statistics | None:
    if not told.get("mean") or not told.get("std"):
        return None
    return Statistics(mean=_numbers(told["mean"]), std=_numbers(told["std"]))


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@statistics_reader
def _of_torchvision(module: nn.Module) -> Statistics | None:
    """The transforms of all published weights of the model, or of its class where its name is not known.

    Where these do not agree, those of the weights with as many parameters.
    """
    home = type(module).__module__
    if not home.startswith("torchvision.models."):
        return None
    origin = origin_of(module)
    name = origin.source.partition(":")[2] if origin is not None and origin.source.startswith("torchvision:") else ""
    kinds = [one for one in vars(sys.modules[home]).values() if _lists_weights(one)]
    own = [kind for kind in kinds if kind.__name__.lower() == f"{name}_weights".lower()] if name else []
    published = [weights.value for kind in own or kinds for weights in kind]
    count = sum(parameter.numel() for parameter in module.parameters())
    alike = [weights for weights in published if weights.meta.get("num_params") == count]
    return _agreed(map(_of_weights, published)) or _agreed(map(_of_weights, alike))


def _lists_weights(found: Any) -> bool:
    return isinstance(found, type) and any(base.__name__ == "WeightsEnum" for base in found.__mro__[1:])


def _of_weights(weights: Any) -> Statistics | None:
    """The statistics of some weights; None for weights without categories, which are parts of detectors."""
    if not weights.meta.get("categories"):
        return None
    transforms = weights.transforms()
    if not hasattr(transforms, "mean"):
        return None
    return Statistics(mean=_numbers(transforms.mean), std=_numbers(transforms.std))


@statistics_reader
def _of_detectors(module: nn.Module) -> Statistics | None:
    """Detectors of torchvision and models of ultralytics take pixels from 0 to 1 and normalise them themselves."""
    homes = {kind.__module__ for kind in type(module).__mro__}
    takes_pixels = "torchvision.models.detection.generalized_rcnn" in homes or "ultralytics.nn.tasks" in homes
    takes_pixels = takes_pixels or any(
        type(child).__module__ == "torchvision.models.detection.transform" for child in module.children()
    )
    return Statistics() if takes_pixels else None


_TURNS = ("_channel_conversion", "channel_conversion", "to_rgb")
"""Attributes for whether channels are reversed: of mmengine and derived classes, of mmseg, of mmpretrain, mmaction."""


@statistics_reader
def _of_mmengine(module: nn.Module) -> Statistics | None:
    """The preprocessor beside a model of mmengine, which the training loop runs before `forward`."""
    preprocessor = module._modules.get("data_preprocessor")
    homes = {kind.__module__ for kind in type(preprocessor).__mro__}
    if "mmengine.model.base_model.data_preprocessor" not in homes or preprocessor is None:
        return None
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor) or mean.is_meta:
        return None
    # images are read as BGR; mean and standard deviation are those after the reversal
    turned = {vars(preprocessor)[name] for name in _TURNS if name in vars(preprocessor)}
    if len(turned) != 1:
        return None
    order = "rgb" if turned.pop() else "bgr"
    return Statistics(mean=_numbers(mean.flatten()), std=_numbers(std.flatten()), order=order, range=255)


@statistics_reader
def _of_transformers(module: nn.Module) -> Statistics | None:
    """The image processor's config beside the weights that a model was loaded from; nothing is downloaded."""
    if not type(module).__module__.startswith("transformers."):
        return None
    config = vars(module).get("config")
    name = getattr(config, "_name_or_path", "")
    path = _file_of(name, "preprocessor_config.json", getattr(config, "_commit_hash", None)) if name else None
    if path is None:
        return None
    told = read_json(read_text(path, "an image processor's config (JSON)", "", SignatureError))
    return processor_statistics(told) if isinstance(told, dict) else None


_REVERSING = ("PPLCNet", "PPOCRV5ServerDet", "PPOCRV6")
"""Beginnings of names of processors that reverse channels, of which their files say nothing."""


def processor_statistics(told: Mapping[str, Any]) -> Statistics | None:
    """What a processor's file says; None where its class decides what the file leaves out."""
    mean, std = told.get("image_mean"), told.get("image_std")
    if "do_normalize" not in told or str(told.get("image_processor_type")).startswith(_REVERSING):
        return None
    if not told["do_normalize"]:
        mean, std = (0.0,), (1.0,)
    if not mean or not std:
        return None
    is_rescaled = told.get("do_rescale", True)
    factor = float(told.get("rescale_factor", 1 / 255)) if is_rescaled else 1.0
    if is_rescaled and (told.get("offset") or told.get("rescale_offset")):  # 1 is subtracted first, as for Vivit
        mean = [1 + one for one in mean]
    if told.get("include_top"):  # EfficientNet's divides once more
        std = [one * again for one, again in zip(itertools.cycle(std), told["image_std"], strict=False)]
    order: ColourOrder = "rgb"
    if told.get("do_flip_channel_order"):  # which is done at last
        mean, std, order = mean[::-1], std[::-1], "bgr"
    return Statistics(mean=_numbers(mean), std=_numbers(std), order=order, range=round(255 * factor, 6))


def _file_of(name: str, file: str, revision: str | None) -> Path | None:
    """A file in a folder, or of a Hugging Face repository in the cache."""
    if (Path(name) / file).is_file():
        return Path(name) / file
    hub = sys.modules.get("huggingface_hub")
    if hub is None or Path(name).exists():
        return None
    found = hub.try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


@statistics_reader
def _of_smp(module: nn.Module) -> Statistics | None:
    """The settings of the encoder of a model of segmentation_models_pytorch, where they are in the cache.

    They are if weights were loaded. A bare encoder does not know its name, so all of its class have to agree.
    """
    known = getattr(sys.modules.get("segmentation_models_pytorch.encoders"), "encoders", {})
    if type(module).__module__.startswith("segmentation_models_pytorch.encoders."):
        alike = [entry for entry in known.values() if entry["encoder"] is type(module)]
        return _agreed(told for entry in alike for told in _smp_settings(entry["pretrained_settings"]))
    if not type(module).__module__.startswith("segmentation_models_pytorch.decoders."):
        return None
    name = str(getattr(module, "name", "")).partition("-")[2]
    inner = vars(module).get("_modules", {}).get("encoder")
    told = _agreed(_smp_settings(known.get(name, {}).get("pretrained_settings", {})))
    return told or (told_statistics(inner) if inner is not None else None)


def _smp_settings(weights: Mapping[str, Mapping[str, str]]) -> Iterator[Statistics | None]:
    for where in weights.values():
        path = _file_of(where["repo_id"], "config.json", where["revision"])
        if path is not None:
            told = json.loads(read_text(path, "an encoder's config (JSON)", "", SignatureError))
            order = "bgr" if told.get("input_space", "RGB") == "BGR" else "rgb"
            mean, std, top = told["mean"], told["std"], told.get("input_range", [0, 1])[-1]
            yield Statistics(mean=_numbers(mean), std=_numbers(std), order=order, range=float(top))


def _agreed(told: Iterable[Statistics | None]) -> Statistics | None:
    found = {one for one in told if one is not None}
    return found.pop() if len(found) == 1 else None
