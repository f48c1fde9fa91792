"""The literal form: configs as the OpenMMLab libraries write them, brought to the form of this one.

There the loss stands in the head (`loss`, `loss_decode`), so does `topk`; the model is wrapped (`model`, `model_cfg`,
`ImageClassifier`); `init_cfg` says how weights start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoadapt.assembly.configs import GROUPS
from autoadapt.assembly.documents import Document
from autoadapt.assembly.python_documents import Keys
from autoadapt.assembly.registry import Part
from autoadapt.assembly.scopes import Scopes
from autoadapt.errors import Mismatch

__all__ = ["literal_form"]

_MODELS = ("model", "model_cfg")
_WHOLES = ("ImageClassifier",)
_BESIDE = {
    "data_preprocessor": "the images are to be normalised before they come",
    "train_cfg": "the training loop does it",
    "test_cfg": "the evaluation does it",
    "pretrained": "",
}
"""What stands beside the parts there, and what becomes of it."""
_LOSSES = ("loss", "loss_decode")
_OF_TRAINING = ("cal_acc", "train_cfg", "test_cfg")


def literal_form(
    document: Document, scopes: Scopes, allow: Sequence[str | Path], remarks: list[str], faults: list[Mismatch]
) -> Document:
    """A config in this library's form.

    Args:
        document: The config as it was written; one in this library's form comes back as it is.
        scopes: Where parts are looked up.
        allow: What the caller allows, such as the path of a checkpoint.
        remarks: Added to: what is left to others.
        faults: Added to.
    """
    if not isinstance(document.data, Mapping):
        return document
    form = _Form(document, scopes, [str(each) for each in allow], remarks, faults)
    form.unwrap()
    form.split_heads()
    form.initialise()
    return Document(form.data, form.lines, document.folder)


class _Form:
    def __init__(
        self, document: Document, scopes: Scopes, allow: list[str], remarks: list[str], faults: list[Mismatch]
    ) -> None:
        self.data: dict[str, Any] = dict(document.data)
        self.lines = dict(document.lines)
        self._scopes, self._allow, self._remarks, self._faults = scopes, allow, remarks, faults

    def unwrap(self) -> None:
        """Take the parts out of the model around them."""
        for key in _MODELS:
            inner = self.data.get(key)
            if "backbone" not in self.data and isinstance(inner, Mapping):
                self._move((key,), ())
                del self.data[key]
                self.data |= inner
        if "backbone" not in self.data:
            return
        kind = self.data.pop("type", None)
        if kind is not None and str(kind).rpartition(".")[2] not in _WHOLES:
            remedy = "leave `type` out: backbone, neck and head are put together here"
            self._fault(("type",), " or ".join(_WHOLES), f"`{kind}`", remedy)
        for key, remark in _BESIDE.items():
            value = self.data.pop(key, None)
            if value and key == "pretrained":
                self._pretrained(("pretrained",), str(value), "", "backbone")
            elif value:
                self._remarks.append(f"`{key}` is left out: {remark}")

    def split_heads(self) -> None:
        """Losses and accuracies apart from the heads that they are written in."""
        for name, head in self._parts("head"):
            keys: Keys = ("head", name) if name else ("head",)
            known = self._parameters("head", head)
            changed = dict(head)
            for key in [key for key in _LOSSES if key in head and isinstance(head[key], (Mapping, str))]:
                if key not in known:
                    self._add("loss", name, changed.pop(key), keys, key)
                elif not self._has("loss", name):  # a head that takes it keeps it too, to be made with
                    self._add("loss", name, changed[key], keys, key)
            if "topk" in head and "topk" not in known:
                topk = changed.pop("topk")
                self._add("topk", name, [topk] if isinstance(topk, int) else topk, keys, "topk")
            for key in _OF_TRAINING:
                if key not in known:
                    changed.pop(key, None)
            if "in_index" in changed and "in_index" not in known:
                self._choose_level(changed)
            self._put("head", name, changed)

    def _choose_level(self, head: dict[str, Any]) -> None:
        """`in_index` counts the levels of what stands before; -1 is the coarsest, which a head gets anyhow."""
        index = head.pop("in_index")
        if index != -1:
            before = "neck" if self.data.get("neck") else "backbone"
            head.setdefault("from", f"{before}.{index}")

    def initialise(self) -> None:
        """What says how weights start is taken out of the parts; a checkpoint in it is loaded if it is allowed."""
        self._start(("init_cfg",), self.data.pop("init_cfg", None), "")
        for group in GROUPS:
            for name, part in self._parts(group):
                if "init_cfg" not in part:
                    continue
                own = f"{group}.{name}" if name else group
                is_its_own = "init_cfg" in self._parameters(group, part)
                self._start((*own.split("."), "init_cfg"), part["init_cfg"], own, is_its_own=is_its_own)
                if is_its_own:
                    continue
                self._put(group, name, {key: value for key, value in part.items() if key != "init_cfg"})

    def _start(self, keys: Keys, given: Any, part: str, *, is_its_own: bool = False) -> None:
        """What an `init_cfg` asks for; one that the part takes itself is only looked through for checkpoints."""
        for each in given if isinstance(given, (list, tuple)) else [given] if given else []:
            kind = each.get("type") if isinstance(each, Mapping) else each
            if kind == "Pretrained":
                self._pretrained(keys, str(each.get("checkpoint")), str(each.get("prefix", "")), part)
            elif not is_its_own:
                where = f"`{part or 'model'}`"
                self._remarks.append(f"init_cfg {kind} of {where} is left out: the part starts its weights itself")

    def _pretrained(self, keys: Keys, checkpoint: str, prefix: str, part: str) -> None:
        if checkpoint not in self._allow:
            remedy = f'assemble(config, allow=["{checkpoint}"]), or leave it out'
            self._fault(keys, "a checkpoint that the caller allows", checkpoint, remedy)
        elif "://" in checkpoint:
            self._fault(keys, "a checkpoint in a file", checkpoint, "fetch it first, and name the file")
        else:
            entry = {"from": checkpoint, "to": part, "scope": prefix.rstrip(".") or None}
            given = self.data.get("weights") or []
            others = [given] if isinstance(given, (str, Mapping)) else list(given)
            self.data["weights"] = [*others, {key: value for key, value in entry.items() if value}]

    def _parts(self, group: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The parts of a group that are written as mappings, by name; of the only one it is empty."""
        value = self.data.get(group)
        if not isinstance(value, Mapping):
            return []
        if "type" in value:
            return [("", value)]
        return [(str(name), part) for name, part in value.items() if isinstance(part, Mapping) and "type" in part]

    def _put(self, group: str, name: str, part: Any) -> None:
        self.data[group] = {**self.data[group], name: part} if name else part

    def _has(self, group: str, name: str) -> bool:
        return group in self.data and (not name or name in self.data[group])

    def _add(self, group: str, name: str, value: Any, head: Keys, key: str) -> None:
        """Put what stood in a head into its own group, under the head's name."""
        if self._has(group, name):
            self._fault((*head, key), f"one {group}", f"`{key}` in the head, and another outside", "keep one of them")
            return
        self._move((*head, key), (group, name) if name else (group,))
        self.data[group] = {**self.data.get(group, {}), name: value} if name else value

    def _parameters(self, group: Any, part: Mapping[str, Any]) -> Mapping[str, Any]:
        found = self._scopes.find(group, str(part.get("type")), "")
        return found.parameters if isinstance(found, Part) else {}

    def _move(self, old: Keys, new: Keys) -> None:
        moved = {(*new, *keys[len(old) :]): line for keys, line in self.lines.items() if keys[: len(old)] == old}
        self.lines |= {keys: line for keys, line in moved.items() if keys}

    def _fault(self, keys: Keys, expected: str, found: str, remedy: str) -> None:
        where = Document(None, self.lines).where(keys)
        self._faults.append(Mismatch(where, expected, found, remedy))
