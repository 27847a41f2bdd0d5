"""Device codes and user codes: asked for by a device, decided by a person, polled, used once (RFC 8628).

    pending ──decide──▶ approved ──poll──▶ gone        device code: 256 bits, kept as a digest
       │                   denied ──poll──▶ gone       user code: 8 letters of 20, kept as a digest, 34 bits,
       └── lifetime over: expired_token                guarded by its short life and by counted tries

Whoever asks has no tenant yet: records stand under the node's own until a person decides, and how many may wait is
bounded (`places`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Entry, Store
from firewall.identity import opaque, records
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.places import Places
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes
from firewall.identity.throttle import NODE
from firewall.wire.oauth import OAuthError

PREFIX: Final = "bzd"
ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, so no words
USER_CODE_CHARS: Final = 8
INTERVAL_S: Final = 5
SLOWER_S: Final = 5
REMEMBER_S: Final = 300  # how long an expired code is told as such
TRIES: Final = 4


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a device asked for. key: its record; details: canonical text, "" for none; expires_s: Unix seconds."""

    key: str
    user_code: str
    client_id: str
    resource: str
    scope: tuple[str, ...]
    details: str
    expires_s: int


@dataclass(frozen=True, slots=True)
class IssuedDevice:
    """The two codes of a new request, each told once."""

    device_code: str
    user_code: str
    expires_in: int


class DeviceCodes:
    """Issues, finds, decides and polls."""

    def __init__(self, store: Store, clock: Clock, token_bytes: TokenBytes, *, lifetime_s: int) -> None:
        self._devices = store.collection("device_codes")
        self._by_user_code = store.collection("device_user_codes")
        self._clock = clock
        self._token_bytes = token_bytes
        self._lifetime_s = lifetime_s
        self._places = Places(
            store,
            clock,
            token_bytes,
            "device_codes",
            alive=lambda pair: self._devices.get(NODE, pair.partition("/")[0]) is not None,
            remove=self._forget,
        )

    def issue(
        self, client_id: str, resource: str, scope: tuple[str, ...], details: str, *, address: str
    ) -> IssuedDevice:
        """Keep a checked request; return its codes. address: whose place it takes.

        Raises OAuthError temporarily_unavailable: user_code_taken; StateUnavailable.
        """
        device = opaque.mint(PREFIX, "device", self._token_bytes)
        now_s = self._clock.now_us() // SECOND_US
        value: JSONObject = {
            "client_id": client_id,
            "resource": resource,
            "scope": list(scope),
            "details": details,
            "state": "pending",
            "expires_s": now_s + self._lifetime_s,
            "interval_s": INTERVAL_S,
            "polled_us": 0,
        }
        for _ in range(TRIES):
            user_code = self._user_code()
            try:
                self._by_user_code.put(
                    NODE,
                    opaque.digest(user_code),
                    device.key.encode(),
                    expires_us=(now_s + self._lifetime_s) * SECOND_US,
                    if_version=0,
                )
            except Conflict:
                continue
            kept_until_us = (now_s + self._lifetime_s + REMEMBER_S) * SECOND_US
            kept, pair = records.encode(value), f"{device.key}/{opaque.digest(user_code)}"
            self._places.take(address, pair, size=len(kept), expires_us=kept_until_us)
            self._devices.put(NODE, device.key, kept, expires_us=kept_until_us)
            return IssuedDevice(device.text, user_code, self._lifetime_s)
        raise OAuthError("temporarily_unavailable", "user_code_taken")

    def _forget(self, pair: str) -> None:
        device, _, user_code = pair.partition("/")
        self._by_user_code.delete(NODE, user_code)
        self._devices.delete(NODE, device)

    def find(self, typed: str) -> DeviceRequest | None:
        """Return the undecided request that a typed user code belongs to; case, hyphens and spaces do not matter."""
        user_code = normal(typed)
        index = self._by_user_code.get(NODE, opaque.digest(user_code)) if user_code else None
        if index is None:
            return None
        entry = self._devices.get(NODE, index.value.decode())
        if entry is None:
            return None
        value = records.decode(entry.value)
        expires_s = records.number(value, "expires_s")
        if records.text(value, "state") != "pending" or self._clock.now_us() >= expires_s * SECOND_US:
            return None
        return DeviceRequest(
            key=entry.key,
            user_code=user_code,
            client_id=records.text(value, "client_id"),
            resource=records.text(value, "resource"),
            scope=records.texts(value, "scope"),
            details=records.text(value, "details"),
            expires_s=expires_s,
        )

    def decide(self, request: DeviceRequest, facts: CodeFacts | None) -> bool:
        """Write a person's decision, None for no; False when it was decided or polled away meanwhile."""
        # The user code is worth nothing from here on, whoever else has seen it.
        if self._by_user_code.take(NODE, opaque.digest(request.user_code)) is None:
            return False
        for _ in range(TRIES):
            entry = self._devices.get(NODE, request.key)
            value = records.decode(entry.value) if entry else {}
            if entry is None or records.text(value, "state") != "pending":
                return False
            value["state"] = "denied" if facts is None else "approved"
            if facts is not None:
                value["facts"] = _value(facts)
            if self._write(entry, value):
                return True
        return False

    def poll(self, device_code: str, client_id: str) -> CodeFacts:
        """Return what a person agreed to, once.

        Raises OAuthError (RFC 8628 §3.5): invalid_grant, authorization_pending, slow_down, access_denied, expired_token.
        """
        device = opaque.locate(PREFIX, device_code)
        for _ in range(TRIES):
            entry = self._devices.get(NODE, device.key) if device else None
            if entry is None:
                raise OAuthError("invalid_grant", "device_code_unknown")
            value = records.decode(entry.value)
            if records.text(value, "client_id") != client_id:
                raise OAuthError("invalid_grant", "device_code_foreign")
            now_us = self._clock.now_us()
            if now_us >= records.number(value, "expires_s") * SECOND_US:
                raise OAuthError("expired_token", "device_code_expired")
            state = records.text(value, "state")
            if state == "approved":
                taken = self._devices.take(NODE, entry.key)
                if taken is None:
                    break
                return _facts(records.decode(taken.value))
            if state == "denied":
                self._devices.delete(NODE, entry.key)
                raise OAuthError("access_denied", "device_denied")
            interval_s = records.number(value, "interval_s")
            hasty = now_us - records.number(value, "polled_us") < interval_s * SECOND_US
            value["polled_us"] = now_us
            if hasty:
                value["interval_s"] = min(interval_s + SLOWER_S, self._lifetime_s)
            if self._write(entry, value):
                raise OAuthError("slow_down" if hasty else "authorization_pending", "device_pending")
        raise OAuthError("invalid_grant", "device_code_unknown")

    def _write(self, entry: Entry, value: JSONObject) -> bool:
        try:
            self._devices.put(
                NODE, entry.key, records.encode(value), expires_us=entry.expires_us, if_version=entry.version
            )
        except Conflict:
            return False
        return True

    def _user_code(self) -> str:
        letters = ""
        while len(letters) < USER_CODE_CHARS:
            # Bytes from 240 on are thrown away: the rest falls evenly on twenty letters.
            letters += "".join(ALPHABET[b % 20] for b in self._token_bytes(16) if b < 240)
        return letters[:USER_CODE_CHARS]


def shown(user_code: str) -> str:
    """Return a user code as devices show it: ``WDJB-MJHT``."""
    half = USER_CODE_CHARS // 2
    return f"{user_code[:half]}-{user_code[half:]}"


def normal(typed: str) -> str:
    """Return the stored spelling of a typed user code, "" when it cannot be one."""
    letters = "".join(c for c in typed.upper() if c not in " -–")
    return letters if len(letters) == USER_CODE_CHARS and set(letters) <= set(ALPHABET) else ""


def _value(facts: CodeFacts) -> JSONObject:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(facts).items()}


def _facts(record: JSONObject) -> CodeFacts:
    value = record.get("facts")
    if not isinstance(value, dict):
        raise OAuthError("invalid_grant", "device_code_unknown")
    return CodeFacts(
        tenant=records.text(value, "tenant"),
        subject=records.text(value, "subject"),
        client_id=records.text(value, "client_id"),
        client_name=records.text(value, "client_name"),
        redirect_uri="",
        code_challenge="",
        resource=records.text(value, "resource"),
        scopes=records.texts(value, "scopes"),
        grant_id=records.text(value, "grant_id"),
        session_id=records.text(value, "session_id"),
        auth_time=records.number(value, "auth_time"),
        acr=records.text(value, "acr"),
        standing=records.number(value, "standing"),
        amr=records.texts(value, "amr"),
        authorization_details=records.objects(value, "authorization_details"),
    )
