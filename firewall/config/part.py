"""What the parts of the file's shape share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


def not_in_clear(url: str, network: Network) -> None:
    """Raise ValueError when a public server would be reached over plain http: our way out refuses that, at every use."""
    if network == "public" and url.startswith("http:"):
        raise ValueError("plain http is for network private or loopback; a public server needs https")


class Keyed(Part):
    """A part with ``jwks_uri`` and ``network``, the one class of address that the host of the keys may have."""

    @model_validator(mode="after")
    def _keys_not_in_clear(self) -> Self:
        not_in_clear(getattr(self, "jwks_uri", ""), getattr(self, "network", "public"))
        return self
