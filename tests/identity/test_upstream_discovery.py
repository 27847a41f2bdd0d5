"""Finding an upstream's authorization server: where it is looked for, what is believed, and how often anybody is asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.identity.upstream.discovery import Discovery
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore

URL = "https://files.example/mcp"
AS = "https://as.example"
PRM = "https://files.example/.well-known/oauth-protected-resource/mcp"
ROOT = "https://files.example/.well-known/oauth-protected-resource"
META = f"{AS}/.well-known/oauth-authorization-server"
AUTH = UpstreamAuth(url=URL)


class Web:
    """Answers by address; everything else is 404. asked: what was, in order."""

    def __init__(self, **pages: Any) -> None:
        self.pages: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.slow = 0.0

    async def fetch(self, purpose: Purpose, url: str, **more: Any) -> Fetched:
        self.asked.append(("POST" if more.get("body") else "GET", url))
        await asyncio.sleep(self.slow)
        found = self.pages.get(url, 404)
        if isinstance(found, UpstreamFault):
            raise found
        if isinstance(found, Fetched):
            return found
        if isinstance(found, int):
            return Fetched(found)
        return Fetched(200, {"content-type": "application/json"}, json.dumps(found).encode())

    def challenge(self, value: str) -> None:
        self.pages[URL] = Fetched(401, {"www-authenticate": value})


def world(prm: str = PRM, issuer: str = AS) -> Web:
    web = Web()
    web.pages[prm] = {"resource": URL, "authorization_servers": [issuer], "scopes_supported": ["a"]}
    web.pages[META] = {
        "issuer": AS,
        "authorization_endpoint": f"{AS}/authorize",
        "token_endpoint": f"{AS}/token",
        "code_challenge_methods_supported": ["S256"],
    }
    return web


def made(web: Any) -> tuple[Discovery, FakeClock, list[tuple[str, str]]]:
    clock, changes = FakeClock(), []  # type: ignore[var-annotated]
    return (
        Discovery(web, clock, MemoryStore(clock), lambda name, issuer: changes.append((name, issuer))),
        clock,
        changes,
    )


async def test_a_challenge_leads_to_the_metadata_and_its_scope_counts():
    elsewhere = "https://files.example/meta/data"
    web = world(elsewhere)
    web.challenge(f'Bearer resource_metadata="{elsewhere}", scope="b c"')
    found = await made(web)[0].find("files", AUTH)
    assert found.server.issuer == AS
    assert found.scopes == ("b", "c")
    assert ("GET", elsewhere) in web.asked
    assert ("GET", PRM) not in web.asked


@pytest.mark.parametrize("place", [PRM, ROOT])
async def test_without_a_challenge_the_well_known_addresses_are_asked_in_order(place: str):
    web = world(place)
    found = await made(web)[0].find("files", AUTH)
    assert found.scopes == ("a",)
    assert [url for _, url in web.asked if "protected-resource" in url] == [PRM, ROOT][: 1 if place == PRM else 2]


async def test_cl_01_a_challenge_cannot_have_us_ask_another_origin():
    for target in (
        "https://evil.example/x",
        "https://files.example:8443/x",
        "http://files.example/x",
        "https://10.0.0.1/",
    ):
        web = world()
        web.challenge(f'Bearer resource_metadata="{target}"')
        with pytest.raises(UpstreamFault, match="credentials"):
            await made(web)[0].find("files", AUTH)
        assert ("GET", target) not in web.asked


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "0.0.0.0",
        "fd00::1",
        "100.100.100.200",
    ],
)
async def test_cl_01_an_upstream_cannot_have_us_reach_inside_by_the_name_of_its_issuer(address: str):
    """The twin: with a public address the same name is asked."""

    async def resolve(_name: str) -> list[str]:
        return [address]

    dialler = Dialler(FakeClock(), resolver=resolve)
    web = world()

    class Mixed(Web):
        async def fetch(self, purpose: Purpose, url: str, **more: Any) -> Fetched:
            if url.startswith(AS):
                return await dialler.fetch(purpose, url, **more)
            return await web.fetch(purpose, url, **more)

    with pytest.raises(UpstreamFault) as refused:
        await made(Mixed())[0].find("files", AUTH)
    assert "blocked_address" in refused.value.detail
    assert (await made(web)[0].find("files", AUTH)).server.issuer == AS
    await dialler.close()


async def test_an_outage_keeps_what_was_good_and_is_asked_about_twice_a_minute_at_most():
    web = world()
    discovery, clock, _ = made(web)
    first = await discovery.find("files", AUTH)
    count = len(web.asked)
    web.pages[META] = UpstreamFault("unreachable")
    clock.advance(3601)
    assert await discovery.find("files", AUTH) == first
    asked = len(web.asked)
    assert asked > count
    for _ in range(50):
        assert await discovery.find("files", AUTH, challenge="Bearer") == first
    assert len(web.asked) == asked
    clock.advance(24 * 3600)
    with pytest.raises(UpstreamFault, match="credentials") as old:
        await discovery.find("files", AUTH)
    assert old.value.fix == "set auth.issuer of files"


async def test_everybody_who_waits_is_served_by_one_look():
    web = world()
    web.slow = 0.01
    discovery, _, _ = made(web)
    found = await asyncio.gather(*(discovery.find("files", AUTH) for _ in range(30)))
    assert len(set(map(id, found))) == 1
    assert len(web.asked) == 3  # the server itself, its metadata, its issuer's


async def test_a_challenge_has_us_look_again_and_a_new_issuer_is_told():
    web = world()
    discovery, clock, changes = made(web)
    await discovery.find("files", AUTH)
    web.pages[PRM] = {"resource": URL, "authorization_servers": ["https://new.example"]}
    web.pages["https://new.example/.well-known/oauth-authorization-server"] = {
        "issuer": "https://new.example",
        "token_endpoint": "https://new.example/token",
    }
    clock.advance(31)
    assert (await discovery.find("files", AUTH)).server.issuer == AS  # an hour is not over
    assert (await discovery.find("files", AUTH, challenge="Bearer")).server.issuer == "https://new.example"
    assert changes == [("files", "https://new.example")]
    assert discovery.issuer("files", AUTH) == "https://new.example"


async def test_a_configured_issuer_is_the_only_one_that_is_asked():
    web = world()
    found = await made(web)[0].find("files", UpstreamAuth(url=URL, issuer=AS, scopes=("x",)))
    assert (found.resource, found.scopes) == (URL, ("a",))
    assert found.server.issuer == AS
    pinned = Web()
    pinned.pages[META] = web.pages[META]
    found = await made(pinned)[0].find("files", UpstreamAuth(url=URL, issuer=AS, resource=f"{URL}/x"))
    assert found.resource == f"{URL}/x"
    assert pinned.asked == [("GET", META)]


async def test_cl_07_an_upstream_cannot_lead_us_away_from_the_issuer_that_a_secret_is_for():
    thief = "https://thief.example"
    web = world(issuer=thief)
    web.pages[f"{thief}/.well-known/oauth-authorization-server"] = {
        "issuer": thief,
        "token_endpoint": f"{thief}/token",
    }
    found = await made(web)[0].find("files", UpstreamAuth(url=URL, issuer=AS))
    assert found.server.token_endpoint == f"{AS}/token"
    assert not any(url.startswith(thief) for _, url in web.asked)
    without = await made(web)[0].find("files", UpstreamAuth(url=URL))  # the twin: why a secret needs an issuer
    assert without.server.token_endpoint == f"{thief}/token"
    with pytest.raises(ConfigFault, match="upstream_auth"):
        UpstreamAuth(url=URL, client_id="bartizan", secret=Secret(env="S")).check("files")
    with pytest.raises(ConfigFault, match="upstream_auth"):
        UpstreamAuth(url=URL, ways=("client",), client_id="x", assertion=Secret(env="S")).check("files")


async def test_another_setting_is_another_question():
    web = world()
    discovery, _, _ = made(web)
    await discovery.find("files", AUTH)
    count = len(web.asked)
    await discovery.find("files", UpstreamAuth(url=URL, origins=("https://keys.example",)))
    assert len(web.asked) > count


async def test_cl_05_a_server_from_before_metadata_is_used_only_where_an_operator_says_that_it_knows_s256():
    web = Web()
    with pytest.raises(UpstreamFault):
        await made(web)[0].find("files", AUTH)
    found = await made(web)[0].find("files", UpstreamAuth(url=URL, s256_assumed=True))
    assert found.server.token_endpoint == "https://files.example/token"
    assert not found.server.s256


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_server_that_stumbles_is_not_taken_for_one_without_metadata(status: int):
    web = world()
    web.pages[PRM] = status
    with pytest.raises(UpstreamFault, match="credentials"):
        await made(web)[0].find("files", UpstreamAuth(url=URL, s256_assumed=True))
    assert ("GET", ROOT) not in web.asked


async def test_an_issuer_that_is_still_named_is_not_left_because_it_is_down():
    web = world()
    second = "https://second.example"
    web.pages[PRM] = {"resource": URL, "authorization_servers": [AS, second]}
    web.pages[f"{second}/.well-known/oauth-authorization-server"] = {
        "issuer": second,
        "token_endpoint": f"{second}/token",
    }
    discovery, clock, changes = made(web)
    await discovery.find("files", AUTH)
    web.pages[META] = 503
    clock.advance(3601)
    assert (await discovery.find("files", AUTH)).server.issuer == AS
    assert changes == []


async def test_of_several_servers_the_first_that_answers_validly_counts():
    web = world()
    web.pages[PRM] = {"resource": URL, "authorization_servers": ["https://gone.example", "http://clear.example", AS]}
    assert (await made(web)[0].find("files", AUTH)).server.issuer == AS
