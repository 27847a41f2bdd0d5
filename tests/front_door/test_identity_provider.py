"""Signing in at a real OpenID provider: its pages, its tokens, its keys, and what happens when it misbehaves.

The provider is a process of its own and is asked through the real dialler; the front door and the browser
stand in this process. What a test tampers with on the way is what the real provider had sent.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from joserfc.jwk import ECKey

from firewall.core.action import Headers
from firewall.core.jsonvalue import JSONObject
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.redemption import ClientKey
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.oidc.settings import ClaimNames, ProviderSettings
from firewall.net.address import Network
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.net.runtime import SystemClock
from firewall.wire import jwt, strict_json
from tests.front_door.openid_provider import OpenIDProvider, running
from tests.support.door import Browser, Door, authorize_query, inputs_of, make_door, public_jwks, redeem
from tests.support.idp import come_back, leave

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

ORIGIN = "https://fw.example"
SECRET = "a-secret-of-forty-characters-or-more-than-that"
CLIENT_KEY = ECKey.generate_key("P-256", private=True)
TAMPER_KEY = ECKey.generate_key("P-256", private=True)
PEOPLE = {
    "ada": {"name": "Ada L.", "preferred_username": "ada", "groups": ["agents", "ops"]},
    "bob": {"name": "Bob", "groups": ["guests"]},
}


def _clients(name: str) -> list[dict[str, Any]]:
    ours = {
        "redirect_uris": [f"{ORIGIN}/callback/{name}"],
        "post_logout_redirect_uris": [f"{ORIGIN}/account/grants"],
    }
    return [
        {
            "client_id": "basic",
            "client_secret": SECRET,
            "grant_types": ["authorization_code", "client_credentials"],
            **ours,
        },
        {"client_id": "post", "client_secret": SECRET, "token_endpoint_auth_method": "client_secret_post", **ours},
        {
            "client_id": "signed",
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": public_jwks(CLIENT_KEY),
            "id_token_signed_response_alg": "ES256",
            **ours,
        },
    ]


@pytest.fixture(scope="module")
def acme() -> Iterator[OpenIDProvider]:
    with running(_clients("acme"), PEOPLE) as provider:
        yield provider


@pytest.fixture(scope="module")
def globex() -> Iterator[OpenIDProvider]:
    """Another provider, which keeps to the letter: claims of scopes come from userinfo only."""
    with running(_clients("globex"), PEOPLE, sparse=True) as provider:
        yield provider


Change = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass
class Road:
    """The real dialler, with somebody in the middle: changes ID tokens and signs them anew, or swallows answers."""

    dialler: Dialler
    change: Change | None = None
    cut: bool = False
    fetched: list[tuple[Purpose, str]] = field(default_factory=list)

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Fetched:
        self.fetched.append((purpose, url))
        if self.cut:
            url = "http://127.0.0.1:1/"
        found = await self.dialler.fetch(
            purpose, url, network=network, max_bytes=max_bytes, timeout_s=timeout_s, headers=headers, body=body
        )
        if self.change is not None and purpose is Purpose.JWKS:
            return Fetched(200, {}, strict_json.dumps(public_jwks(TAMPER_KEY, "tampered")))
        if self.change is not None and purpose is Purpose.TOKEN and found.status == 200:
            answer = strict_json.loads(found.body)
            assert isinstance(answer, dict)
            return Fetched(200, {}, strict_json.dumps({**answer, "id_token": self._resigned(str(answer["id_token"]))}))
        return found

    def _resigned(self, token: str) -> str:
        segment = token.split(".")[1]
        claims = strict_json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        assert isinstance(claims, dict)
        assert self.change is not None
        return jwt.sign(self.change(claims), TAMPER_KEY, alg="ES256", typ="JWT", kid="tampered")


@dataclass
class Scene:
    """A front door, its way out, and a person's browser: at us in this process, at the provider over HTTP."""

    door: Door
    road: Road
    ours: httpx2.AsyncClient
    theirs: httpx2.AsyncClient

    @property
    def browser(self) -> Browser:
        return Browser(self.ours)

    def failures(self) -> list[str]:
        return [
            f"{facts['code']} {facts.get('detail', '')}".strip() for facts in self.door.named("identity.idp.failed")
        ]

    async def begin(self, name: str, query: dict[str, str] | None = None) -> str:
        """Press the button and return where the browser is sent."""
        away = await leave(self.browser, await self.browser.open(query or authorize_query()), name)
        assert away.status_code == 303, away.text
        return str(away.headers["location"])

    async def sign_in(
        self, provider: OpenIDProvider, name: str, person: str = "ada", query: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Go to the provider, fill in its pages, and come back."""
        location = await self.begin(name, query)
        callback = await provider.sign_in(self.theirs, location, person, f"{ORIGIN}/callback/")
        return await come_back(self.browser, urlsplit(callback).query, name)

    async def principal(self, provider: OpenIDProvider, name: str, person: str = "ada") -> Any:
        """Go all the way and return whom our own token names."""
        back = await self.sign_in(provider, name, person)
        assert back.status_code == 303, (back.text, self.failures())
        page = await self.ours.get(back.headers["location"], headers={"Sec-Fetch-Site": "cross-site"})
        answer = await self.browser.approve(page)
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        return self.door.verified((await redeem(self.ours, code)).json()["access_token"])


def at(provider: OpenIDProvider, name: str = "acme", **changes: Any) -> ProviderSettings:
    values: dict[str, Any] = {
        "name": name,
        "issuer": provider.issuer,
        "client_id": "basic",
        "title": name.title(),
        "secret": "env:SECRET",
        "scopes": ("openid", "profile", "groups"),
        "roles": {"agents": ("dev",), "ops": ("operator",)},
        "scopes_of": {"agents": ("time:*",)},
        "tenant": "acme",
        "network": "loopback",
        **changes,
    }
    return ProviderSettings(**values)


@asynccontextmanager
async def scene(*settings: ProviderSettings, skew_s: int = 0) -> AsyncIterator[Scene]:
    road = Road(Dialler(SystemClock()))
    given = ProvidersGiven(settings, road, secret_reader({"SECRET": SECRET}), key=ClientKey(CLIENT_KEY, "c1"))
    door = make_door(idps=given)
    door.clock.advance(time.time() + skew_s - door.clock.now_us() / 1_000_000)
    async with door.http() as ours, httpx2.AsyncClient() as theirs:
        yield Scene(door, road, ours, theirs)
    await road.dialler.close()


# -- the whole way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "method"),
    [("basic", "client_secret_basic"), ("post", "client_secret_post"), ("signed", "private_key_jwt")],
)
async def test_a_person_signs_in_at_a_real_provider(acme: OpenIDProvider, client: str, method: str) -> None:
    async with scene(at(acme, client_id=client, client_auth=method)) as on:
        principal = await on.principal(acme, "acme")
        assert (principal.tenant, principal.roles) == ("acme", ("dev", "operator"))
        assert principal.scopes == {"time:read"}
        (link,) = on.door.identity.links.of_user("acme", principal.subject)
        assert (link.issuer, link.subject) == (acme.issuer, "ada")
        assert "Ada L. (Acme)" in (await on.browser.get("/account/grants")).text


async def test_claims_that_come_from_userinfo_only_are_imported_too(globex: OpenIDProvider) -> None:
    async with scene(at(globex, "globex")) as on:
        assert (await on.sign_in(globex, "globex")).status_code == 403  # no groups in the ID token: not admitted
    async with scene(at(globex, "globex", userinfo=True)) as on:
        principal = await on.principal(globex, "globex")
        assert principal.roles == ("dev", "operator")


async def test_somebody_in_no_group_that_counts_has_no_access(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        back = await on.sign_in(acme, "acme", "bob")
        assert back.status_code == 403
        assert "no access here" in back.text
        assert not on.door.identity.users.list("acme")


async def test_a_fresh_sign_in_that_a_client_asks_for_happens_at_the_provider(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        await on.principal(acme, "acme")
        seen = len(acme.pages)
        back = await on.sign_in(acme, "acme", query=authorize_query(prompt="login"))
        assert back.status_code == 303, on.failures()
        assert any("/interaction/" in page for page in acme.pages[seen:])  # asked again, although signed in there


async def test_signing_out_here_leads_to_signing_out_there(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        await on.principal(acme, "acme")
        page = await on.browser.get("/account/grants")
        out = await on.browser.post("/logout", inputs_of(page.text))
        location = out.headers["location"]
        assert location.startswith(f"{acme.issuer}/session/end?")
        asked = await on.theirs.get(location)
        assert asked.status_code == 200, asked.text  # it knows us and the token, and asks the person
        confirm = {**inputs_of(asked.text), "logout": "yes"}
        done = await on.theirs.post(f"{acme.issuer}/session/end/confirm", data=confirm)
        assert done.headers["location"] == f"{ORIGIN}/account/grants"
        assert "Continue with Acme" in (await on.browser.get("/account/grants")).text


# -- keys, clocks, outages --------------------------------------------------------------------------------------


async def test_rs_06_keys_rotate_at_the_provider_without_a_restart_of_ours(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        await on.principal(acme, "acme")
        acme.rotate()
        on.door.clock.advance(31)
        on.ours.cookies.clear()
        await on.principal(acme, "acme")
        acme.forget()
        on.ours.cookies.clear()
        await on.principal(acme, "acme")
        assert [url for purpose, url in on.road.fetched if purpose is Purpose.JWKS] == [f"{acme.issuer}/jwks"] * 2


@pytest.mark.parametrize(("skew_s", "fine"), [(-20, True), (20, True), (-120, False), (400, False)])
async def test_rs_10_clocks_may_differ_by_seconds_and_not_by_minutes(
    acme: OpenIDProvider, skew_s: int, fine: bool
) -> None:
    async with scene(at(acme), skew_s=skew_s) as on:
        back = await on.sign_in(acme, "acme")
        assert back.status_code == (303 if fine else 403)
        assert bool(on.failures()) is not fine


async def test_op_08_a_provider_that_is_down_costs_only_its_own_people(
    acme: OpenIDProvider, globex: OpenIDProvider
) -> None:
    async with scene(at(acme), at(globex, "globex", userinfo=True)) as on:
        location = await on.begin("acme")
        callback = await acme.sign_in(on.theirs, location, "ada", f"{ORIGIN}/callback/")
        on.road.cut = True
        back = await come_back(on.browser, urlsplit(callback).query, "acme")
        assert back.status_code == 503
        assert not on.door.named("identity.login")
        on.road.cut = False
        on.door.clock.advance(11)
        await on.principal(globex, "globex")


# -- in the middle ----------------------------------------------------------------------------------------------


async def test_the_middle_that_changes_nothing_gets_through(acme: OpenIDProvider) -> None:
    """The twin of the tests below: what refuses them is the changed claim and nothing else."""
    async with scene(at(acme)) as on:
        on.road.change = lambda claims: claims
        await on.principal(acme, "acme")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"aud": "somebody-else"}, "aud"),
        ({"nonce": "another"}, "nonce"),
        ({"azp": "somebody-else"}, "azp"),
        ({"exp": 1}, "exp"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"),
    ],
)
async def test_as_17_what_is_changed_on_the_way_signs_nobody_in(
    acme: OpenIDProvider, change: JSONObject, told: str
) -> None:
    async with scene(at(acme)) as on:
        on.road.change = lambda claims: {**claims, **change}
        back = await on.sign_in(acme, "acme")
        assert back.status_code == 403
        assert on.failures() == [f"jwt_claims {told}"]


async def test_as_17_a_code_of_one_provider_at_the_callback_of_the_other_goes_nowhere(
    acme: OpenIDProvider, globex: OpenIDProvider
) -> None:
    async with scene(at(acme), at(globex, "globex")) as on:
        location = await on.begin("acme")
        callback = await acme.sign_in(on.theirs, location, "ada", f"{ORIGIN}/callback/")
        swapped = await come_back(on.browser, urlsplit(callback).query, "globex")
        assert swapped.status_code == 403
        # With the state of a leg towards globex the issuer of the answer still tells.
        other = parse_qs(urlsplit(await on.begin("globex")).query)["state"][0]
        asked = {name: values[0] for name, values in parse_qs(urlsplit(callback).query).items()}
        mixed = await come_back(on.browser, str(httpx2.QueryParams({**asked, "state": other})), "globex")
        assert mixed.status_code == 403
        assert on.failures() == ["idp_leg", "idp_answer iss"]
        assert not [url for purpose, url in on.road.fetched if purpose is Purpose.TOKEN]


async def test_ui_07_an_answer_obtained_in_another_browser_is_refused(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        callback = await acme.sign_in(on.theirs, await on.begin("acme"), "ada", f"{ORIGIN}/callback/")
        async with on.door.http() as victim:
            assert (await come_back(Browser(victim), urlsplit(callback).query, "acme")).status_code == 403


async def test_as_17_a_code_is_worth_nothing_a_second_time(acme: OpenIDProvider) -> None:
    async with scene(at(acme)) as on:
        callback = await acme.sign_in(on.theirs, await on.begin("acme"), "ada", f"{ORIGIN}/callback/")
        query = urlsplit(callback).query
        assert (await come_back(on.browser, query, "acme")).status_code == 303
        # Even in a new leg, the provider itself refuses: the code is used, and the verifier another.
        state = parse_qs(urlsplit(await on.begin("acme", authorize_query(prompt="login"))).query)["state"][0]
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        again = await come_back(on.browser, str(httpx2.QueryParams({**asked, "state": state})), "acme")
        assert again.status_code == 502
        assert on.failures() == ["refused invalid_grant"]


async def test_a_claim_that_nobody_mapped_gives_no_tenant(acme: OpenIDProvider) -> None:
    settings = at(acme, claims=ClaimNames(tenant="preferred_username"), tenants={"somebody": "acme"})
    async with scene(settings) as on:
        assert (await on.sign_in(acme, "acme")).status_code == 403
        assert on.failures() == ["idp_claims tenant"]
