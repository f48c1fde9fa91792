"""Channels of wholes: what the necks and heads of a registry's model ask for, against what its own backbone gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.assembly.assembly_sessions import Session, said_by
from autoadapt.assembly.backbone_building import fed
from autoadapt.assembly.levels import channels_of
from autoadapt.assembly.python_expressions import Keys
from autoadapt.errors import Mismatch


def check_channels(session: Session, whole: nn.Module) -> None:
    """Note channels that differ from what stands before, where the model does not run with them.

    A part may count its levels otherwise, so that what looks wrong is refused only where a run shows it.

    Args:
        session: What is known; its backbone is the registry's own.
        whole: The model, in the mode that it comes back in.
    """
    config = session.config.whole
    assert config is not None, "asked for where there is one"
    given = [channels_of(leaf) for leaf in session.producers["backbone"].signature.outputs.leaves]
    if None in given:
        return
    differing = list(_differing(config.arguments, [int(channels) for channels in given if channels is not None]))
    said = _refused(session, whole) if differing else ""
    for keys, expected, found, remedy in differing if said else ():
        where = session.document.where(("whole", *keys))
        session.faults.append(Mismatch(where, expected, found, f"{keys[-1]}: {remedy}", said))


def _differing(arguments: Mapping[str, Any], given: Sequence[int]) -> Iterator[tuple[Keys, str, str, str]]:
    necks = list(_mappings("neck", arguments.get("neck")))
    if not necks:
        for keys, head in _heads(arguments):
            yield from _of_levels(keys, head, given)
        return
    keys, first = necks[0]
    channels = first.get("in_channels")
    fitting = [list(given), given[-1]] if len(given) > 1 else [list(given), given[0]]
    if channels is not None and _plain(channels) not in fitting:
        right = fitting[0] if isinstance(channels, (list, tuple)) else fitting[1]
        yield (*keys, "in_channels"), f"{right}, as the backbone gives", str(_plain(channels)), str(right)
    made = necks[-1][1].get("out_channels")
    for keys, head in _heads(arguments) if isinstance(made, int) else ():
        channels = head.get("in_channels")
        if isinstance(channels, int) and channels != made:
            yield (*keys, "in_channels"), f"{made}, as the neck gives", str(channels), str(made)


def _of_levels(keys: Keys, head: Mapping[str, Any], given: Sequence[int]) -> Iterator[tuple[Keys, str, str, str]]:
    """A head that reads levels of the backbone by their place."""
    place, channels = head.get("in_index", -1), head.get("in_channels")
    places = list(place) if isinstance(place, (list, tuple)) else [place]
    if channels is None or not all(isinstance(each, int) for each in places):
        return
    if any(not -len(given) <= each < len(given) for each in places):
        last = str(len(given) - 1)
        yield (*keys, "in_index"), f"0 to {last}, a level of the backbone", str(_plain(place)), last
        return
    right = [given[each] for each in places]
    expected = right if isinstance(place, (list, tuple)) else right[0]
    if _plain(channels) != expected:
        yield (*keys, "in_channels"), f"{expected}, as the backbone gives", str(_plain(channels)), str(expected)


def _heads(arguments: Mapping[str, Any]) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    for key, value in arguments.items():
        if key.endswith("head"):
            yield from _mappings(key, value)


def _mappings(key: str, value: Any) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """One config or several, with the place of each."""
    if isinstance(value, Mapping):
        yield (key,), value
    elif isinstance(value, (list, tuple)):
        yield from (((key, i), each) for i, each in enumerate(value) if isinstance(each, Mapping))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refused(session: Session, whole: nn.Module) -> str:
    """What the model says where its layers do not fit each other; empty where they do or it needs more to run."""
    spec, modes = fed(session), [(module, module.training) for module in whole.modules()]
    images = torch.zeros(spec.shape(session.sizes), dtype=spec.torch_dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            whole.eval()
            whole(images, mode="tensor")
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        return said_by(error)
    except Exception:  # boxes without an image, and the like: nothing about its layers
        return ""
    finally:
        for module, mode in modes:
            module.training = mode
    return ""
