"""Images: pictures of a folder, or arrays of a file, as batches that a model takes."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from autoadapt.contracts.capturing import told_inputs
from autoadapt.contracts.capturing.told_statistics import processor_statistics
from autoadapt.errors import CaptureError, Mismatch, SourceError
from autoadapt.files.reading import hindrance, one_line
from autoadapt.sources.zoos import package

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = 0.5
DETECTED = 512
"""Rows and columns of pictures for a detector, which resizes them itself."""

# Dimension letters: B images, C colours, H rows, W columns.


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes what a model takes: resized, cut out in the middle, values of 0..1 standardised."""

    height: int
    width: int
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    margin: int = 32
    """Pixels by which it is made larger than what is cut out of it."""
    resample: str = "bicubic"
    """Of Pillow's filters."""
    told_by: str = "assumed as for ImageNet, since the model does not tell"
    reverses: bool = False
    """Whether the colours are BGR."""

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        return f"pictures of {self.height}x{self.width}, mean {mean}, std {std} ({self.told_by})"

    def apply(self, picture: Any) -> torch.Tensor:
        """A Pillow image as a tensor.

        Shape:
            `[C, height, width]`

        Raises:
            ValueError: It has more than 67 million pixels, or is so narrow that it would have when it is enlarged.
        """
        from PIL import Image

        _refuse_large(picture.size)
        picture = picture.convert("L" if len(self.mean) == 1 else "RGB")
        wanted = self.width + self.margin, self.height + self.margin
        scale = max(one / whole for one, whole in zip(wanted, picture.size, strict=True))
        larger = [max(int(whole * scale), one) for one, whole in zip(wanted, picture.size, strict=True)]
        _refuse_large(larger)
        picture = picture.resize(larger, Image.Resampling[self.resample.upper()])
        left, top = (round((whole - one) / 2) for one, whole in zip((self.width, self.height), larger, strict=True))
        picture = picture.crop((left, top, left + self.width, top + self.height))
        values_HWC = np.asarray(picture, dtype=np.float32).reshape(self.height, self.width, -1) / 255
        values_CHW = torch.from_numpy(values_HWC).permute(2, 0, 1)
        values_CHW = values_CHW.flip(0) if self.reverses else values_CHW
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((values_CHW - mean) / std).contiguous()


def _refuse_large(sides: Sequence[int]) -> None:
    if math.prod(sides) > _MOST_PIXELS:
        raise ValueError(f"{sides[0]:,} x {sides[1]:,} pixels, and at most {_MOST_PIXELS:,} are taken")


_MOST_PIXELS = 1 << 26


class Images:
    """Batches of images, read when they are asked for, as often as that is; pictures that cannot be read are left out.

    Attributes:
        shape: Of one batch.
        skipped: What was left out so far, with the reason, by path.
    """

    def __init__(self, reader: _Reader, chosen: Sequence[int], batch: int) -> None:
        self._reader = reader
        self._chosen = tuple(chosen)
        self._batch = batch
        self.skipped: dict[str, str] = {}
        first = next(self._read(self._chosen), None)
        if first is None:
            faults = [Mismatch(path, "a picture that Pillow reads", said) for path, said in self.skipped.items()]
            raise SourceError(f"none of {len(chosen)} pictures can be read", faults)
        self.shape = (min(batch, len(chosen)), *first.shape)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._chosen)

    def __iter__(self) -> Iterator[torch.Tensor]:
        images = self._read(self._chosen)
        while batch := list(itertools.islice(images, self._batch)):
            yield torch.stack(batch)

    def _read(self, numbers: Iterable[int]) -> Iterator[torch.Tensor]:
        for number in numbers:
            try:
                yield self._reader.read(number)
            except SourceError as error:
                fault = error.mismatches[0]
                self.skipped[fault.where] = fault.found

    def remarks(self) -> tuple[str, ...]:
        """What was left out, in a sentence; empty where nothing was."""
        if not self.skipped:
            return ()
        shown = ", ".join(Path(path).name for path in list(self.skipped)[:3])
        more = f" and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
        return (f"{len(self.skipped)} of {len(self._chosen)} pictures cannot be read and were left out: {shown}{more}",)


def read_images(
    path: str | Path, preprocessing: Preprocessing, *, count: int, batch: int = 16, seed: int = 0
) -> Images:
    """Images of a folder or a file; where there are more than wanted, some by chance, always the same ones.

    Args:
        path: A folder of pictures (with the folders in it), a `.npy` file of one array or a `.safetensors` file of one
            tensor or one called `images`. Bytes `[B, H, W, C]` or `[B, C, H, W]` are pictures; floats `[B, C, H, W]`
            are what the model takes and stay as they are.
        preprocessing: What to do with pictures.
        count: At most so many.
        batch: How many at a time.
        seed: For the choice.

    Raises:
        SourceError: There are none, or none of them can be read.
    """
    reader = _reader(Path(path), preprocessing)
    if not reader.count:
        found = f"none ending in {', '.join(ENDINGS)}" if isinstance(reader, _Folder) else "an empty array"
        raise SourceError(f"{path} has no images", [Mismatch(str(path), "images", found, "give another folder")])
    chosen = random.Random(seed).sample(range(reader.count), min(count, reader.count))
    return Images(reader, chosen, batch)


class _Folder:
    """Pictures as files."""

    def __init__(self, folder: Path, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        self.count = len(self._paths)

    def read(self, number: int) -> torch.Tensor:
        """One picture, preprocessed."""
        image, path = package("PIL.Image", "Pillow"), self._paths[number]
        try:
            with image.open(path) as picture:
                return self._preprocessing.apply(importlib.import_module("PIL.ImageOps").exif_transpose(picture))
        except (OSError, ValueError, SyntaxError, ImportError, image.DecompressionBombError, MemoryError) as error:
            fault = Mismatch(str(path), "a picture that Pillow reads", one_line(error), "mend, move or delete it")
            raise SourceError(f"{path.name} cannot be read", [fault]) from error


class _Array:
    """Images as one array of four axes."""

    def __init__(self, path: Path, values: Any, preprocessing: Preprocessing) -> None:
        self._values = values
        self._preprocessing = preprocessing
        self.count = values.shape[0]
        self._is_bytes = str(values.dtype).endswith("uint8")
        shape, kind = tuple(values.shape), str(values.dtype)
        if len(shape) != 4 or not (self._is_bytes or "float" in kind):
            expected = "u8[B, H, W, C], u8[B, C, H, W] or f32[B, C, H, W]"
            fault = Mismatch(str(path), expected, f"{kind}{list(shape)}", "save the images as one array of that form")
            raise SourceError(f"{path.name} holds no images", [fault])

    def read(self, number: int) -> torch.Tensor:
        """One image, preprocessed if it is one of bytes."""
        value = torch.from_numpy(np.array(self._values[number]))
        if not self._is_bytes:
            return value.float()
        value_HWC = value if value.shape[-1] in (1, 3) else value.movedim(0, -1)
        pixels = value_HWC.squeeze(-1) if value_HWC.shape[-1] == 1 else value_HWC
        return self._preprocessing.apply(package("PIL.Image", "Pillow").fromarray(pixels.contiguous().numpy()))


_Reader = _Folder | _Array
_TAKEN = "a folder of pictures, or a .npy or .safetensors file"


def _reader(path: Path, preprocessing: Preprocessing) -> _Reader:
    if os.path.isdir(path):
        return _Folder(path, preprocessing)
    if not os.path.isfile(path):
        raise SourceError(f"there is no {path}", [Mismatch(str(path), _TAKEN, "nothing there", "check it")])
    try:
        if said := hindrance(path):
            raise ValueError(said)
        if path.suffix == ".npy":
            return _Array(path, np.load(path, mmap_mode="r", allow_pickle=False), preprocessing)
        if path.suffix == ".safetensors":
            return _Array(path, _only_tensor(path).numpy(), preprocessing)
    except SourceError:
        raise
    except Exception as error:  # numpy reads headers as Python, whose parser has errors of its own
        fault = Mismatch(str(path), f"an array in a {path.suffix} file", one_line(error), "save it anew")
        raise SourceError(f"{path.name} cannot be read", [fault]) from error
    fault = Mismatch(str(path), _TAKEN, path.suffix or "no ending")
    raise SourceError(f"{path.name} is of another kind", [fault])


def _only_tensor(path: Path) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
        if len(names) != 1 and "images" not in names:
            found = ", ".join(names) or "none"
            fault = Mismatch(str(path), "one tensor, or one called `images`", found, 'save_file({"images": ...}, path)')
            raise SourceError(f"{path.name} does not say which tensor holds the images", [fault])
        tensor: torch.Tensor = file.get_tensor("images" if "images" in names else names[0])
        return tensor if tensor.dtype == torch.uint8 else tensor.float()


def preprocessing_of(model: nn.Module, source: str = "") -> Preprocessing:
    """What a model was trained with, as far as it or its zoo tells.

    Args:
        model: With the configuration of timm or transformers.
        source: What it was loaded by, `torchvision:resnet50`; torchvision's models tell nothing themselves.
    """
    scheme, _, name = source.partition(":")
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, dict) and "mean" in config:
        channels, height, width = _told_size(model)
        mean, std = (_of_channels(config[key], channels) for key in ("mean", "std"))
        margin = int(min(height, width) / (config.get("crop_pct") or 1.0)) - min(height, width)
        return Preprocessing(height, width, mean, std, margin, config.get("interpolation") or "bicubic", "as timm says")
    if scheme == "torchvision":
        return _of_torchvision(name)
    channels, height, width = _told_size(model)
    if scheme == "hf" and (found := _of_checkpoint(name, channels, height, width)) is not None:
        return found
    return Preprocessing(height, width, *(IMAGENET if channels == 3 else ((HALF,) * channels,) * 2))


def _told_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width; ImageNet's where the model tells nothing."""
    try:
        channels, height, width = told_inputs(model).shape[1:]
    except CaptureError:
        return 3, 224, 224
    return channels, height, width


def _of_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values for each channel; their mean where the model has another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _of_torchvision(name: str) -> Preprocessing:
    """The transforms of the default weights; detectors have none, and resize and standardise by themselves."""
    told = importlib.import_module("torchvision.models").get_model_weights(name).DEFAULT.transforms()
    where = "as torchvision's weights say"
    if not hasattr(told, "mean"):
        size, nothing, one = DETECTED, (0.0,) * 3, (1.0,) * 3
        return Preprocessing(size, size, nothing, one, 0, "bilinear", f"{where}: the model standardises them")
    size = getattr(told, "crop_size", told.resize_size)[0]
    margin = told.resize_size[0] - size
    return Preprocessing(size, size, tuple(told.mean), tuple(told.std), margin, told.interpolation.value, where)


def _of_checkpoint(name: str, channels: int, height: int, width: int) -> Preprocessing | None:
    """The image processor of a checkpoint that is here; None where there is none."""
    try:
        processor = importlib.import_module("transformers").AutoImageProcessor.from_pretrained(
            name, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError):
        return None
    told = processor_statistics(processor.to_dict())
    if told is None or told.channels not in (None, 3):
        return None
    mean, std = (_of_channels([one / told.range for one in values], channels) for values in told.of(3))
    where = "as the checkpoint's image processor says"
    return Preprocessing(height, width, mean, std, 0, "bicubic", where, reverses=told.order == "bgr")
