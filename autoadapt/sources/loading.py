"""Loading: a model from its name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import nn

from autoadapt.contracts.origins import Verb, note_origin
from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.files.reading import one_line
from autoadapt.sources.code_paths import load_object, names_a_file
from autoadapt.sources.frozen_exports import EXPORTED, load_export
from autoadapt.sources.reach import offline_if_unreached
from autoadapt.sources.zoos import Source, names_if_any, schemes, zoo_of

WITHOUT_WEIGHTS = "pretrained=False, then aa.transfer(file, model)  # with a file that you have"
"""What to do where published weights cannot be loaded."""


def load(source: str, *, pretrained: bool = False, allow: Sequence[str | Path] = (), **options: Any) -> nn.Module:
    """Load a model by name.

    Args:
        source: `timm:resnet18`, `torchvision:resnet50`, `hf:microsoft/resnet-50`, `smp:resnet34`; a python path
            `my_package.models:build`, or a file and a name in it, `models/mine.py:build`, which may be a module or
            what makes one; or a file of `torch.export`, `backbone.pt2`, which comes frozen.
        pretrained: Whether to load the published weights; they may have to be downloaded.
        allow: Packages and files (or folders of files) whose code may run; python paths and exported files need it.
        options: Handed to whatever makes the model.

    Raises:
        SourceError: There is no such model, its package is not installed, its weights cannot be loaded, it refuses
            the options, or it is not allowed.

    Example:
        >>> load("torch.nn:Linear", allow=["torch"], in_features=3, out_features=2)
        Linear(in_features=3, out_features=2, bias=True)
    """
    return _loaded("load", source, pretrained, allow, options)


def load_backbone(
    source: str, *, pretrained: bool = False, allow: Sequence[str | Path] = (), **options: Any
) -> nn.Module:
    """Load a model as a backbone: with its feature levels where the zoo gives them; else as `load`."""
    return _loaded("load_backbone", source, pretrained, allow, options)


def _loaded(
    verb: Verb, source: str, pretrained: bool, allow: Sequence[str | Path], options: Mapping[str, Any]
) -> nn.Module:
    scheme, name = _split(source)
    made: nn.Module
    if scheme in schemes():
        zoo = zoo_of(scheme)
        with _explained(source, zoo, name, pretrained):
            made = (zoo.load if verb == "load" else zoo.backbone)(name, pretrained=pretrained, **options)
    else:
        made = _own(source, allow, pretrained, options)
    return note_origin(made, verb, source, pretrained, options)


def published(source: str) -> bool:
    """Whether a source is of a zoo, which may have published weights for it.

    Example:
        >>> published("timm:resnet18"), published("mine.py:build")
        (True, False)
    """
    return _split(source)[0] in schemes()


def refuse_unknown(source: str, allow: Sequence[str | Path] = ()) -> None:
    """Refuse a name that there is not, without making a model.

    Args:
        source: As for `load`.
        allow: As for `load`; code is imported, as nothing else tells what is in it.

    Raises:
        SourceError: No zoo and no module has it.

    Example:
        >>> refuse_unknown("torchvision:resnet18")
    """
    scheme, name = _split(source)
    if scheme in schemes():
        if _is_unknown(name, zoo_of(scheme).names()):
            raise _zoo_error(source, zoo_of(scheme), name, False, "")
    elif scheme and not source.endswith(EXPORTED):
        _refuse_unless_code(source, scheme, allow)
        load_object(source, allow)


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
        return [f"{scheme}:{found}" for found in sorted(fnmatch.filter(zoo_of(scheme).names(), name))]
    return [f"{known}:{model}" for known in schemes() for model in sorted(fnmatch.filter(names_if_any(known), name))]


def _split(source: str) -> tuple[str, str]:
    if not isinstance(source, str):
        fault = Mismatch("source", "a text such as timm:resnet18", repr(source)[:60], 'load("timm:resnet18")')
        raise SourceError("the name of a model is a text", [fault])
    scheme, colon, name = source.partition(":")
    return (scheme, name) if colon else ("", source)


def _own(source: str, allow: Sequence[str | Path], pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """A model of the caller's: a python path or an exported file."""
    if source.endswith(EXPORTED):
        return load_export(source, allow)
    scheme, _ = _split(source)
    if not scheme and names_weights(source):
        fault = Mismatch(source, "a module, or the name of one", "a file of weights", f'aa.transfer("{source}", model)')
        raise SourceError(f"{source!r} holds weights, and no module", [fault])
    if not scheme:
        found = [f'load("{near}")' for near in near_names(source)]
        remedy = "\n".join(found) or 'load("timm:resnet18")'
        remedy = f"{source}:build  # the function in it that makes the module" if source.endswith(".py") else remedy
        fault = Mismatch(source, "scheme:name, package.module:name, module.py:name or a .pt2 file", source, remedy)
        raise SourceError(f"{source!r} has no scheme", [fault])
    _refuse_unless_code(source, scheme, allow)
    if pretrained:
        fault = Mismatch(source, "weights that a zoo publishes", "a model of your own", "aa.transfer(file, model)")
        raise SourceError(f"{source} has no published weights", [fault])
    made = load_object(source, allow)
    try:
        model = made(**options) if callable(made) and not isinstance(made, nn.Module) else made
    except SourceError:
        raise
    except Exception as error:
        remedy = f"check {dict(options)}" if options else "call it by itself, which shows where"
        fault = Mismatch(source, "a call that makes a module", one_line(error), remedy)
        raise SourceError(f"{source} raises", [fault]) from error
    if not isinstance(model, nn.Module):
        fault = Mismatch(source, "a torch.nn.Module, or what makes one", type(model).__name__, "return the module")
        raise SourceError(f"{source} gives no module", [fault])
    return model


def _refuse_unless_code(source: str, scheme: str, allow: Sequence[str | Path]) -> None:
    """Refuse a scheme that there is not, and that is neither a file nor a package."""
    if not names_a_file(source) and "." not in scheme and scheme not in map(str, allow):
        _refuse_unknown_scheme(source, scheme)


def _refuse_unknown_scheme(source: str, scheme: str) -> None:
    known = schemes()
    if scheme in known:
        return
    near = nearest(scheme, known, count=1)
    remedy = f"{near[0]}:{_split(source)[1]}" if near else f'allow=["{scheme}"]  # if it is a package of yours'
    raise SourceError(f"unknown scheme `{scheme}`", [Mismatch(source, f"one of {', '.join(known)}", scheme, remedy)])


def names_weights(text: str) -> bool:
    """Whether a text is the path of a checkpoint: weights, which say nothing of the module that they are of.

    Example:
        >>> names_weights("runs/best.pth"), names_weights("timm:resnet18")
        (True, False)
    """
    return text.lower().endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".npz", ".h5"))


def near_names(name: str) -> list[str]:
    """The models that a name without a scheme may mean: those of that very name, else those that begin with it, as
    `vit_small_patch16_224` does with `vit_small`, else the most similar ones.

    What has the form `someone/model` is a name on the hub.

    Example:
        >>> near_names("resnet18")[:2], near_names("resnet5O")[:1], near_names("xyz?!")
        (['timm:resnet18', 'torchvision:resnet18'], ['timm:resnet50'], [])
        >>> near_names("microsoft/resnet-50")
        ['hf:microsoft/resnet-50']
    """
    if re.fullmatch(r"[\w-]+/[\w.-]+", name) and not name.endswith(".py"):
        owner, _, model = name.partition("/")
        return [f"{owner}:{model}" if owner in schemes() else f"hf:{name}"]
    known = {scheme: names_if_any(scheme) for scheme in ("timm", "torchvision", "smp")}
    same = [f"{scheme}:{name}" for scheme, names in known.items() if name in names]
    alike = [name for names in known.values() for name in names]
    family = sorted((one for one in alike if name and one.startswith(f"{name}_")), key=lambda one: (len(one), one))
    return same or [
        f"{scheme}:{near}"
        for near in dict.fromkeys(family[:3] or nearest(name, alike))
        for scheme, names in known.items()
        if near in names
    ]


@contextmanager
def _explained(source: str, zoo: Source, name: str, pretrained: bool) -> Iterator[None]:
    """Whatever a zoo raises becomes one kind of error with something to do."""
    if not name:
        raise SourceError("the name is empty", [Mismatch(source, "a model", "nothing", f'list_models("{source}*")')])
    with offline_if_unreached(name) if pretrained else nullcontext("") as unreached:
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            is_of_hub = isinstance(error, OSError) and not isinstance(error, URLError)
            said = unreached if unreached and is_of_hub else one_line(error)
            raise _zoo_error(source, zoo, name, pretrained, said) from error


def _is_unknown(name: str, known: Sequence[str]) -> bool:
    """Whether a zoo that lists its models has none of a name, whatever its weights."""
    return bool(known) and name.partition(".")[0] not in {model.partition(".")[0] for model in known}


def _zoo_error(source: str, zoo: Source, name: str, pretrained: bool, said: str) -> SourceError:
    scheme = _split(source)[0]
    known = zoo.names()
    if _is_unknown(name, known):
        near = [f"{scheme}:{other}" for other in nearest(name, known)]
        remedy = "\n".join(near) or f'list_models("{scheme}:*")'
        fault = Mismatch(source, f"one of the {len(known)} models of {scheme}", "no such model", remedy)
        return SourceError(f"{scheme} has no model `{name}`", [fault])
    if pretrained:
        fault = Mismatch(source, "published weights, in the cache or from the network", said, WITHOUT_WEIGHTS)
        return SourceError(f"the weights of {source} cannot be loaded", [fault])
    fault = Mismatch(source, "options that the model takes", said, "leave out what the message names")
    return SourceError(f"{source} could not be made", [fault])
