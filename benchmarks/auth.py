"""What it costs to know who is asking: tokens, proofs and client documents, on a real store and shared memory.

    python -m benchmarks.auth

CPU µs of one thread, minimum over repeats; ratios where machines differ. ``raw`` is one ES256 signature
verification of the cryptography package: what no implementation can do without.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey

from benchmarks.stages import Request, Row, awaited_us, cost_us
from firewall.app import Worker
from firewall.core.action import Headers
from firewall.core.jsonvalue import JSONObject
from firewall.core.principal import Principal
from firewall.identity.authorization_server import Identity, build_identity
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.issuers.direct import DirectGiven
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.rfc9068.tokens import TokenFacts, TokenIssuer
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.settings import IdentitySettings, ProtectedResource
from firewall.net.dial import Fetched, Purpose
from firewall.net.runtime import RandomIds, SystemClock
from firewall.state.replays import UsedOnce
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt

ORIGIN = "https://fw.example"
PATH = "/mcp/bench"
RESOURCE = ORIGIN + PATH
LIVE = 10_000
FEW = 100
CLIENT = "https://app.example/oauth/client.json"


class Documents:
    """Keys of every issuer and one client's document; what ``away`` names never answers."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self.away: set[str] = set()

    async def fetch(self, purpose: Purpose, url: str, **_: Any) -> Fetched:
        """Answer at once, or never."""
        if any(url.startswith(issuer) for issuer in self.away):
            await asyncio.Event().wait()
        if purpose is Purpose.CIMD:
            document = {"client_id": CLIENT, "client_name": "Bench", "redirect_uris": ["http://127.0.0.1/cb"]}
            headers = {"content-type": "application/json", "cache-control": "max-age=86400"}
            return Fetched(200, headers, orjson.dumps(document))
        return Fetched(200, {}, self._keys)


@dataclass(frozen=True, slots=True)
class Door:
    """A front door and what mints its tokens. key: of the front door, and of every other issuer here."""

    identity: Identity
    tokens: TokenIssuer
    documents: Documents
    settings: IdentitySettings
    clock: SystemClock
    key: ECKey

    def own(self, *, bound: str = "") -> str:
        """Return one more access token of ours."""
        facts = TokenFacts(
            "default", "u_bench", "bench", RESOURCE, ("bench:read",), secrets.token_hex(8), cnf_jkt=bound
        )
        return self.tokens.issue(facts, lifetime_s=3600).token

    def foreign(self, issuer: str, kid: str = "k") -> str:
        """Return a token of another issuer."""
        now = int(time.time())
        claims: JSONObject = {"iss": issuer, "aud": "bench", "sub": secrets.token_hex(8), "iat": now, "exp": now + 3600}
        return jwt.sign(claims, self.key, alg="ES256", typ="at+jwt", kid=kid)

    def asked(self, token: str, scheme: str = "Bearer", **more: str) -> Headers | dict[bytes, bytes]:
        """Return the headers of a request with a token."""
        named = {name.encode(): value.encode() for name, value in more.items()}
        return {b"authorization": f"{scheme} {token}".encode(), **named}


@contextmanager
def door(directory: Path) -> Iterator[Door]:
    """Build a front door on files, as a worker has it, with two issuers beside it."""
    clock, key = SystemClock(), ECKey.generate_key("P-256", private=True)
    store = SQLiteStore(directory / "store.db", clock=clock)
    marks = SharedMarks(directory / "shared")
    public = key.as_dict(private=False)
    keys = orjson.dumps({"keys": [{**{n: public[n] for n in ("kty", "crv", "x", "y")}, "kid": "k"}]})
    documents = Documents(keys)
    profiles = tuple(
        IssuerProfile(name, f"https://{name}.example", f"https://{name}.example/jwks", audiences={PATH: ("bench",)})
        for name in ("near", "away")
    )
    for profile in profiles:
        Preflights(store, clock).write(profile, ())
    resource = ProtectedResource(PATH, "Bench", ("bench:read",), ("bench:read",))
    settings = IdentitySettings(ORIGIN, resources=(resource,), cimd_hosts=("app.example",))
    identity = build_identity(
        settings,
        store=store,
        marks=marks,
        clock=clock,
        ids=RandomIds(),
        fetcher=documents,
        signing_key=key,
        record=lambda _event, _facts: None,
        direct=DirectGiven(profiles, documents, lambda _source: ""),
        used=UsedOnce(directory / "shared", slots=1 << 20),
    )
    tokens = TokenIssuer(ORIGIN, _keys_of(key), clock, RandomIds(), lifetime_s=3600)
    try:
        yield Door(identity, tokens, documents, settings, clock, key)
    finally:
        store.close()
        marks.close()


def _keys_of(key: ECKey) -> Any:
    from firewall.identity.rfc9068.tokens import SigningKeys

    return SigningKeys(key)


def table(directory: Path) -> list[Row]:
    """Return the figures: name, µs or ratio, note."""
    with door(directory) as made:
        server = made.identity.resource_server
        token = made.own()
        headers: Any = made.asked(token)
        cached = cost_us(lambda: server.authenticate(headers, RESOURCE, default_scope=""))
        raw, uncached = _new_tokens(made)
        rows: list[Row] = [
            ("auth.cached.us", cached, "a token that was seen before: digest, look-up, time, epoch"),
            ("auth.raw_es256.us", raw, "one bare signature verification"),
            ("auth.es256.us", uncached, "a new ES256 token: parse, verify, claims, grant, endings"),
            ("auth.es256.ratio", uncached / raw, "the same in bare verifications"),
        ]
        rows += _proof(made, raw)
        rows += _growth(made)
        rows += asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_async(made))
    return rows


def _new_tokens(made: Door, parts: int = 12, size: int = 50) -> tuple[float, float]:
    """Return a bare verification and a new token, in turn: what disturbs one disturbs the other."""
    private = ec.generate_private_key(ec.SECP256R1())
    data = secrets.token_bytes(600)
    signature, public = private.sign(data, ec.ECDSA(SHA256())), private.public_key()
    server = made.identity.resource_server
    raw = whole = float("inf")
    for _ in range(parts):
        raw = min(raw, cost_us(lambda: public.verify(signature, data, ec.ECDSA(SHA256())), loops=size, repeats=1))
        asked: list[Any] = [made.asked(made.own()) for _ in range(size)]
        began = time.thread_time_ns()
        for one in asked:
            server.authenticate(one, RESOURCE, default_scope="")
        whole = min(whole, (time.thread_time_ns() - began) / size / 1000)
    return raw, whole


def _proof(made: Door, raw: float) -> list[Row]:
    server = made.identity.resource_server
    signer = DPoPSigner(b"b" * 32, made.clock, secrets.token_bytes)
    token = made.own(bound=signer.thumbprint("default", "bench"))
    proofs = iter([signer.proof("default", "bench", method="POST", url=RESOURCE, token=token) for _ in range(3200)])

    def call() -> None:
        headers: Any = made.asked(token, "DPoP", dpop=next(proofs))
        server.authenticate(headers, RESOURCE, default_scope="", method="POST", path=PATH)

    cost = cost_us(call, loops=500)
    return [
        ("auth.dpop.us", cost, "a fresh proof with a known token: parse, verify, URL, hash, used once"),
        ("auth.dpop.ratio", cost / raw, "the same in bare verifications"),
    ]


def _growth(made: Door) -> list[Row]:
    """Compare 100 live tokens with 10,000, in turn. What a client sends lies equally cold in memory both times:
    the request's own bytes are no part of what we keep.
    """
    server = made.identity.resource_server
    few: list[Any] = [made.asked(made.own()) for _ in range(FEW)]
    many: list[Any] = few + [made.asked(made.own()) for _ in range(LIVE - FEW)]
    for one in many:
        server.authenticate(one, RESOURCE, default_scope="")
    copies: list[Any] = [{b"authorization": bytes(bytearray(few[i % FEW][b"authorization"]))} for i in range(LIVE)]
    turns = [itertools.cycle(copies), itertools.cycle(many)]
    best = [float("inf"), float("inf")]
    for _ in range(5):  # in turn: what disturbs one disturbs the other
        for i, turn in enumerate(turns):
            call = functools.partial(_next, server, turn)
            best[i] = min(best[i], cost_us(call, loops=LIVE, repeats=1))
    return [
        ("auth.live_10k.us", best[1], f"cached, in turn over {LIVE} live tokens"),
        ("auth.growth_10k.ratio", best[1] / best[0], f"the same over {FEW} live tokens"),
    ]


async def request_growth(worker: Worker, principal: Principal, request: Request, *, callers: bool) -> Row:
    """Return what 10,000 live tokens add to one enforced call, as a ratio beside 100.

    callers: each token has a subject of its own, so that labels, limits, remembered decisions and whatever else
    is kept per caller count too.
    """
    tokens = worker.identity.operator_tokens._tokens

    def caller(i: int) -> Request:
        facts = TokenFacts(
            principal.tenant,
            f"{principal.subject}-{i}" if callers else principal.subject,
            principal.client_id,
            principal.audience,
            tuple(sorted(principal.scopes)),
            secrets.token_hex(8),
            kind=principal.kind,
        )
        bearer = (b"authorization", f"Bearer {tokens.issue(facts, lifetime_s=3600).token}".encode())
        return replace(
            request, headers=[bearer if name == b"authorization" else (name, v) for name, v in request.headers]
        )

    async def block(turn: Iterator[Request]) -> float:
        started = time.thread_time_ns()
        for _ in range(FEW):
            status, body = await next(turn).through(worker.data_plane)
            if status != 200 or b'"result"' not in body:
                raise RuntimeError(f"the call was not answered: {status} {body[:200]!r}")
        return (time.thread_time_ns() - started) / FEW / 1000

    many = [caller(i) for i in range(LIVE)]
    few = [
        replace(many[i % FEW], headers=[(n, bytes(bytearray(v))) for n, v in many[i % FEW].headers])
        for i in range(LIVE)
    ]
    turns = [itertools.cycle(few), itertools.cycle(many)]
    for _ in range(LIVE // FEW):
        await block(turns[1])  # every token was seen, every caller is known
    blocks = [(await block(turns[0]), await block(turns[1])) for _ in range(2 * LIVE // FEW)]
    ratio = statistics.median(b / a for a, b in blocks)
    middle = [statistics.median(column) for column in zip(*blocks, strict=True)]
    note = f"a 1 KB call over {LIVE} {'callers' if callers else 'live tokens'} beside {FEW}; median of {len(blocks)} pairs; {middle[0]:.0f} and {middle[1]:.0f} us"
    return ("auth.callers_10k.request.ratio" if callers else "auth.live_10k.request.ratio"), ratio, note


def _next(server: Any, turn: Iterator[Any]) -> None:
    server.authenticate(next(turn), RESOURCE, default_scope="")


async def _async(made: Door) -> list[Row]:
    server = made.identity.resource_server
    documents = ClientDocuments(made.settings, made.documents, made.clock)
    await documents.get(CLIENT)
    cimd = await awaited_us(lambda: documents.get(CLIENT), loops=1500)
    near: Any = made.asked(made.foreign("https://near.example"))

    async def ask() -> None:
        await server.admit(near, RESOURCE, default_scope="")

    await ask()
    alone = await awaited_us(ask, loops=1500)
    fresh = await _fresh(made)
    made.documents.away.add("https://away.example")
    waiting = [
        asyncio.create_task(server.admit(made.asked(made.foreign("https://away.example")), RESOURCE, default_scope=""))  # type: ignore[arg-type]
        for _ in range(200)
    ]
    await asyncio.sleep(0.05)
    beside = await awaited_us(ask, loops=1500)
    fresh_beside = await _fresh(made)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    # Alone before and after: a neighbour that came or went meanwhile is no outage.
    alone, fresh = min(alone, await awaited_us(ask, loops=1500)), min(fresh, await _fresh(made))
    return [
        ("auth.cimd_cached.us", cimd, "a client's document that is kept"),
        ("auth.issuer_cached.us", alone, "a known token of another issuer, awaited"),
        ("auth.issuer_es256.us", fresh, "a new one, its issuer's keys at hand"),
        (
            "auth.outage.ratio",
            max(beside / alone, fresh_beside / fresh),
            "the same while 200 wait for an issuer that hangs",
        ),
    ]


async def _fresh(made: Door) -> float:
    server = made.identity.resource_server
    asked: list[Any] = [made.asked(made.foreign("https://near.example")) for _ in range(300)]
    best = float("inf")
    for start in range(0, 300, 60):
        began = time.thread_time_ns()
        for one in asked[start : start + 60]:
            await server.admit(one, RESOURCE, default_scope="")
        best = min(best, (time.thread_time_ns() - began) / 60 / 1000)
    return best


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="bartizan-auth-") as directory:
        for name, value, note in table(Path(directory)):
            print(f"  {name:<28} {value:>10.2f}  {note}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
