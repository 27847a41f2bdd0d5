"""Attacks on grants, clients, tenants and ids, each run twice: with its control, where it fails, and without."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import pytest

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Entry
from firewall.identity import opaque
from firewall.identity.clients.registry import Clients
from firewall.identity.engine.grant import TokenGrant
from firewall.identity.oauth21.codes import CodeFacts, Codes
from firewall.identity.oauth21.refresh import RefreshFacts, RefreshTokens
from firewall.identity.opaque import Opaque
from firewall.identity.resources import Resources
from firewall.identity.throttle import Throttle
from firewall.net.runtime import RandomIds
from firewall.state.memory import MemoryCollection
from firewall.wire import oauth
from tests.identity.test_par import push
from tests.identity.test_twins import accepted, always, nothing, patched, signed
from tests.support.door import (
    CIMD_URL,
    GIT,
    RESOURCES,
    TIME,
    Browser,
    Door,
    authorize_query,
    inputs_of,
    make_door,
    redeem,
    refresh,
)

Attack = Callable[[Door], Awaitable[bool]]
ControlOff = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """attack returns whether it succeeded; changes: settings of the door that it is tried on."""

    name: str
    attack: Attack
    off: ControlOff
    changes: dict[str, Any]


CASES: list[Case] = []


def case(name: str, off: ControlOff, **changes: Any) -> Callable[[Attack], Attack]:
    def register(attack: Attack) -> Attack:
        CASES.append(Case(name, attack, off, changes))
        return attack

    return register


# -- AS-06, AS-07: which resource, and which of two values -------------------------------------------------------


@case("as_06 a code redeemed for another resource", patched(TokenGrant, "check_same_resource", nothing))
async def other_resource(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        return (await redeem(http, (await Browser(http).code())["code"], resource=GIT)).status_code == 200


@case("as_06 two resources at once", patched(oauth, "refuse_repeated", nothing), resources=RESOURCES[:1])
async def two_resources(door: Door) -> bool:
    """What comes twice counts as not sent: the only resource would be meant, whatever was asked for."""
    async with door.http() as http:
        query = "&".join(f"{name}={value}" for name, value in authorize_query().items())
        return (await http.get(f"/authorize?{query}&resource={GIT}")).status_code == 200


def _any_known(presented: str, known: Any) -> str:
    return presented or str(next(iter(known)))


@case("as_06 no resource where there are several", patched(oauth, "check_resource", _any_known))
async def no_resource(door: Door) -> bool:
    async with door.http() as http:
        return (await Browser(http).open(authorize_query(resource="-"))).status_code == 200


@case("as_07 a repeated parameter at the token endpoint", patched(oauth, "refuse_repeated", nothing))
async def repeated_at_token(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        form = f"grant_type=authorization_code&code={code}&client_id={CIMD_URL}&code_verifier={'v' * 43}"
        body = f"{form}&resource={TIME}&resource={GIT}"
        reply = await http.post("/token", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
    return reply.status_code == 200


@case("as_07 a repeated parameter in a pushed request", patched(oauth, "refuse_repeated", nothing))
async def repeated_in_push(door: Door) -> bool:
    async with door.http() as http:
        assert (await push(http)).status_code == 201
        body = "&".join(f"{name}={value}" for name, value in authorize_query(scope="-").items())
        kind = {"content-type": "application/x-www-form-urlencoded"}
        reply = await http.post("/par", content=f"{body}&scope=time:read&scope=time:write", headers=kind)
    return reply.status_code == 201


# -- AS-09, AS-11, AS-12: what codes and refresh tokens are bound to ------------------------------------------------


def _redeemed(**changes: str) -> ControlOff:
    """Have every code say that it was given for what it is redeemed with."""
    real = Codes.redeem
    return patched(Codes, "redeem", lambda self, text: replace(real(self, text), **changes))


@case("as_09 a code that was given to another client", _redeemed(client_id="tool"))
async def foreign_code(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        return (await redeem(http, code, client_id="tool")).status_code == 200


@case("as_09 a code that came to another address", _redeemed(redirect_uri="http://127.0.0.1:1/else"))
async def strayed_code(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        return (await redeem(http, code, redirect_uri="http://127.0.0.1:1/else")).status_code == 200


def _lasting(self: Codes, facts: CodeFacts, *, real: Any = Codes.issue) -> str:
    self._lifetime_s = 10**6
    return str(real(self, facts))


@case("as_09 a code of two minutes ago", patched(Codes, "issue", _lasting))
async def old_code(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        door.clock.advance(120)
        return (await redeem(http, code)).status_code == 200


def _of_whom(
    self: RefreshTokens, text: str, client_id: str, *, real: Any = RefreshTokens.find, given_to: str = CIMD_URL
) -> RefreshFacts:
    return replace(real(self, text, given_to), client_id=client_id)


@case("as_11 the refresh token of another client", patched(RefreshTokens, "find", _of_whom))
async def foreign_refresh(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        return (await refresh(http, first["refresh_token"], client_id="tool")).status_code == 200


# -- AS-21: the registered method -----------------------------------------------------------------------------------


class _AnyMethod(str):
    """A registered method that every presented one equals."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


async def _of_any_method(self: Clients, client_id: str, *, real: Any = Clients.find, **more: Any) -> Any:
    client = await real(self, client_id, **more)
    return client and replace(client, auth_method=_AnyMethod(client.auth_method))


@case("as_21 a client with a key that shows none", patched(Clients, "find", _of_any_method))
async def method_confusion(door: Door) -> bool:
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "client_id": "svc-batch", "resource": TIME, "scope": "time:read"}
        return (await http.post("/token", data=form)).status_code == 200


# -- AS-23: tenants ---------------------------------------------------------------------------------------------------


def _unkeyed(self: MemoryCollection, tenant: str, key: str) -> Entry | None:
    return next((entries[key] for entries in self._tenants.values() if key in entries), None)


@case("as_23 what another tenant keeps under the same key", patched(MemoryCollection, "get", _unkeyed))
async def another_tenants_row(door: Door) -> bool:
    user = await door.user()
    assert door.identity.users.get("acme", user.subject)
    return door.identity.users.get("umbrella", user.subject) is not None


def _wherever(prefix: str, text: str, real: Any = opaque.locate) -> Opaque | None:
    """Read the tenant from the text and the key from its secret alone, in whichever tenant that stands."""
    found = real(prefix, text)
    return found and Opaque(text, "acme", opaque.digest(text.partition(".")[0] + ".acme"))


@case("as_23 a code under the name of another tenant", patched(opaque, "locate", _wherever))
async def renamed_code(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        return (await redeem(http, code.removesuffix("acme") + "umbrella")).status_code == 200


@case(
    "as_23 a token of one tenant at the resource of another",
    patched(Resources, "is_closed_to", lambda *_: False),
    resources=(replace(RESOURCES[0], tenants=("acme",)),),
)
async def another_tenants_resource(door: Door) -> bool:
    assert accepted(door, signed(door))
    return accepted(door, signed(door, tenant="umbrella"))


# -- AS-24: ids -----------------------------------------------------------------------------------------------------


def _in_a_row(numbers: Iterator[int]) -> Any:
    return lambda self, prefix: f"{prefix}_{next(numbers):026d}"


@case("as_24 an id that follows from the one before", lambda patch: patch.setattr(RandomIds, "new", _in_a_row(count())))
async def next_id(door: Door) -> bool:
    """Who begins two transactions of their own knows the name of the next one, which is somebody else's."""
    names: list[str] = []
    async with door.http() as http:
        for _ in range(3):
            names.append(inputs_of((await Browser(http).open(authorize_query())).text)["txn"])
    numbers = [int(name.partition("_")[2], 36) for name in names]
    return numbers[2] - numbers[1] == numbers[1] - numbers[0]


# -- AS-01, AS-19, OP-06 ---------------------------------------------------------------------------------------------


@case("as_01 an error told to an address that nobody registered", patched(oauth, "redirect_matches", always))
async def error_elsewhere(door: Door) -> bool:
    async with door.http() as http:
        wrong = authorize_query(redirect_uri="https://evil.example/cb", response_type="token")
        return (await Browser(http).open(wrong)).headers.get("location", "").startswith("https://evil.example/")


@case("as_19 a password found by trying", patched(Throttle, "wait_s", lambda *_: 0))
async def guessed(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        for number in range(9):
            assert (await browser.sign_in(page, password=f"wrong horse {number}")).status_code in (403, 429)
        return (await browser.sign_in(page)).status_code == 200


@case("as_19 requests without end", patched(Throttle, "allow", always), authorize_per_minute=5, token_per_minute=5)
async def flood(door: Door) -> bool:
    async with door.http() as http:
        asked = [(await http.get("/authorize", params=authorize_query())).status_code for _ in range(10)]
        redeemed = [(await redeem(http, "x")).status_code for _ in range(10)]
    return 429 not in asked or 429 not in redeemed


def _lossy(self: Door, event: str, facts: JSONObject) -> None:
    if not self.audit_down:
        self.events.append((event, facts))


@case("op_06 a token that no record tells of", patched(Door, "record", _lossy))
async def unrecorded(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        door.audit_down = True
        return (await redeem(http, code)).status_code == 200


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name.replace(" ", "_"))
async def test_attack_on_grants_fails_with_its_control_and_works_without(
    one: Case, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        one.off(monkeypatch)
    assert await one.attack(make_door(**one.changes)) is (control == "off")
