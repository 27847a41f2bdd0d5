"""What the parts of the file's shape share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

EffectClass = Literal["read", "write", "destroy", "send", "pay", "exec", "admin"]
Network = Literal["public", "private", "loopback"]
Name = Annotated[str, Field(min_length=1, max_length=40)]


def _plain(name: str) -> str:
    # INVARIANT: it stands in the name that signs the audit log, which holds neither white space nor `+` (record/note.py).
    if not 1 <= len(name) <= 63 or not name.isascii() or not name.translate(_NODE_MARKS).isalnum():
        raise ValueError("letters, digits, '.', '_' and '-' only, from 1 to 63, and at least one letter or digit")
    return name


_NODE_MARKS = str.maketrans("", "", "._-")
NodeName = Annotated[
    str,
    AfterValidator(_plain),
    Field(json_schema_extra={"pattern": r"^[._-]*[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 63}),
]


class Part(BaseModel):
    """A part of the file: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
