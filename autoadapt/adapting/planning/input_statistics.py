"""Input statistics: converting the old module's images to the normalisation that the new one expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from autoadapt.adapting.operations import Renormalize
from autoadapt.adapting.planning.input_channels import expected_of, image_channels, with_told
from autoadapt.contracts.signature import Signature, Statistics, agree
from autoadapt.errors import Mismatch, PlanError

ToldStatistics: TypeAlias = Statistics | Mapping[Literal["old", "new"], Statistics]
"""The statistics of the old module's images; or of each module's, by `old` and `new`."""

_REMEDY = "input_statistics=aa.Statistics(mean=..., std=...)  # or {'old': ..., 'new': ...}"


def with_statistics(source: Signature, target: Signature, told: ToldStatistics | None) -> tuple[Signature, Signature]:
    """Both signatures with the statistics that the caller gives.

    Args:
        source: Signature of the new module.
        target: Signature of the old module.
        told: The caller's statistics, which replace those in the signatures.

    Raises:
        PlanError: They are of another type or another number of channels, or the module does not take one image.
    """
    if told is None:
        return source, target
    by_side = {"old": told} if isinstance(told, Statistics) else told
    is_right = isinstance(by_side, Mapping) and by_side and set(by_side) <= {"old", "new"}
    if not is_right or not all(isinstance(one, Statistics) for one in by_side.values()):
        fault = Mismatch("input_statistics", "aa.Statistics, or a mapping of old and new to them", repr(told), _REMEDY)
        raise PlanError("these are no statistics of images", [fault])
    image = target if target.inputs.leaves else source  # a contract may have no inputs
    return _told(source, by_side.get("new"), source), _told(target, by_side.get("old"), image)


def _told(signature: Signature, statistics: Statistics | None, image: Signature) -> Signature:
    if statistics is None:
        return signature
    channels = image_channels(image)
    if channels is None:
        inputs = ", ".join(f"{path} {spec}" for path, spec in image.inputs.items()) or "no inputs"
        fault = Mismatch(f"{signature.name}, input_statistics", "one image among the inputs", inputs, "leave them out")
        raise PlanError(f"{signature.name} does not take one image", [fault])
    if statistics.channels not in (None, channels):
        fault = Mismatch(
            f"{signature.name}, input_statistics",
            f"a mean and a standard deviation for {channels} channels, or one number each",
            f"{statistics.channels} ({statistics})",
            _REMEDY,
        )
        raise PlanError(f"statistics of {statistics.channels} channels do not fit an image of {channels}", [fault])
    return with_told(signature, statistics=statistics)


def renormalized(source: Signature, target: Signature) -> tuple[Renormalize, ...]:
    """The operation that converts images, in the old module's channels, to the new one's statistics.

    None where either statistics are unknown, where they agree, or where channels cannot be paired.
    """
    given, wanted = target.statistics, expected_of(source, target) or source.statistics
    if given is None or wanted is None or not _is_possible(source, target):
        return ()
    channels = image_channels(target) or 3
    return () if agree(given, wanted, channels) else (Renormalize(given=given, wanted=wanted),)


def _is_possible(source: Signature, target: Signature) -> bool:
    """Whether the channels of both images can be paired, or all have the same statistics."""
    given, wanted = target.statistics, source.statistics
    have, want = image_channels(target), image_channels(source)
    if given is None or wanted is None or have is None or want is None:
        return False
    if expected_of(source, target) is not None:
        return True
    if given.order != wanted.order and (have, want) != (3, 3):
        return False
    return have == want or given.channels is wanted.channels is None


def statistics_remarks(source: Signature, target: Signature, convert: Collection[str]) -> tuple[str, ...]:
    """Remarks on images whose statistics are unknown, or not converted."""
    given, wanted = target.statistics, source.statistics
    if (given is None and wanted is None) or image_channels(source) is None or image_channels(target) is None:
        return ()
    if given is None or wanted is None:
        known, side, unknown = (source, "old", target) if given is None else (target, "new", source)
        told = f"input_statistics={{'{side}': aa.Statistics(mean=..., std=...)}} tells them"
        is_source = known is source
        what = f"{source.name} expects {wanted}" if is_source else f"{target.name} expects {given}"
        return (f"input statistics of {unknown.name} are unknown, {what}: {told}",)
    is_equal = _is_possible(source, target) and not renormalized(source, target)
    if is_equal or (_is_possible(source, target) and "statistics" in convert):
        return ()
    why = (
        "convert_inputs leaves them out"
        if _is_possible(source, target)
        else "the channels are others and channels= is not told"
    )
    return (f"input statistics stay as they are, since {why}: given {given}, {source.name} expects {wanted}",)
