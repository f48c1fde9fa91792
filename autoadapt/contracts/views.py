"""Views: copies of a module that share its parameters' storage, and other copies by one rule for tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.closures import Closures
from autoadapt.contracts.deep_copies import deep_copy
from autoadapt.contracts.instances import parts_of, tensors_of
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.shape_rules import ShapeRules
from autoadapt.contracts.uncopyable import first_uncopyable, stand_ins
from autoadapt.contracts.unfit import refuse_unfit
from autoadapt.errors import CaptureError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.files.reading import first_line

TensorCopy: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
_Paths = TypeVar("_Paths", bound=str | Sequence[str] | None)


def view(module: nn.Module) -> nn.Module:
    """New module objects over the same storage: hooks, casts, moves and `.grad` never reach the original.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> other = view(layer)
        >>> other.weight is layer.weight, other.weight.data_ptr() == layer.weight.data_ptr()
        (False, True)

    Raises:
        CaptureError: A module inside is compiled.
    """
    refuse_scripts(module)
    return copy_module(module, aliased)


def refuse_scripts(module: nn.Module) -> None:
    """Refuse ScriptModules, whose copies neither share their weights nor can be trained.

    Raises:
        CaptureError: A module inside is one.
    """
    found = [path for path, one in module.named_modules() if isinstance(one, torch.jit.ScriptModule)]
    if found:
        where = found[0] or type(module).__name__
        expected, remedy = "modules in Python", "adapt the module that was scripted; torch.jit.script comes last"
        fault = Mismatch(where, expected, "a ScriptModule, whose copies share and train no weights", remedy)
        raise CaptureError(f"`{where}` is compiled, so that it cannot be adapted", [fault])


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside of a `torch.compile` wrapper; any other module itself."""
    wrapped: nn.Module = getattr(module, "_orig_mod", module)
    return wrapped


def within_wrapper(module: nn.Module, path: _Paths) -> tuple[nn.Module, _Paths]:
    """The module inside of a `torch.compile` wrapper, with a path, a span or a list of paths relative to it.

    The wrapper compiles again when a submodule of that is replaced.

    Raises:
        AdaptError: `path` is no text and no list of texts.
    """
    inner = uncompiled(module)
    for one in path if isinstance(path, (list, tuple)) else [] if path is None else [path]:
        check_type(one, str, "at", 'at="backbone"  # or a region, at=["conv1", "layer4"]')
    if inner is module or path is None:
        return inner, path
    if isinstance(path, str):
        return inner, ":".join(one.removeprefix("_orig_mod.") for one in path.split(":"))  # type: ignore[return-value]
    return inner, [one.removeprefix("_orig_mod.") for one in path]  # type: ignore[return-value]


def copy_module(module: nn.Module, copy_tensor: TensorCopy) -> nn.Module:
    """Copy a module with one rule for its tensors, whether registered or kept in plain attributes.

    Functions that hold parts of the module, as hooks and a patched `forward` do, are copied over the parts of the copy.
    Locks, open files, generators and Python modules among its attributes are shared with the original. Each submodule
    is in the mode (train or eval) of its original, also where its class makes copies in train mode.

    Args:
        module: The original; it is only read. A `torch.compile` wrapper is taken off.
        copy_tensor: Makes the tensor of the copy from that of the original. It is called once for each tensor, so that
            tied parameters stay tied.

    Raises:
        CaptureError: The module holds something that can be neither copied nor shared, or parameters without a shape.
    """
    original = uncompiled(module)
    refuse_unfit(original)
    rule = _TensorCopies(copy_tensor)
    memo: dict[int, Any] = {}
    with torch.inference_mode(False):  # tensors made in inference mode can never be trained
        for tensor in tensors_of(original):
            memo[id(tensor)] = rule.copy(tensor)
        with rule:
            copied = _copied(original, memo)
    _refuse_itself(original, copied)
    keep_modes(original, copied)
    return copied


def eval_copy(module: nn.Module, copy_tensor: TensorCopy | None = None) -> nn.Module:
    """A copy of a module in eval mode, to be run: by default over its parameters, with buffers of its own.

    Args:
        module: The original.
        copy_tensor: As for `copy_module`; `clone_buffers`, if left out.

    Raises:
        CaptureError: The module cannot be copied.
    """
    return in_eval_mode(copy_module(module, copy_tensor or clone_buffers))


def duplicate(module: nn.Module) -> nn.Module:
    """A copy with tensors of its own."""
    return copy_module(module, lambda tensor: _as_parameter(tensor, tensor.detach().clone()))


def _copied(original: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; if that fails, one that shares the attributes which cannot be copied."""
    closures = Closures(original)
    memo |= closures.memo
    with contextlib.suppress(Exception):  # whatever a __deepcopy__ raises
        return _with_its_functions(original, closures, dict(memo))
    memo |= stand_ins(original, memo, closures.held)
    try:
        return _with_its_functions(original, closures, dict(memo))
    except Exception as error:
        where = first_uncopyable(original, memo)
        remedy = "remove the attribute from the module, or give it a __deepcopy__"
        fault = Mismatch(where, "a module that copy.deepcopy can copy", first_line(error), remedy)
        raise CaptureError(f"{type(original).__name__} cannot be copied for a view", [fault]) from error


def _with_its_functions(original: nn.Module, closures: Closures, memo: dict[int, Any]) -> nn.Module:
    """A deep copy whose hooks and patched methods run on the copy."""
    copied = deep_copy(original, memo)
    closures.fill(copied, memo)
    return copied


def _refuse_itself(original: nn.Module, copied: nn.Module) -> None:
    """Refuse a copy that holds submodules of the original, as a custom `__deepcopy__` may make."""
    parts = {id(part) for part in parts_of(copied)}
    if parts.isdisjoint(map(id, parts_of(original))):
        return
    own = {path: part for path, part in original.named_modules() if id(part) in parts}
    name = type(original).__name__
    faults = [
        Mismatch(
            path or name,
            "a copy.deepcopy that leaves the module alone",
            f"this {type(part).__name__} itself",
            f"remove {type(part).__name__}.__deepcopy__, or let it return another module",
        )
        for path, part in own.items()
        if not path or path.rpartition(".")[0] not in own
    ]
    if faults:
        raise CaptureError(f"{name} cannot be copied for a view", faults)


def keep_modes(original: nn.Module, copied: nn.Module) -> None:
    """Set `training` of each submodule of a copy to that of the submodule at the same path, without calling `train`."""
    parts, others = parts_of(original), parts_of(copied)
    if len(parts) == len(others) and all(map(_has_same_names, parts, others)):  # the same paths, which are slow to list
        for part, other in zip(parts, others, strict=True):
            if other.training != part.training:
                other.training = part.training
        return
    modes = {path: part.training for path, part in original.named_modules()}
    for path, part in copied.named_modules():
        if path in modes and part.training != modes[path]:
            part.training = modes[path]


def _has_same_names(part: nn.Module, other: nn.Module) -> bool:
    return part._modules.keys() == other._modules.keys()


class _TensorCopies(TorchFunctionMode):
    """Lets `copy.deepcopy` copy tensors by one rule, once each; keeps the copies alive."""

    def __init__(self, copy_tensor: TensorCopy) -> None:
        super().__init__()
        self._copy_tensor = copy_tensor
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = (tensor, self._copy_tensor(tensor))
        return self._made[id(tensor)][1]

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            copied = self.copy(args[0])
            return args[0].clone() if copied.is_meta and _may_be_a_generators_state(args[0]) else copied
        return func(*args, **(kwargs or {}))


def _may_be_a_generators_state(tensor: torch.Tensor) -> bool:
    """Whether this may be the state of a `torch.Generator` that is being copied, which needs the values.

    Without them `Generator.__setstate__` returns with an exception set, and Python raises it at some later place.
    """
    return tensor.dtype is torch.uint8 and tensor.dim() == 1 and tensor.device.type == "cpu"


def aliased(tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor object over the same storage; a parameter stays one."""
    return _as_parameter(tensor, _over_the_same_storage(tensor))


def _over_the_same_storage(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_inference():
        return tensor.detach()
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)  # a view of it could not be trained either
    return made.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def clone_buffers(tensor: torch.Tensor) -> torch.Tensor:
    """As `aliased`, but with buffers cloned, since a forward pass may write to them."""
    if isinstance(tensor, nn.Parameter):
        return aliased(tensor)
    return tensor.detach().clone()


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and dtype without storage."""
    return _as_parameter(tensor, torch.empty_like(tensor, device="meta"))


def _as_parameter(original: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    if isinstance(original, nn.Parameter):
        return nn.Parameter(made, requires_grad=original.requires_grad)
    return made


def cut(
    module: nn.Module,
    paths: Sequence[str],
    runs: Callable[[nn.Module], bool],
    stays: Callable[[object], bool] = lambda hook: False,
) -> list[str]:
    """Replace inner modules of a view by identities, as many as it still runs with.

    Args:
        module: A view that runs; it is changed.
        paths: The modules to replace, in the order in which they run.
        runs: Whether the module runs, called after each change.
        stays: Which forward pre-hooks are moved to the identities.

    Returns:
        The paths that were replaced.
    """
    return _cut_halves(module, list(paths), runs, stays) if paths else []


def cut_together(
    module: nn.Module, paths: list[str], runs: Callable[[nn.Module], bool], stays: Callable[[object], bool]
) -> list[str]:
    """As `cut`, but all of them or none."""
    replaced = {path: module.get_submodule(path) for path in paths}
    for path, original in replaced.items():
        _set(module, path, _nothing(original, stays))
    if runs(module):
        return paths
    for path, original in replaced.items():
        _set(module, path, original)
    return []


def _cut_halves(
    module: nn.Module, paths: list[str], runs: Callable[[nn.Module], bool], stays: Callable[[object], bool]
) -> list[str]:
    """Cut all; if the module then does not run, cut the later half and then the earlier one, each in the same way."""
    if done := cut_together(module, paths, runs, stays):
        return done
    middle = len(paths) // 2
    if not middle:
        return []
    later = _cut_halves(module, paths[middle:], runs, stays)
    return [*_cut_halves(module, paths[:middle], runs, stays), *later]


def _nothing(module: nn.Module, stays: Callable[[object], bool]) -> nn.Module:
    """An identity for a module's place; for a Sequential an empty one, since gradient checkpointing lists its layers.

    Dicts of hooks are kept in an attribute, since handles to hooks cannot be copied once their dict is gone.
    """
    made = nn.Sequential() if isinstance(module, nn.Sequential) else nn.Identity()
    hooked = [vars(part) for part in module.modules() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        vars(made)["hooks_left_out"] = [state[key] for state in hooked for key in state if "hooks" in key]
    for hook in filter(stays, module._forward_pre_hooks.values()):
        made.register_forward_pre_hook(hook)
    return made


def _set(module: nn.Module, path: str, child: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, child)


def backward(tensors: Sequence[torch.Tensor]) -> None:
    """Backpropagate from the sum of all tensors that require a gradient."""
    with torch.enable_grad(), ShapeRules():
        live = [tensor.float().sum() for tensor in tensors if tensor.requires_grad]
        if live:
            torch.stack(live).sum().backward()  # type: ignore[no-untyped-call]
