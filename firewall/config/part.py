"""What the parts of the file's shape share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EffectClass = Literal["read", "write", "destroy", "send", "pay", "exec", "admin"]
Network = Literal["public", "private", "loopback"]
Name = Annotated[str, Field(min_length=1, max_length=40)]


class Part(BaseModel):
    """A part of the file: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
