"""The paths that the gateway serves: one per upstream, and the aggregate. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.principal import Principal
from mcp_gateway import lists
from mcp_gateway.settings import Settings, UpstreamSpec


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path. name: the upstream, or "" for the aggregate. scope: what a first challenge asks for."""

    name: str
    url: str
    specs: tuple[UpstreamSpec, ...]
    scope: str

    def held(self, principal: Principal) -> list[UpstreamSpec]:
        """Return the upstreams of which a caller holds any scope."""
        return [s for s in self.specs if principal.scopes & {f"{s.name}:read", f"{s.name}:write"}]

    def route(self, exposed: str) -> tuple[UpstreamSpec | None, str]:
        """Return the upstream of an exposed name and the name there; (None, "") for a name of no upstream."""
        if self.name:
            return self.specs[0], exposed
        parts = lists.split_name(exposed, [s.name for s in self.specs])
        if parts is None:
            return None, ""
        return next(s for s in self.specs if s.name == parts[0]), parts[1]


def endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Return path → endpoint; both spellings of a path lead to the same one, without a redirect."""
    table: dict[str, Endpoint] = {}
    for spec in settings.upstreams:
        path = f"/mcp/{spec.name}"
        table[path] = table[path + "/"] = Endpoint(spec.name, settings.public_url + path, (spec,), f"{spec.name}:read")
    if settings.aggregated and settings.upstreams:
        scope = " ".join(f"{spec.name}:read" for spec in settings.upstreams)
        table["/mcp"] = table["/mcp/"] = Endpoint("", settings.public_url + "/mcp", settings.upstreams, scope)
    return table
