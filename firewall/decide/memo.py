"""Answers remembered: the same question gets the same answer without asking again.

Rego is a function of its input. Two members of ours differ in every input, the request's id and the
time; the encoder puts them last (`contract.encode_input`). At a point whose program reads neither, inputs
that are equal up to there have one answer. That is the ordinary case for results, whose facts
repeat; a request is asked for each time, since its arguments are its own.

INVARIANT: the whole input up to the two members is the key: subject, scopes, labels, findings,
facts, arguments. Nothing that a rule can see is left out, so no caller can get another's answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from firewall.decide.contract import VOLATILE, VOLATILE_AT

ENTRIES: Final = 1024  # per point; at most ENTRIES * KEY_BYTES of memory
KEY_BYTES: Final = 2048  # a longer input carries content, and will not come again

# Policy text, written by the operator: `re` is no danger here. A reference to the input or its
# context as a whole could see everything.
_WHOLE: Final = re.compile(r"\binput\b(?!\.)|\binput\.context\b(?!\.)")
_CONTEXT: Final = re.compile(r"\binput\.context\.([a-z_]+)")


def is_steady(sources: Iterable[str]) -> bool:
    """Return whether no rule of these modules can read a volatile member; in doubt, False."""
    for source in sources:
        if _WHOLE.search(source) or any(name in VOLATILE for name in _CONTEXT.findall(source)):
            return False
    return True


class Memo:
    """Answers of one point's program."""

    __slots__ = ("_answers", "hits")

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}
        self.hits = 0

    @staticmethod
    def key(input_json: bytes) -> bytes:
        """Return the part of an input that counts, or b"" when it is not to be remembered."""
        if len(input_json) > KEY_BYTES:
            return b""
        head, _, rest = input_json.rpartition(VOLATILE_AT)
        # An input that was not made by `contract.encode_input` may end in something that counts.
        plain = rest.endswith(b"}}") and rest.count(b":") == 1 and b',"time_us":' in rest and b"{" not in rest
        return head if plain else b""

    def get(self, key: bytes) -> bytes | None:
        """Return the answer of an input with this key, or None."""
        answer = self._answers.get(key)
        if answer is not None:
            self.hits += 1
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Remember an answer."""
        if len(self._answers) >= ENTRIES:
            self._answers.clear()
        self._answers[key] = answer
