"""Reading one list of an upstream as the house: page by page, bounded, cycles found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.action import Headers
from firewall.core.bounds import PAGES_PER_LIST, TOOLS_PER_UPSTREAM
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import jsonrpc
from mcp_gateway import bridge
from mcp_gateway.content import TTL_MS
from mcp_gateway.house import House
from mcp_gateway.kinds import KINDS, Kind
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.upstream import Link

METHOD_UNKNOWN: Final = -32601


@dataclass(frozen=True, slots=True)
class Listed:
    """Raw entries of all pages, and the least ``ttlMs`` of them (0 when a page had none)."""

    entries: list[JSON]
    ttl_ms: int


async def read_all(house: House, tenant: str, spec: UpstreamSpec, link: Link, headers: Headers, kind: Kind) -> Listed:
    """Return all pages of a list; empty when the upstream never declared the kind.

    Raises UpstreamFault: malformed (no list, a cursor cycle, too many pages), too_large, and as the
    link does; Refused.
    """
    info = KINDS[kind]
    entries: list[JSON] = []
    if info.capability not in link.opened.capabilities:
        return Listed(entries, 0)
    ttl_ms = TTL_MS
    cursors = {""}
    cursor = ""
    for _ in range(PAGES_PER_LIST):
        result = await _page(house, tenant, spec, link, headers, kind, cursor)
        page = result.get(info.member)
        if not isinstance(page, list) or result.get("resultType", "complete") != "complete":
            raise UpstreamFault("malformed", "a list is no list")
        entries.extend(page)
        if len(entries) > TOOLS_PER_UPSTREAM:
            raise UpstreamFault("too_large", "more entries than the bound")
        told = result.get("ttlMs")
        ttl_ms = min(ttl_ms, told) if isinstance(told, int) and not isinstance(told, bool) and told > 0 else 0
        following = result.get("nextCursor")
        if following is None:
            return Listed(entries, ttl_ms)
        if not isinstance(following, str) or following in cursors:
            raise UpstreamFault("malformed", "the upstream's cursors run in a circle")
        cursors.add(following)
        cursor = following
    raise UpstreamFault("malformed", "more pages than the bound")


async def _page(
    house: House, tenant: str, spec: UpstreamSpec, link: Link, headers: Headers, kind: Kind, cursor: str
) -> JSONObject:
    info = KINDS[kind]
    rpc_id = link.next_id()
    version = link.opened.version
    body = bridge.list_page(rpc_id, version, info.method, cursor)
    cleared = await house.clear(tenant, spec, info.method, body, version=version, point=info.asked)
    async with link.exchange(rpc_id, cleared, headers) as messages:
        async for value in messages:
            if "method" in value:
                continue
            try:
                answer = jsonrpc.parse(value)
            except Malformed:
                break
            if isinstance(answer, jsonrpc.Response) and isinstance(answer.result, dict):
                return answer.result
            if isinstance(answer, jsonrpc.ErrorResponse) and answer.code == METHOD_UNKNOWN and kind == "template":
                return {info.member: []}  # it has resources and never heard of templates
            break
    raise UpstreamFault("malformed", "the upstream did not list what it declares")
