"""The shapes of real providers: their documents as they publish them, shortened, and people as they describe them.

Written after what each product documents; no tenant of theirs is asked. Every shape goes the whole way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from firewall.core.errors import ConfigFault, Malformed
from firewall.identity.oidc.mapping import claim, groups_of
from firewall.identity.oidc.party import issuers
from firewall.identity.oidc.settings import ClaimNames, shaped
from tests.support.door import Browser, authorize_query, redeem
from tests.support.idp import Idp, Stage, code_of, corp, leave, make_stage, sign_in

HOME = "9188040d-6c67-4c5b-b112-36a304b66dad"
GUEST = "72f988bf-86f1-41af-91ab-2d7cd011db47"
ENTRA = "https://login.microsoftonline.com"


@dataclass
class Shape:
    """metadata: what differs from a plain provider (None: it leaves that out). person: claims of the ID token."""

    name: str
    issuer: str
    metadata: dict[str, Any]
    person: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    subject: str = ""
    shown: str = "Ada L."

    def stage(self) -> Stage:
        settings = {"issuer": self.issuer, "shape": self.name, **self.settings}
        idp = Idp(self.issuer, metadata=self.metadata)
        idp.person = dict(self.person)
        return make_stage(corp(**settings), idps=(idp,))


SHAPES = [
    Shape(
        "keycloak",
        "https://sso.acme.example/realms/staff",
        {
            "grant_types_supported": ["authorization_code", "refresh_token", "password"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "id_token_signing_alg_values_supported": ["PS384", "RS384", "EdDSA", "ES384", "HS256", "ES256", "RS256"],
            "registration_endpoint": "https://sso.acme.example/realms/staff/clients-registrations/openid-connect",
        },
        {
            "sub": "f:550e8400:ada",
            "preferred_username": "Ada L.",
            "azp": "bartizan",
            "realm_access": {"roles": ["agents", "offline_access"]},
            "resource_access": {"account": {"roles": ["view-profile"]}},
            "email_verified": False,
            "acr": "1",
        },
        {"claims": ClaimNames(groups="realm_access.roles")},
        "f:550e8400:ada",
    ),
    Shape(
        "entra",
        f"{ENTRA}/{HOME}/v2.0",
        {
            "authorization_endpoint": f"{ENTRA}/{HOME}/oauth2/v2.0/authorize",
            "code_challenge_methods_supported": None,
            "authorization_response_iss_parameter_supported": None,
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        },
        {
            "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
            "oid": "00000000-0000-0000-66f3-3332eca7ea81",
            "tid": HOME,
            "name": "Ada L.",
            "preferred_username": "ada@acme.example",
            "groups": ["agents"],
            "ver": "2.0",
            "aio": "Df2UVXL1ix",
            "rh": "0.AQ",
            "uti": "x",
        },
        {},
        "00000000-0000-0000-66f3-3332eca7ea81",
    ),
    Shape(
        "okta",
        "https://acme.okta.example/oauth2/default",
        {
            "response_modes_supported": ["query", "fragment", "form_post", "okta_post_message"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "authorization_response_iss_parameter_supported": None,
        },
        {
            "sub": "00u1a2b3c4",
            "name": "Ada L.",
            "groups": ["Everyone", "agents"],
            "amr": ["pwd", "mfa", "otp"],
            "ver": 1,
        },
        {},
        "00u1a2b3c4",
    ),
    Shape(
        "auth0",
        "https://acme.eu.auth0.example/",
        {
            "end_session_endpoint": "https://acme.eu.auth0.example/oidc/logout",
            "authorization_response_iss_parameter_supported": None,
        },
        {
            "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
            "name": "Ada L.",
            "https://acme.example/groups": ["agents"],
            "sid": "x",
        },
        {"claims": ClaimNames(groups="https://acme.example/groups")},
        "auth0|5f7c8ec7c33c6c004bbafe82",
    ),
    Shape(
        "google",
        "https://accounts.google.example",
        {
            "authorization_endpoint": "https://accounts.google.example/o/oauth2/v2/auth",
            "code_challenge_methods_supported": ["plain", "S256"],
            "end_session_endpoint": None,
        },
        {
            "sub": "110169484474386276334",
            "name": "Ada L.",
            "hd": "acme.example",
            "azp": "bartizan",
            "email_verified": True,
        },
        {
            "claims": ClaimNames(tenant="hd"),
            "tenants": {"acme.example": "acme"},
            "roles": {"*": ("dev",)},
            "scopes_of": {"*": ("time:*",)},
            "create": "always",
        },
        "110169484474386276334",
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_people_of_every_shape_sign_in_and_are_who_their_provider_says(shape: Shape) -> None:
    stage = shape.stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        token = (await redeem(http, (await code_of(browser, stage))["code"])).json()["access_token"]
        assert f"{shape.shown} (Acme)" in (await browser.get("/account/grants")).text
    principal = stage.door.verified(token)
    assert (principal.tenant, principal.roles) == ("acme", ("dev",))
    (link,) = stage.door.identity.links.of_user("acme", principal.subject)
    assert (link.issuer, link.subject) == (shape.issuer, shape.subject)


# -- Entra --------------------------------------------------------------------------------------------------------


def many_tenants(**changes: Any) -> dict[str, Any]:
    return {
        "issuer": f"{ENTRA}/{{tenantid}}/v2.0",
        "discovery": f"{ENTRA}/organizations/v2.0/.well-known/openid-configuration",
        "shape": "entra",
        "tenants": {HOME: "acme"},
        **changes,
    }


def many_stage(**changes: Any) -> Stage:
    idp = Idp(f"{ENTRA}/{{tenantid}}/v2.0", metadata=dict(SHAPES[1].metadata))
    idp.person = dict(SHAPES[1].person)
    way = make_stage(corp(**many_tenants(**changes)), idps=(idp,))
    idp.metadata |= {name: f"{ENTRA}/organizations/{name}" for name in ("token_endpoint", "jwks_uri")}

    def answer(url: str, headers: Any, body: bytes | None, plain: Any = idp.answer) -> Any:
        short = {
            "token_endpoint": "/token",
            "jwks_uri": "/jwks",
            "openid-configuration": "/.well-known/openid-configuration",
        }
        return plain(idp.issuer + short[url.rpartition("/")[2]], headers, body)

    idp.answer = answer  # type: ignore[method-assign]
    way.idps.fetch = _all_to(way, idp)  # type: ignore[method-assign]
    return way


def _all_to(stage: Stage, idp: Idp) -> Any:
    async def fetch(purpose: Any, url: str, *, headers: Any = (), body: bytes | None = None, **_more: Any) -> Any:
        stage.idps.fetched.append(url)
        return idp.answer(url, headers, body)

    return fetch


@pytest.mark.parametrize(
    ("changes", "fine"),
    [
        ({"iss": f"{ENTRA}/{HOME}/v2.0"}, True),
        ({"iss": f"{ENTRA}/{GUEST}/v2.0", "tid": GUEST}, False),  # a tenant that nobody wrote down
        ({"iss": f"{ENTRA}/{HOME}/v2.0", "tid": GUEST}, False),  # its name of the tenant and the issuer disagree
        ({"iss": f"{ENTRA}/{{tenantid}}/v2.0"}, False),
        ({"iss": f"{ENTRA}/{HOME.upper()}/v2.0"}, False),
        ({"iss": f"https://sts.windows.net/{HOME}/"}, False),
    ],
)
async def test_rs_08_of_many_tenants_only_those_written_down_may_sign_in(changes: dict[str, Any], fine: bool) -> None:
    stage = many_stage()
    stage.idp.changes = changes
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == (303 if fine else 403), stage.door.named("identity.idp.failed")


async def test_as_23_the_tenant_of_the_issuer_and_the_tenant_of_the_claim_are_one() -> None:
    """With both tenants written down, neither vouches for the other's people."""
    stage = many_stage(tenants={HOME: "acme", GUEST: "globex"})
    stage.idp.changes = {"iss": f"{ENTRA}/{HOME}/v2.0", "tid": GUEST}
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 403
    assert [f["detail"] for f in stage.door.named("identity.idp.failed")] == ["tenant"]


async def test_a_provider_without_the_iss_parameter_and_without_s256_still_gets_both_pkce_and_nonce() -> None:
    stage = SHAPES[1].stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
    asked = parse_qs(urlsplit(away.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert "resource" not in asked  # Entra refuses it beside scopes (AADSTS9010010): what we sign in for is us


def test_many_tenants_need_their_list_and_an_address_of_the_metadata() -> None:
    for missing in ({"tenants": {}}, {"discovery": ""}, {"shape": "generic"}):
        with pytest.raises(ConfigFault):
            corp(**many_tenants(**missing))
    settings = shaped(corp(**many_tenants()))
    assert issuers(settings) == (f"{ENTRA}/{HOME}/v2.0",)
    assert (settings.claims.subject, settings.claims.tenant) == ("oid", "tid")


async def test_groups_that_are_left_out_for_their_number_let_nobody_in() -> None:
    stage = SHAPES[1].stage()
    stage.idp.person |= {
        "groups": None,
        "_claim_names": {"groups": "src1"},
        "_claim_sources": {"src1": {"endpoint": "x"}},
    }
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 403
    assert [f["detail"] for f in stage.door.named("identity.idp.failed")] == ["groups"]


# -- the others ------------------------------------------------------------------------------------------------------


async def test_an_alias_of_an_issuer_makes_no_second_person_of_anybody() -> None:
    stage = SHAPES[4].stage()
    for spelling in ("https://accounts.google.example", "accounts.google.com"):
        stage.idp.changes["iss"] = spelling
        async with stage.door.http() as http:
            assert (await sign_in(Browser(http), stage)).status_code == 303
    (user,) = stage.door.identity.users.list("acme")
    (link,) = stage.door.identity.links.of_user("acme", user.subject)
    assert link.issuer == "https://accounts.google.example"


async def test_people_outside_the_workspace_domain_stay_out() -> None:
    for domain in (None, "gmail.example", "ACME.example"):
        stage = SHAPES[4].stage()
        stage.idp.person["hd"] = domain
        async with stage.door.http() as http:
            assert (await sign_in(Browser(http), stage)).status_code == 403


def test_what_a_shape_knows_gives_way_to_what_is_written() -> None:
    assert shaped(corp(shape="keycloak")).claims.name == "preferred_username"
    assert shaped(corp(shape="keycloak", claims=ClaimNames(name="nick"))).claims.name == "nick"
    assert "groups" in shaped(corp(shape="okta")).scopes
    assert "groups" not in shaped(corp(shape="okta", roles={}, scopes_of={})).scopes
    assert shaped(corp(shape="entra", claims=ClaimNames(subject="employeeid"))).claims.subject == "employeeid"
    assert shaped(corp(shape="google")).issuer_aliases == ("accounts.google.com",)
    for shape in ("generic", "keycloak", "okta", "auth0", "google"):
        assert not shaped(corp(shape=shape)).unadvertised_s256


def test_claims_are_found_by_name_then_by_path() -> None:
    claims = {"a.b": 1, "a": {"b": 2, "c": {"d": ["x"]}}, "https://x.example/groups": ["y"]}
    assert claim(claims, "a.b") == 1
    assert claim(claims, "a.c.d") == ["x"]
    assert claim(claims, "https://x.example/groups") == ["y"]
    for nothing in ("", "b", "a.x", "a.b.c", "a.c.d.e", "https://y.example/a.b"):
        assert claim(claims, nothing) is None
    assert groups_of({"groups": "one"}, "groups") == ("one",)
    with pytest.raises(Malformed):
        groups_of({"groups": [""]}, "groups")
