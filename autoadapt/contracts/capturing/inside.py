"""Inner outputs: the facts about each tensor that an inner module returned, from a run and from the modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from torch import nn

from autoadapt.contracts.capturing.classifier_heads import read_by_heads
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.instances import paths_above
from autoadapt.contracts.layer_kinds import COUNTED, multiply_adds
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.signature import InnerOutput, TensorSpec, tap_name


def inner_outputs(
    model: nn.Module,
    specs: Mapping[InnerKey, TensorSpec],
    observed: Observation,
    returned: Mapping[InnerKey, str],
) -> tuple[InnerOutput, ...]:
    """The inner outputs of a model.

    Args:
        model: The model.
        specs: The spec of each tensor.
        observed: The run in which they were noted.
        returned: Paths of the model's outputs, by the inner output that each of them is.
    """
    noted, named = observed.inner, dict(model.named_modules())
    reads = {key: tap_name(*read) for key, read in _head_reads(model, observed, returned).items() if read in specs}
    layers, parameters, held = _layer_counts(named), _parameter_counts(model), _parameters_held(model)
    unread = _unread_vectors(specs, observed, reads)
    count = sum(layers[path] for path, _ in model.named_children())
    attending = {path for path in observed.attending if 2 * layers[path] <= count}
    read_on, listed = _read_on(noted, parameters), _listed(model, specs, noted)
    return tuple(
        InnerOutput(
            module=path,
            call=call,
            path=leaf,
            spec=spec,
            kind=type(named[path]).__name__,
            nesting=_nesting(named, path),
            parent=any(True for _ in named[path].children()),
            layers=layers[path],
            parameters=parameters[path],
            holds=f"{held[path]:x}" if path in held else "",
            multiply_adds=0 if leaf == READ else multiply_adds(named[path], noted[path, call, leaf].shape),
            started=noted[path, call, leaf].started,
            finished=noted[path, call, leaf].finished,
            same_as=tap_name(*first) if (first := noted[path, call, leaf].same_as) else "",
            reads=reads.get((path, call, leaf), ""),
            output=returned.get((path, call, leaf), ""),
            contiguous=noted[path, call, leaf].contiguous,
            attention=any(path.startswith(f"{above}.") for above in attending),
            read_on=(noted[path, call, leaf].same_as or (path, call, leaf)) in read_on,
            added=(path, call, leaf) in observed.added,
            in_row=path.rpartition(".")[2].isdigit() and type(named[path.rpartition(".")[0]]) in _ROWS,
            listed=(noted[path, call, leaf].same_as or (path, call, leaf)) in listed,
        )
        for (path, call, leaf), spec in specs.items()
        if (path, call, leaf) not in unread
    )


def _unread_vectors(
    specs: Mapping[InnerKey, TensorSpec], observed: Observation, reads: Mapping[InnerKey, str]
) -> set[InnerKey]:
    """Vectors that were noted as inputs of layers and that no head reads; streams, which have cells, are all kept."""
    taken = set(reads.values())
    vectors = {key for key in specs if key[2] == READ and math.prod(observed.inner[key].shape[2:]) == 1}
    return {key for key in vectors if tap_name(*key) not in taken}


def _head_reads(
    model: nn.Module, observed: Observation, returned: Mapping[InnerKey, str]
) -> Mapping[InnerKey, InnerKey]:
    """The input of each last layer, by its output, the tensor of scores."""
    shapes = dict(zip(observed.paths, observed.shapes, strict=True))
    return read_by_heads(model, observed.inner, returned, shapes)


def _read_on(noted: Mapping[InnerKey, InnerLeaf], parameters: Mapping[str, int]) -> set[InnerKey]:
    """The tensors that a module with parameters reads after the call that returned them has ended."""
    return {
        noted[leaf.reads].same_as or leaf.reads
        for key, leaf in noted.items()
        if leaf.reads is not None and parameters[key[0]] and leaf.started > noted[leaf.reads].finished
    }


def _listed(
    model: nn.Module, specs: Mapping[InnerKey, TensorSpec], noted: Mapping[InnerKey, InnerLeaf]
) -> set[InnerKey]:
    """The tensors that timm's `feature_info` lists as levels, by module, where they have its number of channels."""
    info = getattr(model, "feature_info", ())
    levels = getattr(info, "info", info)
    channels = {
        level.get("module"): level.get("num_chs")
        for level in (levels if isinstance(levels, (list, tuple)) else ())
        if isinstance(level, Mapping) and isinstance(level.get("num_chs"), int)
    }
    return {
        noted[key].same_as or key
        for key, spec in specs.items()
        if key[1:] != (0, READ)
        and key[1] == 0
        and key[0] in channels
        and channels[key[0]] in {dim.constant for dim in spec.dims[1:]}
    }


_ROWS = (nn.Sequential, nn.ModuleList)


def _layer_counts(named: Mapping[str, nn.Module]) -> Counter[str]:
    """The number of convolutions and linear layers in each module, itself included."""
    found: Counter[str] = Counter()
    for path, module in named.items():
        if isinstance(module, COUNTED):
            found.update([*paths_above(path), path])
    return found


def _parameter_counts(module: nn.Module) -> Counter[str]:
    """The number of values of all parameters in each module."""
    found: Counter[str] = Counter()
    for path, parameter in module.named_parameters():
        for above in paths_above(path):
            found[above] += parameter.numel()
    return found


def _parameters_held(module: nn.Module) -> dict[str, int]:
    """Which parameters each module holds, tied ones included: bit `i` for the `i`-th of `parameters()`."""
    bits = {id(parameter): 1 << i for i, parameter in enumerate(module.parameters())}
    found: dict[str, int] = {}
    for path, parameter in module.named_parameters(remove_duplicate=False):
        for above in paths_above(path):
            found[above] = found.get(above, 0) | bits[id(parameter)]
    return found


def _nesting(named: Mapping[str, nn.Module], path: str) -> int:
    """The number of modules around a module, without plain containers."""
    plain = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    return sum(type(named[above]) not in plain for above in paths_above(path))
