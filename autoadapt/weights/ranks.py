"""Ranks: processes that each hold a shard of the model load together, or none of them does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from autoadapt.errors import AdaptError, Mismatch, TransferError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """What the processes tell each other; nothing where there is one, or no tensor is sharded.

    Args:
        together: Whether they load one model.
    """

    together: bool = False

    @classmethod
    def of(cls, sharded: bool) -> Ranks:
        """Those of a model, some of whose tensors are sharded or none."""
        return cls(sharded and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Something that all ranks do; what fails in one fails in all.

        Raises:
            TransferError: If it failed in another rank.
        """
        try:
            yield
        except BaseException as error:
            self._tell(f"{type(error).__name__}: {error.summary if isinstance(error, AdaptError) else error}")
            raise
        failed = {rank: text for rank, text in enumerate(self._tell("")) if text}
        if failed:
            expected = "a tensor or file as on this rank"
            faults = [Mismatch(f"rank {rank}", expected, text) for rank, text in failed.items()]
            raise TransferError("another rank could not load, so that none does", faults)

    def agree(self, decided: object) -> None:
        """Make sure that all ranks would write the same; a rank that stops here would let the others wait.

        Args:
            decided: What this rank would do, the same text on every rank.

        Raises:
            TransferError: On every rank, if they differ.
        """
        if not self.together:
            return
        told = self._tell(hashlib.sha256(repr(decided).encode()).hexdigest())
        others = [rank for rank, text in enumerate(told) if text != told[0]]
        if others:
            found = f"others on rank {', '.join(map(str, others))}"
            remedy = "transfer(...) with the same checkpoint and arguments on every rank"
            fault = Mismatch("ranks", "the same tensors and rows as on rank 0", found, remedy)
            raise TransferError("the ranks would load different things, so that none does", [fault])

    def union(self, names: Iterable[str]) -> set[str]:
        """What any rank found."""
        return {name for found in self._tell(sorted(names)) for name in found}

    def _tell(self, said: _T) -> list[_T]:
        if not self.together:
            return [said]
        heard: list[_T] = [said] * dist.get_world_size()
        dist.all_gather_object(heard, said)
        return heard
