"""Attempts: the inputs that are tried to capture a new module, where it refuses those of the old one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import (
    bind,
    keyword_only,
    meta_tensors,
    named_only,
    names_taken,
    told_inputs,
)
from autoadapt.contracts.capturing.captures import capture_as_given
from autoadapt.contracts.capturing.devices import on_meta_device, takes_long
from autoadapt.contracts.capturing.given_inputs import check_inputs
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.likely_masks import is_binary
from autoadapt.contracts.capturing.masks import counts_by_name
from autoadapt.contracts.capturing.other_masks import (
    counted_instead,
    hides_nothing,
    masks_otherwise,
    shows_more,
    under_other_names,
)
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import refuse_scripts
from autoadapt.errors import AdaptError, InputError


def capture_source(
    new: nn.Module,
    target: Signature,
    inputs: object,
    *,
    inner: bool = False,
    grid: Mapping[str, tuple[int, ...]] | None = None,
) -> Signature:
    """Capture the new module on the old one's inputs, or, where it refuses them, on inputs that it was made for.

    These are of the size in its own configuration; else the same inputs with the channels of its first convolution,
    with channels first and last exchanged, or as images of another size in use.

    Raises:
        CaptureError: The module refuses all of these, or a shape, a size or a text stands for the inputs.
    """
    refuse_scripts(new)
    check_inputs(inputs)  # before the attempts, which would fall back to the size in the module's configuration
    first = _trimmed(new, _by_name(new, target, inputs if inputs is not None else _from_signature(target)))
    known: list[Callable[[], object]] = [partial(_same, first), partial(told_inputs, new)]
    captured = partial(_without_strangers, new, target, inner=inner, grid=grid)
    found = _first_that_runs(known, target, captured)
    if isinstance(found, Signature):
        return _with_masks_renamed(found, target, inputs, first, captured)
    # what runs would fail in the same way at any input, but for masks of another form
    others = _guesses(new, first, target) if isinstance(found, InputError) else _masked_otherwise(target, first)
    other = _first_that_runs(others, target, captured)
    if isinstance(other, Signature):
        return _with_masks_renamed(other, target, inputs, first, captured)
    assert found is not None, "there are inputs to try"
    raise _takes_lengths(target, first, captured) or _refused_everywhere(found, first)


def _takes_lengths(target: Signature, given: object, captured: Callable[[object], Signature]) -> InputError | None:
    """The refusal of a module that takes lengths in place of the old one's masks; None where it does not."""
    for other in masks_otherwise(target, given, counted=True):
        with contextlib.suppress(AdaptError):
            return counted_instead(captured(other), target)
    return None


def _first_that_runs(
    options: Iterable[Callable[[], object]], target: Signature, captured: Callable[[object], Signature]
) -> Signature | AdaptError | None:
    """The signature on the first inputs that the new module takes; else why it refuses the first, if there are any."""
    refused: AdaptError | None = None
    for option in options:
        try:
            given = option()
            return _with_masks(captured(given), target, given, captured)
        except AdaptError as error:
            refused = refused or error
    return refused


def _with_masks(
    found: Signature, target: Signature, given: object, captured: Callable[[object], Signature]
) -> Signature:
    """The signature on the first form of the old module's masks that hides something; as found where none does."""
    idle = hides_nothing(found, target, given)
    for other in masks_otherwise(target, given) if idle else ():
        with contextlib.suppress(AdaptError):
            again = captured(other)
            if not (hides_nothing(again, target, other) or shows_more(again, found, idle, given, captured)):
                return again
    return found


def _with_masks_renamed(
    found: Signature, target: Signature, inputs: object, given: object, captured: Callable[[object], Signature]
) -> Signature:
    """The signature with the argument that hides what a mask of the old module hid, which none of those given does."""
    for name, other in under_other_names(found, target, inputs, given):
        with contextlib.suppress(AdaptError):
            again = captured(other)
            if any(mask.argument == name for mask in again.masks):
                return again
    return found


def _without_strangers(
    new: nn.Module, target: Signature, given: object, *, inner: bool, grid: Mapping[str, tuple[int, ...]] | None
) -> Signature:
    """The signature, without optional arguments of the new module whose meaning is not that of the old one's.

    By position, an optional argument of another name may mean something else, such as positions instead of token types;
    only if both are masks, or named as masks are, do they mean the same. What changes no output is left out as well.
    """
    found = capture_as_given(new, given, inner=inner, grid=grid)
    if not isinstance(given, (tuple, Mapping)) or len(given) < 2:
        return found
    by_name = dict(given) if isinstance(given, Mapping) else dict(zip(found.arguments, given, strict=False))
    taken, optional = names_taken(new), {one.name for one in found.parameters if one.default is not None}
    masks, theirs = ({mask.argument for mask in one.masks} for one in (found, target))
    pairs = list(zip(found.arguments, target.arguments, strict=False)) if isinstance(given, tuple) else []
    strangers = {
        mine
        for mine, other in pairs[1:]
        if mine in optional and mine in found.inputs.paths and mine not in target.arguments
        if not (mine in masks and other in theirs) and not _are_called_alike(mine, other)
    }
    spare = [name for name in [*by_name][1:] if name in optional or name not in taken]
    strangers |= {name for name in spare if name not in masks | theirs and not _is_read(new, by_name, name)}
    kept = {name: value for name, value in by_name.items() if name not in strangers}
    return capture_as_given(new, kept, inner=inner, grid=grid) if strangers else found


def _are_called_alike(mine: str, other: str) -> bool:
    """Whether two names are usual ones for masks with ones of the same meaning."""
    counts = counts_by_name(mine)
    return counts is not None and counts == counts_by_name(other)


USUAL_SIZES = (224, 256, 384, 512, 448, 336, 240, 288, 299, 192, 128, 96, 64, 32, 518, 640, 1024)
"""Heights and widths of images that networks are built for, the commonest first."""


def _guesses(new: nn.Module, first: object, target: Signature) -> Iterator[Callable[[], object]]:
    """Inputs to try besides those given and those of the configuration, the likeliest first."""
    if isinstance(first, Mapping) and len(first) == 1:
        first = tuple(first.values())
    yield partial(_with_truths, first)
    yield partial(_taken_out, first)
    yield partial(_samples_exchanged, first)
    yield from _masked_otherwise(target, first)
    if other_first := _is_clip_or_of_another_rank(new, first):
        yield from _guesses_of_other_ranks(new, first)
    sized: Iterable[object] = (first,)
    if any(map(_is_image, _as_tuple(first))):
        sized = itertools.chain(sized, (_resized(first, size) for size in USUAL_SIZES))
    for inputs in sized:
        if inputs is not first:
            yield partial(_same, inputs)
        yield partial(_with_channels, new, inputs)
        yield partial(_turned, inputs)
        yield from (
            partial(_turned, inputs, only=i) for i in range(len(_as_tuple(inputs))) if len(_as_tuple(inputs)) > 1
        )
        yield partial(_turned_with_channels, new, inputs)
    if not other_first:
        yield from _guesses_of_other_ranks(new, first)


def _masked_otherwise(target: Signature, first: object) -> Iterator[Callable[[], object]]:
    """The inputs with masks of other forms."""
    yield from (partial(_same, other) for other in masks_otherwise(target, first))


def _guesses_of_other_ranks(new: nn.Module, first: object) -> Iterator[Callable[[], object]]:
    """An image as clips and a clip as images, at their own size and at the commonest one."""
    given = _as_tuple(first)
    if len(given) == 1 and isinstance(given[0], torch.Tensor) and _is_image(given[0]):
        for other in _other_ranks(given[0]):
            for sized in ((other,), _resized(other, USUAL_SIZES[0])):
                yield partial(_same, sized)
                yield partial(_with_channels, new, sized)


def _is_clip_or_of_another_rank(new: nn.Module, first: object) -> bool:
    """Whether a clip is given, or an image to a module whose first convolution reads clips."""
    stem = _stem(new)
    ranks = {value.dim() for value in _as_tuple(first) if isinstance(value, torch.Tensor) and _is_image(value)}
    return 5 in ranks or (stem is not None and bool(ranks) and stem.weight.dim() not in ranks)


def _stem(new: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    return next((module for module in new.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))), None)


def _refused_everywhere(refused: AdaptError, first: object) -> AdaptError:
    """The first refusal, with what else was tried."""
    if not isinstance(refused, InputError) or not any(map(_is_image, _as_tuple(first))):
        return refused
    tried = f"so it does at the sizes in use ({', '.join(map(str, sorted(USUAL_SIZES)))}) and with other channels"
    return type(refused)(refused.summary, [replace(fault, why=fault.why or tried) for fault in refused.mismatches])


def _is_image(value: object) -> bool:
    """Whether something is a batch of images or clips."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() in (4, 5)


def _as_tuple(inputs: object) -> tuple[object, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _resized(inputs: object, size: int) -> object:
    """Images or clips as zeros of another height and width; everything else as it is."""
    return tuple(
        value.new_zeros(_square(value.shape, size)) if isinstance(value, torch.Tensor) and _is_image(value) else value
        for value in _as_tuple(inputs)
    )


def _square(shape: Sequence[int], size: int) -> tuple[int, ...]:
    last = len(shape) - (2 if shape[-1] < shape[1] else 1)  # channels may stand behind the width
    return tuple(size if axis in (last - 1, last) else length for axis, length in enumerate(shape))


def _same(inputs: object) -> object:
    return inputs


def _with_channels(new: nn.Module, inputs: object) -> object:
    """The same images with as many channels as the first convolution of the new module reads; 3 where it has none."""
    stem = _stem(new)
    images = _as_tuple(inputs)
    if not all(isinstance(image, torch.Tensor) and image.dim() > 3 for image in images):
        raise AdaptError("the inputs are no images, so that their channels cannot be changed")
    tensors = [image for image in images if isinstance(image, torch.Tensor)]
    return tuple(_repeated(image, 3 if stem is None else stem.in_channels) for image in tensors)


def _with_truths(inputs: object) -> object:
    """The same inputs with zeros and ones as booleans, as torch's attention takes masks."""
    given = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(_as_tuple(inputs)))
    truths = {
        key: value.bool()
        for key, value in given.items()
        if isinstance(value, torch.Tensor) and not value.is_floating_point() and is_binary(value)
    }
    if not truths:
        raise AdaptError("the inputs have no zeros and ones that could be truth values")
    made = given | truths
    return made if isinstance(inputs, Mapping) else tuple(made.values())


def _taken_out(inputs: object) -> object:
    """The tensors of the one dict or object that is given, each as an argument of its own."""
    given = list(inputs.values()) if isinstance(inputs, Mapping) else [*_as_tuple(inputs)]
    tensors = [one for one in flatten(given)[1] if one.is_floating_point()]
    if len(given) != 1 or isinstance(given[0], torch.Tensor) or not tensors:
        raise AdaptError("the inputs are no one dict that tensors could be taken out of")
    return tuple(tensors)


def _samples_exchanged(inputs: object) -> object:
    """The inputs with sequences as `[N, B, C]` instead of `[B, N, C]`; other inputs, such as masks, stay."""
    given = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(_as_tuple(inputs)))
    made = {
        key: value.transpose(0, 1)
        for key, value in given.items()
        if isinstance(value, torch.Tensor) and value.dim() == 3 and value.is_floating_point()
    }
    if not made or len(given) == len(made):
        raise AdaptError("the inputs are no sequences beside masks")
    turned = given | made
    return turned if isinstance(inputs, Mapping) else tuple(turned.values())


def _turned_with_channels(new: nn.Module, inputs: object) -> object:
    return _turned(_with_channels(new, inputs))


def _repeated(image: torch.Tensor, channels: int) -> torch.Tensor:
    """The first channel of an image, several times."""
    axis = -1 if image.shape[-1] < image.shape[1] else 1
    shape = list(image.shape)
    shape[axis] = channels
    return image.narrow(axis, 0, 1).expand(shape)


def _turned(inputs: object, only: int | None = None) -> object:
    """The same images or points with channels first moved last, or the reverse; of the input `only`, or of all."""
    given = _as_tuple(inputs)
    return tuple(_other_way(value) if only in (None, i) else value for i, value in enumerate(given))


def _other_way(value: object) -> object:
    if not isinstance(value, torch.Tensor) or value.dim() < 3:
        return value
    return value.movedim(-1, 1) if value.shape[-1] < value.shape[1] else value.movedim(1, -1)


def _from_signature(target: Signature) -> object:
    """Inputs on the meta device, of the shapes of a signature's example."""
    if not target.inputs.leaves or not target.axes:
        return None
    return tuple(meta_tensors(target.inputs.leaves, target.sizes()))


def _by_name(new: nn.Module, target: Signature, inputs: object) -> object:
    """Positional inputs as keywords, where the new module has parameters of the old one's names in another order."""
    names, takes, by_name = list(target.arguments), names_taken(new), named_only(new)
    if not isinstance(inputs, tuple) or len(inputs) > len(names):
        return inputs
    given = dict(zip(names, inputs, strict=False))
    shared = {name: value for name, value in given.items() if name in takes}
    if all(takes.index(name) == names.index(name) and name not in by_name for name in shared):
        return inputs
    first = {takes[0]: inputs[0]} if names[0] not in shared and takes[0] not in shared else {}
    return first | shared


def _trimmed(new: nn.Module, inputs: object) -> object:
    """The inputs if they fit the new module's parameters, else as many of the first tensors as fit."""
    if inputs is None:
        return None
    try:
        bind(new, inputs)
    except AdaptError:
        values = inputs.values() if isinstance(inputs, Mapping) else _as_tuple(inputs)
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        if (alone := keyword_only(new)) and len(tensors) == 1 == len(alone):
            return {alone[0]: tensors[0]}
        for count in range(len(tensors), 0, -1):
            try:
                bind(new, tuple(tensors[:count]))
            except AdaptError:
                continue
            return tuple(tensors[:count])
    return inputs


_FRAMES = (1, 16, 8, 32)
"""Usual numbers of frames, the cheapest first."""


def _other_ranks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """An image or clip with another number of axes, or a clip with its frames on another axis.

    Example:
        >>> [tuple(one.shape) for one in _other_ranks(torch.zeros(2, 3, 8, 64, 64))]
        [(2, 8, 3, 64, 64), (2, 3, 64, 64), (2, 8, 64, 64), (2, 64, 8, 64)]
        >>> [tuple(one.shape) for one in _other_ranks(torch.zeros(2, 3, 64, 64))][:2]
        [(2, 3, 1, 64, 64), (2, 1, 3, 64, 64)]
    """
    if x.dim() == 5:
        yield x.transpose(1, 2)
        yield from (x[:, :, 0], x[:, 0], x[:, 0].movedim(-1, 1))
    elif x.dim() == 4:
        for frames in _FRAMES:
            yield x.unsqueeze(2).expand(-1, -1, frames, -1, -1)
            yield x.unsqueeze(1).expand(-1, frames, -1, -1, -1)


def _is_read(module: nn.Module, inputs: Mapping[str, object], name: str) -> bool:
    """Whether other values of an input change the outputs in any bit; true where no run can show it.

    Args:
        module: The module; only copies of it run.
        inputs: The example call, by keyword.
        name: The name of a tensor among them.
    """
    given = inputs[name]
    if not isinstance(given, torch.Tensor) or given.is_meta or not given.numel() or on_meta_device(module):
        return True
    changed = given.detach().clone()
    changed.copy_(others(changed, given))
    with contextlib.suppress(AdaptError, ProbeError):
        calls = [bind(module, {**inputs, name: one}) for one in (given, changed)]
        least = Probe(module, calls[0], real=False, inner=False)
        least.run()
        if takes_long(least.device, least.work.multiply_adds):
            return True
        left, right = (Probe(module, call, real=True, inner=False, forgets=False).run().tensors for call in calls)
        return len(left) != len(right) or not all(map(torch.equal, left, right))
    return True
