"""Layer names: the layers of a checkpoint or a model, and which of them are called alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from autoadapt.weights.prefixes import ends_of
from autoadapt.weights.tensor_specs import Spec


class Named(dict[str, Spec]):
    """Tensors by name."""

    @cached_property
    def by_leaf(self) -> dict[str, list[str]]:
        """Names by their last segments."""
        found: dict[str, list[str]] = {}
        for name in self:
            found.setdefault(name.rpartition(".")[2], []).append(name)
        return found


def layers_of(specs: Named, ending: str) -> list[str]:
    """The layers that have a tensor of some last name, which may have dots in it."""
    names = specs.by_leaf.get(ending.rpartition(".")[2], ())
    return [name[: -len(ending)].rstrip(".") for name in names if name == ending or name.endswith(f".{ending}")]


def likeness_to(layer: str, others: Iterable[str]) -> tuple[int, int]:
    """How many last segments a layer's name shares with the most alike of others, and whether all of the shorter.

    Example:
        >>> likeness_to("0.attn", ["model.0.attn", "1.attn"]), likeness_to("a.fc", ["b.fc"]), likeness_to("a", ["ba"])
        ((2, 1), (1, 0), (0, 0))
    """
    ends = ends_of(layer, ".")
    best = (0, 0)
    for other in others:
        shared = next((end for end in ends if other == end or other.endswith(f".{end}")), None)
        if shared is not None:
            best = max(best, (1 + shared.count("."), int(shared in (layer, other))))
    return best


def front_of(layer: str) -> str:
    """What the names of a layer's tensors begin with."""
    return f"{layer}." if layer else ""


def most_alike(layer: str, others: list[str]) -> str | None:
    """The layer of others whose name ends most like another's; none where none does."""
    found = max(others, key=lambda other: likeness_to(layer, [other]), default=None)
    return found if found is not None and likeness_to(layer, [found]) > (0, 0) else None


def ends_in(targets: Mapping[str, Spec], name: str) -> bool:
    """Whether the model has a tensor of a name, as far as one side's front part goes.

    Example:
        >>> [ends_in(dict.fromkeys([name]), "fc.bias") for name in ("model.fc.bias", "bias", "afc.bias")]
        [True, True, False]
    """
    return any(name == other or name.endswith(f".{other}") or other.endswith(f".{name}") for other in targets)
