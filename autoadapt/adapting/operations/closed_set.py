"""The closed set: the union of all operations, which plans read by their field `op`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from autoadapt.adapting.operations.axes import Flip, Rearrange
from autoadapt.adapting.operations.channels import Channels, Native, Ones, Project, Renormalize
from autoadapt.adapting.operations.masking import Hide, Remask
from autoadapt.adapting.operations.points import Recover, Thin
from autoadapt.adapting.operations.spatial import Mean, Pad, Pool, Resample, Resize
from autoadapt.adapting.operations.tokens import DropPrefix, Lead, ResizeTokens, Take
from autoadapt.adapting.operations.values import Cast, Copy, Restore

Operation: TypeAlias = Annotated[
    DropPrefix
    | Take
    | Rearrange
    | Flip
    | Mean
    | Hide
    | Lead
    | Remask
    | Pool
    | Resize
    | Resample
    | ResizeTokens
    | Restore
    | Project
    | Ones
    | Cast
    | Copy
    | Channels
    | Native
    | Pad
    | Renormalize
    | Recover
    | Thin,
    Field(discriminator="op"),
]
