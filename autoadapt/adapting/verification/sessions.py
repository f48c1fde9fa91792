"""Sessions: what the checks of one verification share: copies of the module, inputs at any size, comparisons."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from autoadapt.adapting.operations import Cast
from autoadapt.adapting.planning import Plan, source_as_built, with_masks_told
from autoadapt.adapting.verification.alias_checks import broken_aliases
from autoadapt.adapting.verification.asked_sizes import checked_batches, checked_sizes, chosen_sizes
from autoadapt.adapting.verification.given_values import Before, as_given
from autoadapt.contracts.allocations import MOST_INVENTED, bytes_of, refuse_invented
from autoadapt.contracts.capturing import Arguments, bind
from autoadapt.contracts.capturing.likely_masks import with_lengths
from autoadapt.contracts.capturing.roles import holds
from autoadapt.contracts.signature import Signature, TensorSpec, dtype_name, in_dtype, mask_at, range_at
from autoadapt.contracts.trees import Container, Slot, Tree, flatten, path_texts, rebuild
from autoadapt.contracts.views import eval_copy
from autoadapt.errors import AdaptError, Mismatch


class NotApplicableError(Exception):
    """Raised by a check that cannot be made of this module; says why."""


class Session:
    """The verification of one module.

    Args:
        net: The module; only copies of it run.
        signature: The contract that it should keep.
        inputs: An example call, as for `capture`; invented where left out.
        sizes: Sizes of the input axes to run at; chosen from the legal ones where left out.
        batches: Batch sizes to run at.
        seed: For the sizes and the invented inputs.
        cast: What the module was cast to since its plan was made, if it was; the signature is of that dtype.

    Raises:
        AdaptError: Inputs would have to be invented, and even the smallest take too much memory; or sizes or batches
            are asked for that are none.
    """

    def __init__(
        self,
        net: nn.Module,
        signature: Signature,
        *,
        inputs: object = None,
        sizes: Sequence[Mapping[str, int]] | None = None,
        batches: Sequence[int] = (1, 3),
        seed: int = 0,
        cast: torch.dtype | None = None,
    ) -> None:
        self.net = net
        self.signature = signature
        self.device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self._seed, self.cast = seed, cast
        self.blamed: list[str] = []
        """Faults of the present check that the bare backbone has as well, and that are not the module's."""
        self.given = {} if inputs is None else _named_values(bind(net, inputs))
        """The caller's inputs by path."""
        self._is_invented = inputs is None and sizes is None
        asked = checked_batches(batches)
        self._example = self._affordable(max(asked)) if self._is_invented else signature.sizes()
        chosen = checked_sizes(signature, sizes) if sizes is not None else None
        self.sizes = chosen or chosen_sizes(signature.axes, self._example, seed)
        self.batches = list(dict.fromkeys(self.at(B=batch).get("B", 0) for batch in asked))

    @property
    def plan(self) -> Plan | None:
        """The plan the module was built from, if it was."""
        plan = getattr(self.net, "plan", None)
        return plan if isinstance(plan, Plan) else None

    @functools.cached_property
    def dtypes(self) -> set[torch.dtype]:
        """Dtypes of the floating-point outputs, and of the backbone's; they limit how exact values are."""
        plan = self.plan
        of_backbone = [route.specs[0] for route in plan.routes if route.specs] if plan is not None else []
        specs = [spec for spec in (*self.signature.outputs.leaves, *of_backbone) if spec.is_floating]
        return {spec.torch_dtype for spec in specs}

    @functools.cached_property
    def has_values(self) -> bool:
        """Whether no parameter or buffer is on the meta device."""
        return not any(tensor.is_meta for tensor in (*self.net.parameters(), *self.net.buffers()))

    def copy(self) -> nn.Module:
        """A copy that shares the parameters and has its own buffers, in eval mode."""
        return eval_copy(self.net)

    @functools.cached_property
    def shared(self) -> nn.Module:
        """One copy for all checks that do not mind earlier calls of it: copying takes as long as a run."""
        return self.copy()

    @functools.cached_property
    def small_call(self) -> tuple[Before, list[torch.Tensor], dict[str, torch.Tensor]]:
        """One call at a small size: copies of the inputs before it, the inputs after it, and the outputs by path."""
        arguments = self.arguments(self.small(B=2))
        given = flatten(arguments.values)[1]
        before = as_given(given)
        return before, given, self.leaves(arguments.call(self.shared))

    @property
    def is_image(self) -> bool:
        """Whether an input is an image whose height and width may both vary."""
        axes = self.signature.axes
        vary = all(name in axes and axes[name].step != 0 for name in ("H", "W"))
        return vary and any(map(self.is_map, self.signature.inputs.leaves))

    def is_map(self, spec: TensorSpec) -> bool:
        """Whether a tensor is a batch of images or maps with axes B, H and W."""
        return spec.is_floating and {"B", "H", "W"} <= set(map(str, spec.dims))

    def at(self, **sizes: int) -> dict[str, int]:
        """Sizes of all axes: the example's, changed to the given ones along axes that may vary."""
        axes = self.signature.axes
        return self._example | {name: n for name, n in sizes.items() if name in axes and axes[name].step != 0}

    def small(self, most: int = 64, /, **sizes: int) -> dict[str, int]:
        """Like `at`, with axes less than half as long as the example's, for checks that need no particular size."""
        axes, full = self.signature.axes, self.at()
        varying = enumerate(name for name in axes if name != "B")
        short = {name: min(full[name], axes[name].near(min(full[name] * 3 // 7, most) + 8 * i)) for i, name in varying}
        return self.at(**(short | sizes))

    def _affordable(self, batch: int) -> dict[str, int]:
        """The example's sizes, halved until invented inputs of these sizes do not take too much memory."""
        axes, sizes = self.signature.axes, self.signature.sizes()
        while (count := self._bytes_at({**sizes, **({"B": batch} if "B" in axes else {})})) > MOST_INVENTED // 2:
            smaller = {name: axes[name].near(size // 2) for name, size in sizes.items()}
            if not any(smaller[name] < size for name, size in sizes.items()):
                refuse_invented(count, "inputs=an example call", most=MOST_INVENTED // 2)
            sizes = {name: min(size, smaller[name]) for name, size in sizes.items()}
        return sizes

    def _bytes_at(self, sizes: Mapping[str, int]) -> int:
        """Bytes of all inputs and outputs, and of the largest tensor between them that is known."""
        signature, routes = self.signature, self.plan.routes if self.plan is not None else ()
        steps = (spec for route in routes for spec in route.specs)
        between = max((bytes_of([spec], sizes) for spec in steps if _is_known(spec, sizes)), default=0)
        leaves = itertools.chain(signature.inputs.leaves, signature.outputs.leaves)
        return bytes_of([spec for spec in leaves if _is_known(spec, sizes)], sizes) + between

    def rebuilt(self, tensors: Sequence[torch.Tensor]) -> Arguments:
        """The arguments of a call with these tensors, in the order of the signature's input leaves."""
        return Arguments(rebuild(self.signature.inputs.tree, tensors), self.signature.positional)

    def arguments(
        self, sizes: Mapping[str, int], *, dtype: torch.dtype | None = None, requires_grad: bool = False
    ) -> Arguments:
        """Inputs at given sizes: the caller's, cropped or repeated, or random ones; equal for equal sizes.

        Args:
            sizes: A size for every axis.
            dtype: What floating-point inputs are cast to.
            requires_grad: Whether floating-point inputs require gradients.

        Raises:
            AdaptError: They have to be invented and would take too much memory.
        """
        if self._is_invented:
            refuse_invented(self._bytes_at(sizes), "inputs=an example call")
        signature, generator = self.signature, torch.Generator().manual_seed(self._seed)
        tensors = [self._tensor(path, spec, sizes, generator) for path, spec in signature.inputs.items()]
        given = [self.given.get(path, one) for path, one in zip(signature.inputs.paths, tensors, strict=True)]
        tensors = with_lengths(tensors, given)
        if dtype is not None:
            tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        for tensor in tensors if requires_grad else ():
            tensor.requires_grad_(tensor.is_floating_point())
        return self.rebuilt(tensors)

    def shown(self, sizes: Mapping[str, int]) -> Arguments:
        """Like `arguments`, with masks that hide nothing."""
        tensors = flatten(self.arguments(sizes).values)[1]
        masks = [mask_at(self.signature.masks, path) for path in self.signature.inputs.paths]
        for i, mask in enumerate(masks):
            if mask is not None:
                given, ones = tensors[i], torch.ones(len(tensors[i]), sizes[mask.axis], dtype=torch.bool)
                tensors[i] = mask.made(ones, given.shape, given.dtype).to(self.device)
        return self.rebuilt(tensors)

    def _tensor(
        self, path: str, spec: TensorSpec, sizes: Mapping[str, int], generator: torch.Generator
    ) -> torch.Tensor:
        """One input at given sizes."""
        shape = spec.shape(sizes)
        given, mask = self.given.get(path), mask_at(self.signature.masks, path)
        if given is not None and not (self.is_map(spec) and _is_blank(given)):
            given = given.detach()
            for axis, size in enumerate(shape):
                rows = torch.arange(size, device=given.device) % given.shape[axis]
                given = given.index_select(axis, rows)
            return (given if mask is not None else self._within(given, spec, sizes)).clone().to(self.device)
        if mask is not None:
            least = mask.least(self.signature.axes, self.signature.outputs.leaves, sizes)
            return mask.example(shape, sizes[mask.axis], spec.torch_dtype, generator, least=least).to(self.device)
        if spec.is_floating:
            return torch.randn(shape, dtype=torch.float32, generator=generator).to(self.device, spec.torch_dtype)
        low, high = range_at(self.signature.value_ranges.get(path, (0, 1)), self.signature.axes, sizes, spec.dims)
        drawn = torch.randint(low, high + 1, shape, generator=generator)
        spread = low + torch.arange(drawn.numel()) * (high + 1 - low) // max(drawn.numel(), 1)  # each graph has nodes
        return (spread if drawn.dim() == 1 else drawn).to(self.device, spec.torch_dtype)

    def _within(self, given: torch.Tensor, spec: TensorSpec, sizes: Mapping[str, int]) -> torch.Tensor:
        """Integer inputs of the caller, reduced modulo the axis that they index where that is shorter."""
        if given.is_floating_point() or given.dtype == torch.bool or not given.numel():
            return given
        seen = (int(given.min()), int(given.max()))
        high = range_at(seen, self.signature.axes, sizes, spec.dims)[1]
        return given % (high + 1) if 0 <= high < seen[1] else given

    def leaves(self, returned: object, at: str = "") -> dict[str, torch.Tensor]:
        """The output tensors of a call, by path.

        Raises:
            AdaptError: The containers are not those of the signature.
        """
        tree, tensors = flatten(returned)
        wrong = differing_tree(self.signature.outputs.tree, tree)
        if wrong:
            raise AdaptError("the containers differ", [Mismatch(f"container{at}", *wrong)])
        return dict(zip(self.signature.outputs.paths, tensors, strict=True))

    def compare(
        self, arguments: Arguments, returned: object, sizes: Mapping[str, int], *, dtype: torch.dtype | None = None
    ) -> list[Mismatch]:
        """The faults of a call's outputs: containers, shapes, dtypes, devices, aliases and invariants.

        Args:
            arguments: What the module was called with.
            returned: What it returned.
            sizes: The sizes of the input axes.
            dtype: What module and inputs were cast to, if they were; invariants are not compared then.
        """
        at = " at " + "x".join(map(str, sizes.values()))
        try:
            leaves = self.leaves(returned, at)
        except AdaptError as error:
            return list(error.mismatches)
        inputs = {f"inputs.{path}": tensor for path, tensor in _named_values(arguments).items()}
        faults = []
        for path, spec in self.signature.outputs.items():
            wanted = spec.torch_dtype
            if dtype is not None and self._follows_casts(path, spec):
                wanted = dtype.to_complex() if wanted.is_complex else dtype
            faults += _compare_leaf(path + at, spec.shape(sizes), wanted, leaves[path], self.device)
        faults += broken_aliases(self.signature, leaves, inputs, at)
        if faults or dtype is not None:
            return faults
        return self._broken_invariants(leaves | inputs, at)

    def compare_shapes(self, tree: Tree, shapes: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[Mismatch]:
        """The faults in containers and shapes of a run on the meta device."""
        at = " at " + "x".join(map(str, sizes.values()))
        if wrong := differing_tree(self.signature.outputs.tree, tree):
            return [Mismatch(f"container{at}", *wrong)]
        wanted = [(path, spec.shape(sizes)) for path, spec in self.signature.outputs.items()]
        return [
            Mismatch(path + at, str(list(shape)), str(list(found)), "adapt it again")
            for (path, shape), found in zip(wanted, shapes, strict=True)
            if shape != tuple(found)
        ]

    def _follows_casts(self, path: str, spec: TensorSpec) -> bool:
        """Whether an output has the dtype that the module is cast to; not where module or plan set another."""
        own = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), spec.torch_dtype)
        routes = [route for route in self.plan.routes if route.target == path] if self.plan is not None else []
        chosen = any(isinstance(step, Cast) for route in routes for step in route.steps)
        return spec.is_floating and spec.torch_dtype.to_real() == own and not chosen

    def _broken_invariants(self, tensors: Mapping[str, torch.Tensor], at: str) -> list[Mismatch]:
        """Faults in values: of outputs that should be normalised, as by softmax, and of indices with invariants."""
        held = {path: spec.holds for path, spec in self.signature.outputs.items() if spec.holds and spec.is_restored}
        faults = [
            Mismatch(
                path + at,
                str(one),
                "other values",
                "torch.nn.functional.normalize, softmax, sigmoid or tanh at the end",
            )
            for path, one in held.items()
            if not (tensors[path].is_meta or one.is_kept_by(tensors[path]))
        ]
        for invariant in self.signature.invariants:
            index = tensors[invariant.index]
            where, last = invariant.index + at, tensors[invariant.values].shape[invariant.values_axis] - 1
            if int(index.min()) < 0 or int(index.max()) > last:
                faults.append(Mismatch(where, f"0 to {last}", f"{int(index.min())} to {int(index.max())}"))
                continue
            if not holds(invariant, tensors):
                faults.append(Mismatch(where, str(invariant), "it does not hold"))
        return faults

    def backbone(self) -> Session | None:
        """The verification of an adapted module's bare backbone, with inputs as it gets them there; None of others."""
        inner = getattr(self.net, "backbone", None)
        if not isinstance(inner, nn.Module) or self.plan is None:
            return None
        taken = with_masks_told(source_as_built(self.plan), self.plan.target)
        taken = in_dtype(taken, self.cast) if self.cast is not None else taken
        return Session(inner, taken, seed=self._seed, cast=self.cast)

    def excuse(self, run: Callable[[Session], object], reason: str) -> None:
        """Raise `NotApplicableError` where the bare backbone raises too; to be called when a check raised."""
        bare = self.backbone()
        if bare is None:
            return
        try:
            run(bare)
        except AdaptError:  # a fault in the taps, which are not the backbone's own
            return
        except Exception as error:
            raise NotApplicableError(f"the bare backbone fails {reason}: {said(error, 60)}") from error


def _is_known(spec: TensorSpec, sizes: Mapping[str, int]) -> bool:
    """Whether all axes in a spec have sizes; in a signature without inputs none has."""
    return all(dim.axes <= sizes.keys() for dim in spec.dims)


def _is_blank(image: torch.Tensor) -> bool:
    """Whether an image has a single value, such as `torch.zeros`: gradients for it may be zero."""
    return bool((image == image.flatten()[:1]).all())


def said(error: Exception, most: int = 1000) -> str:
    """The class and first line of an exception, shortened to `most` characters between words."""
    text = str(error).strip().splitlines()
    return textwrap.shorten(f"{type(error).__name__}: {text[0] if text else ''}", most, placeholder=" …")


def _named_values(arguments: Arguments) -> dict[str, torch.Tensor]:
    """The input tensors of a call by path, without those on the meta device."""
    tree, tensors = flatten(arguments.values)
    named = zip(path_texts(tree), tensors, strict=True)
    return {path: tensor for path, tensor in named if tensor.device.type != "meta"}


def differing_tree(expected: Tree, found: Tree) -> tuple[str, str] | None:
    """The first difference between two trees, as (expected, found) texts; constants must be equal too."""
    match expected, found:
        case Slot(), Slot():
            return None
        case Container(), Container() if (expected.kind, expected.type, expected.keys) == (
            found.kind,
            found.type,
            found.keys,
        ):
            pairs = zip(expected.children, found.children, strict=True)
            return next((wrong for left, right in pairs if (wrong := differing_tree(left, right))), None)
        case _:
            return None if expected == found else (_in_words(expected), _in_words(found))


def _in_words(tree: Tree) -> str:
    if isinstance(tree, Container):
        keys = ", ".join(map(str, tree.keys[:8]))
        return f"{tree.type or tree.kind.replace('_', ' ')} of {len(tree.keys)} ({keys})"
    return "a tensor" if isinstance(tree, Slot) else repr(getattr(tree, "value", tree))


def _compare_leaf(
    where: str, shape: tuple[int, ...], dtype: torch.dtype, tensor: torch.Tensor, device: torch.device
) -> list[Mismatch]:
    faults = []
    if tuple(tensor.shape) != shape:
        faults.append(Mismatch(where, str(list(shape)), str(list(tensor.shape)), "adapt it again"))
    if tensor.dtype != dtype:
        faults.append(Mismatch(where, dtype_name(dtype), dtype_name(tensor.dtype), f".to({dtype})"))
    if tensor.device != device:
        faults.append(Mismatch(where, str(device), str(tensor.device), f'.to("{device}")'))
    return faults
