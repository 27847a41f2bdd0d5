"""Flow labels: a lattice of two parts, as bits, so that workers can OR them (DESIGN §6b-1, §6b-2).

Integrity only falls and confidentiality only rises, so joining two labels is the bitwise OR of
their marks; ``Label(0)`` is a clean context. `MOST_RESTRICTIVE` is what an unreadable label
counts as (DESIGN §7). Source: threats reference §8.1.
"""

from __future__ import annotations

from typing import Final, NewType

Label = NewType("Label", int)

CLEAN: Final = Label(0)

MARKS: Final[dict[str, int]] = {
    # integrity
    "untrusted": 1 << 0,  # text of a source we do not vouch for was seen
    "hidden_instructions": 1 << 1,  # invisible or disguised instructions were removed
    "injection_suspected": 1 << 2,
    # confidentiality
    "internal": 1 << 8,
    "pii": 1 << 9,
    "secret": 1 << 10,
}
MOST_RESTRICTIVE: Final = Label(sum(MARKS.values()))


def join(a: Label, b: Label) -> Label:
    """Return the least label at least as restrictive as both."""
    return Label(a | b)


def label_of(names: list[str] | tuple[str, ...]) -> Label:
    """Return the label with the named marks; raises KeyError for an unknown name."""
    bits = 0
    for name in names:
        bits |= MARKS[name]
    return Label(bits)


def names_of(label: Label) -> list[str]:
    """Return the marks of a label, sorted by bit."""
    return [name for name, bit in MARKS.items() if label & bit]
