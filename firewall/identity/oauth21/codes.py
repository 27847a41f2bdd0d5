"""Authorization codes: 256 bits, 60 s, one shot, bound to all that was agreed (AS-09, AS-10)."""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records, standing
from firewall.identity.grants import OAuthGrants
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes
from firewall.wire.oauth import OAuthError

PREFIX = "bzc"
REMEMBER_S = 600  # how long a spent code is recognised as such


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """What a code stands for. Times in Unix seconds.

    dpop_jkt: the key that must prove itself at the token endpoint (RFC 9449 §10); "" for any or none. run: the
    run that the person began with it (`run_tokens`), "" for none.
    """

    tenant: str
    subject: str
    client_id: str
    client_name: str
    redirect_uri: str
    code_challenge: str
    resource: str
    scopes: tuple[str, ...]
    grant_id: str
    session_id: str
    auth_time: int
    acr: str
    standing: int = 0
    amr: tuple[str, ...] = ()
    dpop_jkt: str = ""
    authorization_details: tuple[JSONObject, ...] = ()
    run: str = ""


class Codes:
    """Issues and redeems codes."""

    def __init__(
        self, store: Store, clock: Clock, grants: OAuthGrants, token_bytes: TokenBytes, *, lifetime_s: int
    ) -> None:
        self._codes = store.collection("oauth_codes")
        self._issued = store.collection("oauth_codes_issued")
        self._clock = clock
        self._grants = grants
        self._token_bytes = token_bytes
        self._lifetime_s = lifetime_s

    def issue(self, facts: CodeFacts) -> str:
        """Return a new code."""
        code = opaque.mint(PREFIX, facts.tenant, self._token_bytes)
        now_us = self._clock.now_us()
        # Written first and kept longer: whoever comes second finds which grant must end, however
        # closely the two redemptions race.
        owner = records.encode({"sub": facts.subject, "gid": facts.grant_id})
        self._issued.put(facts.tenant, code.key, owner, expires_us=now_us + REMEMBER_S * SECOND_US)
        value: JSONObject = {
            "issued_s": now_us // SECOND_US,
            "sub": facts.subject,
            "client_id": facts.client_id,
            "client_name": facts.client_name,
            "redirect_uri": facts.redirect_uri,
            "code_challenge": facts.code_challenge,
            "resource": facts.resource,
            "scopes": list(facts.scopes),
            "gid": facts.grant_id,
            "sid": facts.session_id,
            "auth_time": facts.auth_time,
            "acr": facts.acr,
            "standing": facts.standing,
            "amr": list(facts.amr),
            "jkt": facts.dpop_jkt,
            "details": list(facts.authorization_details),
            "run": facts.run,
        }
        expires_us = now_us + self._lifetime_s * SECOND_US
        self._codes.put(facts.tenant, code.key, records.encode(value), expires_us=expires_us)
        return code.text

    def redeem(self, text: str) -> CodeFacts:
        """Return what the code stood for; at most one caller ever gets it.

        Raises OAuthError invalid_grant: code_unknown, code_replayed (the whole grant has ended by then),
        grant_ended (the client or the session has).
        """
        code = opaque.locate(PREFIX, text)
        if code is None:
            raise OAuthError("invalid_grant", "code_unknown")
        # Looked at first: of fifty that come at once all but a few then wait for no write lock. Who gets it is decided
        # by the taking alone.
        entry = self._codes.get(code.tenant, code.key) and self._codes.take(code.tenant, code.key)
        if entry is None:
            spent = self._issued.get(code.tenant, code.key)
            if spent is None:
                raise OAuthError("invalid_grant", "code_unknown")
            owner = records.decode(spent.value)
            self._grants.revoke(
                code.tenant, records.text(owner, "sub"), records.text(owner, "gid"), reason="code_replayed"
            )
            raise OAuthError("invalid_grant", "code_replayed")
        value = records.decode(entry.value)
        names = (standing.client(records.text(value, "client_id")), standing.session(records.text(value, "sid")))
        if self._grants.standing.ended(code.tenant, names, records.number(value, "issued_s")):
            raise OAuthError("invalid_grant", "grant_ended")
        return CodeFacts(
            tenant=code.tenant,
            subject=records.text(value, "sub"),
            client_id=records.text(value, "client_id"),
            client_name=records.text(value, "client_name"),
            redirect_uri=records.text(value, "redirect_uri"),
            code_challenge=records.text(value, "code_challenge"),
            resource=records.text(value, "resource"),
            scopes=records.texts(value, "scopes"),
            grant_id=records.text(value, "gid"),
            session_id=records.text(value, "sid"),
            auth_time=records.number(value, "auth_time"),
            acr=records.text(value, "acr"),
            standing=records.number(value, "standing"),
            amr=records.texts(value, "amr"),
            dpop_jkt=records.text(value, "jkt"),
            authorization_details=records.objects(value, "details"),
            run=records.text(value, "run"),
        )
