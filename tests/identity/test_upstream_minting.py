"""Tokens without a browser: exchange, ID-JAG and client credentials; what is said about users, and what is believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.core.principal import Principal
from firewall.identity.upstream import verify
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from firewall.wire import jwt
from tests.support.issuer import EXCHANGE, JWT_BEARER, Issuer, issuer
from tests.support.kit import principal
from tests.support.upstreams import SECRET, Node, make_node

URL = "https://files.saas.example/mcp"
ADA = principal(
    tenant="acme",
    subject="u_ada",
    issuer="https://fw.example",
    client_id="https://app.example/oauth/client.json",
    acr="mfa",
    auth_time=1_790_000_000,
)


@contextlib.asynccontextmanager
async def node_of(*ways: str, **auth: Any) -> AsyncIterator[tuple[Node, Issuer]]:
    """A node whose upstream's issuer is a test's."""
    async with issuer() as server:
        key = ECKey.generate_key("P-256", private=True)
        given: dict[str, Any] = {
            "url": URL,
            "issuer": server.origin,
            "resource": URL,
            "network": "loopback",
            "client_id": "bartizan",
            "scopes": ("read",),
            **auth,
        }
        node = make_node(key=key, files=UpstreamAuth(ways=ways, **given))  # type: ignore[arg-type]
        try:
            yield node, server
        finally:
            await node.dialler.close()


async def token_of(node: Node, caller: Principal = ADA) -> str:
    ((_, value),) = await node.broker.headers_for(caller, "files")
    return str(value.removeprefix(b"Bearer ").decode())


def read(token: str) -> dict[str, Any]:
    return dict(jwt.parse_compact(token.encode()).claims)


# -- exchange ---------------------------------------------------------------------------------------------


async def test_rs_16_an_exchange_presents_a_fresh_assertion_of_ours_and_never_the_token_that_came_in():
    async with node_of("exchange") as (node, server):
        assert await token_of(node)
        (form,) = server.requests
        assert form["grant_type"] == EXCHANGE
        assert form["resource"] == URL
        assert form["scope"] == "read"
        subject, actor = read(form["subject_token"]), read(form["actor_token"])
        assert subject["aud"] == actor["aud"] == read(form["client_assertion"])["aud"] == server.origin
        assert (subject["iss"], subject["sub"], subject["acr"]) == (node.origin, "u_ada", "mfa")
        assert subject["exp"] - subject["iat"] == 60
        assert actor["sub"] == node.origin
        assert actor["act"] == {"sub": ADA.client_id}
        assert len({read(form[name])["jti"] for name in ("subject_token", "actor_token", "client_assertion")}) == 3
        ours = {key["kid"] for key in node.identity.front_door._keys.jwks()["keys"]}  # type: ignore[index,call-overload]
        assert jwt.parse_compact(form["subject_token"].encode()).kid not in ours


async def test_nobody_is_asked_for_a_token_in_the_name_of_a_caller_who_was_stopped():
    async with node_of("exchange") as (node, server):
        node.stopped.add(ADA.subject)
        with pytest.raises(UpstreamFault) as refused:
            await token_of(node)
        assert refused.value.code == "credentials"
        assert server.requests == []
        # Twins: somebody else, and the same person once released; a kept token is not shown either.
        assert await token_of(node, replace(ADA, subject="u_bob"))
        node.stopped.clear()
        assert await token_of(node)
        node.stopped.add(ADA.subject)
        with pytest.raises(UpstreamFault):
            await token_of(node)


async def test_what_was_exchanged_is_kept_per_person_program_and_strength_of_sign_in():
    async with node_of("exchange") as (node, server):
        first = await token_of(node)
        assert await token_of(node) == first
        for other in (
            replace(ADA, subject="u_bob"),
            replace(ADA, client_id="another"),
            replace(ADA, acr="pwd"),
            replace(ADA, tenant="rival"),
            replace(ADA, issuer="https://idp.example"),
        ):
            assert await token_of(node, other) != first
        assert len(server.requests) == 6
        node.clock.advance(241)
        assert await token_of(node) != first


async def test_an_exchange_that_is_refused_falls_back_to_nothing():
    async with node_of("exchange", "user", "client") as (node, server):
        server.answer = lambda _form: (400, {"error": "invalid_grant", "error_description": "<script>"})
        with pytest.raises(UpstreamFault, match="credentials") as refused:
            await token_of(node)
        assert "script" not in refused.value.diagnostics()
        assert [form["grant_type"] for form in server.requests] == [EXCHANGE]
        (told,) = node.named("identity.upstream.refused")
        assert told["code"] == "invalid_grant"


@pytest.mark.parametrize(
    "answer",
    [
        {"token_type": "DPoP"},
        {"token_type": "N_A"},
        {"issued_token_type": "urn:ietf:params:oauth:token-type:id_token"},
        {"issued_token_type": None},
        {"access_token": ""},
        {"access_token": "a b"},
        {"access_token": "x\r\ny"},
        {"expires_in": -1},
        {"expires_in": "soon"},
        {"expires_in": True},
    ],
)
async def test_an_answer_of_another_kind_is_not_used(answer: dict[str, Any]):
    async with node_of("exchange") as (node, server):
        server.answer = lambda form: (200, {k: v for k, v in {**server.token(form), **answer}.items() if v is not None})
        with pytest.raises(UpstreamFault):
            await token_of(node)


# -- CL-10: verified before use -----------------------------------------------------------------------------


async def refused(node: Node, caller: Principal = ADA) -> bool:
    try:
        await token_of(node, caller)
    except UpstreamFault as error:
        return error.code == "credentials"
    return False


ALTERED = {
    "aud of another": {"aud": "https://other.example/mcp"},
    "aud of a parent": {"aud": "https://files.saas.example"},
    "aud with a slash": {"aud": URL + "/"},
    "several audiences": {"aud": [URL, "https://other.example"]},
    "no audience": {"aud": None},
    "another issuer": {"iss": "https://evil.example"},
    "expired": {"iat": 1, "exp": 2},
    "no end": {"exp": None},
    "not yet": {"nbf": 4_000_000_000},
}


@pytest.mark.parametrize("claims", ALTERED.values(), ids=list(ALTERED))
async def test_cl_10_an_exchanged_token_that_is_not_for_this_upstream_from_this_issuer_now_is_refused(
    claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def change(made: dict[str, Any]) -> None:
        made.update(claims)
        for name in [name for name, value in made.items() if value is None]:
            del made[name]

    async with node_of("exchange") as (node, server):
        server.change = change
        assert await refused(node)
        monkeypatch.setattr(verify.jwt, "check_claims", lambda *_args: None)  # the twin
        assert not await refused(node)


async def test_cl_10_a_token_that_another_key_signed_is_refused(monkeypatch: pytest.MonkeyPatch):
    async with node_of("exchange") as (node, server):
        server.signer = ECKey.generate_key("P-256", private=True)
        assert await refused(node)
        monkeypatch.setattr(verify.jwt, "verify", lambda unchecked, _key: unchecked.claims)  # the twin
        assert not await refused(node)


async def test_cl_10_another_audience_is_believed_only_where_an_operator_wrote_it_down():
    async with node_of("exchange", expected_audience="api://files") as (node, server):
        assert await refused(node)  # a token for the resource itself is then the wrong one
        server.change = lambda claims: claims.update(aud="api://files")
        assert not await refused(node)


async def test_an_opaque_token_says_nothing_and_is_presented_as_it_is():
    async with node_of("exchange") as (node, server):
        server.answer = lambda form: (200, {**server.token(form), "access_token": "opaque-1"})
        assert await token_of(node) == "opaque-1"


# -- ID-JAG ---------------------------------------------------------------------------------------------------


async def test_an_id_jag_is_asked_of_the_persons_provider_and_redeemed_at_the_upstreams_server():
    async with (
        issuer() as idp,
        node_of("id_jag", idp=idp.origin, idp_client_id="at-idp", idp_secret=Secret(env="CLIENT_SECRET")) as (
            node,
            server,
        ),
    ):
        ada = replace(ADA, issuer=node.origin)
        assert await refused(node, ada)  # nobody has signed in there
        assert idp.requests == server.requests == []
        upstreams = node.identity.upstreams
        assert upstreams is not None
        upstreams.subjects.keep("acme", "u_ada", idp.origin, "id_token", "the.id.token", lives_s=300)
        token = await token_of(node, ada)
        (first,), (second,) = idp.requests, server.requests
        assert first["requested_token_type"] == "urn:ietf:params:oauth:token-type:id-jag"
        assert (first["audience"], first["resource"]) == (server.origin, URL)
        assert first["subject_token"] == "the.id.token"
        assert SECRET not in str(server.requests)
        assert second["grant_type"] == JWT_BEARER
        assert read(second["assertion"])["aud"] == server.origin
        assert read(token)["aud"] == URL
        with pytest.raises(UpstreamFault):
            await token_of(node, replace(ada, subject="u_bob"))  # nobody else's sign-in will do
        node.clock.advance(301)
        assert await refused(node, ada)  # and hers has ended


# -- client credentials -----------------------------------------------------------------------------------------


async def test_a_client_authenticates_by_the_method_it_was_given():
    for auth, seen in (
        ({}, "assertion"),
        ({"secret": Secret(env="CLIENT_SECRET")}, "basic"),
        ({"secret": Secret(env="CLIENT_SECRET"), "method": "client_secret_post"}, "post"),
    ):
        async with node_of("client", **auth) as (node, server):
            await token_of(node)
            (form,), (authorization,) = server.requests, server.authorizations
            assert form["grant_type"] == "client_credentials"
            assert (seen == "assertion") == ("client_assertion" in form)
            assert (seen == "basic") == authorization.startswith("Basic ")
            assert (seen == "post") == (form.get("client_secret") == SECRET)


async def test_a_token_that_is_refused_for_lack_of_scope_is_asked_for_again_with_more():
    async with node_of("client") as (node, server):
        (header,) = await node.broker.headers_for(ADA, "files")
        fresh = await header.renew(403, 'Bearer error="insufficient_scope", scope="write"')
        assert fresh is not None
        assert server.requests[-1]["scope"] == "read write"
        assert (
            await fresh.renew(403, 'Bearer error="insufficient_scope", scope="write"') is None
            or len(server.requests) == 3
        )


async def test_a_sign_in_at_a_provider_is_kept_only_where_id_jags_are_asked_of_it_and_only_while_it_lives():
    async with node_of("id_jag", idp="https://idp.example", idp_client_id="at-idp") as (node, _):
        upstreams, ada = node.identity.upstreams, await node.user("ada")
        assert upstreams is not None
        ends_s = node.clock.now_us() // 1_000_000 + 300
        upstreams.keep_sign_in(ada, {"iss": "https://another.example", "exp": ends_s}, "not.this.one")
        assert not list(node.store.collection("upstream_subjects").scan("acme"))
        upstreams.keep_sign_in(ada, {"iss": "https://idp.example", "exp": ends_s}, "the.id.token")
        (row,) = node.store.collection("upstream_subjects").scan("acme")
        assert b"the.id.token" not in row.value
        kept = upstreams.subjects.find("acme", ada.subject, "https://idp.example")
        assert kept is not None
        assert kept.token == "the.id.token"
        node.clock.advance(301)
        assert upstreams.subjects.find("acme", ada.subject, "https://idp.example") is None


async def test_many_requests_that_are_refused_at_once_ask_for_one_new_token():
    async with node_of("client") as (node, server):
        (header,) = await node.broker.headers_for(ADA, "files")
        fresh = await asyncio.gather(*(header.renew(401, "Bearer") for _ in range(20)))
        assert len(set(fresh)) == 1
        assert fresh[0] != header
        assert len(server.requests) == 2
        assert await fresh[0].renew(401, "Bearer") is None  # made a moment ago: age is not what is wrong with it


async def test_the_order_of_the_list_is_not_the_order_of_the_ways():
    async with node_of("client", "exchange") as (node, server):
        await token_of(node)
        await token_of(node, replace(ADA, kind="service"))
        assert [form["grant_type"] for form in server.requests] == [EXCHANGE, "client_credentials"]


# -- who we are ---------------------------------------------------------------------------------------------------


def test_client_documents_stay_small_by_groups_and_name_one_address_per_upstream():
    def auths(count: int, *groups: str) -> dict[str, UpstreamAuth]:
        return {
            f"upstream-number-{n}": UpstreamAuth(url=f"https://u{n}.example/mcp", group=groups[n % len(groups)])
            for n in range(count)
        }

    with pytest.raises(ConfigFault, match="upstream_documents") as full:
        make_node(origin="https://fw.example", **auths(120, ""))
    assert "auth.group" in full.value.fix
    node = make_node(origin="https://fw.example", **auths(120, "", "one", "two"))
    routes = node.identity.upstreams.routes  # type: ignore[union-attr]
    documents = [path for path in routes if path.startswith("/oauth/client")]
    assert sorted(documents) == [
        "/oauth/client-public.json",
        "/oauth/client-public/one.json",
        "/oauth/client-public/two.json",
        "/oauth/client.json",
        "/oauth/client/one.json",
        "/oauth/client/two.json",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"ways": ()},
        {"ways": ("id_jag",)},
        {"secret": Secret(env="S"), "issuer": "https://as.example"},
        {"secret": Secret(env="S"), "client_id": "x"},
        {"assertion": Secret(env="S"), "client_id": "x", "ways": ("client",)},
        {"method": "client_secret_post", "client_id": "x"},
        {"parameters": {"redirect_uri": "https://evil.example"}},
        {"parameters": {"resource": "https://other.example"}},
    ],
)
def test_a_sign_in_that_cannot_work_refuses_to_start(changes: dict[str, Any]):
    with pytest.raises(ConfigFault, match="upstream_auth"):
        make_node(files=UpstreamAuth(**{"url": URL, **changes}))


async def test_a_workload_presents_what_its_platform_says_of_it_and_reads_it_each_time(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("plat.form.one\n")
    file.chmod(0o644)  # as platforms project it
    async with node_of("client", assertion=Secret(file=str(file)), method="none") as (node, server):
        await token_of(node)
        file.write_text("plat.form.two\n")
        node.clock.advance(241)
        await token_of(node)
        assert [form["assertion"] for form in server.requests] == ["plat.form.one", "plat.form.two"]
        assert {form["grant_type"] for form in server.requests} == {JWT_BEARER}
        file.unlink()
        node.clock.advance(241)
        assert await refused(node)


async def test_op_08_a_server_that_is_down_costs_nothing_while_the_token_lives():
    async with node_of("exchange") as (node, server):
        first = await token_of(node)
        server.answer = lambda _form: (503, {})
        node.clock.advance(250)
        assert await token_of(node) == first
        asked = len(server.requests)
        assert await token_of(node) == first
        assert len(server.requests) == asked  # and its server is left alone for a while
        node.clock.advance(60)
        with pytest.raises(UpstreamFault, match="unreachable"):
            await token_of(node)
        server.answer = lambda _form: None
        assert await token_of(node) != first


def test_the_broker_is_asked_wherever_any_upstream_has_a_sign_in_and_nobody_stands_before_a_secret_else() -> None:
    some = make_node(
        files=UpstreamAuth(url=URL, client_id="bartizan", method="private_key_jwt", ways=("user",))
    ).identity.upstreams
    none = make_node(static={"files": CredentialSettings()}).identity.upstreams
    assert some is not None
    assert none is not None
    assert some.credentials is some.broker
    assert isinstance(none.credentials, StaticUpstreamCredentials)
    assert none.credentials.key_for(principal(), "files") == none.broker.key_for(principal(), "files")
    none.broker.add("late", CredentialSettings())  # what is registered later is known to both
    assert none.credentials.key_for(principal(), "late") == none.broker.key_for(principal(), "late")
