"""``authorization_details`` on their way from a request to a token: read, shown, narrowed (RFC 9396).

The one type is ``mcp_tool`` (`core.tool_details`). A detail belongs to the one resource that its token is
for; details of several resources are several requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.tool_details import TYPE, ToolDetail, covers, parse_details
from firewall.wire import strict_json
from firewall.wire.oauth import Form, OAuthError

TYPES_SUPPORTED = (TYPE,)
AGGREGATE = "/mcp"


def read_details(text: str, resource: str) -> tuple[ToolDetail, ...]:
    """Return the checked details of a request for a resource; () when it sent none.

    Raises OAuthError invalid_authorization_details (RFC 9396 §5): details_shape, details_location.
    """
    if not text:
        return ()
    try:
        details = parse_details(strict_json.loads(text.encode("utf-8", "surrogatepass")))
    except Malformed:
        raise OAuthError("invalid_authorization_details", "details_shape") from None
    for detail in details:
        if detail.locations != (resource,) or not has_tools(urlsplit(resource).path):
            raise OAuthError("invalid_authorization_details", "details_location")
    return details


def requested_details(form: Form, given: tuple[JSONObject, ...], resource: str) -> tuple[JSONObject, ...]:
    """Return what a token request leaves of the details that were agreed to: all of them, or fewer.

    Where nothing was agreed beside scopes, a client may still bind its own token. Raises OAuthError
    invalid_authorization_details.
    """
    wanted = read_details(form.get("authorization_details"), resource)
    if not wanted:
        return given
    return details_json(narrowed(wanted, parse_details(list(given))) if given else wanted)


def narrowed(wanted: Iterable[ToolDetail], given: Iterable[ToolDetail]) -> tuple[ToolDetail, ...]:
    """Return the wanted details when each is within what was given before (RFC 9396 §6).

    Raises OAuthError invalid_authorization_details: details_widened.
    """
    kept, limits = tuple(wanted), tuple(given)
    if not all(covers(limits, one) for one in kept):
        raise OAuthError("invalid_authorization_details", "details_widened")
    return kept


def details_json(details: Iterable[ToolDetail]) -> tuple[JSONObject, ...]:
    """Return details as codes, refresh tokens and access tokens keep them."""
    return tuple(detail.as_json() for detail in details)


def details_text(details: Iterable[ToolDetail]) -> str:
    """Return details as one canonical text, "" for none."""
    values: list[JSON] = [detail.as_json() for detail in details]
    return strict_json.dumps(values).decode() if values else ""


def detail_words(detail: ToolDetail) -> list[str]:
    """Return what a detail permits, a sentence for its tools and one for each bound argument."""
    tools = ", ".join(f"“{tool}”" for tool in detail.tools)
    lines = [f"Call only the tool {tools}" if len(detail.tools) == 1 else f"Call only the tools {tools}"]
    for name, values in detail.constraints:
        allowed = " or ".join(f"“{_shown(value)}”" for value in values)
        lines.append(f"and only with “{name}” being {allowed}")
    return lines


def _shown(value: str | int | bool) -> str:
    return strict_json.dumps(value).decode() if not isinstance(value, str) else value


def has_tools(path: str) -> bool:
    """Return whether the resource at a path of ours is an MCP endpoint."""
    return path == AGGREGATE or path.startswith(AGGREGATE + "/")
