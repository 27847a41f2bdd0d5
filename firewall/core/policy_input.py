"""What is asked of policy: the document, and the parts of it that an answer may be remembered by."""

from __future__ import annotations

from firewall.core.value import value


@value
class PolicyInput:
    """One question, as `decide.question.ask` alone makes it.

    json: the whole document. frame: SHA-256 of all of it but the exchange's id, the time and the arguments.
    arguments: they alone, encoded.
    """

    json: bytes
    frame: bytes
    arguments: bytes
