"""Run states: what a pass over the data has gathered so far, in a file, so that a run can be stopped and go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autoadapt.calibration.moments import Moments
from autoadapt.calibration.samples import Cut, Sample, Samples
from autoadapt.contracts.trees import Tree
from autoadapt.errors import AdaptError, CalibrationError, Mismatch
from autoadapt.files.reading import hindrance, one_line, read_json
from autoadapt.files.writing import write_file
from autoadapt.saving.module_states import checksum_of

_TREE: TypeAdapter[Any] = TypeAdapter(Tree)


@dataclass
class State:
    """What the batches so far have shown; grows while they come in.

    Attributes:
        moments: For each projection and each fold.
        samples: Images for the head.
        batches: Images and checksum of each batch that was passed and has no image left to count.
        passed: How many images were passed, those that were not counted too.
        counted: The images that are counted here: a checksum of each, by its number.
        folds: The fold of each of them.
        before: Those that other workers have counted, which were there before these, alike.
        generation: How often the run was taken up by another number of workers.
        workers: Number of this worker, and how many there are.
        together: How many of them came at once, at most.
        made: Moments of made images: for each projection and each fold, and once more for those without parents.
        made_of: What they were made of, in short.
        made_batches: How many batches of them are counted.
        mixed: How many of them are mixes.
        synthetic: How many have no parents.
        descriptors: What is said of each image, by its number.
        is_whole: Whether all of it counts the same images; not so when an update was interrupted.
    """

    moments: list[list[Moments]]
    samples: Samples
    batches: list[tuple[int, int]] = field(default_factory=list)
    passed: int = 0
    counted: dict[int, int] = field(default_factory=dict)
    folds: dict[int, int] = field(default_factory=dict)
    before: dict[int, int] = field(default_factory=dict)
    generation: int = 0
    workers: tuple[int, int] = (0, 1)
    together: int = 1
    made: list[list[Moments]] = field(default_factory=list)
    descriptors: dict[int, torch.Tensor] = field(default_factory=dict)
    made_of: str = ""
    made_batches: int = 0
    mixed: int = 0
    synthetic: int = 0
    is_whole: bool = True

    def images_of(self, batch: int, said: int) -> int:
        """How many images a batch has that was passed before, told by its number and checksum; 0 for another one."""
        images, known = self.batches[batch] if batch < len(self.batches) else (0, None)
        return images if said == known else 0

    def note_batch(self, batch: int, images: int, said: int) -> None:
        """Note that a batch is passed; where it is another one than before, so are those behind it."""
        if self.batches[batch : batch + 1] != [(images, said)]:
            self.batches[batch:] = [(images, said)]

    def restart_making(self, made_of: str, empty: list[list[Moments]]) -> None:
        """Count no made images."""
        self.made, self.made_of = empty, made_of
        self.made_batches = self.mixed = self.synthetic = 0
        self.is_whole = True

    def absorb(self, other: State) -> None:
        """Count what another worker has counted; images that were made are made anew."""
        for folds, others in zip(self.moments, other.moments, strict=True):
            for part, more in zip(folds, others, strict=True):
                part.add(more)
        for sample in other.samples.all:
            self.samples.add(sample)
        self.counted |= other.counted
        self.folds |= other.folds
        self.descriptors |= other.descriptors
        self.together = max(self.together, other.together)

    @property
    def images(self) -> int:
        """How many images are counted, on this worker."""
        return len(self.counted)

    @property
    def tokens(self) -> int:
        """Tokens counted, over all projections."""
        return sum(part.count for folds in self.moments for part in folds)

    @property
    def bytes(self) -> int:
        """Memory of the state."""
        return self.samples.bytes + sum(part.bytes for folds in (*self.moments, *self.made) for part in folds)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write it, all or nothing, with a checksum of all of it.

        Raises:
            SavingError: It cannot be written; the file of before is as it was.
        """
        tensors: dict[str, torch.Tensor] = {}
        for kind, moments in (("moments", self.moments), ("made", self.made)):
            for projection, folds in enumerate(moments):
                for fold, part in enumerate(folds):
                    tensors |= {f"{kind}.{projection}.{fold}.{name}": t for name, t in part.tensors.items()}
        tensors["batches"] = torch.tensor(self.batches, dtype=torch.int64).reshape(-1, 2)
        tensors |= {f"descriptor.{number}": tensor for number, tensor in self.descriptors.items()}
        for name, images in (("counted", self.counted), ("folds", self.folds), ("before", self.before)):
            tensors[name] = torch.tensor([*images.items()], dtype=torch.int64).reshape(-1, 2)
        noted = {
            "described": list(self.descriptors),
            "fingerprint": fingerprint,
            "passed": self.passed,
            "generation": self.generation,
            "workers": self.workers,
            "together": self.together,
            "counts": [[part.count for part in folds] for folds in self.moments],
            "made": [[part.count for part in folds] for folds in self.made],
            "made_of": [self.made_of, self.made_batches, self.mixed, self.synthetic],
            "samples": [_noted(sample, tensors) for sample in self.samples.all],
        }
        write_state(path, noted, tensors)

    def load(self, path: Path, fingerprint: str) -> None:
        """Go on from a file.

        Raises:
            CalibrationError: It is no state, or one of another run.
        """
        noted, tensors = read_state(path, fingerprint)
        with _explained(path):
            self._take(noted, tensors)

    def _take(self, noted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Become what was noted."""
        self.passed, self.together = noted["passed"], noted["together"]
        self.batches = [(images, said) for images, said in tensors["batches"].tolist()]
        self.generation = noted["generation"]
        names = "counted", "folds", "before"
        self.counted, self.folds, self.before = (dict(tensors[name].tolist()) for name in names)
        self.descriptors = {number: tensors[f"descriptor.{number}"] for number in noted["described"]}
        tensors_of_moments = list(self.moments[0][0].tensors)
        for projection, folds in enumerate(self.moments):
            for fold, part in enumerate(folds):
                read = {name: tensors[f"moments.{projection}.{fold}.{name}"] for name in part.tensors}
                folds[fold] = Moments(noted["counts"][projection][fold], **read)
        self.made = [
            [
                Moments(count, **{name: tensors[f"made.{projection}.{part}.{name}"] for name in tensors_of_moments})
                for part, count in enumerate(counts)
            ]
            for projection, counts in enumerate(noted["made"])
        ]
        self.made_of, self.made_batches, self.mixed, self.synthetic = noted["made_of"]
        for one in noted["samples"]:
            self.samples.add(_sample(one, tensors))


def write_state(path: Path, noted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write what a run has come to, with a checksum of all of it; `fingerprint` says which run it is.

    Raises:
        SavingError: It cannot be written; the file of before is as it was.
    """
    kept = {name: t.contiguous() for name, t in tensors.items()}
    said = json.dumps(noted)
    facts = {"autoadapt": said, "sha256": _checksum(said, kept)}
    write_file(path, lambda made: save_file(kept, made, facts))


def read_state(path: Path, fingerprint: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a run of that fingerprint had come to.

    Raises:
        CalibrationError: It is no state, or one of another run.
    """
    with _opened(path) as file:
        facts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _checksum(facts["autoadapt"], tensors) != facts["sha256"]:
            raise ValueError("its checksum is not that of what it holds: the file is damaged")
        noted: dict[str, Any] = read_json(facts["autoadapt"])
        found = str(noted["fingerprint"])
    if found != fingerprint:
        fault = Mismatch(str(path), f"a run {fingerprint}", f"a run {found}", "delete the file")
        raise CalibrationError(f"{path} is of another run", [fault])
    return noted, tensors


def written_by(path: Path) -> tuple[int, tuple[int, int]]:
    """The generation of a state, the number of the worker that wrote it, and how many workers there were.

    Raises:
        CalibrationError: It is no state.
    """
    with _opened(path) as file:
        noted = read_json((file.metadata() or {})["autoadapt"])
        generation, (number, count) = noted["generation"], noted["workers"]
        return int(generation), (int(number), int(count))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file that is read; whatever is wrong with it is a fault that names it."""
    with _explained(path):
        if said := hindrance(path):
            raise ValueError(said)
        with safe_open(path, framework="pt") as file:
            yield file


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever is wrong with what a file holds is a fault that names it."""
    try:
        yield
    except (AdaptError, OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        said = one_line(error)
        fault = Mismatch(str(path), "a state of autoadapt.calibrate", said, "delete the file")
        raise CalibrationError(f"{path} holds no state", [fault]) from error


def _checksum(noted: str, tensors: Mapping[str, torch.Tensor]) -> str:
    return hashlib.sha256((noted + checksum_of(tensors)).encode()).hexdigest()


def _noted(sample: Sample, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A sample as JSON; its tensors go to the others."""
    cuts = {"arguments": sample.arguments, "answer": sample.answer}
    cuts |= {f"features.{call}": features for call, features in enumerate(sample.features)}
    noted: dict[str, Any] = {"number": sample.number, "fold": sample.fold, "positional": sample.positional, "cuts": {}}
    for name, part in cuts.items():
        tensors |= {f"sample.{sample.number}.{name}.{i}": tensor.clone() for i, tensor in enumerate(part.tensors)}
        tree = _TREE.dump_python(part.tree, mode="json")
        noted["cuts"][name] = {"tree": tree, "by_image": part.by_image, "lists": part.lists}
    return noted


def _sample(noted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Sample:
    cuts = {}
    for name, part in noted["cuts"].items():
        names = [f"sample.{noted['number']}.{name}.{i}" for i in range(len(part["by_image"]))]
        values = tuple(tensors[each] for each in names)
        lists = tuple(tuple(place) for place in part["lists"])
        cuts[name] = Cut(_TREE.validate_python(part["tree"]), values, tuple(part["by_image"]), lists)
    features = tuple(_in_order(cuts))
    return Sample(noted["number"], noted["fold"], noted["positional"], cuts["arguments"], features, cuts["answer"])


def _in_order(cuts: Mapping[str, Cut]) -> Iterator[Cut]:
    calls: Sequence[str] = [name for name in cuts if name.startswith("features.")]
    return (cuts[f"features.{call}"] for call in range(len(calls)))
