"""Server capabilities: what an upstream declares, and what we may declare in its name. Pure.

We offer what the upstream has ∩ what we bridge, never more (mcp reference §5.1). What we bridge stands
in the METHODS table: a flag is offered in an era exactly when its message has a row there.
Extensions are a closed list, each offered only where the client names it too (§5.10): an unknown one
would be a channel that nobody inspects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from firewall.core.jsonvalue import JSON, JSONObject
from mcp_gateway import apps, tasks
from mcp_gateway.versions import LEGACY, Era, Flow, point_of

EXTENSIONS: Final = frozenset({apps.EXTENSION, tasks.EXTENSION_ID})
_NAMES: Final = 64  # extensions that an upstream may declare; more are not remembered

# Capability → the request that it stands for, and its flags with the message that each stands for.
_Row = tuple[str, Mapping[str, tuple[str, Flow]]]
_KNOWN: Final[Mapping[str, _Row]] = {
    "tools": ("tools/list", {"listChanged": ("notifications/tools/list_changed", "response")}),
    "prompts": ("prompts/list", {"listChanged": ("notifications/prompts/list_changed", "response")}),
    "resources": (
        "resources/list",
        {
            "subscribe": ("notifications/resources/updated", "response"),
            "listChanged": ("notifications/resources/list_changed", "response"),
        },
    ),
    "completions": ("completion/complete", {}),
    "logging": ("", {}),
}


def declared(capabilities: JSONObject) -> JSONObject:
    """Return the known members of a server's capabilities, with their known flags that are true."""
    out: JSONObject = {}
    for name, (_, flags) in _KNOWN.items():
        told = capabilities.get(name)
        if isinstance(told, dict):
            out[name] = {flag: True for flag in flags if told.get(flag) is True}
    if tasks.offers(capabilities, tasks.CORE):
        out["tasks"] = tasks.core_capability(capabilities)
    return out


def extensions(capabilities: JSONObject) -> JSONObject:
    """Return the extensions map of either side's capabilities: name → settings (SEP-2133)."""
    told = capabilities.get("extensions")
    if not isinstance(told, dict):
        return {}
    return {name: settings for name, settings in list(told.items())[:_NAMES] if isinstance(settings, dict)}


def offered(server: JSONObject, extended: JSONObject, era: Era, client: JSONObject, version: str = "") -> JSONObject:
    """Return the capabilities of our answer to a client.

    server, extended: an upstream's `declared` and `extensions`. client: the extensions that the
    client declared. version: the revision spoken with it; core tasks belong to one alone.
    """
    out: JSONObject = {}
    for name, (method, flags) in _KNOWN.items():
        told = server.get(name)
        if not isinstance(told, dict) or not _bridged(name, method, era):
            continue
        said: JSONObject = {
            flag: told.get(flag) is True and point_of(message, era, flow) is not None
            for flag, (message, flow) in flags.items()
        }
        out[name] = said if era == LEGACY else {flag: True for flag, value in said.items() if value}
    if version == tasks.CORE_VERSION and "tasks" in server:
        out["tasks"] = server["tasks"]
    both: JSONObject = {
        name: _settings(name, extended[name]) for name in sorted(EXTENSIONS & extended.keys() & client.keys())
    }
    if both:
        out["extensions"] = both
    return out


def extended(server: JSONObject, client: JSONObject) -> JSONObject:
    """Return the extensions to declare with a client's request: those that both sides have and that carry no method.

    server, client: `extensions` of each.
    """
    if apps.EXTENSION not in server or apps.EXTENSION not in client:
        return {}
    return {apps.EXTENSION: _settings(apps.EXTENSION, client[apps.EXTENSION])}


def union(all_of_them: Iterable[JSONObject]) -> JSONObject:
    """Return what any of some `declared` capabilities holds."""
    out: JSONObject = {}
    for one in all_of_them:
        for name, flags in one.items():
            held = out.get(name)
            if isinstance(flags, dict):
                out[name] = {**(held if isinstance(held, dict) else {}), **flags}
    return out


def _bridged(name: str, method: str, era: Era) -> bool:
    if name == "logging":  # legacy clients set a level; modern ones say it with each request
        asked: tuple[str, Flow] = (
            ("logging/setLevel", "request")
            if era == LEGACY
            else (
                "notifications/message",
                "response",
            )
        )
        return point_of(asked[0], era, asked[1]) is not None
    return point_of(method, era, "request") is not None


def _settings(name: str, told: JSON) -> JSONObject:
    """Return the settings of an extension, a closed list of each."""
    if name != apps.EXTENSION or not isinstance(told, dict):
        return {}
    kinds = told.get("mimeTypes")
    return {"mimeTypes": [k for k in kinds if k == apps.MIME]} if isinstance(kinds, list) else {}
