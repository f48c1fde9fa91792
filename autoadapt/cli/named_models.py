"""Named models: what a person types for one becomes one: a name, a folder that `adapt --out` wrote, a file."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoadapt.cli.typed_sources import CONFIG, WEIGHTS, WHOLE, checked_source, is_path, is_saved, refuse_missing
from autoadapt.errors import Mismatch, SourceError

if TYPE_CHECKING:
    from torch import nn

    from autoadapt.contracts.signature import Signature

_BACKBONE = re.compile(r"^The backbone is (?P<source>\w+:[^\s()]+) \(", re.MULTILINE)
_CHANNELS = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*")
"""Channels alone, as timm tells them; refused with the texts to write instead."""
_CONTRACTS = (".json", ".py", ".pt2")
_MOST = 1 << 20


def saved_parts(source: str) -> dict[str, Path]:
    """The folders of the adapted parts of a whole model, by where they stand in it; none for anything else.

    Raises:
        SavingError: What the folder says is malformed.
    """
    if not os.path.isfile(Path(source) / WHOLE):
        return {}
    from autoadapt.saving.whole_configs import read_whole

    return {place.path: Path(source) / place.folder for place in read_whole(Path(source)).parts}


def is_name(source: str) -> bool:
    """Whether it is a name or a pattern of names, and nothing that lies on disk.

    Example:
        >>> is_name("timm:resnet1*"), is_name("net.pt2")
        (True, False)
    """
    return not (is_saved(source) or source.endswith((".pt2", ".py")) or os.path.isdir(source))


def model(source: str, *, pretrained: bool = False, allow: Sequence[str] = ()) -> nn.Module:
    """A model as its maker meant it.

    Args:
        source: A name, a folder of `adapt --out`, an exported file, or a file that `adapt --source` wrote.
        pretrained: Whether to load published weights, where a name has some.
        allow: Packages and files whose code may run; no other does, also where it is typed.

    Raises:
        AdaptError: There is none of that name, or it cannot be read.
    """
    from autoadapt.sources import load, published

    source = checked_source(source)
    if is_saved(source):
        return _restored(source, allow)
    written = _written(source, allow) if source.endswith(".py") and os.path.isfile(source) else None
    if written is not None:
        return written
    typed = [source] if source.endswith(".pt2") else []  # a program, which torch reads as data
    return load(source, pretrained=pretrained and published(source), allow=[*typed, *allow])


def refuse_unnamed(made: nn.Module, source: str, out: Path | None) -> None:
    """Refuse to keep in a folder what no name in it could make again: what is adapted already, or written source.

    Args:
        made: The new model.
        source: As it was typed.
        out: The folder; None where nothing is kept.

    Raises:
        SourceError: Every command would refuse that folder.
    """
    from autoadapt.contracts.origins import origin_of

    if out is not None and (is_saved(source) or origin_of(made) is None):
        remedy = "the model that it was made of, by name\nautoadapt adapt ... --source net.py, which needs no folder"
        fault = Mismatch(source, "a model by name, which the folder can name", "what is adapted already", remedy)
        raise SourceError(f"{source} cannot be made again from {out}", [fault])


def backbone(source: str, *, pretrained: bool = False, allow: Sequence[str] = ()) -> nn.Module:
    """A model with its feature levels where its zoo gives them; else as `model`.

    Raises:
        AdaptError: As of `model`.
    """
    from autoadapt.sources import load_backbone, published

    source = checked_source(source)
    if not published(source) or os.path.exists(source):
        return model(source, pretrained=pretrained, allow=allow)
    return load_backbone(source, pretrained=pretrained)


def contract(like: str, *, pretrained: bool = False, allow: Sequence[str] = ()) -> nn.Module | Signature:
    """What `--like` means: a backbone, a saved module's contract, the texts of outputs, or a saved signature.

    Raises:
        SourceError: There is no model of that name.
        SignatureError: There is no such file, or it holds no signature.
    """
    from autoadapt.adapting import as_signature
    from autoadapt.saving.folder_configs import Config

    like = os.path.expanduser(like) if like.startswith("~") else like
    has_signature = os.path.isfile(like) and Path(like).suffix not in WEIGHTS
    if "[" not in like and not has_signature and (os.path.exists(like) or is_path(like)):
        refuse_missing(like, "a signature (JSON), a name such as timm:resnet18, or a folder of adapt --out", _CONTRACTS)
        checked_source(like)
    if os.path.isfile(Path(like) / CONFIG):
        return Config.read(Path(like)).plan.target
    if like.endswith((".py", ".pt2")) or is_saved(like):
        return model(like, allow=allow)
    if _CHANNELS.fullmatch(like):
        return as_signature([int(number) for number in like.split(",")])
    written = _container(like)
    if written is not None:
        return as_signature(written)
    if ":" not in like or "[" in like or os.path.exists(like):
        return as_signature(like)
    return backbone(like, pretrained=pretrained, allow=allow)


def _container(like: str) -> object:
    """Texts of several outputs, as they are written in Python or JSON; None for anything else."""
    if not like.startswith(("[", "{", "(")):
        return None
    try:
        return ast.literal_eval(like)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def inputs_of(made: nn.Module, texts: Sequence[str] | None) -> object:
    """The inputs that are typed; where there are none, those that a module's own contract or a swap tells."""
    from autoadapt.cli.example_inputs import read_inputs

    return read_inputs(texts) if texts else _example(made)


def _example(made: nn.Module) -> object:
    """A call of an adapted module at the sizes that its contract was captured at, or the one that was noted at a swap.

    None for any other module.
    """
    import torch

    from autoadapt.adapting.building import AdaptedModule
    from autoadapt.cli.example_inputs import read_inputs
    from autoadapt.contracts.allocations import bytes_of, refuse_invented
    from autoadapt.contracts.capturing import Arguments
    from autoadapt.contracts.capturing.noted_calls import call_of
    from autoadapt.contracts.signature import TensorSpec
    from autoadapt.contracts.trees import rebuild

    if not isinstance(made, AdaptedModule):
        specs = [TensorSpec.parse(text.rpartition("=")[2]) for text in call_of(made)]
        refuse_invented(bytes_of(specs, {}), "--input 'f32[1, 3, 64, 64]'")
        return read_inputs(call_of(made))
    signature, generator = made.signature, torch.Generator().manual_seed(0)
    refuse_invented(bytes_of(signature.inputs.leaves, signature.sizes()), "--input 'f32[1, 3, 64, 64]'")
    shapes = [(spec.shape(signature.sizes()), spec) for spec in signature.inputs.leaves]
    tensors = [
        torch.randn(shape, generator=generator).to(spec.torch_dtype)
        if spec.is_floating
        else torch.zeros(shape, dtype=spec.torch_dtype)
        for shape, spec in shapes
    ]
    return Arguments(rebuild(signature.inputs.tree, tensors), signature.positional)


def _restored(source: str, allow: Sequence[str]) -> nn.Module:
    from autoadapt.saving import restore
    from autoadapt.saving.folder_configs import Config
    from autoadapt.saving.whole_configs import read_whole
    from autoadapt.saving.whole_models import is_whole
    from autoadapt.sources import load

    folder = Path(source)
    if is_whole(folder):
        whole = read_whole(folder)
        named = whole.source
        if not named:
            remedy = f'in Python: aa.restore("{folder}", model=build())\nautoadapt show {source}'
            fault = Mismatch(source, 'a model by name, as "file.py:build" is', f"a {whole.model}", remedy)
            raise SourceError(f"{source} does not say how its model is built", [fault])
        return restore(folder, model=load(named, allow=allow), allow=allow)
    config = Config.read(folder)
    if config.weights.scope == "adapters":
        fault = Mismatch(source, "a folder with all weights", "the adapters alone", "save without --adapters-only")
        raise SourceError(f"{source} holds no backbone", [fault])
    return restore(folder, allow=allow)


def _written(source: str, allow: Sequence[str]) -> nn.Module | None:
    """The class of a file that `to_source` wrote, around the backbone that its docstring names; None for other code."""
    from autoadapt.files.reading import read_text
    from autoadapt.sources import load, load_object

    text = read_text(Path(source), "a python file", "check the path", SourceError, most=_MOST)
    if "\nclass Adapted(" not in text:
        return None
    found = _BACKBONE.search(text)
    if found is None:
        fault = Mismatch(
            source, "a file whose backbone has a name", "another backbone", f"{source}:NAME, which makes it"
        )
        raise SourceError(f"{source} does not say which backbone it takes", [fault])
    make = load_object(f"{source}:Adapted", allow)
    made: nn.Module = make(load(found["source"]))
    return made
