"""Models: what a person types for one becomes one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoadapt.adapting import as_signature
from autoadapt.contracts.signature import Signature
from autoadapt.errors import AdaptError
from autoadapt.sources import allowed_by_typing, list_models, load, load_backbone, published, schemes

__all__ = ["backbone", "complete_source", "contract", "model"]


def model(source: str, *, pretrained: bool = False) -> nn.Module:
    """A model as its maker meant it.

    Raises:
        SourceError: There is none of that name.
    """
    return load(source, pretrained=pretrained and published(source), allow=allowed_by_typing(source))


def backbone(source: str, *, pretrained: bool = False) -> nn.Module:
    """A model with its feature levels where its zoo gives them.

    Raises:
        SourceError: There is none of that name.
    """
    return load_backbone(source, pretrained=pretrained and published(source), allow=allowed_by_typing(source))


def contract(like: str, *, pretrained: bool = False) -> nn.Module | Signature:
    """What `--like` means: a backbone, the texts of outputs, or a saved signature.

    Raises:
        SourceError: There is no model of that name.
        SignatureError: There is no such file, or it holds no signature.
    """
    if ":" not in like or Path(like).exists():
        return as_signature(like)
    return backbone(like, pretrained=pretrained)


def complete_source(incomplete: str) -> list[str]:
    """Schemes, then the models of one; none where its package is not installed.

    Example:
        >>> complete_source("torchv")[:2], complete_source("torchvision:resnet5")
        (['torchvision:alexnet', 'torchvision:convnext_base'], ['torchvision:resnet50'])
    """
    begun = [f"{scheme}:" for scheme in schemes() if f"{scheme}:".startswith(incomplete)]
    if ":" not in incomplete and len(begun) != 1:
        return begun
    try:
        return list_models(f"{incomplete if ':' in incomplete else begun[0]}*")
    except AdaptError:
        return []
