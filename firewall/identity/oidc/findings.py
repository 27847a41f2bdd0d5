"""What an examination of an issuer is asked, and what it finds. Values; `examination` does the asking."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from firewall.core.jsonvalue import JSONObject
from firewall.net.address import Network

Outcome = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one need. ``fail``: direct mode is not possible; ``warn``: possible, but know it."""

    need: str
    outcome: Outcome
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and with what.

    issuer: exactly as its tokens say. resource: the URI that a token of it should be for. audiences: values of
    ``aud`` that mean the resource; none means its URI. typ: ``any`` accepts tokens that are not marked.
    client_id, secret: to probe with, and to ask about opaque tokens with; "" for none. introspection: where
    that is done. token: a sample access token for the resource, "" for none.
    """

    issuer: str
    resource: str
    audiences: tuple[str, ...] = ()
    typ: Literal["at+jwt", "any"] = "at+jwt"
    kind: Literal["jwt", "opaque"] = "jwt"
    client_id: str = ""
    redirect_uri: str = ""
    secret: str = field(default="", repr=False)
    introspection: str = ""
    token: str = field(default="", repr=False)
    network: Network = "public"
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Examined:
    """The outcome. metadata: what the issuer published, {} when nothing could be read."""

    issuer: str
    findings: tuple[Finding, ...]
    metadata: JSONObject

    @property
    def missing(self) -> tuple[str, ...]:
        """The needs that are not met."""
        return tuple(dict.fromkeys(f.need for f in self.findings if f.outcome == "fail"))

    @property
    def direct(self) -> bool:
        """Whether direct mode is possible."""
        return not self.missing


def candidates(issuer: str) -> tuple[str, ...]:
    """Return where an issuer's metadata may stand, in the order in which MCP clients look (RFC 8414 §3.1, OIDC).

    With a path: OAuth's inserted, OpenID's inserted, OpenID's appended. Without one the last two are one.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    oauth, openid = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
    inserted = (f"{origin}{oauth}{path}", f"{origin}{openid}{path}")
    return (*inserted, f"{origin}{path}{openid}") if path else inserted
