"""Values on the path of every request: frozen for the type checker, without its price at run time.

A frozen dataclass sets each field through ``object.__setattr__``: five times the cost of a plain one. What
is made several times per request is frozen by the type checker alone; everything else is a frozen
dataclass as usual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, dataclass_transform

T = TypeVar("T")

if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def value(cls: type[T]) -> type[T]:
        """Make a class a slotted value; assigning to a field of it does not type-check."""

else:
    value = dataclass(slots=True)
