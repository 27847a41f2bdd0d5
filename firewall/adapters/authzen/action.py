"""COAZ-MCP: an AuthZEN question about an MCP message → the Action that our own gateway would make of it.

A closed table of methods; what is not in it is a no. What the question says of its resource is only which one is
meant: every fact that rules read comes from our configuration, registry and pins. A definition that nobody saw
through us has no pin and no schema, so its arguments fit nothing.

Source: COAZ-MCP binding, draft of 2026-08 (default mappings); DESIGN §6b-5, §6b-10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from firewall.adapters.authzen.message import Evaluation
from firewall.adapters.authzen.subject import Unfit
from firewall.core.action import Action, Resource
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.enforce.pins import Kind as PinKind
from firewall.enforce.pins import Pin, PinStatus
from firewall.wire import jsonrpc
from mcp_gateway import lists
from mcp_gateway.action import request, server_resource, tool_resource
from mcp_gateway.entries import Entry, Tool, entry
from mcp_gateway.kinds import Kind
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.targets import uri_arguments
from mcp_gateway.versions import LEGACY, MODERN, NEWEST_HANDSHAKE, NEWEST_MODERN, Era, era_of, point_of

RPC_ID: Final = "authzen"  # the message's own id is nobody's business here


@dataclass(frozen=True, slots=True)
class Row:
    """How one method is asked about. type: of the resource. param: the parameter that its id is, "" for a server."""

    type: str
    param: str = ""
    kind: Kind | None = None


_SERVER: Final = Row("mcp_server")
_TASK: Final = Row("task", "taskId")
COMPLETE: Final = "completion/complete"
# What a completion is for: an argument of a prompt, or a variable of a resource's template.
REFERENCES: Final[Mapping[str, Kind]] = {"prompt": "prompt", "resource": "template"}
METHODS: Final[Mapping[str, Row]] = {
    "initialize": _SERVER,
    "server/discover": _SERVER,
    "tools/list": _SERVER,
    "resources/list": _SERVER,
    "resources/templates/list": _SERVER,
    "prompts/list": _SERVER,
    "logging/setLevel": _SERVER,
    "tasks/list": _SERVER,
    "tools/call": Row("tool", "name", "tool"),
    "prompts/get": Row("prompt", "name", "prompt"),
    "resources/read": Row("resource", "uri", "resource"),
    "resources/subscribe": Row("resource", "uri", "resource"),
    "resources/unsubscribe": Row("resource", "uri", "resource"),
    "tasks/get": _TASK,
    "tasks/result": _TASK,
    "tasks/cancel": _TASK,
    COMPLETE: Row("prompt", "ref"),
}


class Registry(Protocol):
    """The part of `enforce.registry.Registry` that is needed."""

    def state(self, tenant: str, kind: str, name: str) -> str:
        """Return an entry's state. Raises StateUnavailable."""


class PinBook(Protocol):
    """The part of `enforce.pins.Pins` that is needed."""

    def list(self, tenant: str, upstream: str = "") -> Iterable[Pin]:
        """Yield pins."""

    def status(self, tenant: str, upstream: str, kind: PinKind, name: str, digest: str) -> PinStatus:
        """Return how a digest compares with the pin."""


@dataclass(frozen=True, slots=True)
class House:
    """Where facts come from. specs: every MCP server that we know. definition: digest → what was seen, or None."""

    public_url: str
    specs: Callable[[], Iterable[UpstreamSpec]]
    registry: Registry
    pins: PinBook
    definition: Callable[[str], JSON]


def server_of(question: Evaluation, house: House) -> tuple[UpstreamSpec, str]:
    """Return the server that a question is about, and the rest of the resource's id.

    It is named by ``resource.properties.server`` or ``context.server``, as name or as audience, by the audience
    that a server's own questions carry, or before the id's first slash. Raises Unfit: method_unknown,
    resource_type, server_unknown.
    """
    row = METHODS.get(question.action)
    if row is None:
        raise Unfit("method_unknown", "This method is not known here, so it is denied.", 404)
    types = REFERENCES.keys() if question.action == COMPLETE else {row.type}
    if question.resource.type not in types:
        raise Unfit("resource_type", f"{question.action} is asked about a {row.type}.", 400)
    given = question.resource.properties.get("server", question.context.get("server", ""))
    if not isinstance(given, str):
        raise Unfit("params_invalid", "server must be a string", 400)
    rest = question.resource.id
    if not given:
        given, rest = (rest, "") if not row.param else _split(rest)
    name = given.removeprefix(f"{house.public_url}/mcp/")
    for spec in house.specs():
        if spec.name == name:
            return spec, rest
    raise Unfit("server_unknown", "This server is not known here.", 404)


def action_of(question: Evaluation, spec: UpstreamSpec, item: str, principal: Principal, house: House) -> Action:
    """Return the Action of a question. item: what of the server it is about, "" for the server as a whole.

    Raises Unfit, StateUnavailable.
    """
    tenant, row = principal.tenant, METHODS[question.action]
    version, era = _version(question)
    point = point_of(question.action, era, "request")
    if point is None:
        raise Unfit("method_unknown", "This method is not known in that revision, so it is denied.", 404)
    state = house.registry.state(tenant, "mcp", spec.name)
    arguments = question.action_properties.get("arguments", {})
    if not isinstance(arguments, dict):
        raise Unfit("params_invalid", "action.properties.arguments must be an object", 400)
    params: JSONObject = {row.param: item} if row.param else {}
    read: JSONObject = {}
    if question.action == COMPLETE:
        kind = REFERENCES[question.resource.type]
        params, read = _completion(question, item)
        resource = _facts(question, spec, kind, item, read, tenant, state, house)
    elif row.kind is None:
        resource = server_resource(spec.facts, state)
    else:
        if row.kind in ("tool", "prompt"):
            params["arguments"] = read = arguments
        else:
            read = _uri(item)
        resource = _facts(question, spec, row.kind, item, arguments, tenant, state, house)
    if "level" in question.context and point is Point.MCP_NOTIFY_CLIENT:
        params["level"] = question.context["level"]
    body = jsonrpc.build_request(RPC_ID, question.action, params)
    return request(point, principal, question.action, resource, body, version=version, transport="http", arguments=read)


def _completion(question: Evaluation, item: str) -> tuple[JSONObject, JSONObject]:
    """Return a completion's parameters, and what rules read of it: which argument, with what beside it."""
    given = question.action_properties.get("argument")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not isinstance(given.get("value"), str):
        raise Unfit("params_invalid", "action.properties.argument must have a name and a value", 400)
    argument: JSONObject = {"name": given["name"], "value": given["value"]}
    prompt = question.resource.type == "prompt"
    ref: JSONObject = {"type": "ref/prompt", "name": item} if prompt else {"type": "ref/resource", "uri": item}
    return {"ref": ref, "argument": argument}, {"argument": argument}


def _split(text: str) -> tuple[str, str]:
    server, slash, rest = text.partition("/")
    if not slash or not rest:
        raise Unfit("server_unknown", "Name the server, as resource.properties.server.", 400)
    return server, rest


def _version(question: Evaluation) -> tuple[str, Era]:
    """Return the revision that the message is of; the newest that has the method when none is told."""
    told = question.context.get("protocol_version", "")
    if not isinstance(told, str):
        raise Unfit("params_invalid", "context.protocol_version must be a string", 400)
    if told:
        era = era_of(told)
        if era is None:
            raise Unfit("version_unsupported", "This protocol version is not known here.", 400)
        return told, era
    if point_of(question.action, MODERN, "request") is not None:
        return NEWEST_MODERN, MODERN
    return NEWEST_HANDSHAKE, LEGACY


def _uri(item: str) -> JSONObject:
    try:
        return uri_arguments(item)
    except Malformed:
        raise Unfit("params_invalid", "resource.id must be a URI in normal form", 400) from None


def _facts(
    question: Evaluation,
    spec: UpstreamSpec,
    kind: Kind,
    name: str,
    arguments: JSONObject,
    tenant: str,
    state: str,
    house: House,
) -> Resource:
    """Return the facts of one tool, prompt, resource or template. The enforcer may tell the digest of what it sees."""
    pin = _pin(house, tenant, spec, kind, name)
    if pin is not None and pin.kind == "template":
        kind = "template"
    digest = question.resource.properties.get("hash", pin.seen if pin else "")
    if not isinstance(digest, str):
        raise Unfit("params_invalid", "resource.properties.hash must be a string", 400)
    pinned = pin.name if pin else name
    status = house.pins.status(tenant, spec.name, kind, pinned, digest) if digest else "new"
    found = _entry(spec, kind, digest, house) if digest else None
    if found is None or found.definition.name != pinned:
        if kind == "tool":
            effect = (spec.effects or {}).get(name, "write")
            return tool_resource(
                spec.facts, name, state=state, effect=effect, pin=status, digest=digest, schema="mismatch"
            )
        raise Unfit("resource_unknown", "This object was never seen here.", 404)
    if isinstance(found, Tool):
        return found.resource(state, status, found.check_arguments(arguments))
    if question.action == COMPLETE:
        told = arguments["argument"]
        fits = isinstance(told, dict) and told["name"] in lists.argument_names(found.definition)
    else:
        fits = kind != "prompt" or lists.prompt_fits(found.definition, arguments)
    return found.resource(state, status, "ok" if fits else "mismatch")


def _pin(house: House, tenant: str, spec: UpstreamSpec, kind: Kind, name: str) -> Pin | None:
    """Return the pin of an object; of a URI that nobody listed, that of the first template that matches it."""
    pins = list(house.pins.list(tenant, spec.name))
    exact = next((p for p in pins if (p.kind, p.name) == (kind, name)), None)
    if exact is not None or kind != "resource":
        return exact
    for one in sorted((p for p in pins if p.kind == "template"), key=lambda p: p.name):
        found = _entry(spec, "template", one.seen, house)
        if found is not None and found.definition.template is not None and found.definition.template.matches(name):
            return one
    return None


def _entry(spec: UpstreamSpec, kind: Kind, digest: str, house: House) -> Entry | None:
    value = house.definition(digest)
    try:
        one = lists.definition(value, kind) if value is not None else None
    except Malformed:
        return None
    return entry(spec, one, ()) if one is not None and one.digest == digest else None
