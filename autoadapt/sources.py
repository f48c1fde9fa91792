"""Sources: models by name, from zoos, files and packages; nothing that runs foreign code unless the caller allows it.

A scheme is what stands before the colon of `timm:resnet18`. Other packages add schemes through the entry-point group
`autoadapt.sources`.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.metadata
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.origins import note_origin

__all__ = ["Source", "list_models", "load", "load_backbone", "load_object", "schemes"]

GROUP = "autoadapt.sources"
_PYTHON_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_EXPORTED = ".pt2"


class Source(Protocol):
    """A zoo: what a scheme stands for."""

    def names(self) -> Sequence[str]:
        """The models there are."""

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        """One model, as its maker meant it."""

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        """One model as a backbone: with its feature levels where the zoo gives them, else as it is."""


def load(source: str, *, pretrained: bool = False, allow: Sequence[str | Path] = (), **options: Any) -> nn.Module:
    """Load a model by name.

    Args:
        source: `timm:resnet18`, `torchvision:resnet50`, `hf:microsoft/resnet-50`, `smp:resnet34`; a python path
            `my_package.models:build`; or a file of `torch.export`, `backbone.pt2`, which comes frozen.
        pretrained: Whether to load the published weights; they may have to be downloaded.
        allow: Packages and files (or folders of files) whose code may run; python paths and exported files need it.
        options: Handed to whatever makes the model.

    Raises:
        SourceError: There is no such model, its package is not installed, its weights cannot be had, it refuses
            the options, or it is not allowed.

    Example:
        >>> load("torch.nn:Linear", allow=["torch"], in_features=3, out_features=2)
        Linear(in_features=3, out_features=2, bias=True)
    """
    scheme, name = _split(source)
    made: nn.Module
    if scheme in schemes():
        zoo = _zoo(scheme)
        with _explained(source, zoo, name, pretrained):
            made = zoo.load(name, pretrained=pretrained, **options)
    else:
        made = _own(source, allow, pretrained, options)
    return note_origin(made, "load", source, pretrained, options)


def load_backbone(
    source: str, *, pretrained: bool = False, allow: Sequence[str | Path] = (), **options: Any
) -> nn.Module:
    """Load a model as a backbone: with its feature levels where the zoo gives them; else as `load`."""
    scheme, name = _split(source)
    made: nn.Module
    if scheme in schemes():
        zoo = _zoo(scheme)
        with _explained(source, zoo, name, pretrained):
            made = zoo.backbone(name, pretrained=pretrained, **options)
    else:
        made = _own(source, allow, pretrained, options)
    return note_origin(made, "load_backbone", source, pretrained, options)


def list_models(pattern: str = "*") -> list[str]:
    """Names of models, with their schemes.

    Args:
        pattern: `timm:*resnet*`; without a scheme it looks in every zoo that is installed.

    Example:
        >>> list_models("torchvision:resnet1*")
        ['torchvision:resnet101', 'torchvision:resnet152', 'torchvision:resnet18']
    """
    scheme, name = _split(pattern)
    if scheme:
        _refuse_unknown_scheme(pattern, scheme)
        return [f"{scheme}:{found}" for found in sorted(fnmatch.filter(_zoo(scheme).names(), name))]
    return [f"{known}:{model}" for known in schemes() for model in sorted(fnmatch.filter(_names_if_any(known), name))]


def _names_if_any(scheme: str) -> Sequence[str]:
    """The models of a zoo; none where its package is not installed."""
    try:
        return _zoo(scheme).names()
    except SourceError:
        return ()


def schemes() -> tuple[str, ...]:
    """The schemes there are: the built-in ones, then those that other packages add."""
    return (*_ZOOS, *(point.name for point in _entry_points() if point.name not in _ZOOS))


def load_object(source: str, allow: Sequence[str | Path]) -> Any:
    """What a python path names.

    Raises:
        SourceError: It is not allowed, or there is nothing of that name.
    """
    found = _PYTHON_PATH.fullmatch(source)
    if found is None:
        fault = Mismatch(source, "package.module:name", source, 'load("timm:resnet18")')
        raise SourceError(f"{source!r} names no model", [fault])
    module, name = found["module"], found["name"]
    allowed = [str(entry) for entry in allow]
    if not any(module == entry or module.startswith(f"{entry}.") for entry in allowed):
        package = module.partition(".")[0]
        fault = Mismatch(source, "a package that the caller allows", _said(allowed), f'allow=["{package}"]')
        raise SourceError(f"{source} would run code of `{package}`, which is not allowed", [fault])
    try:
        made: Any = importlib.import_module(module)
    except ImportError as error:
        fault = Mismatch(module, "a module that can be imported", str(error), "check the path and the working folder")
        raise SourceError(f"{module} cannot be imported", [fault]) from error
    for part in name.split("."):
        if not hasattr(made, part):
            near = nearest(part, dir(made))
            fault = Mismatch(source, f"a name in {module}", part, "\n".join(f"{module}:{other}" for other in near))
            raise SourceError(f"{module} has no {part}", [fault])
        made = getattr(made, part)
    return made


def _split(source: str) -> tuple[str, str]:
    scheme, colon, name = source.partition(":")
    return (scheme, name) if colon else ("", source)


def _said(allowed: Sequence[str]) -> str:
    return f"allow={allowed}"


def _own(source: str, allow: Sequence[str | Path], pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """A model of the caller's: a python path or an exported file."""
    if source.endswith(_EXPORTED):
        return _exported(source, allow)
    scheme, _ = _split(source)
    if not scheme:
        found = [f'load("{known}:{source}")' for known in _zoos_with(source)]
        remedy = "\n".join(found) or 'load("timm:resnet18")'
        fault = Mismatch(source, "scheme:name, package.module:name or a .pt2 file", source, remedy)
        raise SourceError(f"{source!r} says no scheme", [fault])
    if "." not in scheme and not any(str(entry) == scheme for entry in allow):
        _refuse_unknown_scheme(source, scheme)
    if pretrained:
        fault = Mismatch(source, "weights that a zoo publishes", "a model of your own", "aa.transfer(file, model)")
        raise SourceError(f"{source} has no published weights", [fault])
    made = load_object(source, allow)
    try:
        model = made(**options) if callable(made) and not isinstance(made, nn.Module) else made
    except Exception as error:
        fault = Mismatch(source, "a call that makes a module", f"{type(error).__name__}: {error}", f"check {options}")
        raise SourceError(f"{source} raises", [fault]) from error
    if not isinstance(model, nn.Module):
        fault = Mismatch(source, "a torch.nn.Module, or what makes one", type(model).__name__, "return the module")
        raise SourceError(f"{source} gives no module", [fault])
    return model


def _refuse_unknown_scheme(source: str, scheme: str) -> None:
    known = schemes()
    if scheme in known:
        return
    near = nearest(scheme, known, count=1)
    remedy = f"{near[0]}:{_split(source)[1]}" if near else f'allow=["{scheme}"]  # if it is a package of yours'
    raise SourceError(f"unknown scheme `{scheme}`", [Mismatch(source, f"one of {', '.join(known)}", scheme, remedy)])


def _zoos_with(name: str) -> list[str]:
    return [scheme for scheme in ("timm", "torchvision", "smp") if name in _names_if_any(scheme)]


@contextmanager
def _explained(source: str, zoo: Source, name: str, pretrained: bool) -> Iterator[None]:
    """Whatever a zoo raises becomes one kind of error with something to do."""
    if not name:
        raise SourceError("the name is empty", [Mismatch(source, "a model", "nothing", f'list_models("{source}*")')])
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise _zoo_error(source, zoo, name, pretrained, said) from error


def _zoo_error(source: str, zoo: Source, name: str, pretrained: bool, said: str) -> SourceError:
    scheme = _split(source)[0]
    known = zoo.names()
    if known and name.partition(".")[0] not in {model.partition(".")[0] for model in known}:
        near = [f"{scheme}:{other}" for other in nearest(name, known)]
        remedy = "\n".join(near) or f'list_models("{scheme}:*")'
        fault = Mismatch(source, f"one of the {len(known)} models of {scheme}", "no such model", remedy)
        return SourceError(f"{scheme} has no model `{name}`", [fault])
    if pretrained:
        remedy = "pretrained=False, then aa.transfer(file, model)  # with a file that you have"
        fault = Mismatch(source, "published weights, in the cache or from the network", said, remedy)
        return SourceError(f"the weights of {source} cannot be had", [fault])
    fault = Mismatch(source, "options that the model takes", said, "leave out what the message names")
    return SourceError(f"{source} could not be made", [fault])


def _package(name: str, extra: str = "zoo") -> ModuleType:
    """An optional package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fault = Mismatch(name, "an installed package", str(error), f'pip install "autoadapt[{extra}]"')
        raise SourceError(f"{name} is not installed", [fault]) from error


def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=GROUP))


def _zoo(scheme: str) -> Source:
    if scheme in _ZOOS:
        return _ZOOS[scheme]
    point = next(point for point in _entry_points() if point.name == scheme)
    try:
        found: Source = point.load()
    except Exception as error:
        fault = Mismatch(point.value, "an object with names, load and backbone", str(error), "mend or remove it")
        raise SourceError(f"the scheme `{scheme}` of another package cannot be loaded", [fault]) from error
    return found


class _Timm:
    """PyTorch image models."""

    def names(self) -> Sequence[str]:
        return tuple(_package("timm").list_models())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        model: nn.Module = _package("timm").create_model(name, pretrained=pretrained, **options)
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
        return tuple(_package("torchvision.models").list_models())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        if options.pop("features_only", False):
            fault = Mismatch(
                "features_only", "a model with feature levels", "torchvision gives none", "adapt() finds levels inside"
            )
            raise SourceError(f"torchvision:{name} has no feature levels", [fault])
        chosen: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
        if "weights_backbone" not in options and _takes_weights_backbone(name):
            chosen["weights_backbone"] = None
        model: nn.Module = _package("torchvision.models").get_model(name, **{**chosen, **options})
        return model

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        return self.load(name, pretrained=pretrained, **options)


def _takes_weights_backbone(name: str) -> bool:
    """Detectors and segmenters would download a backbone of their own, unless told not to."""
    module = _package("torchvision.models").get_model_builder(name).__module__
    return "detection" in module or "segmentation" in module


class _Encoders:
    """The encoders of segmentation_models_pytorch; every one returns its levels, the input first."""

    def names(self) -> Sequence[str]:
        return tuple(_package("segmentation_models_pytorch").encoders.get_encoder_names())

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        chosen = {"weights": "imagenet" if pretrained else None}
        model: nn.Module = _package("segmentation_models_pytorch").encoders.get_encoder(name, **{**chosen, **options})
        return model

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        return self.load(name, pretrained=pretrained, **options)


class _Transformers:
    """Hugging Face: a checkpoint's name, a folder, or the name of an architecture."""

    def names(self) -> Sequence[str]:
        return ()  # nobody can list the hub

    def load(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        auto = "AutoBackbone" if options.pop("features_only", False) else "AutoModel"
        return self._make(auto, name, pretrained, options)

    def backbone(self, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        mapping = _package("transformers.models.auto.modeling_auto").MODEL_FOR_BACKBONE_MAPPING
        config = _config(name)
        has_levels = options.pop("features_only", type(config) in mapping)
        if has_levels and "out_features" not in options and "out_indices" not in options:
            options["out_features"] = [stage for stage in config.stage_names if stage != "stem"]
        return self._make("AutoBackbone" if has_levels else "AutoModel", name, pretrained, options)

    def _make(self, auto: str, name: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
        maker = getattr(_package("transformers"), auto)
        model: nn.Module
        if pretrained:
            model = maker.from_pretrained(name, trust_remote_code=False, **options)
        else:
            config = _config(name)
            _refuse_unknown_options(name, config, options)
            config.update(dict(options))
            model = maker.from_config(config, trust_remote_code=False)
        return model


def _config(name: str) -> Any:
    """The config of a checkpoint: local or cached, else what transformers ships, else from the network."""
    transformers = _package("transformers")
    if name in transformers.CONFIG_MAPPING:
        return transformers.AutoConfig.for_model(name)
    tries: tuple[Callable[[], Any], ...] = (
        lambda: transformers.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False),
        lambda: _shipped_config(transformers, name),
        lambda: transformers.AutoConfig.from_pretrained(name, trust_remote_code=False),
    )
    said = ""
    for attempt in tries:
        try:
            return attempt()
        except (OSError, LookupError, ValueError) as error:
            said = str(error).splitlines()[0]
    near = nearest(name.rpartition("/")[2], transformers.CONFIG_MAPPING)
    remedy = "\n".join(f"hf:{other}  # this architecture as it is by default" for other in near)
    fault = Mismatch(f"hf:{name}", "a config: cached, shipped or from the network", said, remedy)
    raise SourceError(f"the config of hf:{name} cannot be had", [fault])


def _shipped_config(transformers: ModuleType, name: str) -> Any:
    """The default config of the architecture that names this very checkpoint as what its defaults are."""
    wanted = f"[{name}](https://huggingface.co/{name})"
    likely = sorted(transformers.CONFIG_MAPPING.keys(), key=lambda kind: (kind not in name, -len(kind)))
    for kind in likely[:40]:
        config = transformers.CONFIG_MAPPING[kind]
        if wanted in (config.__doc__ or ""):
            return config()
    raise LookupError(f"transformers ships no config of {name}")


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


class FrozenExport(nn.Module):
    """A program of `torch.export` as a backbone that is not trained."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; tensors go in and come out as they were exported."""
        return self.program(*args, **kwargs)

    def train(self, mode: bool = True) -> FrozenExport:
        """Stay as exported: a program has no other mode."""
        self.training = mode
        return self


def _exported(source: str, allow: Iterable[str | Path]) -> nn.Module:
    """Exported files are read with torch's own reader, which may unpickle: hence the permission."""
    path = Path(source).resolve()
    allowed = [Path(entry).resolve() for entry in allow]
    if not any(path == entry or entry in path.parents for entry in allowed):
        fault = Mismatch(source, "a file that the caller allows", _said([*map(str, allow)]), f'allow=["{source}"]')
        raise SourceError(f"{source} may run code when it is read, and is not allowed", [fault])
    if not zipfile.is_zipfile(path):
        found = "no such file" if not path.exists() else "another format"
        fault = Mismatch(source, "a file of torch.export.save", found, "torch.export.save(program, path)")
        raise SourceError(f"{source} is no exported program", [fault])
    try:
        return FrozenExport(torch.export.load(path).module())
    except Exception as error:
        fault = Mismatch(source, "a program that this torch reads", str(error).splitlines()[0], "export it anew")
        raise SourceError(f"{source} cannot be read", [fault]) from error
