"""The literal form: configs as the OpenMMLab libraries write them, brought to the form of this one.

There the loss stands in the head (`loss`, `loss_decode`), so does `topk`; the model is wrapped (`model`, `model_cfg`,
`ImageClassifier`); `init_cfg` says how weights start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoadapt.assembly.configs import GROUPS
from autoadapt.assembly.decode_losses import DECODED
from autoadapt.assembly.documents import Document
from autoadapt.assembly.mmengine import is_imported
from autoadapt.assembly.nested_types import is_checkpoint, mappings_in, unregistered
from autoadapt.assembly.python_expressions import Keys
from autoadapt.assembly.registry import Part
from autoadapt.assembly.scopes import Scopes
from autoadapt.assembly.weight_starts import entries_of
from autoadapt.errors import Mismatch

_MODELS = ("model", "model_cfg")
_WHOLES = ("ImageClassifier",)
_BESIDE = {"train_cfg": "the training loop does it", "test_cfg": "the evaluation does it", "pretrained": ""}
"""What stands beside the parts there, and what becomes of it."""
_OF_TARGETS = (
    *("num_classes", "to_onehot", "batch_augments", "pad_mask", "mask_pad_value", "boxtype2tensor"),
    *("pad_seg", "seg_pad_value", "seg_pad_val", "size", "test_cfg"),
)
"""What a preprocessor there does to targets, or only beside them."""
_OURS = ("input", "targets", "backbone", "weights", "adapt", "default_scope", "preprocessor")
"""What is said outside of a whole model of a registry."""
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
    scopes = scopes.within(str(document.data.get("default_scope", "")))
    form = _Form(document, scopes, [str(each) for each in allow], remarks, faults)
    form.unwrap()
    if "whole" in form.data:
        form.look_through_whole()
    else:
        form.size_input()
        form.chain_necks()
        form.preprocess()
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
        kind = str(self.data.pop("type", "") or "")
        is_known = kind.rpartition(".")[2] in _WHOLES and not kind.startswith("mm:")
        if kind and (not is_known or self._is_theirs(kind)):
            self._keep_whole(kind)
        if "whole" in self.data:
            return
        for key, remark in _BESIDE.items():
            value = self.data.pop(key, None)
            if value and key == "pretrained":
                self._pretrained(("pretrained",), str(value), "", "backbone")
            elif value:
                self._remarks.append(f"`{key}` is left out: {remark}")

    def _is_theirs(self, kind: str) -> bool:
        """Whether a registry has a model that we put together as well, and all that this config puts in it."""
        found = self._scopes.whole(kind, Document(None, self.lines).where(("type",)))
        if not isinstance(found, Part):
            if "." in kind and found is None and is_imported():
                self._remarks.append(f"`{kind}` is put together here: no registry of mmengine's has it")
            return isinstance(found, Mismatch)
        own = [key for key in self.data if key not in (*_OURS, *_BESIDE, "data_preprocessor", *found.parameters)]
        own += unregistered({key: value for key, value in self.data.items() if key not in _OURS})
        if own:
            self._remarks.append(f"`{kind}` is put together here, not {found.name}: it has no `{own[0]}`")
        else:
            self._remarks.append(f"`{kind}` is {found.name} of mmengine's registry, not ours")
        return not own

    def _keep_whole(self, kind: str) -> None:
        """A model that a registry puts together stays in one piece, but for its backbone."""
        found = self._scopes.whole(kind, Document(None, self.lines).where(("type",)))
        known = {*_OURS, *GROUPS, "data_preprocessor", "train_cfg", "test_cfg", "init_cfg", "topk"}
        if found is None:
            other = [key for key in self.data if key not in known]
            remedy = f"import {self._package(kind, other)}  # before the config is read"
            ours = "leave `type` out: backbone, neck and head are put together here"
            expected = f"{' or '.join(_WHOLES)}, or a model of mmengine's registry"
            self._fault(("type",), expected, f"`{kind}`, which is not registered", remedy if other else ours)
            for key in other:
                del self.data[key]
        elif isinstance(found, Mismatch):
            self._faults.append(found)
        else:
            for key in [key for key in self.data if key not in _OURS]:
                self._move((key,), ("whole", key))
            self._move(("type",), ("whole", "type"))
            arguments = {key: self.data.pop(key) for key in [*self.data] if key not in _OURS}
            self.data["whole"] = {"type": found.name, **arguments}
            self.data.setdefault("default_scope", found.name.removeprefix("mm:").rpartition(".")[0])

    def _package(self, kind: str, keys: Sequence[str]) -> str:
        """Which library a model is of: as its name or the config says, else by what its heads are called."""
        said = kind.removeprefix("mm:").rpartition(".")[0].partition(".")[0] or str(self.data.get("default_scope", ""))
        return said or ("mmseg" if "decode_head" in keys else "mmdet")

    def look_through_whole(self) -> None:
        """Checkpoints are taken out of a whole, and loaded if they are allowed; everything else it does itself."""
        whole = dict(self.data["whole"])
        pretrained = whole.pop("pretrained", None)
        if pretrained:
            self._pretrained(("whole", "pretrained"), str(pretrained), "", "backbone")
        for name, part in (("backbone", self.data.get("backbone")), ("whole", whole)):
            if isinstance(part, Mapping) and "init_cfg" in part:
                to = "" if name == "whole" else name
                kept = self._without_checkpoints((name, "init_cfg"), part["init_cfg"], to)
                changed = {**part, "init_cfg": kept}
                whole, self.data["backbone"] = (changed, self.data["backbone"]) if not to else (whole, changed)
        for keys, each in mappings_in(whole, ("whole",)):
            if is_checkpoint(each.get("type")):
                remedy = "leave it out there; weights: [{from: ...}] loads a file"
                found = str(each.get("checkpoint"))
                self._fault(keys, "no checkpoint but in the backbone or the model", found, remedy)
        self.data["whole"] = whole

    def size_input(self) -> None:
        """Images are of the size that a backbone says, where the config does not say theirs."""
        backbone = self.data.get("backbone")
        size = backbone.get("img_size") if isinstance(backbone, Mapping) else None
        size = [size, size] if type(size) is int else size
        if "input" not in self.data and isinstance(size, (list, tuple)) and [*map(type, size)] == [int, int]:
            self.data["input"] = f"f32[B, 3, {size[0]}, {size[1]}]"

    def chain_necks(self) -> None:
        """Several necks in a list read one the other; a head that does not say what it reads takes the last."""
        necks = self.data.get("neck")
        if not isinstance(necks, (list, tuple)) or not all(isinstance(neck, Mapping) for neck in necks) or not necks:
            return
        several, names = len(necks) > 1, [f"step{i + 1}" for i in range(len(necks))]
        before = [{}, *({"from": f"neck.{name}"} for name in names)]
        for i, name in enumerate(names):
            self._move(("neck", i), ("neck", name) if several else ("neck",))
        chained = {name: {**first, **neck} for name, first, neck in zip(names, before, necks, strict=False)}
        self.data["neck"] = chained if several else necks[0]
        for name, head in self._parts("head") if several else ():
            level = "" if head.get("in_index") is None else f".{head['in_index']}"
            self._put("head", name, {"from": f"neck.{names[-1]}{level}", **head})

    def preprocess(self) -> None:
        """What is done to the pixels is a part; what is done to targets is left to the loop."""
        given = self.data.pop("data_preprocessor", None)
        if not given or "preprocessor" in self.data:
            return
        self._move(("data_preprocessor",), ("preprocessor",))
        if not isinstance(given, Mapping):
            self._fault(("preprocessor",), "a mapping", repr(given), "data_preprocessor: {mean: [...], std: [...]}")
            return
        described = {"type": "ClsDataPreprocessor", **given}
        part = self._scopes.find("preprocessor", str(described["type"]), "")
        if isinstance(part, Part) and not part.name.startswith("mm:"):
            left = [key for key in _OF_TARGETS if key in described and key not in part.parameters]
            described = {key: value for key, value in described.items() if key not in left}
            self._remarks += [f"`data_preprocessor.{key}` is left out: the training loop does it" for key in left]
        self.data["preprocessor"] = described

    def split_heads(self) -> None:
        """Losses and accuracies apart from the heads that they are written in."""
        for name, head in self._parts("head"):
            keys: Keys = ("head", name) if name else ("head",)
            known = self._parameters("head", head)
            changed = self._with_decoded(dict(head), known)
            for key in [key for key in _LOSSES if key not in known and isinstance(changed.get(key), (list, tuple))]:
                self._refuse_several((*keys, key), changed.pop(key))
            for key in [key for key in _LOSSES if isinstance(changed.get(key), (Mapping, str))]:
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

    def _refuse_several(self, keys: Keys, losses: Sequence[Any]) -> None:
        """A list of losses that no rule of mmseg's adds up."""
        kinds = [str(each.get("type") if isinstance(each, Mapping) else each) for each in losses]
        one, several = {"type": kinds[0]} if kinds else "CrossEntropyLoss", f"a list: {', '.join(kinds) or 'empty'}"
        pixels = f", or a `loss_decode` of {', '.join(DECODED)}" if keys[-1] == "loss_decode" else ""
        self._fault(keys, f"one loss{pixels}", several, f"{keys[-1]}: {json.dumps(one)}")

    @staticmethod
    def _with_decoded(head: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """A head whose `loss_decode`, one loss or several, compares pixels as mmseg does."""
        losses = head.get("loss_decode")
        losses = [losses] if isinstance(losses, Mapping) else losses
        several = losses if isinstance(losses, (list, tuple)) else []
        plain = [each for each in several if isinstance(each, Mapping) and each.get("type") in DECODED]
        if "loss_decode" not in known and plain and len(plain) == len(several):
            ignore = head.pop("ignore_index", 255) if "ignore_index" not in known else 255
            corners = bool(head.get("align_corners", False))
            decoded = {"type": "DecodeLoss", "losses": plain, "ignore_index": ignore, "align_corners": corners}
            head["loss_decode"] = decoded
        return head

    def _choose_level(self, head: dict[str, Any]) -> None:
        """`in_index` counts the levels that what stands before returns."""
        before, index = "neck" if self.data.get("neck") else "backbone", head.pop("in_index")
        if index is not None:
            head.setdefault("from", f"{before}.{index}")

    def initialise(self) -> None:
        """A checkpoint that says how weights start is loaded if it is allowed; other starts stay with their part."""
        if self.data.get("init_cfg"):
            self.data["init_cfg"] = self._without_checkpoints(("init_cfg",), self.data["init_cfg"], "")
        for group in GROUPS:
            for name, part in self._parts(group):
                if "init_cfg" in part:
                    own = f"{group}.{name}" if name else group
                    kept = self._without_checkpoints((*own.split("."), "init_cfg"), part["init_cfg"], own)
                    others = {key: value for key, value in part.items() if key != "init_cfg"}
                    self._put(group, name, others | ({"init_cfg": kept} if kept else {}))

    def _without_checkpoints(self, keys: Keys, given: Any, part: str) -> Any:
        """What an `init_cfg` asks for beside checkpoints, in the container that it was in."""
        entries = entries_of(given)
        kept = []
        for each in entries:
            if not is_checkpoint(each.get("type") if isinstance(each, Mapping) else each):
                kept.append(each)
            elif isinstance(each, Mapping):
                self._pretrained(keys, str(each.get("checkpoint") or ""), str(each.get("prefix") or ""), part)
        return given if len(kept) == len(entries) else kept or None

    def _pretrained(self, keys: Keys, checkpoint: str, prefix: str, part: str) -> None:
        if not checkpoint:
            expected, remedy = "the path of a file under `checkpoint`", "name the file, or leave the entry out"
            self._fault((*keys, "checkpoint"), expected, "none", remedy)
        elif "://" in checkpoint:
            remedy = "fetch it first, and name the file, or leave it out"
            self._fault(keys, "a checkpoint in a file", checkpoint, remedy)
        elif checkpoint not in self._allow:
            remedy = f'assemble(config, allow=["{checkpoint}"]), or leave it out'
            self._fault(keys, "a checkpoint that the caller allows", checkpoint, remedy)
        else:
            entry = {"from": checkpoint, "to": part, "scope": prefix.rstrip(".") or None}
            given = self.data.get("weights") or []
            others = [given] if isinstance(given, (str, Mapping)) else list(given)
            self.data["weights"] = [*others, {key: value for key, value in entry.items() if value}]

    def _parts(self, group: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The parts of a group that are written as mappings, by name; of the only one it is empty."""
        value = self.data.get(group)
        named = {} if not isinstance(value, Mapping) else {"": value} if "type" in value else value
        return [(str(name), part) for name, part in named.items() if isinstance(part, Mapping) and "type" in part]

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
