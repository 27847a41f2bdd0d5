"""What a server asks of a client, and what the client answers: sampling, elicitation, roots. Pure.

The same question arrives as a server's request (legacy), as an entry of ``inputRequests`` (modern) or
in the data of -32042 (2025-11-25); whatever its clothes, it is parsed here into one `Question`, with a
closed list of members, and its answer into one `Answer` (mcp reference §2, §5.6, §6 UR-1).

- Only what the client declared and the operator named (``asks``) is a question at all.
- Whoever reads it sees which server asks: our words stand before the server's.
- ``includeContext`` never leaves as anything but ``none``: other servers' context is not this server's.
- A form's answer fits the schema that was asked, member by member; an address opens over http(s) only.
- Of a client's roots a server learns those that lie where configuration allows.
- Facts for rules stand beside the text: policy decides, nothing here does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from firewall.core.action import Action, Resource, no_headers
from firewall.core.bounds import JSON_INTEGER, RPC_ID_CHARS, TARGET_BYTES
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.detect.egress import address_class, read_url
from mcp_gateway import apps
from mcp_gateway import content as content_of
from mcp_gateway.action import UpstreamHeaders, protocol
from mcp_gateway.schema import Schema
from mcp_gateway.versions import LEGACY, Era

Kind = Literal["sampling", "elicitation", "roots"]

METHODS: Final[Mapping[str, Kind]] = {
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots",
}
ASK: Final[Mapping[Kind, Point]] = {
    "sampling": Point.MCP_SAMPLING_ASK,
    "elicitation": Point.MCP_ELICITATION_ASK,
    "roots": Point.MCP_ROOTS_ASK,
}
ANSWER: Final[Mapping[Kind, Point]] = {
    "sampling": Point.MCP_SAMPLING_ANSWER,
    "elicitation": Point.MCP_ELICITATION_ANSWER,
    "roots": Point.MCP_ROOTS_ANSWER,
}
QUESTIONS: Final = 16  # in one result; more is an upstream that keeps a person busy
KEY_CHARS: Final = 128
MESSAGES: Final = 500
BLOCKS: Final = 100
TOOLS: Final = 200
FIELDS: Final = 64
CHOICES: Final = 500
ROOTS: Final = 256
UPSTREAM: Final = "dev.bartizan/upstream"  # `_meta`: who asks, by the name that configuration gave it

_FIELD: Final = (
    "type", "title", "description", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "enum", "enumNames", "default", "minItems", "maxItems",
)  # fmt: skip
_FIELD_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "array"})
_SCHEMA: Final[Mapping[str, Callable[[JSON], bool]]] = {
    **dict.fromkeys(("type", "title", "description", "format", "pattern"), lambda v: isinstance(v, str)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), lambda v: _is_count(v)),
    **dict.fromkeys(("minimum", "maximum"), lambda v: _is_number(v)),
    **dict.fromkeys(("enum", "enumNames"), lambda v: _are_strings(v, CHOICES)),
    "default": lambda v: isinstance(v, (str, int, float, bool)) or _are_strings(v, CHOICES),
}
_TOOL: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
_PRIORITIES: Final = ("costPriority", "speedPriority", "intelligencePriority")


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it goes to the client.

    params: closed list of members, rebuilt. facts: what rules read. schema: of a form. tools: whether
    an answer may use tools.
    """

    kind: Kind
    method: str
    params: JSONObject
    facts: JSONObject
    schema: JSON = None
    tools: bool = False

    @property
    def ask(self) -> Point:
        """The point of the question."""
        return ASK[self.kind]

    @property
    def answer(self) -> Point:
        """The point of its answer."""
        return ANSWER[self.kind]

    def sealed(self) -> JSON:
        """Return what is needed to judge an answer later; `unsealed` reads it back."""
        return [self.kind, self.schema, self.tools]


@dataclass(frozen=True, slots=True)
class Answer:
    """A client's answer as it goes to the server: closed list of members, and what rules read."""

    result: JSONObject
    facts: JSONObject


def unsealed(value: JSON) -> Question:
    """Return a question of which only the judging of answers is left. Raises Malformed("question_shape")."""
    if isinstance(value, list) and len(value) == 3:
        for method, kind in METHODS.items():
            if value[0] == kind:
                return Question(kind, method, {}, {}, value[1], value[2] is True)
    raise Malformed("question_shape")


# -- capabilities ----------------------------------------------------------------------------------


def declared(capabilities: JSON, asks: frozenset[str]) -> JSONObject:
    """Return what we declare to an upstream: the client's own ∩ what the operator lets the upstream ask.

    ``sampling.context`` is never declared, nor that a client's roots can change.
    """
    given = capabilities if isinstance(capabilities, dict) else {}
    out: JSONObject = {}
    if "sampling" in asks and isinstance(sampling := given.get("sampling"), dict):
        out["sampling"] = {"tools": {}} if isinstance(sampling.get("tools"), dict) else {}
    if "elicitation" in asks and isinstance(elicitation := given.get("elicitation"), dict):
        modes: JSONObject = {mode: {} for mode in ("form", "url") if isinstance(elicitation.get(mode), dict)}
        if not modes and not elicitation:
            modes = {"form": {}}  # 2025-06-18 knows one mode and does not name it
        if modes:
            out["elicitation"] = modes
    if "roots" in asks and isinstance(given.get("roots"), dict):
        out["roots"] = {}
    return out


def _permits(capabilities: JSONObject, kind: Kind, member: str) -> bool:
    """Return whether what we declared covers a question, and the mode or addition that it uses."""
    found = capabilities.get(kind)
    if not isinstance(found, dict):
        return False
    return not member or member in found or (kind == "elicitation" and member == "form" and not found)


# -- questions ---------------------------------------------------------------------------------------


def parse(
    method: str, params: JSON, capabilities: JSONObject, *, upstream: str, era: Era, elicitation_id: str = ""
) -> Question:
    """Return a server's question as it goes to a client of an era.

    capabilities: what we declared to this server. upstream: its configured name, which is shown.
    elicitation_id: for a legacy client, where a modern server named none (2025-11-25 demands one).
    Raises Malformed("question_shape"): an unknown method, an undeclared capability, a wrong shape.
    """
    kind = METHODS.get(method)
    if params is None:
        params = {}
    if kind is None or not isinstance(params, dict) or not _permits(capabilities, kind, ""):
        raise Malformed("question_shape")
    if kind == "sampling":
        return _sampling(method, params, capabilities, upstream)
    if kind == "roots":
        return Question(kind, method, {}, {})
    mode = params.get("mode", "form")
    if not isinstance(mode, str) or mode not in ("form", "url") or not _permits(capabilities, kind, mode):
        raise Malformed("question_shape")
    if mode == "form":
        return _form(method, params, upstream, era)
    return _link(method, params, upstream, era, elicitation_id)


def listed(
    value: JSON, capabilities: JSONObject, *, upstream: str, era: Era, new_id: Callable[[], str]
) -> dict[str, Question]:
    """Return the questions of an ``inputRequests`` map, by key. Raises Malformed("question_shape")."""
    if not isinstance(value, dict) or len(value) > QUESTIONS:
        raise Malformed("question_shape")
    found: dict[str, Question] = {}
    for key, entry in value.items():
        method = entry.get("method") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(method, str) or not 0 < len(key) <= KEY_CHARS:
            raise Malformed("question_shape")
        given = entry.get("params")
        found[key] = parse(method, given, capabilities, upstream=upstream, era=era, elicitation_id=new_id())
    return found


def required(data: JSON, capabilities: JSONObject, *, upstream: str, era: Era) -> list[Question]:
    """Return the URL elicitations of a -32042 error's data. Raises Malformed("question_shape")."""
    entries = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= QUESTIONS:
        raise Malformed("question_shape")
    found = [parse("elicitation/create", e, capabilities, upstream=upstream, era=era) for e in entries]
    if any(question.facts.get("mode") != "url" for question in found):
        raise Malformed("question_shape")
    return found


def _sampling(method: str, params: JSONObject, capabilities: JSONObject, upstream: str) -> Question:
    messages = params.get("messages")
    tokens = params.get("maxTokens")
    if not isinstance(messages, list) or len(messages) > MESSAGES or not _is_count(tokens):
        raise Malformed("question_shape")
    context = params.get("includeContext", "none")
    if not isinstance(context, str) or context not in ("none", "thisServer", "allServers"):
        raise Malformed("question_shape")
    out: JSONObject = {"messages": [_message(m) for m in messages], "maxTokens": tokens, "includeContext": "none"}
    _take(params, out, ("systemPrompt",), lambda v: isinstance(v, str))
    _take(params, out, ("temperature",), _is_number)
    _take(params, out, ("stopSequences",), lambda v: _are_strings(v, BLOCKS))
    _take(params, out, ("metadata",), lambda v: isinstance(v, dict))
    preferences = params.get("modelPreferences")
    if preferences is not None:
        out["modelPreferences"] = _preferences(preferences)
    tools = params.get("tools", [])
    choice = params.get("toolChoice")
    if not isinstance(tools, list) or len(tools) > TOOLS:
        raise Malformed("question_shape")
    if tools or choice is not None:
        if not _permits(capabilities, "sampling", "tools"):
            raise Malformed("question_shape")
        out["tools"] = [_tool(tool) for tool in tools]
        if choice is not None:
            mode = choice.get("mode", "auto") if isinstance(choice, dict) else None
            if mode not in ("auto", "required", "none"):
                raise Malformed("question_shape")
            out["toolChoice"] = {"mode": mode}
    out["_meta"] = {UPSTREAM: upstream}
    facts: JSONObject = {
        "max_tokens": tokens,
        "tools": len(tools),
        "include_context": "none",
        "messages": len(messages),
    }
    return Question("sampling", method, out, facts, tools=bool(tools))


def _form(method: str, params: JSONObject, upstream: str, era: Era) -> Question:
    asked = params.get("requestedSchema")
    fields = asked.get("properties") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or asked.get("type") != "object" or not isinstance(fields, dict):
        raise Malformed("question_shape")
    needed = asked.get("required", [])
    if len(fields) > FIELDS or not _are_strings(needed, FIELDS):
        raise Malformed("question_shape")
    schema: JSONObject = {"type": "object", "properties": {name: _field(field) for name, field in fields.items()}}
    if needed:
        schema["required"] = needed
    out: JSONObject = {"message": _said(params, upstream), "requestedSchema": schema, "_meta": {UPSTREAM: upstream}}
    if era != LEGACY or "mode" in params:
        out["mode"] = "form"  # 2025-06-18 has no such member
    rebuilt = [field for field in schema["properties"].values() if isinstance(field, dict)]  # type: ignore[union-attr]
    facts: JSONObject = {
        "mode": "form",
        "fields": list[JSON](fields),
        "titles": [field["title"] for field in rebuilt if "title" in field],
        "formats": [field["format"] for field in rebuilt if "format" in field],
    }
    return Question("elicitation", method, out, facts, schema={**schema, "additionalProperties": False})


def _link(method: str, params: JSONObject, upstream: str, era: Era, elicitation_id: str) -> Question:
    url = params.get("url")
    if not isinstance(url, str) or not 0 < len(url) <= TARGET_BYTES:
        raise Malformed("question_shape")
    facts = _address(url)
    out: JSONObject = {"mode": "url", "message": _said(params, upstream), "url": url, "_meta": {UPSTREAM: upstream}}
    if era == LEGACY:
        told = params.get("elicitationId", elicitation_id)
        if not isinstance(told, str) or not 0 < len(told) <= RPC_ID_CHARS:
            raise Malformed("question_shape")
        out["elicitationId"] = told
    return Question("elicitation", method, out, {"mode": "url", "fields": [], **facts})


def _address(url: str) -> JSONObject:
    """Return the facts of an address. Raises Malformed for one that two readers would read differently.

    Never resolved and never fetched: opening it is the person's own decision.
    """
    if any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url):
        raise Malformed("question_shape")
    target = read_url(url)
    if target is None or target.scheme not in ("http", "https") or not target.host:
        raise Malformed("question_shape")
    if set(target.odd) - {"userinfo", "characters"}:
        raise Malformed("question_shape")
    host = target.host.lower()
    labels = host.split(".")
    return {
        "scheme": target.scheme,
        "host": host,
        "host_class": address_class(host),
        "userinfo": "userinfo" in target.odd,
        "idn": "characters" in target.odd or not host.isascii() or any(label.startswith("xn--") for label in labels),
    }


def _said(params: JSONObject, upstream: str) -> str:
    """Return a message with our own words before it: a person must see which server asks (mcp reference §5.6)."""
    message = params.get("message")
    if not isinstance(message, str):
        raise Malformed("question_shape")
    return f'The server "{upstream}" asks: {message}'


def _field(value: JSON) -> JSONObject:
    """Return one field of a form: a primitive, or a choice of strings (MCP elicitation, requested schema)."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in _FIELD_TYPES:
        raise Malformed("question_shape")
    out: JSONObject = {key: value[key] for key in _FIELD if key in value}
    if not all(_SCHEMA[key](member) for key, member in out.items()):
        raise Malformed("question_shape")
    if "oneOf" in value:
        out["oneOf"] = _choices(value["oneOf"])
    if value["type"] == "array":
        items = value.get("items")
        if not isinstance(items, dict):
            raise Malformed("question_shape")
        if "anyOf" in items:
            out["items"] = {"anyOf": _choices(items["anyOf"])}
        elif items.get("type") == "string" and _are_strings(items.get("enum"), CHOICES):
            out["items"] = {"type": "string", "enum": items["enum"]}
        else:
            raise Malformed("question_shape")
    return out


def _choices(value: JSON) -> JSON:
    if not isinstance(value, list) or not 0 < len(value) <= CHOICES:
        raise Malformed("question_shape")
    out: list[JSON] = []
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("const"), str):
            raise Malformed("question_shape")
        title = entry.get("title", "")
        if not isinstance(title, str):
            raise Malformed("question_shape")
        out.append({"const": entry["const"], "title": title})
    return out


def _preferences(value: JSON) -> JSONObject:
    if not isinstance(value, dict):
        raise Malformed("question_shape")
    out: JSONObject = {}
    hints = value.get("hints")
    if hints is not None:
        if not isinstance(hints, list) or len(hints) > BLOCKS:
            raise Malformed("question_shape")
        out["hints"] = [
            {"name": hint["name"]} for hint in hints if isinstance(hint, dict) and isinstance(hint.get("name"), str)
        ]
    _take(value, out, _PRIORITIES, _is_number)
    return out


def _tool(value: JSON) -> JSONObject:
    """Return a tool that the asking server offers to the model: it defines and runs it itself, so its name stays."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise Malformed("question_shape")
    out: JSONObject = {key: value[key] for key in _TOOL if key in value}
    if not isinstance(out.get("inputSchema"), dict):
        raise Malformed("question_shape")
    return out


# -- content blocks -------------------------------------------------------------------------------------

_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text",),
    "image": ("data", "mimeType"),
    "audio": ("data", "mimeType"),
}


def _message(value: JSON) -> JSONObject:
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
        raise Malformed("question_shape")
    return {"role": value["role"], "content": _content(value.get("content"))}


def _content(value: JSON) -> JSON:
    """Return one block or a list of them, as it came: 2025-06-18 knows single blocks only."""
    if not isinstance(value, list):
        return _block(value)
    if not 0 < len(value) <= BLOCKS:
        raise Malformed("question_shape")
    return [_block(block) for block in value]


def _block(value: JSON) -> JSONObject:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str):
        raise Malformed("question_shape")
    members = _BLOCKS.get(kind)
    if members is not None:
        out: JSONObject = {"type": kind, **{name: value.get(name) for name in members}}
        if not all(isinstance(member, str) for member in out.values()):
            raise Malformed("question_shape")
        return out
    if kind == "tool_use":
        if not (isinstance(value.get("id"), str) and isinstance(value.get("name"), str)):
            raise Malformed("question_shape")
        given = value.get("input", {})
        if not isinstance(given, dict):
            raise Malformed("question_shape")
        return {"type": kind, "id": value["id"], "name": value["name"], "input": given}
    if kind == "tool_result":
        return _tool_result(value)
    raise Malformed("question_shape")


def _tool_result(value: JSONObject) -> JSONObject:
    content = value.get("content", [])
    if not isinstance(value.get("toolUseId"), str) or not isinstance(content, list) or len(content) > BLOCKS:
        raise Malformed("question_shape")
    blocks: list[JSON] = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(block, dict) and kind in ("resource", "resource_link"):
            plain = content_of.block(block, None, apps.NONE)  # what says that it is text is inspected as text
            blocks.append({key: member for key, member in plain.items() if key not in ("_meta", "annotations")})
        elif isinstance(kind, str) and kind in _BLOCKS:
            blocks.append(_block(block))
        else:
            raise Malformed("question_shape")
    out: JSONObject = {"type": "tool_result", "toolUseId": value["toolUseId"], "content": blocks}
    _take(value, out, ("isError",), lambda v: isinstance(v, bool))
    if "structuredContent" in value:
        out["structuredContent"] = value["structuredContent"]
    return out


# -- answers ----------------------------------------------------------------------------------------------


def answer(question: Question, result: JSON, *, roots: Sequence[str] = ()) -> Answer:
    """Return a client's answer as it goes to the server that asked.

    roots: the absolute paths at or below which a root may be told.
    Raises Malformed("answer_invalid"): a shape that the question does not allow.
    """
    if not isinstance(result, dict):
        raise Malformed("answer_invalid")
    try:
        if question.kind == "sampling":
            return _sampled(question, result)
        if question.kind == "roots":
            return _rooted(result, roots)
        return _elicited(question, result)
    except Malformed:
        raise Malformed("answer_invalid") from None


def _sampled(question: Question, result: JSONObject) -> Answer:
    if result.get("role") not in ("user", "assistant") or not isinstance(result.get("model"), str):
        raise Malformed("answer_invalid")
    content = _content(result.get("content"))
    blocks = content if isinstance(content, list) else [content]
    uses = sum(isinstance(block, dict) and block["type"] == "tool_use" for block in blocks)
    if not question.tools and (uses or isinstance(content, list)):
        raise Malformed("answer_invalid")  # tools were not offered, and lists of blocks came with them
    out: JSONObject = {"role": result["role"], "content": content, "model": result["model"]}
    _take(result, out, ("stopReason",), lambda v: isinstance(v, str))
    return Answer(out, {"action": "accept", "fields": [], "blocks": len(blocks), "tools": uses})


def _elicited(question: Question, result: JSONObject) -> Answer:
    action = result.get("action")
    if not isinstance(action, str) or action not in ("accept", "decline", "cancel"):
        raise Malformed("answer_invalid")
    out: JSONObject = {"action": action}
    fields: list[JSON] = []
    if action == "accept" and question.schema is not None:
        content = result.get("content", {})
        if not isinstance(content, dict) or Schema(question.schema).check(content) != "ok":
            raise Malformed("answer_invalid")
        out["content"] = content
        fields = list(content)
    return Answer(out, {"action": action, "fields": fields})


def _rooted(result: JSONObject, allowed: Sequence[str]) -> Answer:
    given = result.get("roots")
    if not isinstance(given, list) or len(given) > ROOTS:
        raise Malformed("answer_invalid")
    kept: list[JSON] = []
    for root in given:
        uri = root.get("uri") if isinstance(root, dict) else None
        if not isinstance(root, dict) or not isinstance(uri, str):
            raise Malformed("answer_invalid")
        path = _path(uri)
        if path is None or not any(_below(path, place) for place in allowed):
            continue
        name = root.get("name")
        kept.append({"uri": uri, "name": name} if isinstance(name, str) else {"uri": uri})
    return Answer({"roots": kept}, {"roots": len(kept)})


def _path(uri: str) -> str | None:
    """Return the path of a ``file:`` URI in normal form, or None for one with another reading."""
    if not uri.startswith("file:///") or any(c in uri for c in "?#\\"):
        return None
    try:
        path = unquote_to_bytes(uri[len("file://") :]).decode()
    except UnicodeDecodeError:
        return None
    path = path.rstrip("/") or "/"
    segments = path[1:].split("/") if path != "/" else []
    if {"", ".", ".."} & set(segments) or "%" in path or any(ord(c) < 0x20 or ord(c) == 0x7F for c in path):
        return None
    return path


def _below(path: str, place: str) -> bool:
    place = place.rstrip("/")
    return path == place or path.startswith(place + "/") or not place


# -- as Actions ---------------------------------------------------------------------------------------------


def ask_action(
    question: Question, principal: Principal, resource: Resource, body: JSONObject, *, version: str, transport: str
) -> Action:
    """Return the Action of a question on its way to the client, ``body`` being the whole message that leaves."""
    return Action(
        point=question.ask,
        principal=principal,
        verb=question.method,
        resource=resource,
        protocol=protocol(version, transport),
        body=body,
        arguments=question.facts,
        side_effect=False,
    )


def answer_action(
    question: Question,
    told: Answer,
    principal: Principal,
    resource: Resource,
    body: JSONObject,
    *,
    version: str,
    transport: str,
) -> Action:
    """Return the Action of an answer on its way to the server. transport: of the upstream."""
    return Action(
        point=question.answer,
        principal=principal,
        verb=question.method,
        resource=resource,
        protocol=protocol(version, transport),
        body=body,
        arguments=told.facts,
        headers=no_headers if transport == "stdio" else UpstreamHeaders("response", version),
        side_effect=False,
    )


# -- small checks ---------------------------------------------------------------------------------------------


def _take(source: JSONObject, out: JSONObject, names: Sequence[str], check: Callable[[JSON], bool]) -> None:
    for name in names:
        if source.get(name) is not None:
            if not check(source[name]):
                raise Malformed("question_shape")
            out[name] = source[name]


def _is_number(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= JSON_INTEGER


def _are_strings(value: JSON, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(isinstance(entry, str) for entry in value)
