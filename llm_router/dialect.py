"""What differs between the protocols that this room speaks, one row each: the shell asks here and nowhere else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from llm_router import action as act
from llm_router import chat, messages, reply
from llm_router.action import Route
from llm_router.chat_release import ChatAnswer
from llm_router.message_release import MessageAnswer
from llm_router.release import Answer
from llm_router.reply import Words
from llm_router.request import Request
from llm_router.shape import Rejected

CHAT_PATH: Final = "/v1/chat/completions"
MESSAGES_PATH: Final = "/v1/messages"
MODELS_PATH: Final = "/v1/models"
PATHS: Final = {CHAT_PATH: "POST", MESSAGES_PATH: "POST", MODELS_PATH: "GET"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol. protocol: what a provider must speak for it. id_prefix: how ids of its answers begin."""

    protocol: Literal["openai", "anthropic"]
    route: Route
    words: Words
    id_prefix: str
    parse: Callable[[JSON], Request]
    answer: type[Answer]
    named_events: bool = False

    def event_name(self, body: JSON) -> str:
        """Return the name that a stream's event goes under: its type, where events have names."""
        kind = body.get("type") if self.named_events and isinstance(body, dict) else None
        return kind if isinstance(kind, str) and kind in messages.EVENTS else ""


CHAT: Final = Dialect("openai", act.CHAT_ROUTE, reply.OPENAI, "chatcmpl-", chat.parse, ChatAnswer)
MESSAGES: Final = Dialect(
    "anthropic", act.MESSAGES_ROUTE, reply.ANTHROPIC, "msg_", messages.parse, MessageAnswer, named_events=True
)
_ROUTES: Final = {CHAT_PATH: CHAT, MESSAGES_PATH: MESSAGES}


def dialect_of(path: str, headers: Mapping[bytes, bytes]) -> Dialect:
    """Return whose protocol a request speaks; where the path does not say, ``anthropic-version`` does."""
    fixed = _ROUTES.get(path)
    if fixed is not None:
        return fixed
    return MESSAGES if b"anthropic-version" in headers or path.startswith(MESSAGES_PATH + "/") else CHAT


def authorization(dialect: Dialect, headers: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    """Return the headers with the caller's token where the front door looks for it.

    Clients of the Messages API send it as ``x-api-key``. Two credentials at once are refused: nobody
    knows which of them the caller means (RFC 6750 2). Raises Malformed("http_desync").
    """
    key = headers.get(b"x-api-key")
    if dialect is not MESSAGES or key is None:
        return headers
    if b"authorization" in headers:
        raise Malformed("http_desync")
    return {**headers, b"authorization": b"Bearer " + key}


def route_of(dialect: Dialect, headers: Mapping[bytes, bytes]) -> Route:
    """Return the route with the revision that the caller speaks; none named means the first of ours.

    Raises Rejected for a revision of the Messages API that is not read here.
    """
    asked = headers.get(b"anthropic-version")
    if dialect is not MESSAGES or asked is None:
        return dialect.route
    route = act.MESSAGES_ROUTES.get(asked)
    if route is None:
        raise Rejected("anthropic-version")
    return route
