"""The catalogue of protected resources: one snapshot, replaced as a whole when an upstream is registered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from firewall.identity.settings import ProtectedResource

WELL_KNOWN_PRM = "/.well-known/oauth-protected-resource"


class Resources:
    """Protected resources by URI and by path. Readers take a whole snapshot, so a swap needs no lock."""

    def __init__(self, public_url: str, resources: Iterable[ProtectedResource]) -> None:
        self.public_url = public_url
        self._by_uri: Mapping[str, ProtectedResource] = {}
        self.gives_along = False
        self.replace(resources)

    def replace(self, resources: Iterable[ProtectedResource]) -> None:
        """Make these the known resources."""
        self._by_uri = {self.public_url + r.path: r for r in resources}
        self.gives_along = any(r.along for r in self._by_uri.values())  # asked on every call (`rfc8693.handing`)

    @property
    def by_uri(self) -> Mapping[str, ProtectedResource]:
        """The snapshot: resource URI (the ``aud`` of its tokens) → resource."""
        return self._by_uri

    def uri(self, path: str) -> str:
        """Return the URI of the resource at a path."""
        return self.public_url + path

    def at(self, path: str) -> ProtectedResource | None:
        """Return the resource at an exact path."""
        return self._by_uri.get(self.public_url + path)

    def is_closed_to(self, resource: str, tenant: str) -> bool:
        """Return whether the resource at a URI is known and not for a tenant's people (AS-23)."""
        known = self._by_uri.get(resource)
        return known is not None and bool(known.tenants) and tenant not in known.tenants

    def metadata_url(self, resource: str) -> str:
        """Return where the resource's metadata stands (RFC 9728 §3.1: inserted before the path)."""
        return f"{self.public_url}{WELL_KNOWN_PRM}{resource.removeprefix(self.public_url)}"

    def all_scopes(self) -> list[str]:
        """Return every scope of every resource, sorted."""
        return sorted({scope for r in self._by_uri.values() for scope in r.scopes})
