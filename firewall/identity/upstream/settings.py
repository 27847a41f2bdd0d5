"""How we sign in to one upstream, as configuration says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from firewall.core.errors import ConfigFault
from firewall.net.address import Network

Way = Literal["exchange", "id_jag", "user", "client"]
Method = Literal["", "none", "private_key_jwt", "client_secret_basic", "client_secret_post"]

# The fixed order (oauth reference §1-6). The first that is configured and fits the caller decides; its failure is final.
WAYS: Final[tuple[Way, ...]] = ("exchange", "id_jag", "user", "client")
# Set by us in every authorization request; configuration must not be able to bend them.
OWN_PARAMETERS: Final = frozenset(
    {"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method", "resource"}
)


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a client secret is: an environment variable or a file that only its owner can read."""

    env: str = ""
    file: str = ""

    def __bool__(self) -> bool:
        return bool(self.env or self.file)


@dataclass(frozen=True, slots=True)
class UpstreamAuth:
    """One upstream's sign-in.

    url: what we connect to; its resource identifier is derived from it unless ``resource`` is given.
    ways: which sources of a token may be used; their order is fixed (`WAYS`).
    issuer: the authorization server; "" discovers it from the upstream (RFC 9728). Whatever could be stolen
        (a secret, an assertion) is for a named one only.
    client_id, secret, method: of a registration made beforehand; "" for a metadata document or DCR.
    assertion: a JWT that our platform gives this workload (a projected service-account token, a JWT-SVID); the
        client way presents it as its grant (RFC 7523 §2.1) in place of client credentials.
    s256_assumed: use a server that does not advertise S256 (CL-05). origins: further origins at which
        the issuer's endpoints may stand (CL-07). expected_audience: the ``aud`` of exchanged tokens where
        it is not the resource (CL-10). send_resource: False for servers that refuse RFC 8707.
    dpop: bind tokens to a key of ours (RFC 9449): ``auto`` where both the upstream and its server say that they
        know it, ``on`` where the server does.
    parameters: added to authorization requests (``audience``, ``access_type``).
    group: which of our metadata documents names its redirect URI. network, ca_file: of the authorization server; a PEM
        bundle instead of the system's roots.
    tenants: whose people may connect an account; ``*`` is all.
    idp, idp_client_id, idp_secret: the identity provider that gives ID-JAGs, and our client there.
    """

    url: str
    ways: tuple[Way, ...] = ("user",)
    kind: Literal["mcp", "a2a", "llm"] = "mcp"
    title: str = ""
    network: Network = "public"
    ca_file: str = ""
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    client_id: str = ""
    secret: Secret = Secret()
    method: Method = ""
    assertion: Secret = Secret()
    s256_assumed: bool = False
    origins: tuple[str, ...] = ()
    expected_audience: str = ""
    resource: str = ""
    send_resource: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    dpop: Literal["auto", "on", "off"] = "auto"
    group: str = ""
    tenants: tuple[str, ...] = ("*",)
    idp: str = ""
    idp_client_id: str = ""
    idp_secret: Secret = Secret()

    def serves(self, tenant: str) -> bool:
        """Return whether people of a tenant may use this upstream."""
        return "*" in self.tenants or tenant in self.tenants

    def check(self, name: str) -> None:
        """Raise ConfigFault for what cannot work: upstream_auth."""
        where = f"the sign-in of upstream {name}"
        if not self.ways:
            raise ConfigFault("upstream_auth", where, fix="name at least one of exchange, id_jag, user, client")
        if "id_jag" in self.ways and not (self.idp and self.idp_client_id):
            raise ConfigFault("upstream_auth", where, fix="id_jag needs idp and idp_client_id")
        if OWN_PARAMETERS & self.parameters.keys():
            raise ConfigFault("upstream_auth", where, fix="parameters may not replace what we send ourselves")
        if (self.secret or self.assertion) and not self.issuer:
            # Else the upstream could name another server, and be sent what belongs to the right one (CL-07, SEP-2352).
            raise ConfigFault("upstream_auth", where, fix="a secret or an assertion is for one issuer: set issuer")
        if self.secret and not self.client_id:
            raise ConfigFault("upstream_auth", where, fix="a secret belongs to a client_id")
        if self.assertion and not ("client" in self.ways and self.client_id):
            raise ConfigFault("upstream_auth", where, fix="an assertion is for the way client, with a client_id")
        if self.method.startswith("client_secret") and not self.secret:
            raise ConfigFault("upstream_auth", where, fix="client_secret methods need secret_env or secret_file")
