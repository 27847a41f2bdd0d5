"""``POST /ssf/events``: events by push (RFC 8935). 202 once an event is kept; its effect follows at once.

The bearer says which transmitter it is, the SET must then be that one's: a secret of one transmitter carries no event
of another. Errors are JSON with ``err`` of RFC 8935 §2.4 and a fixed sentence.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import UpstreamFault
from firewall.core.permit import FixedReply
from firewall.identity.settings import Noted
from firewall.identity.ssf.event import InvalidSet, SetError, parse
from firewall.identity.ssf.receiver import Receiver
from firewall.identity.ssf.settings import LEAST_SECRET_CHARS, Transmitter
from firewall.identity.throttle import Throttle
from firewall.identity.web import NO_STORE, NOSNIFF, WebRequest
from firewall.wire import strict_json

MEDIA_TYPE: Final = b"application/secevent+jwt"
FAILURES_PER_MINUTE: Final = 60
WORDS: Final[dict[SetError, str]] = {
    "invalid_request": "The body is not a security event token of this profile, or it is too old.",
    "invalid_key": "The key or algorithm of the token is not acceptable.",
    "invalid_issuer": "The issuer of the token is not acceptable.",
    "invalid_audience": "The token is not for this receiver.",
    "authentication_failed": "The transmitter could not be authenticated.",
    "access_denied": "Too many requests.",
}


class PushEndpoint:
    """Serves the path. secret: reads ``env:`` and ``file:`` sources when they are used, so that a new one counts."""

    def __init__(self, receiver: Receiver, secret: Callable[[str], str], throttle: Throttle, noted: Noted) -> None:
        self._receiver = receiver
        self._secret = secret
        self._throttle = throttle
        self._noted = noted

    async def serve(self, request: WebRequest) -> FixedReply:
        """Take one event. Raises StateUnavailable, AuditUnavailable: the transmitter tries again."""
        known = self._transmitters(request)
        if not known:
            if not self._throttle.allow("ssf_push", request.client_ip, per_minute=FAILURES_PER_MINUTE):
                return _refused("access_denied", 429)
            self._noted("identity.signal.stranger", request.client_ip, {})
            return _refused("authentication_failed", 401, ((b"www-authenticate", b'Bearer realm="ssf"'),))
        kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != MEDIA_TYPE:
            return _refused("invalid_request", 415)
        token = request.body.strip()
        try:
            await self._receiver.take(_meant(known, token), token)
        except InvalidSet as error:
            return _refused(error.err, 400)
        return FixedReply(202, (NOSNIFF, NO_STORE), b"")

    def _transmitters(self, request: WebRequest) -> list[Transmitter]:
        """Return whose secret was presented. Every configured one is compared, so that time tells nothing."""
        scheme, _, presented = request.headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(presented.strip()).digest()
        found: list[Transmitter] = []
        for transmitter in self._receiver.transmitters.values():
            if not transmitter.push_secret:
                continue
            try:
                expected = self._secret(transmitter.push_secret)
            except UpstreamFault:
                continue  # a secret that cannot be read is nobody's
            same = hmac.compare_digest(hashlib.sha256(expected.encode()).digest(), digest)
            if same and len(expected) >= LEAST_SECRET_CHARS:
                found.append(transmitter)
        return found if scheme.lower() == b"bearer" else []


def _meant(known: list[Transmitter], token: bytes) -> Transmitter:
    """Return which of several with one secret is meant: the token says so, of which nothing else is believed yet."""
    try:
        issuer = parse(token).claims.get("iss") if len(known) > 1 else ""
    except InvalidSet:
        issuer = ""
    return next((t for t in known if t.issuer == issuer), known[0])


def _refused(err: SetError, status: int, headers: Headers = ()) -> FixedReply:
    base: Headers = ((b"content-type", b"application/json"), (b"content-language", b"en"), NOSNIFF, NO_STORE)
    return FixedReply(status, (*base, *headers), strict_json.dumps({"err": err, "description": WORDS[err]}))
