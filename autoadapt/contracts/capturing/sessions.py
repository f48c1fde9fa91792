"""Sessions: one capture, from the first run to the signature."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, parameters_of
from autoadapt.contracts.capturing.batch_axes import axes_of
from autoadapt.contracts.capturing.cells import Run, centres_of, class_tokens, leading_tokens
from autoadapt.contracts.capturing.class_scores import class_scores
from autoadapt.contracts.capturing.confirming import (
    MOST_PASSES,
    Confirmation,
    Contract,
    confirm,
    confirm_again,
    confirm_drawing,
    contiguous_in_both,
)
from autoadapt.contracts.capturing.depths import Depths, argument_that_dilates, sizes_for_depths
from autoadapt.contracts.capturing.end_tokens import end_tokens
from autoadapt.contracts.capturing.first_calls import confirm_first_call
from autoadapt.contracts.capturing.fixed import FixedImages, rows_of_fixed_maps
from autoadapt.contracts.capturing.given_grids import TokenGrid, check_grids
from autoadapt.contracts.capturing.graph_axes import settle_edges, settle_pairs
from autoadapt.contracts.capturing.in_place import raised
from autoadapt.contracts.capturing.inner_calls import kind_of
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.inside import inner_outputs
from autoadapt.contracts.capturing.left_out import refuse_left_out
from autoadapt.contracts.capturing.likely_masks import may_hide
from autoadapt.contracts.capturing.looking_ahead import LookingAhead
from autoadapt.contracts.capturing.masks import Masks
from autoadapt.contracts.capturing.merging import merged_axes
from autoadapt.contracts.capturing.ordering import ImagePass, Measured, Ordering, disordered, images_for
from autoadapt.contracts.capturing.point_axes import PointAxes
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError
from autoadapt.contracts.capturing.refusals import (
    check_names,
    refuse_object_inputs,
    refuse_objects,
    refuse_stored,
)
from autoadapt.contracts.capturing.roles import find_gatherings, find_roles, may_have_roles, value_ranges
from autoadapt.contracts.capturing.runs import OneSizeError, Runs, ValuesNeededError
from autoadapt.contracts.capturing.shown_properties import agreed_bounds, telling_outputs, with_held
from autoadapt.contracts.capturing.sizing import Steps, settle_letters, untie
from autoadapt.contracts.capturing.solving import Solution
from autoadapt.contracts.capturing.starting import start
from autoadapt.contracts.capturing.told_statistics import statistics_told
from autoadapt.contracts.capturing.train_runs import in_train_mode, spec_of, train_outputs
from autoadapt.contracts.capturing.usual_sizes import usual_images
from autoadapt.contracts.capturing.without_heads import trunk_signature
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.origins import called
from autoadapt.contracts.signature import AxisSizes, Mask, Role, Signature, TensorSpec, Values
from autoadapt.contracts.trees import flatten, path_text, path_texts, paths
from autoadapt.contracts.views import uncompiled
from autoadapt.errors.printable import visible


class Session:
    """One capture, with the arguments of `capture`; `real`: probe by real runs; `one_size`: of images of one size."""

    def __init__(
        self,
        module: nn.Module,
        arguments: Arguments,
        *,
        inner: bool,
        grid: Mapping[str, TokenGrid],
        confirm: bool,
        real: bool = False,
        one_size: bool = False,
    ) -> None:
        self._module = uncompiled(module)
        check_names(self._module)
        self._grid = grid
        self._confirm, self._one_size = confirm, one_size
        self._perturbed = False  # whether a real pass was spent on the grid of tokens
        self._arguments = arguments
        self._tree, self._tensors = flatten(arguments.values)
        refuse_object_inputs(self._tree, arguments.values)
        names_in = [f"inputs.{path_text(path)}" for path in paths(self._tree)]
        refuse_stored(type(module).__name__, dict(zip(names_in, map(kind_of, self._tensors), strict=True)))
        started = start(self._module, arguments, inner=inner, real=real)
        self._probe, self._first, self._needs_values = started.probe, started.first, started.needs_values
        if confirm:
            refuse_left_out(self._module, arguments, self._probe.work)
        axes, followed = axes_of(self._module, arguments, self._probe.work, runs=confirm), started.followed
        self._runs = Runs(self._module, self._probe, axes, self._first, followed=followed, shrinks=self._needs_values)
        self._refuse_stored(self._first)
        check_grids(grid, self._module, self._first)

    def signature(self) -> Signature:
        first, (base, steps, solution, unread) = self._first, self._solved()
        legal = self._runs.legal(varying := steps | self._runs.fixed_image(steps), solution, base)
        measured = self._measured(solution, legal, steps)
        solution = solution.as_seen(measured.maps)
        confirmed = self._confirmed(Contract(self._runs.axes, steps, solution.outputs, self._first), base, measured.ran)
        tensors_in, tensors_out = self._real_values(confirmed.observed)
        replaced = self._replaced_when_empty()
        roles = find_roles(tensors_in, tensors_out, gatherings := find_gatherings(tensors_in, tensors_out))
        masks, depths = self._masks(solution, legal), self._depths(base, steps)
        told = self._told(solution, measured, followed := self._runs.followed(base, steps))
        trained, raised = in_train_mode(self._probe, self._runs.axes.shapes(base))  # late, since it may change the copy
        run = self._first if self._needs_values else confirmed.observed
        leaves = self._with_held(depths.on_outputs(self._output_specs(solution, roles, told)), run, followed)
        inner = inner_outputs(self._module, self._inner_specs(solution, told), self._first, self._returned())
        return Signature(
            **self._told_without_a_run(),
            inputs=(inputs := Values(tree=self._tree, leaves=self._input_specs(varying, masks))),
            statistics=statistics_told(self._module, inputs),
            outputs=(outputs := Values(tree=first.tree, leaves=leaves)),
            axes=legal,
            filled=dict(first.filled) | replaced,
            replaced_when_empty=tuple(replaced),
            written=self._written(trained),
            invariants=gatherings,
            masks=masks,
            looks_ahead=self._looks_ahead(solution, masks),
            unverified=solution.unverified,
            contiguous=contiguous_in_both(first, confirmed.observed),
            value_ranges=value_ranges(tensors_in),
            inner=depths.on_inner(inner),
            scores=class_scores(self._module, outputs, inner),
            shallow_first=depths.shallow_first(outputs),
            output_weights=depths.weights() if first.inner else (),
            unread_tokens=unread or disordered(self._module, measured.orders),
            train_outputs=train_outputs(trained, self._runs.run(base)),
            raises_in_training=raised,
            **{told: getattr(confirmed, told) for told in ("unconfirmed", "contradictions", "not_finite", "drawn")},
        )

    def _told_without_a_run(self) -> dict[str, Any]:
        """Fields of the signature that the module and its call tell by themselves."""
        name, origin = called(self._module)
        return {
            "name": " ".join(visible(name).split()),
            "origin": origin,
            "positional": self._arguments.positional,
            "parameters": parameters_of(self._module, self._arguments),
            "weights": tuple(p.numel() for p in self._module.parameters()) if self._first.inner else (),
            "dilated_by": argument_that_dilates(self._module),
        }

    def _with_held(
        self, specs: tuple[TensorSpec, ...], run: Observation | None, followed: Sequence[Run]
    ) -> tuple[TensorSpec, ...]:
        """Output specs with the values that they hold and the bounds of these, as the runs show them."""
        seen = telling_outputs(self._module, self._arguments, run) if run is not None else ()
        return with_held(specs, seen, agreed_bounds([found for _, found in followed], len(specs)))

    @property
    def draws(self) -> bool:
        """Whether random numbers were drawn so far, by the module or by another thread meanwhile."""
        return self._probe.draws

    def trunk(self) -> Signature | None:
        """The signature without the head, where that takes images of more sizes; only with inner outputs."""
        if not self._first.inner or self._needs_values:
            return None

        def again(module: nn.Module, arguments: Arguments) -> Signature:
            found = Session(module, arguments, inner=True, grid=self._grid, confirm=False).signature()
            return found.model_copy(update={"unconfirmed": ""})  # the whole module is confirmed instead

        return trunk_signature(self._module, self._arguments, self._first.inner, again)

    def _solved(self) -> tuple[dict[str, int], Steps, Solution, tuple[str, ...]]:
        """The base of the probes, steps, dims, and the blocks whose tokens could not be read as a grid."""
        binary = [position for position, tensor in enumerate(self._tensors) if may_hide(tensor)]
        self._runs.axes = settle_edges(self._runs.axes, self._runs.runs_at)
        self._runs.axes = settle_pairs(self._runs.axes, self._runs.runs_at)
        self._runs.axes = untie(self._runs.axes, self._runs.runs_at, binary)
        self._runs.axes = settle_letters(self._runs.axes, self._runs.run, self._runs.runs_at)
        base, steps = self._runs.where_to_probe()
        base = self._runs.at_step(base, steps)
        steps, solution = self._runs.solved(base, steps)
        if self._one_size or self._resizes_itself(solution):
            steps = {name: step for name, step in steps.items() if name not in ("H", "W")}
        if (told := self._runs.in_frames(steps, solution, self._arguments if self._confirm else None)) is not None:
            return self._runs.axes.example, steps, told, ()
        if not self._runs.fixed_image(steps):
            return base, steps, solution, ()
        return base, steps, *self._with_grids(solution)

    def _refuse_stored(self, observed: Observation) -> None:
        refuse_stored(type(self._module).__name__, dict(zip(observed.paths, observed.kinds, strict=True)))

    def _confirmed(self, contract: Contract, base: Mapping[str, int], ran: ImagePass | None) -> Confirmation:
        """The real runs that confirm what was found, or contradict it.

        Raises:
            CaptureError: The module raises in a real run, or returns tensors that are not dense.
            OneSizeError: It raises on larger images.
            ValuesNeededError: Containers or dtypes differ from those on the meta device.
        """
        if not self._confirm:
            return Confirmation(unconfirmed="confirm=False")
        self._probe.forget()
        try:
            found = self._run_for_real(contract, base, ran)
        finally:
            self._probe.forget()
        others = () if found.contradictions else confirm_drawing(self._probe, base, contract)
        if not (found.contradictions or others or self._needs_values):
            others = confirm_first_call(self._probe, contract)
        return replace(found, contradictions=(*found.contradictions, *others))

    def _run_for_real(self, contract: Contract, base: Mapping[str, int], ran: ImagePass | None) -> Confirmation:
        if self._needs_values:
            before = self._runs.run(base)
            assert before is not None, "the base ran before"
            return confirm_again(self._probe, base, contract, before)
        batch = 2 if self._may_have_roles() else 1
        probe = Probe(self._module, self._arguments, real=True, inner=False, forgets=False)
        passes = MOST_PASSES - self._perturbed - (ran is not None)
        found = confirm(self._module, probe, contract, batch=batch, work=self._probe.work, ordered=ran, passes=passes)
        if found.observed is not None:
            self._refuse_stored(found.observed)
        if found.differs or found.one_size:
            raise ValuesNeededError if found.differs else OneSizeError
        return self._excused(found) if found.raised else found

    def _excused(self, found: Confirmation) -> Confirmation:
        """The confirmation for a run that raised for a reason outside of the module: invented integers, no kernel.

        Raises:
            CaptureError: There is no such reason.
        """
        invented = any(tensor.is_meta and not tensor.is_floating_point() for tensor in self._tensors)
        if invented or "not implemented for" in found.raised:
            return Confirmation(unconfirmed=f"it raises here: {found.raised}")
        raise raised(self._module, None, found.raised, self._tensors)

    def _resizes_itself(self, solution: Solution) -> bool:
        """Whether no inner map depends on the size of the image, as where a module resizes its input first.

        Such a module is captured as one of a single size, so that its maps are recognised as such.
        """
        maps = [dims for dims in solution.inner.values() if len(dims) >= 3]
        return bool(maps) and not any(dim.axes & {"H", "W"} for dims in (*maps, *solution.outputs) for dim in dims)

    def _with_grids(self, solution: Solution) -> tuple[Solution, tuple[str, ...]]:
        images = FixedImages(self._module, self._arguments, self._runs.axes, self._grid)
        read = images.read(solution, self._first, *self._observed_inside())
        self._perturbed = images.ran
        return read

    def _observed_inside(self) -> tuple[Mapping[InnerKey, InnerLeaf], Collection[str]]:
        """The inner outputs, and the paths of attention modules."""
        try:
            if not (found := self._first).inner:
                found = Probe(self._module, self._arguments, real=self._probe.real, inner=True).run()
        except ProbeError:
            return {}, ()
        return found.inner, found.attending

    def _written(self, in_training: Observation | None) -> tuple[str, ...]:
        """Inputs that the module writes to, in either mode."""
        modes = [self._first.written, in_training.written if in_training else self._first.written]
        return tuple(path_text(path) for path, *written in zip(paths(self._tree), *modes, strict=True) if any(written))

    def _replaced_when_empty(self) -> dict[str, str]:
        """Dict arguments that are filled only if they are not empty, found by adding an entry."""
        found: dict[str, str] = {}
        for name, value in self._arguments.values.items():
            if isinstance(value, dict) and name not in self._first.filled and self._tensors:
                with contextlib.suppress(ProbeError):
                    found |= self._probe.run(mark=name).filled
        return found

    def _may_have_roles(self) -> bool:
        kinds = zip(self._first.shapes, self._first.dtypes, strict=True)
        return may_have_roles(
            dict(zip(path_texts(self._tree), self._tensors, strict=True)),
            dict(zip(self._first.paths, kinds, strict=True)),
        )

    def _real_values(self, confirmed: Observation | None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Inputs and outputs of one real run, where shapes allow indices or coordinates; else empty."""
        observed = self._first if self._needs_values else confirmed
        if not self._needs_values and not self._may_have_roles():
            return {}, {}
        if observed is None:
            try:
                observed = Probe(self._module, self._arguments, real=True, inner=False).run()
            except ProbeError:
                return {}, {}
        return (
            dict(zip(path_texts(self._tree), observed.inputs, strict=True)),
            dict(zip(self._first.paths, observed.tensors, strict=True)),
        )

    def _depths(self, base: Mapping[str, int], steps: Steps) -> Depths:
        """The depths of all tensors, traced at the first of `sizes_for_depths` that runs."""
        for sizes in sizes_for_depths(self._runs.axes.example, base, steps, real=self._probe.real):
            with contextlib.suppress(ProbeError):
                return Depths(self._module, *self._probe.trace(self._runs.axes.shapes(sizes)), self._image(sizes))
        return Depths(self._module)

    def _image(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Sizes of the batch axis and the spatial axes, of the first input that has both; empty without one."""
        full = self._runs.axes.example | dict(sizes)
        for tensor, names in zip(self._tensors, self._runs.axes.names, strict=True):
            spatial = [full[name] for name in names if name[0] not in "BC"]
            if tensor.is_floating_point() and len(names) > 2 and names[0] == "B" and spatial:
                return (full["B"], *spatial)
        return ()

    def _returned(self) -> dict[InnerKey, str]:
        """Paths of outputs, by the inner output that each of them is."""
        names = self._first.paths
        return {key: name for key, name in zip(self._first.made_by, names, strict=True) if key is not None}

    def _measured(self, solution: Solution, legal: Mapping[str, AxisSizes], steps: Steps) -> Measured:
        """What a real run shows of cells or points in outputs and inner outputs, where sizes do not."""
        if not {"H", "W"} <= set(legal):
            cloud = PointAxes(self._module, self._arguments, self._runs.axes, self._probe.work, steps.keys() <= {"B"})
            dtypes = self._first.dtypes
            run = cloud.measure(solution.outputs, dtypes, solution.inner) if self._confirm and "B" in legal else None
            self._perturbed = self._perturbed or run is not None
            return Measured(points=run or {})
        batch = Dim.axis("B") if "B" in legal else Dim(self._runs.axes.example.get("B", 1))
        inner = sorted(solution.inner, key=lambda key: self._first.inner[key].finished)
        dims: dict[InnerKey | int, tuple[Dim, ...]] = {key: solution.inner[key] for key in inner}
        dims |= dict(enumerate(solution.outputs))
        axes = self._runs.axes
        usual = usual_images(axes, steps, self._probe.work, images_for(axes)) if self._confirm else None
        found = Ordering(self._module, self._arguments, axes, legal, self._grid, usual).measure(dims, batch)
        outputs = dict(enumerate(solution.outputs)) if self._confirm and "B" in legal else dict[int, tuple[Dim, ...]]()
        return replace(found, rows=rows_of_fixed_maps(self._module, self._arguments, axes, outputs))

    def _told(
        self, solution: Solution, measured: Measured, followed: Sequence[Run]
    ) -> dict[InnerKey | int, dict[str, object]]:
        """Fields of the specs besides dtype and dims: centres, order of cells, points, class, first and last tokens."""
        merged = merged_axes(solution.outputs, [(sizes, run.merging) for sizes, run in followed])
        leading = leading_tokens(solution.dims, followed)
        centres = centres_of(solution.outputs, solution.inner, merged, leading, followed)
        vectors = class_tokens(solution.dims, followed)
        ends = end_tokens(solution.outputs, [run.end_tokens for _, run in followed])
        return {
            key: {"centres": centres[key], "class_token": key in vectors, "leading": leading.get(key, 0)}
            | {f"{end}_token": True for number, end in ends.items() if number == key}
            | measured.told(key)
            | ({"merged": one, "cells": one.cells} if isinstance(key, int) and (one := merged[key]) else {})
            for key in centres
        }

    def _inner_specs(self, solution: Solution, told: Told) -> dict[InnerKey, TensorSpec]:
        return {
            key: spec_of(self._first.inner[key].dtype, dims).model_copy(update=told[key])
            for key, dims in solution.inner.items()
        }

    def _masks(self, solution: Solution, legal: Collection[str]) -> tuple[Mask, ...]:
        """The arguments that are masks; none without confirmation by real runs."""
        names = self._first.paths
        found = Masks(self._module, self._arguments, self._runs.axes, self._probe.work, solution.outputs, names)
        return found.find(legal) if self._confirm else ()

    def _looks_ahead(self, solution: Solution, masks: Sequence[Mask]) -> bool | None:
        """Whether tokens depend on later ones; None without confirmation by real runs."""
        found = LookingAhead(self._module, self._arguments, self._runs.axes, self._probe.work, masks)
        return found.tell(solution.outputs) if self._confirm else None

    def _input_specs(self, varying: Collection[str], masks: Sequence[Mask]) -> tuple[TensorSpec, ...]:
        example, hiding = self._runs.axes.example, {mask.argument for mask in masks}

        def dim(name: str) -> Dim:
            return Dim.axis(name) if name in varying else Dim(example[name])

        rows = zip(path_texts(self._tree), self._tensors, self._runs.axes.names, strict=True)
        return tuple(
            spec_of(tensor.dtype, tuple(map(dim, names)), "mask" if path in hiding else None)
            for path, tensor, names in rows
        )

    def _output_specs(self, solution: Solution, roles: Mapping[str, Role], told: Told) -> tuple[TensorSpec, ...]:
        first = self._first
        if not first.shapes:
            refuse_objects(type(self._module).__name__, first.tree)
        names = first.paths
        rows = zip(names, first.dtypes, solution.outputs, first.same_as, strict=True)
        return tuple(
            spec_of(dtype, dims, roles.get(name), same).model_copy(update=told[i])
            for i, (name, dtype, dims, same) in enumerate(rows)
        )


Told: TypeAlias = Mapping[InnerKey | int, Mapping[str, object]]
"""Fields of the spec of each leaf, outputs by number."""
