"""A checked request of either protocol: what the shell, policy and the meter need to know of it. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from firewall.core.jsonvalue import JSON, JSONObject


@dataclass(frozen=True, slots=True)
class Request(ABC):
    """A checked request.

    model: the alias as the caller wrote it. members: what goes on, without model, stream and limit.
    limit: tokens of output asked for, 0 when it named none. tools: names that were offered.
    tool_outputs: results of tools in the history. image_chars: characters of all pictures.
    """

    model: str
    members: JSONObject
    stream: bool = False
    limit: int = 0
    tools: tuple[str, ...] = ()
    messages: int = 0
    tool_outputs: int = 0
    images: int = 0
    image_chars: int = 0

    @abstractmethod
    def outgoing(self, *, model: str, limit: int, limit_member: str) -> JSONObject:
        """Return the body for the provider: its own model name, a limit always.

        limit: tokens. limit_member: how this provider spells the limit, where its protocol has two ways.
        """

    @abstractmethod
    def readable(self, body: JSONObject) -> JSONObject:
        """Return an outgoing body without the bytes of its pictures: what can be read as text."""

    def intact(self, sent: JSON) -> bool:
        """Return whether what may not be edited is still as it came. sent: the body after every obligation."""
        return True
