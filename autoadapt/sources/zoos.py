"""Zoos: what the schemes of names stand for: timm, torchvision, transformers, smp, and those of other packages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.sources.reach import offline_if_unreached
from autoadapt.versions import install_line

GROUP = "autoadapt.sources"


class Source(Protocol):
    """A zoo: what a scheme stands for."""

    def names(self) -> Sequence[str]:
        """The models there are."""

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        """One model, as its maker meant it."""

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        """One model as a backbone: with its feature levels where the zoo gives them, else as it is."""


def schemes() -> tuple[str, ...]:
    """The schemes there are: the built-in ones, then those that other packages add."""
    return (*_ZOOS, *(point.name for point in _entry_points() if point.name not in _ZOOS))


def zoo_of(scheme: str) -> Source:
    """What loads the models of a scheme, a built-in one or another package's."""
    if scheme in _ZOOS:
        return _ZOOS[scheme]
    point = next(point for point in _entry_points() if point.name == scheme)
    try:
        found: Source = point.load()
    except Exception as error:
        fault = Mismatch(point.value, "an object with names, load and backbone", str(error), "mend or remove it")
        raise SourceError(f"the scheme `{scheme}` of another package cannot be loaded", [fault]) from error
    return found


def names_if_any(scheme: str) -> Sequence[str]:
    """The models of a zoo; none where its package is not installed."""
    try:
        return zoo_of(scheme).names()
    except SourceError:
        return ()


def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=GROUP))


def package(module: str, name: str = "") -> ModuleType:
    """A module of an optional package.

    Args:
        module: Its path.
        name: What people call the package; the path where left out.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fault = Mismatch(
            module.partition(".")[0] if name else module, "an installed package", str(error), install_line("zoo")
        )
        raise SourceError(f"{name or module} is not installed", [fault]) from error


class _Timm:
    """PyTorch image models."""

    def names(self) -> Sequence[str]:
        return tuple(package("timm").list_models())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        model: nn.Module = package("timm").create_model(name, pretrained=pretrained, **options)
        return model

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        if "features_only" in options:
            return self.load(name, pretrained=pretrained, **options)
        try:
            return self.load(name, pretrained=pretrained, features_only=True, **options)
        except (RuntimeError, AttributeError, AssertionError):  # no levels in this architecture
            return self.load(name, pretrained=pretrained, **options)


class _Torchvision:
    """Torchvision's models of every task."""

    def names(self) -> Sequence[str]:
        return tuple(package("torchvision.models").list_models())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        if options.pop("features_only", False):
            remedy = "adapt() finds levels inside"
            fault = Mismatch("features_only", "a model with feature levels", "torchvision gives none", remedy)
            raise SourceError(f"torchvision:{name} has no feature levels", [fault])
        chosen: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
        if "weights_backbone" not in options and _takes_weights_backbone(name):
            chosen["weights_backbone"] = None
        model: nn.Module = package("torchvision.models").get_model(name, **{**chosen, **options})
        return model

    backbone = load


def _takes_weights_backbone(name: str) -> bool:
    """Detectors and segmenters would download a backbone of their own, unless told not to."""
    module = package("torchvision.models").get_model_builder(name).__module__
    return "detection" in module or "segmentation" in module


class _Encoders:
    """The encoders of segmentation_models_pytorch; every one returns its levels, the input first."""

    def names(self) -> Sequence[str]:
        return tuple(package("segmentation_models_pytorch").encoders.get_encoder_names())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        chosen = {"weights": "imagenet" if pretrained else None}
        model: nn.Module = package("segmentation_models_pytorch").encoders.get_encoder(name, **{**chosen, **options})
        return model

    backbone = load


class _Transformers:
    """Hugging Face: a checkpoint's name, a folder, or the name of an architecture."""

    def names(self) -> Sequence[str]:
        return ()  # nobody can list the hub

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        auto = "AutoBackbone" if options.pop("features_only", False) else "AutoModel"
        return self._make(auto, name, pretrained, options)

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        mapping = package("transformers.models.auto.modeling_auto").MODEL_FOR_BACKBONE_MAPPING
        config = _config(name)
        has_levels = options.pop("features_only", type(config) in mapping)
        if has_levels and "out_features" not in options and "out_indices" not in options:
            options["out_features"] = [stage for stage in config.stage_names if stage != "stem"]
        return self._make("AutoBackbone" if has_levels else "AutoModel", name, pretrained, options)

    def _make(self, auto: str, name: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
        maker = getattr(package("transformers"), auto)
        model: nn.Module
        if pretrained:
            model = maker.from_pretrained(name, trust_remote_code=False, **options)
        else:
            config = _config(name)
            _refuse_unknown_options(name, config, options)
            config.update(dict(options))
            model = maker.from_config(config, trust_remote_code=False)
        return model


_FETCHES = ContextVar("fetches", default=True)


@contextlib.contextmanager
def nothing_fetched(active: bool = True) -> Iterator[None]:
    """Within it names of the hub stand for what is shipped or cached alone; neither the network nor a folder is asked.

    Args:
        active: Whether it is so; the caller may have allowed a name.
    """
    token = _FETCHES.set(not active)
    try:
        yield
    finally:
        _FETCHES.reset(token)


def _config(name: str) -> Any:
    """The config of a checkpoint: local or cached, else what transformers ships, else from the network."""
    transformers = package("transformers")
    if name in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(name)
    tries: tuple[Callable[[], Any], ...] = (
        lambda: _cached_config(transformers, name),
        lambda: _shipped_config(transformers, name),
        lambda: _fetched_config(transformers, name),
    )
    if not _FETCHES.get():
        tries = tries[:2]
    said = ""
    for attempt in tries:
        try:
            return attempt()
        except (OSError, LookupError, ValueError) as error:
            said = str(error).partition("\n")[0] or type(error).__name__
    near = nearest(name.rpartition("/")[2], transformers.CONFIG_MAPPING, least=0.6)
    others = ["hf:microsoft/resnet-50  # a model of huggingface.co", "hf:resnet  # an architecture by default"]
    remedies = [f"hf:{other}  # this architecture as it is by default" for other in near] or others
    if not _FETCHES.get():
        remedies.insert(0, f"allow=[{name!r}]  # a file asks for it, and nothing is fetched because a file asks for it")
    fault = Mismatch(f"hf:{name}", "a config: cached, shipped or from the network", said, "\n".join(remedies))
    raise SourceError(f"the config of hf:{name} cannot be loaded", [fault])


def _cached_config(transformers: ModuleType, name: str) -> Any:
    """The config in the cache of the hub. Asked for by name it connects, even for local files alone."""
    path = package("huggingface_hub").try_to_load_from_cache(name, "config.json")
    if not isinstance(path, str):
        raise LookupError(f"{name} is not in the cache")
    config = transformers.AutoConfig.from_pretrained(Path(path).parent, trust_remote_code=False)
    config.name_or_path = name
    return config


def _shipped_config(transformers: ModuleType, name: str) -> Any:
    """The default config of the architecture that names this very checkpoint as what its defaults are."""
    wanted = f"[{name}](https://huggingface.co/{name})"
    likely = sorted(transformers.CONFIG_MAPPING.keys(), key=lambda kind: (kind not in name, -len(kind)))
    for kind in likely[:40]:
        config = transformers.CONFIG_MAPPING[kind]
        if wanted in (config.__doc__ or ""):
            return config()
    raise LookupError(f"transformers ships no config of {name}")


def _fetched_config(transformers: ModuleType, name: str) -> Any:
    with offline_if_unreached(name) as unreached:
        try:
            return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        except OSError as error:
            raise OSError(unreached or str(error)) from error


def _refuse_unknown_options(name: str, config: Any, options: Mapping[str, Any]) -> None:
    known = set(config.to_dict()) | {"out_features", "out_indices", "attn_implementation"}
    unknown = [option for option in options if option not in known]
    faults = [
        Mismatch(option, f"a field of {type(config).__name__}", option, "\n".join(nearest(option, known)))
        for option in unknown
    ]
    if faults:
        raise SourceError(f"hf:{name} has no such options", faults)


_ZOOS: dict[str, Source] = {
    "timm": _Timm(),
    "torchvision": _Torchvision(),
    "hf": _Transformers(),
    "smp": _Encoders(),
}
