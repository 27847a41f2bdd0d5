"""MCP Apps: what a tool's or a resource's ``_meta.ui`` may say to a client's host. Pure.

Source: SEP-1865, extension ``io.modelcontextprotocol/ui``; mcp reference §5.10. An app is code that the
upstream ships (``ui://`` resources, HTML) and that a host runs. Which origins it may load from or talk
to, and which devices it may use, is what the operator wrote down for this upstream, never what the
upstream asks for: what is not allowed is taken out, and a host then denies it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from firewall.core.jsonvalue import JSON, JSONObject

EXTENSION: Final = "io.modelcontextprotocol/ui"
MIME: Final = "text/html;profile=mcp-app"
PERMISSIONS: Final = frozenset({"camera", "microphone", "geolocation", "clipboardWrite"})
_DOMAINS: Final = ("connectDomains", "resourceDomains", "frameDomains", "baseUriDomains")
_LEGACY_URI: Final = "ui/resourceUri"  # the flat key of early drafts of SEP-1865
_SCHEME: Final = "ui://"  # of an app's resource, always: a host must not be sent to any other address
# The same wish as another host reads it (OpenAI Apps SDK), in its own spelling.
_OTHER_CSP: Final = "openai/widgetCSP"
_OTHER_DOMAINS: Final = ("connect_domains", "resource_domains", "frame_domains", "redirect_domains")
_OTHER_URI: Final = "openai/outputTemplate"
_ADDRESSES: Final = (_LEGACY_URI, _OTHER_URI)
_READ: Final = frozenset({*_ADDRESSES, "ui", _OTHER_CSP})


@dataclass(frozen=True, slots=True)
class Rights:
    """domains: CSP sources (``https://host``); permissions: of `PERMISSIONS`. home: the server's own address, "" for a program's."""

    domains: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    home: str = ""


NONE: Final = Rights()


def shown(meta: JSONObject, rights: Rights, outward: Callable[[str], str] | None = None) -> JSONObject:
    """Return the vendor members of a ``_meta`` with its app's wishes cut to its rights, and its URI translated."""
    if not _READ & meta.keys():
        return meta
    out = dict(meta)
    for name in _ADDRESSES:
        flat = out.pop(name, None)
        if isinstance(flat, str) and flat.startswith(_SCHEME):
            out[name] = _uri(flat, outward)
    other = out.pop(_OTHER_CSP, None)
    if isinstance(other, dict):
        out[_OTHER_CSP] = {key: _allowed(other[key], rights.domains) for key in _OTHER_DOMAINS if key in other}
    asked = out.pop("ui", None)
    if isinstance(asked, dict):
        ui = _ui(asked, rights, outward)
        if ui:
            out["ui"] = ui
    return out


def _ui(asked: JSONObject, rights: Rights, outward: Callable[[str], str] | None) -> JSONObject:
    ui: JSONObject = {}
    address = asked.get("resourceUri")
    if isinstance(address, str) and address.startswith(_SCHEME):
        ui["resourceUri"] = _uri(address, outward)
    seen = asked.get("visibility")
    if isinstance(seen, list):
        ui["visibility"] = [v for v in seen if v in ("model", "app")]
    if isinstance(asked.get("prefersBorder"), bool):
        ui["prefersBorder"] = asked["prefersBorder"]
    csp = asked.get("csp")
    if isinstance(csp, dict):
        ui["csp"] = {key: _allowed(csp[key], rights.domains) for key in _DOMAINS if key in csp}
    wished = asked.get("permissions")
    if isinstance(wished, dict):
        ui["permissions"] = {p: {} for p in sorted(rights.permissions & PERMISSIONS) if p in wished}
    return ui


def _allowed(wished: JSON, domains: frozenset[str]) -> list[JSON]:
    return [d for d in wished if isinstance(d, str) and d in domains] if isinstance(wished, list) else []


def _uri(address: str, outward: Callable[[str], str] | None) -> str:
    return outward(address) if outward is not None else address
