"""Tokens that an authorization server makes for us without a browser: exchange, ID-JAG, client credentials.

- Exchange (RFC 8693): our own fresh assertion about the user, a minute long and for that server alone,
  never the token that came in (RS-16); ourselves as the actor, and behind us the program that asked.
- ID-JAG: the user's identity provider gives an assertion for the upstream's server, which that server
  turns into a token (draft-ietf-oauth-identity-assertion-authz-grant; RFC 7523 §2.1).
- Client credentials (RFC 6749 §4.4), or an assertion of our platform about this workload (RFC 7523 §2.1):
  us, for nobody in particular.

What a server made about a user is verified before use (CL-10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.core.errors import BartizanError, UpstreamFault
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record
from firewall.identity.upstream.discovery import Discovery, Found
from firewall.identity.upstream.metadata import ServerMetadata
from firewall.identity.upstream.our_client import ClientIdentity, OurClient
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.secrets import read_secret
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.identity.upstream.subjects import SubjectTokens
from firewall.identity.upstream.token_client import Bound, TokenClient, TokenRefused, TokenReply
from firewall.identity.upstream.verify import TokenVerifier

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  a name
ID_JAG: Final = "urn:ietf:params:oauth:token-type:id-jag"
DEFAULT_S: Final = 300  # where a server does not say how long a token lives


@dataclass(frozen=True, slots=True)
class Minted:
    """A token to present. until_us: after four fifths of its life, which ends at ``ends_us``. renewed: made because another was refused."""

    token: str = field(repr=False)
    scopes: tuple[str, ...]
    obtained_us: int
    until_us: int
    ends_us: int
    token_type: str = "bearer"  # noqa: S105  a type
    renewed: bool = False


class Minting:
    """Asks for tokens. Keeps nothing: the broker does."""

    def __init__(
        self,
        identity: ClientIdentity,
        registrations: Registrations,
        discovery: Discovery,
        tokens: TokenClient,
        verifier: TokenVerifier,
        subjects: SubjectTokens,
        clock: Clock,
        record: Record,
        environment: Mapping[str, str],
    ) -> None:
        self._identity = identity
        self._registrations = registrations
        self._discovery = discovery
        self._tokens = tokens
        self._verifier = verifier
        self._subjects = subjects
        self._clock = clock
        self._record = record
        self._environment = environment

    async def mint(
        self,
        way: str,
        principal: Principal,
        upstream: str,
        auth: UpstreamAuth,
        found: Found,
        *,
        scopes: tuple[str, ...] = (),
    ) -> Minted:
        """Return a fresh token. scopes: beyond the configured or advertised ones.

        Raises UpstreamFault("credentials") when the server refuses, and other UpstreamFaults.
        """
        server = found.server
        client = await self._registrations.client(upstream, auth, server)
        wanted = tuple(dict.fromkeys((*(auth.scopes or found.scopes), *scopes)))
        resource = found.resource if auth.send_resource else ""
        form = {"scope": " ".join(wanted), "resource": resource}
        bound = (principal.tenant, upstream) if found.binds(auth) else None
        try:
            if way == "exchange":
                reply = await self._exchange(principal, auth, server, client, form, bound)
            elif way == "id_jag":
                reply = await self._id_jag(principal, auth, found, client, form, bound)
            else:
                asked = {**self._ourselves(auth), **form}
                reply = await self._tokens.ask(
                    server, client, asked, network=auth.network, ca_file=auth.ca_file, bound=bound
                )
        except TokenRefused as error:
            self._note(principal, upstream, way, error.code)
            raise UpstreamFault(
                "credentials", f"{upstream}: its authorization server refused ({way}, {error.code})"
            ) from None
        if way != "client":
            audience = auth.expected_audience or found.resource
            await self._verifier.check(reply.access_token, server, audience, network=auth.network, ca_file=auth.ca_file)
        self._note(principal, upstream, way, "")
        now_us = self._clock.now_us()
        life_us = (reply.expires_in or DEFAULT_S) * SECOND_US
        ends_us, until_us = now_us + life_us, now_us + life_us * 4 // 5
        return Minted(reply.access_token, reply.scopes or wanted, now_us, until_us, ends_us, reply.token_type)

    def _ourselves(self, auth: UpstreamAuth) -> dict[str, str]:
        """Return the grant of ourselves: client credentials, or what our platform says of this workload."""
        if not auth.assertion:
            return {"grant_type": "client_credentials"}
        return {"grant_type": JWT_BEARER, "assertion": read_secret(auth.assertion, self._environment, shared=True)}

    async def _exchange(
        self,
        principal: Principal,
        auth: UpstreamAuth,
        server: ServerMetadata,
        client: OurClient,
        form: dict[str, str],
        bound: Bound | None,
    ) -> TokenReply:
        issuer = server.issuer
        reply = await self._tokens.ask(
            server,
            client,
            {
                "grant_type": EXCHANGE,
                "subject_token": self._identity.about_user(
                    principal.tenant, principal.subject, issuer, auth_time=principal.auth_time, acr=principal.acr
                ),
                "subject_token_type": JWT,
                "actor_token": self._identity.about_us(issuer, principal.client_id),
                "actor_token_type": JWT,
                "requested_token_type": ACCESS_TOKEN,
                **form,
            },
            network=auth.network,
            ca_file=auth.ca_file,
            bound=bound,
        )
        if reply.issued_token_type != ACCESS_TOKEN:
            raise UpstreamFault("credentials", "an exchange gave another kind of token than was asked for")
        return reply

    async def _id_jag(
        self,
        principal: Principal,
        auth: UpstreamAuth,
        found: Found,
        client: OurClient,
        form: dict[str, str],
        bound: Bound | None,
    ) -> TokenReply:
        subject = self._subjects.find(principal.tenant, principal.subject, auth.idp)
        if subject is None:
            raise UpstreamFault(
                "credentials",
                "the person's identity provider gave nothing that an ID-JAG can be asked for with",
                fix="the person signs in again through the identity provider",
            )
        about = UpstreamAuth(
            url=auth.idp,
            issuer=auth.idp,
            resource=auth.idp,
            network=auth.network,
            ca_file=auth.ca_file,
            origins=auth.origins,
        )
        idp = (await self._discovery.find("idp", about)).server
        ours = self._registrations.registered(auth.idp_client_id, auth.idp_secret, "", idp)
        given = await self._tokens.ask(
            idp,
            ours,
            {
                "grant_type": EXCHANGE,
                "requested_token_type": ID_JAG,
                "audience": found.server.issuer,
                "subject_token": subject.token,
                "subject_token_type": subject.token_type,
                **form,
                "resource": found.resource,
            },
            network=auth.network,
            ca_file=auth.ca_file,
            assertion=True,
        )
        if given.issued_token_type != ID_JAG:
            raise UpstreamFault("credentials", "the identity provider gave another kind of token than an ID-JAG")
        asked = {"grant_type": JWT_BEARER, "assertion": given.access_token, **form}
        return await self._tokens.ask(
            found.server, client, asked, network=auth.network, ca_file=auth.ca_file, bound=bound
        )

    def _note(self, principal: Principal, upstream: str, way: str, refused: str) -> None:
        event = "identity.upstream.refused" if refused else "identity.upstream.obtained"
        facts = {"tenant": principal.tenant, "sub": principal.subject, "client_id": principal.client_id}
        try:
            self._record(event, {**facts, "upstream": upstream, "way": way, **({"code": refused} if refused else {})})
        except BartizanError:
            pass  # the exchange that needs the credential is recorded by itself, or refused
