"""Events by poll (RFC 8936): we ask, take, and acknowledge with the next question what is kept.

Of the node's workers one asks at a time, by a claim that ends by itself. What could not be taken is reported back
under ``setErrs``; what was taken and not yet acknowledged comes again, and is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from firewall.core.errors import BartizanError, Conflict, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.records import SECOND_US
from firewall.identity.ssf.event import InvalidSet
from firewall.identity.ssf.push import WORDS
from firewall.identity.ssf.receiver import Receiver
from firewall.identity.ssf.settings import Transmitter
from firewall.net.dial import Purpose
from firewall.wire import jwt, strict_json

AT_ONCE: Final = 50
ANSWER_BYTES: Final = 2 * 1024 * 1024
ASK_S: Final = 10.0
ROUNDS: Final = 20  # questions in a row while more waits


class Poller:
    """Polls one transmitter."""

    def __init__(
        self,
        transmitter: Transmitter,
        receiver: Receiver,
        fetcher: ProviderFetcher,
        secret: Callable[[str], str],
        store: Store,
        clock: Clock,
        on_fault: Callable[[str, str], None] = lambda _code, _detail: None,
    ) -> None:
        self._transmitter = transmitter
        self._receiver = receiver
        self._fetcher = fetcher
        self._secret = secret
        self._claims = store.collection("ssf_claims")
        self._clock = clock
        self._on_fault = on_fault
        self._acks: list[str] = []
        self._errors: dict[str, JSON] = {}
        self._failing = False

    async def run(self) -> None:
        """Ask again and again; runs until cancelled."""
        while True:
            try:
                if self._my_turn():
                    await self.round()
                self._failing = False
            except BartizanError as error:
                if not self._failing:
                    self._on_fault("signals_poll", f"{self._transmitter.name}: {error.code}")
                self._failing = True
            await asyncio.sleep(self._transmitter.poll_s)

    async def round(self) -> int:
        """Ask until nothing more waits; return how many events were taken. Raises UpstreamFault, Malformed."""
        taken = 0
        for _ in range(ROUNDS):
            sets, more = await self._ask()
            for jti, token in sets:
                taken += await self._take(jti, token)
            if not more:
                break
        if self._acks or self._errors:
            await self._ask(most=0)
        return taken

    async def _take(self, jti: str, token: str) -> int:
        try:
            await self._receiver.take(self._transmitter, token.encode("utf-8", "surrogatepass"), expected_jti=jti)
        except InvalidSet as error:
            self._errors[jti] = {"err": error.err, "description": WORDS[error.err]}
            return 0
        self._acks.append(jti)
        return 1

    async def _ask(self, *, most: int = AT_ONCE) -> tuple[list[tuple[str, str]], bool]:
        """Send one question with what is to be acknowledged; return what came, and whether more waits."""
        acks, errors = self._acks[:], dict(self._errors)
        told: list[JSON] = list(acks)
        wish: JSONObject = {"maxEvents": most, "returnImmediately": True, "ack": told}
        if errors:
            wish["setErrs"] = errors
        given = self._transmitter
        fetched = await self._fetcher.fetch(
            Purpose.SIGNALS,
            given.poll_url,
            network=given.network,
            max_bytes=ANSWER_BYTES,
            timeout_s=ASK_S,
            headers=(
                (b"authorization", f"Bearer {self._secret(given.poll_secret)}".encode("ascii")),
                (b"content-type", b"application/json"),
                (b"accept", b"application/json"),
            ),
            body=strict_json.dumps(wish),
        )
        if fetched.status != 200:
            raise Malformed("poll_refused", str(fetched.status))
        sets, more = _parse(fetched.body)
        self._acks = [jti for jti in self._acks if jti not in acks]
        self._errors = {jti: said for jti, said in self._errors.items() if jti not in errors}
        self._receiver.health.heard(given)
        return sets, more

    def _my_turn(self) -> bool:
        name = f"poll/{self._transmitter.name}"
        expires_us = self._clock.now_us() + self._transmitter.poll_s * SECOND_US
        try:
            self._claims.put(self._transmitter.tenant, name, b"", expires_us=expires_us, if_version=0)
        except Conflict:
            return False
        return True


def _parse(data: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Return the SETs of an answer by their ids. Raises Malformed."""
    value = strict_json.loads(data, max_depth=4)
    sets = value.get("sets", {}) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(sets, dict) or len(sets) > AT_ONCE:
        raise Malformed("poll_answer")
    found: list[tuple[str, str]] = []
    for jti, token in sets.items():
        if not isinstance(token, str) or not 0 < len(jti) <= jwt.JTI_CHARS:
            raise Malformed("poll_answer")
        found.append((jti, token))
    return found, value.get("moreAvailable") is True
