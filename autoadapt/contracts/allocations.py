"""Allocations: limits on the memory that a signature, a plan or a config asks for, checked before it is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import AdaptError, Mismatch

MOST_INVENTED = 1 << 28
"""Bytes of the inputs and outputs of one run on invented inputs."""
MOST_LEARNED = 1 << 27
"""Parameters of all generated layers together: 512 MiB of float32."""


def bytes_of(specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> int:
    """Bytes of tensors at given sizes of the input axes; negative sizes count as 0.

    Example:
        >>> bytes_of([TensorSpec.parse("f32[B, 3, H, W]")], {"B": 2, "H": 8, "W": 8})
        1536
    """
    return sum(math.prod(max(size, 0) for size in one.shape(sizes)) * one.torch_dtype.itemsize for one in specs)


def refuse_invented(count: int, remedy: str, *, most: int = MOST_INVENTED) -> None:
    """Refuse a run on invented inputs that takes too much memory.

    Raises:
        AdaptError: It takes more.
    """
    if count > most:
        expected = f"at most {in_words(most)} for invented inputs and outputs"
        fault = Mismatch("inputs", expected, in_words(count), remedy)
        raise AdaptError("the tensors are too large to be invented", [fault])


def in_words(count: int) -> str:
    """A number of bytes as text, in the largest unit that fits.

    Example:
        >>> in_words(1536), in_words(1 << 28), in_words(10**40)
        ('1,536 bytes', '256 MiB', '2**132 bytes')
    """
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if count >= 1 << 60:
            return f"2**{count.bit_length() - 1} bytes"
        if count >= 1 << power:
            return f"{count / (1 << power):.3g} {unit}"
    return f"{count:,} bytes"
