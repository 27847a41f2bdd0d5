"""Clients that an operator registers by command: kept, found by every worker, and gone with all they held."""

from __future__ import annotations

import hashlib

import httpx2
import pytest

from firewall.core.errors import Malformed, Unauthenticated
from firewall.identity.settings import ClientSettings
from firewall.state.memory import MemoryStore
from tests.support.door import CLIENT_KEY, TIME, Browser, Door, authorize_query, make_door, public_jwks, redeem

CALLBACK = "http://127.0.0.1/callback"


def wanted(client_id: str = "svc", **changes: object) -> ClientSettings:
    values: dict[str, object] = {
        "auth_method": "client_secret_basic",
        "grant_types": ("client_credentials",),
        "scopes": ("time:*",),
        "tenant": "acme",
        **changes,
    }
    return ClientSettings(client_id, "Service", **values)  # type: ignore[arg-type]


async def ask(door: Door, client_id: str, secret: str) -> httpx2.Response:
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": TIME, "scope": "time:read"}
        return await http.post("/token", data=form, auth=(client_id, secret))


async def test_a_client_with_a_secret_that_was_made_here_gets_tokens_at_once() -> None:
    door = make_door()
    made = door.identity.registered.add(wanted(), by="uid:1000")
    assert made.secret.startswith("bzs_")
    assert len(made.secret) == 47  # 256 random bits
    assert (await ask(door, "svc", made.secret)).status_code == 200
    assert (await ask(door, "svc", made.secret + "x")).status_code == 401
    assert made.secret not in repr(made)
    (event,) = door.named("identity.client.added")
    assert event == {"tenant": "acme", "client_id": "svc", "method": "client_secret_basic", "by": "uid:1000"}


async def test_only_the_digest_of_a_secret_is_kept() -> None:
    door = make_door()
    made = door.identity.registered.add(wanted(), by="me")
    assert isinstance(door.store, MemoryStore)
    kept = b"".join(entry.value for entry in door.store.collection("oauth_clients").scan("_node"))
    assert made.secret.encode() not in kept
    assert hashlib.sha256(made.secret.encode()).hexdigest().encode() in kept
    (listed,) = door.identity.registered.list("acme")
    assert listed.secret == ""


async def test_another_secret_ends_the_old_one_and_what_it_brought() -> None:
    door = make_door()
    first = door.identity.registered.add(wanted(), by="me")
    token = (await ask(door, "svc", first.secret)).json()["access_token"]
    assert door.verified(token)
    door.clock.advance(1)
    second = door.identity.registered.rotate_secret("acme", "svc", by="me")
    assert (await ask(door, "svc", first.secret)).status_code == 401
    door.clock.advance(301)  # guesses wait
    assert (await ask(door, "svc", second.secret)).status_code == 200
    with pytest.raises(Unauthenticated):
        door.verified(token)


async def test_removing_a_client_ends_its_tokens_in_every_worker() -> None:
    door = make_door()
    made = door.identity.registered.add(wanted(), by="me")
    token = (await ask(door, "svc", made.secret)).json()["access_token"]
    assert door.verified(token)
    assert door.identity.registered.remove("acme", "svc", by="me")
    with pytest.raises(Unauthenticated):
        door.verified(token)


async def test_a_removed_client_is_nobody_and_may_be_registered_anew() -> None:
    door = make_door()
    made = door.identity.registered.add(wanted(), by="me")
    assert door.identity.registered.remove("acme", "svc", by="me")
    assert not door.identity.registered.remove("acme", "svc", by="me")
    assert (await ask(door, "svc", made.secret)).status_code == 401
    again = door.identity.registered.add(wanted(), by="me")
    assert again.secret != made.secret


async def test_a_public_client_logs_a_person_in() -> None:
    door = make_door()
    await door.user()
    door.identity.registered.add(
        wanted("app", auth_method="none", grant_types=("authorization_code",), redirect_uris=(CALLBACK,)), by="me"
    )
    async with door.http() as http:
        code = (await Browser(http).code(authorize_query(client_id="app")))["code"]
        assert (await redeem(http, code, client_id="app")).status_code == 200


async def test_tenants_do_not_see_or_touch_each_other_s_clients() -> None:
    door = make_door()
    door.identity.registered.add(wanted(), by="me")
    assert door.identity.registered.list("other") == []
    assert not door.identity.registered.remove("other", "svc", by="eve")
    with pytest.raises(Malformed, match="client_unknown"):
        door.identity.registered.rotate_secret("other", "svc", by="eve")
    assert await door.identity.clients.find("svc")


@pytest.mark.parametrize(
    ("client", "code"),
    [
        (wanted("tool"), "client_exists"),  # it stands in the configuration
        (wanted("https://app.example/c"), "client_id"),
        (wanted("dcr_mine"), "client_id"),
        (wanted(""), "client_id"),
        (wanted("a b"), "client_id"),
        (wanted("x" * 129), "client_id"),
        (wanted(auth_method="none"), "client_settings"),  # a public client has no tokens of its own
        (wanted(auth_method="private_key_jwt"), "client_settings"),
        (wanted(auth_method="private_key_jwt", jwks={"keys": []}), "jwks_invalid"),
        (wanted(grant_types=("password",)), "client_settings"),
        (wanted(grant_types=("authorization_code",)), "client_settings"),
        (wanted(redirect_uris=("javascript:alert(1)",)), "client_settings"),
        (wanted(tenant=""), "client_settings"),
    ],
)
async def test_a_client_that_contradicts_itself_is_not_registered(client: ClientSettings, code: str) -> None:
    door = make_door()
    with pytest.raises(Malformed) as caught:
        door.identity.registered.add(client, by="me")
    assert caught.value.code == code
    assert door.identity.registered.list("acme") == []


async def test_an_id_is_given_once() -> None:
    door = make_door()
    door.identity.registered.add(wanted(), by="me")
    with pytest.raises(Malformed, match="client_exists"):
        door.identity.registered.add(wanted(), by="me")


async def test_a_client_with_keys_has_no_secret_to_turn() -> None:
    door = make_door()
    door.identity.registered.add(wanted(auth_method="private_key_jwt", jwks=public_jwks(CLIENT_KEY)), by="me")
    with pytest.raises(Malformed, match="client_settings"):
        door.identity.registered.rotate_secret("acme", "svc", by="me")


async def test_a_damaged_id_is_looked_up_nowhere() -> None:
    door = make_door()
    for client_id in ("", "x" * 200, "é", "a\0b", "../x"):
        assert await door.identity.clients.find(client_id) is None
