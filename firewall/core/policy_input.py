"""What is asked of policy: a document in the parts of which it is made, and by which an answer may be remembered."""

from __future__ import annotations

import orjson

from firewall.core.value import value


@value
class PolicyInput:
    """One question, of what `decide.question` alone makes.

    before, after: what stands around the exchange's id and the time, up to the arguments, encoded.
    frame: SHA-256 of both. request_id: the exchange's id. time_us: Unix microseconds. arguments: encoded.
    """

    before: bytes
    after: bytes
    frame: bytes
    request_id: str
    time_us: int
    arguments: bytes

    @property
    def json(self) -> bytes:
        """The whole document. It is put together when an engine reads it, which for most questions none has to."""
        named = orjson.dumps(self.request_id)
        parts = (self.before, named, self.time_us, self.after, self.arguments)
        return b'%b,"request_id":%b,"time_us":%d%b%b}}}' % parts


def document_of(question: PolicyInput | bytes) -> bytes:
    """Return the document of a question, which may come from elsewhere as a whole."""
    return question if isinstance(question, bytes) else question.json
