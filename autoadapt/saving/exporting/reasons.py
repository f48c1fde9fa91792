"""Reasons: which part of a module an exporter refuses, and what it would take."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification.compiler_checks import any_size_program
from autoadapt.adapting.verification.sessions import Session, said
from autoadapt.adapting.verification.unexported import untraced
from autoadapt.contracts.trees import Container, Tree
from autoadapt.errors import ExportError, Mismatch
from autoadapt.errors.printable import visible
from autoadapt.saving.exporting.dynamic_axes import UNITS, shapes_of
from autoadapt.saving.exporting.formats import Call, Format, program_of
from autoadapt.saving.exporting.ranges import SizeRange
from autoadapt.saving.whole_models import adapted_parts

_SUGGESTED = re.compile(r"^\s*(\w+) = Dim\('\1'(?:, min=(\d+))?(?:, max=(\d+))?\)\s*$", re.MULTILINE)


def refusal(
    session: Session, format_: Format, example: Mapping[str, int], ranges: Mapping[str, SizeRange], error: Exception
) -> ExportError:
    """What an exporter's exception means: the part that it refuses, its reason, and ranges that it would take.

    Finds out by exporting again: the backbone alone, then with fewer dynamic axes.
    """
    if _is_of_names(session, error):
        return unread(session, format_, error)
    asked = ", ".join(f"{name} {one}" for name, one in ranges.items()) or "the given size"
    where, why, remedy = _place(session, format_, example, ranges, error)
    fault = Mismatch(where, f"a program for {asked}", _reason(error), remedy, why)
    return ExportError(f"{session.signature.name} does not go through {format_.name}", [fault])


def unread(session: Session, format_: Format, error: Exception) -> ExportError:
    """What it means that torch cannot read its own code again, into which it writes names as they are."""
    faults = [
        Mismatch(visible(place).replace("\n", "\\n"), _NAMED, visible(repr(name))[:60], "rename it", _reason(error))
        for place, name in _odd_names(session).items()
    ]
    faults = faults or [Mismatch("module", "a file that can be read back", _reason(error))]
    return ExportError(f"{session.signature.name} is no {format_.name} that can be read back", faults)


_NAMED = "ASCII letters, digits and underscores, and no keyword of Python"


def _is_of_names(session: Session, error: Exception) -> bool:
    """Whether a name is what an exporter stumbles over: half of a surrogate pair can be written by none."""
    names = _odd_names(session).values()
    return bool(names) and (isinstance(_first(error), SyntaxError | UnicodeError) or not all(map(_is_utf8, names)))


def _odd_names(session: Session) -> dict[str, str]:
    """The names that stand in code of torch and are none of Python's, by where they are."""
    net, signature = session.net, session.signature
    named = [name for some in (net.named_modules(), net.named_parameters(), net.named_buffers()) for name, _ in some]
    mine = [path for path in named if not path.startswith("adapters.")]  # those are called as the outputs are
    found = {path: path.rpartition(".")[2] for path in mine}
    found |= {f"class of {path or 'module'}": type(module).__name__ for path, module in net.named_modules()}
    found |= {f"inputs.{path}": path for path in signature.inputs.paths}
    found |= {f"outputs.{path}": path for path in signature.outputs.paths}
    return {place: name for place, name in found.items() if name and not _is_plain(name)}


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[\w.]+", name, re.ASCII) is not None and not keyword.iskeyword(name)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _place(
    session: Session, format_: Format, example: Mapping[str, int], ranges: Mapping[str, SizeRange], error: Exception
) -> tuple[str, str, str]:
    """Where an exporter stops, why, and what to do."""
    other = "" if format_.name == "torch.export" else 'aa.export(net, "net.pt2")'
    classes = _unknown_classes(session.signature.outputs.tree)
    if format_.name == "TorchScript":
        return "module", "torch.jit.trace knows tensors in tuples, lists and dicts alone", other
    suggested = _suggested(error, ranges)
    if not suggested and _goes_through(session, example, ranges):
        return "module", f"torch.export takes it; {format_.name} has no word for it", classes or other
    narrower = suggested or _fewer(session, example, ranges)
    remedy = f"ranges={narrower}" if narrower else classes
    alone = _backbone_alone(session)
    parts = adapted_parts(session.net.get_submodule("backbone")) if alone else {}
    if parts:  # a bigger model, in the place of a backbone
        return _in_whole(type(session.net.get_submodule("backbone")).__name__, parts, error, remedy)
    if alone:
        return "backbone", "the backbone alone fails as well" + ("" if alone in str(error) else f": {alone}"), remedy
    return "module", "the backbone alone goes through torch.export", remedy


def _in_whole(name: str, parts: Mapping[str, AdaptedModule], error: Exception, remedy: str) -> tuple[str, str, str]:
    """Where an exporter stops in a bigger model: at the part that was swapped, or at code that was there before it."""
    for path, part in parts.items():
        try:
            any_size_program(Session(part, part.signature))
        except Exception as inner:
            return path, f"`{path}`, which was swapped, fails alone as well: {said(inner, 120)}", remedy
    line, first = untraced(name, _first(error)), next(iter(parts))
    own = f'aa.export(model.get_submodule("{first}"), "backbone.onnx")  # the part that was swapped'
    shown = line.found.partition("\n")[0]
    why = (
        f"`{first}`, which was swapped, goes through alone; {name} itself does not, with its old module either: {shown}"
    )
    return line.where, why, "\n".join(filter(None, [remedy or line.remedy, own]))


def _unknown_classes(tree: Tree) -> str:
    """What makes the classes of outputs known to torch, which knows those of transformers already."""
    if not isinstance(tree, Container):
        return ""
    name = tree.type.replace(":", ".")
    calls = {
        "dataclass": f"torch.export.register_dataclass({name})",
        "named_tuple": f'torch.utils._pytree._register_namedtuple({name}, serialized_type_name="{name}")',
    }
    inside = [_unknown_classes(child) for child in tree.children]
    return "\n".join(dict.fromkeys(text for text in (calls.get(tree.kind, ""), *inside) if text))


def _reason(error: Exception) -> str:
    """What was raised first, in a line, with the conditions that torch lists."""
    error = _first(error)
    listed = [line.strip()[:200] for line in str(error).splitlines()[1:] if line.strip().startswith("- Not all")]
    return "\n".join([said(error)[:200], *listed[:2]])


def _first(error: Exception) -> Exception:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _backbone_alone(session: Session) -> str:
    """What the exporter says of the backbone alone, at whatever sizes it would take; empty where it takes it."""
    bare = session.backbone()
    if bare is None:
        return ""
    try:
        any_size_program(bare)
    except Exception as error:
        return str(error).strip().partition("\n")[0][:120] or type(error).__name__
    return ""


def narrowed(ranges: Mapping[str, SizeRange], error: Exception) -> dict[str, SizeRange] | None:
    """The ranges that torch says would do; None where it says nothing new, or of sizes that were asked for."""
    found = dict(ranges)
    for name, (low, high) in _suggested(error, ranges).items():
        if ranges[name].asked:
            return None
        why = "torch takes another path for others"
        found[name] = ranges[name].model_copy(update={"low": low, "high": high, "why": why})
    return None if found == ranges else found


def _suggested(error: Exception, ranges: Mapping[str, SizeRange]) -> dict[str, tuple[int, int | None]]:
    """Sizes that torch says would do, by axis; it counts those that come in steps."""
    found = {}
    for text, low, high in _SUGGESTED.findall(str(error)):
        one = ranges.get(text.removesuffix(UNITS))
        if one is not None and (low or high):
            ends = [int(end) * one.step + one.offset if end else None for end in (low, high)]
            found[one.axis] = (ends[0] or one.low, ends[1] or one.high)
    return found


def _fewer(session: Session, example: Mapping[str, int], ranges: Mapping[str, SizeRange]) -> dict[str, int]:
    """Sizes to fix so that the others may vary: all but the batch, or all; empty where nothing goes through."""
    free = [name for name, one in ranges.items() if not one.fixed]
    for kept in ("B", ""):
        fixed = {name: example[name] for name in free if name != kept}
        tried = {name: SizeRange(axis=name, low=size, high=size) for name, size in fixed.items()}
        if fixed and _goes_through(session, example, dict(ranges) | tried):
            return fixed
    return {}


def _goes_through(session: Session, example: Mapping[str, int], ranges: Mapping[str, SizeRange]) -> bool:
    """Whether `torch.export` takes the module with these dynamic axes."""
    shapes = shapes_of(session.signature, ranges)
    try:
        program_of(Call(session.copy(), session.arguments(example), shapes, session.signature))
    except Exception:  # whatever it raises, it refuses
        return False
    return True
