"""Remarks on native sizes: their cost, and that of resizing images instead."""

from __future__ import annotations

from autoadapt.contracts.signature import NativeSizes, Signature
from autoadapt.showing.tables import human_count


def native_remarks(source: Signature) -> tuple[str, ...]:
    """Remarks on a module that was built for one image size."""
    told = source.native
    if told is None:
        return ()
    own = "x".join(map(str, told.size))
    if told.refused:
        return (f"images are resized to {own}, which {source.name} was built for: {told.refused}",)
    return (_cost(told, own), *([f"it reads natively, but {told.untraced}"] if told.untraced else []))


def _cost(told: NativeSizes, own: str) -> str:
    at = "x".join(map(str, told.probed))
    if not told.multiply_adds:
        return f"images are read at their own size; resolution='fixed' would resize them to {own}"
    native, fixed = human_count(told.multiply_adds), human_count(told.fixed_multiply_adds)
    return f"{native} multiply-adds at {at}, read natively; resolution='fixed' would resize to {own}: {fixed}"
