"""Answers remembered: the same question gets the same answer without asking again.

Rego is a function of its input. Two members of ours differ in every input, the request's id and the
time, and in most requests the arguments do. What `question.ask` makes tells these apart from everything else:

    {contract, point, subject, resource, context {…, request_id, time_us}, action {name, …, arguments}}

At a point whose program cannot read the first two, inputs that are equal but for them have one answer; where it
reads nothing of the arguments either (inspection has, and its findings are in the context), the same
caller's next call of the same tool needs no evaluation. A document from elsewhere is evaluated each time.

INVARIANT: whatever a rule of the point's program can see is part of the key: subject, scopes, labels,
findings, facts. No caller can get another's answer. In doubt about a program, nothing is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from firewall.core.policy_input import PolicyInput
from firewall.decide.contract import VOLATILE

ENTRIES: Final = 8192  # per point and generation; two generations are kept, some 150 bytes for each entry
ANSWERS: Final = 256  # different ones; nearly all entries have one of very few
ARGUMENTS_BYTES: Final = 1024  # where they count: longer ones carry content, and will not come again

# Policy text, written by the operator: `re` is no danger here. A reference to the input, its context or
# its action as a whole could see everything below.
_WHOLE: Final = re.compile(r"\binput\b(?!\.)|\binput\.context\b(?!\.)")
_CONTEXT: Final = re.compile(r"\binput\.context\.([a-z_]+)")
_ACTION: Final = re.compile(r"\binput\.action\b(?!\.name\b|\.properties\.side_effect\b)")
# True of every input: the encoder takes nothing but an object. No function of the author's own: one whose name
# ends like it, or has it (the profile refuses that), reads the arguments.
_IS_OBJECT: Final = re.compile(r"(?<![\w.])is_object\(input\.action\.properties\.arguments\)")
_OWN: Final = re.compile(r"^(?:default )?is_object\b|\bas is_object\b|^import \S*\bis_object\b", re.MULTILINE)


def is_steady(sources: Iterable[str]) -> bool:
    """Return whether no rule of these modules can read a volatile member; in doubt, False."""
    for source in sources:
        if _WHOLE.search(source) or any(name in VOLATILE for name in _CONTEXT.findall(source)):
            return False
    return True


def is_blind(sources: Iterable[str]) -> bool:
    """Return whether no rule of these modules can read an argument; in doubt, False."""
    return not any(_WHOLE.search(s) or _OWN.search(s) or _ACTION.search(_IS_OBJECT.sub("", s)) for s in sources)


class Memo:
    """Answers of one point's steady program. blind: it reads no argument (`is_blind`).

    Two generations: what was asked for since the young one began is kept when it is full, the rest goes. young: may be
    read beside `get`.
    """

    __slots__ = ("_answers", "_old", "blind", "young")

    def __init__(self, *, blind: bool) -> None:
        self.young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._answers: dict[bytes, bytes] = {}
        self.blind = blind

    def key(self, asked: PolicyInput) -> bytes:
        """Return a digest of the part of a question that counts, or b"" when it is not to be remembered."""
        if self.blind:
            return asked.frame
        if len(asked.arguments) > ARGUMENTS_BYTES:
            return b""
        return sha256(asked.frame + asked.arguments).digest()

    def get(self, key: bytes) -> bytes | None:
        """Return the answer of an input with this key, or None."""
        answer = self.young.get(key)
        if answer is None:
            answer = self._old.get(key)
            if answer is None:
                return None
            self._keep(key, answer)
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Remember an answer."""
        if len(self._answers) >= ANSWERS:
            self._answers.clear()
        self._keep(key, self._answers.setdefault(answer, answer))

    def _keep(self, key: bytes, answer: bytes) -> None:
        if len(self.young) >= ENTRIES:
            self._old, self.young = self.young, {}
        self.young[key] = answer
