"""CD, TP-1, SS and SC: what the front door owes to a person, and what its own requests may reach."""

from __future__ import annotations

import re

import httpx2
import pytest

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.identity.clients import registry as clients
from firewall.identity.oauth21 import authorize
from firewall.identity.people import transactions
from firewall.identity.people.consents import Consents
from firewall.net import dial
from firewall.net.dial import Dialler, Purpose
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryCollection
from firewall.wire import cimd, jwt, oauth
from tests.attack.security.rows import Stage, always, by_setting, nothing, patched, row
from tests.sim.misbehaving import misbehaving
from tests.support.composed import composed, modern, settings
from tests.support.door import CIMD_URL, TIME, Browser, authorize_query, callback_of, inputs_of, make_door
from tests.support.world import world

TOOL = {"client_id": "tool", "redirect_uri": "http://127.0.0.1:51004/callback"}


@row("CD-1", "a client that nobody agreed to rides on the session of one that was", patched(Consents, "covers", always))
async def new_client_old_cookie(stage: Stage) -> bool:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        assert "code" in await browser.code()
        assert (await browser.open(authorize_query())).status_code == 303, "the approved client is not asked again"
        reply = await browser.open(authorize_query(**TOOL))
        assert reply.status_code in (200, 303)
        return reply.status_code == 303 and "code=" in reply.headers["location"]


@row("CD-2", "a consent form is sent without having been shown", patched(authorize, "check_form_token", always))
async def consent_without_its_page(stage: Stage) -> bool:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:read time:write")))
        for shown in ("app.example", "Example Agent", "127.0.0.1", TIME, "Read from", "Act through"):
            assert shown in page.text, shown
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-frame-options"] == "DENY"
        forged = {**inputs_of(page.text), "csrf": "made-up.token", "decision": "approve"}
        reply = await browser.post("/consent", forged)
        return reply.status_code == 303 and "code=" in reply.headers["location"]


@row(
    "CD-3",
    "a cookie of one client's flow agrees to another client's",
    patched(transactions.hmac, "compare_digest", always),
)
async def cookie_of_another_client(stage: Stage) -> bool:
    door = make_door()
    await door.user()
    async with door.http() as victim, door.http() as attacker:
        mine, theirs = Browser(attacker), Browser(victim)
        begun = await mine.open(authorize_query(**TOOL))  # the attacker's own client, in the attacker's browser
        page = await theirs.open(authorize_query())
        for reply in (begun, page):
            for cookie in reply.headers.get_list("set-cookie"):
                assert cookie.startswith("__Host-")
                assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        shown = await theirs.sign_in(page)
        assert shown.status_code == 200
        victim.cookies.set("__Host-bz_onward", inputs_of(begun.text)["txn"])  # as if it could be planted
        reply = await theirs.get("/consent")
        return reply.status_code == 200 and 'action="/consent"' in reply.text


@row("CD-4", "a redirect that is nearly the registered one", patched(oauth, "redirect_matches", always))
async def nearly_the_redirect(stage: Stage) -> bool:
    door = make_door()
    registered = "https://tool.example/cb"
    near = [
        registered + "/", registered + "/../cb", registered + "?x=1", registered + "#x", registered + "x", "https://tool.example/c",
        "https://tool.example:444/cb", "https://tool.example:443/cb", "http://tool.example/cb", "https://Tool.example/cb",
        "https://tool.example.evil.example/cb", "https://evil.example/cb", "https://tool.example@evil.example/cb",
    ]  # fmt: skip
    async with door.http() as http:
        good = await Browser(http).open(authorize_query(client_id="tool", redirect_uri=registered))
        assert good.status_code == 200
        replies = [await Browser(http).open(authorize_query(client_id="tool", redirect_uri=uri)) for uri in near]
    assert all("location" not in r.headers for r in replies if r.status_code >= 400), "nobody is sent anywhere"
    return any(r.status_code == 200 for r in replies)


@row(
    "CD-5",
    "the state of a flow is used twice",
    patched(MemoryCollection, "take", lambda self, tenant, key: self.get(tenant, key)),
)
async def transaction_replayed(stage: Stage) -> bool:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        login = await browser.open(authorize_query())
        txn = inputs_of(login.text)["txn"]
        before = await browser.post("/consent", {"txn": txn, "decision": "approve", "csrf": ""})
        assert before.status_code >= 400, "before anybody signed in there is nothing to agree to"
        page = await browser.sign_in(login)
        values, kept = {**inputs_of(page.text), "decision": "approve"}, dict(http.cookies)
        assert callback_of(await browser.post("/consent", values))["state"] == "xyz"
        for name in kept.keys() - dict(http.cookies).keys():
            http.cookies.set(name, kept[name])
        again = await browser.post("/consent", values)
        later = await browser.open(authorize_query(state="later"), site="cross-site")
        door.clock.advance(601)
        assert (await browser.approve(later)).status_code >= 400, "a state lives for ten minutes"
        return again.status_code == 303 and "code=" in again.headers["location"]


@row("TP-1", "a token that was issued for somebody else", patched(jwt, "check_claims", nothing))
async def token_of_somebody_else(stage: Stage) -> bool:
    async with world() as upstreams:
        config = settings(
            stage.path / "state",
            mcp={"one": {"url": upstreams.add_mcp("one"), "network": "loopback", "trust": "trusted"}},
        )
        async with composed(config) as wall:
            tokens = {
                "another resource": wall.mint("/mcp/two", "one:read", "one:write"),
                "the whole": wall.mint("/mcp", "one:read", "one:write"),
                "no audience": wall.mint("/mcp/one", "one:read", aud=None),
                "another issuer": wall.mint("/mcp/one", "one:read", iss="https://as.example"),
                "several audiences": wall.mint(
                    "/mcp/one", "one:read", aud=[f"{wall.url}/mcp/two", "https://x.example"]
                ),
            }
            passed = []
            for name, token in tokens.items():
                body, headers = modern("tools/list")
                answer = await wall.post("/mcp/one", body, token=token, headers=headers)
                assert answer.status in (200, 401), (name, answer.text)
                passed.append(answer.status == 200)
    return any(passed)


def _any_scheme(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clients, "is_client_url", always)
    patch.setattr(cimd, "check_client_url", lambda url, ports=None: "app.example")


@row("SS-1", "an address of OAuth without encryption", _any_scheme)
async def plain_http(stage: Stage) -> bool:
    door = make_door(cimd_policy="any")
    plain = CIMD_URL.replace("https:", "http:")
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(client_id=plain))
    assert reply.status_code >= 400
    for url in ("http://fw.example", "http://10.0.0.1", "ftp://fw.example"):
        with pytest.raises(ConfigFault, match="public_url"):
            make_door(public_url=url)
    return any(url == plain for _, url in door.fetcher.asked)


# What an attacker can write for an address inside: literals in every spelling, and names that resolve there.
INSIDE = [
    "169.254.169.254", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "10.0.0.1", "172.16.0.1",
    "192.168.1.1", "100.64.0.1", "0.0.0.0", "[::1]", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "inside.example", "localhost",
]  # fmt: skip


@row("SS-2", "our own request to an address inside", patched(dial, "permits", always))
async def request_to_inside(stage: Stage) -> bool:
    reached: list[bool] = []
    codes: set[str] = set()
    async with misbehaving() as server:

        async def resolver(_name: str) -> list[str]:
            return ["127.0.0.1"]

        dialler = Dialler(FakeClock(), resolver=resolver)
        for purpose in Purpose:
            for host in INSIDE if not stage.off else ["127.0.0.1"]:
                url = f"https://{host}:443/" if not stage.off else f"http://{host}:{server.port}/"
                network = "public" if not stage.off else "loopback"
                try:
                    fetched = await dialler.fetch(purpose, url, network=network, max_bytes=100, timeout_s=1)
                    reached.append(fetched.status == 200)
                except UpstreamFault as refused:
                    codes.add(refused.code)
        await dialler.close()
        assert bool(server.seen.connections) == stage.off
        assert codes <= {"blocked_address"}
    return any(reached)


@row("SS-3", "a redirect leads our request inside", by_setting)
async def redirected_inside(stage: Stage) -> bool:
    """The twin is a client that follows: it does go where the answer points."""
    async with misbehaving() as target, misbehaving() as server:
        server_url = server.url("/redirect")
        from tests.sim import misbehaving as sim

        stage.patch.setitem(
            sim.SAYS, "/redirect",
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % target.url("/in").encode(),
        )  # fmt: skip
        if stage.off:
            async with httpx2.AsyncClient(follow_redirects=True) as http:
                await http.get(server_url)
        else:
            dialler = Dialler(FakeClock())
            fetched = await dialler.fetch(
                Purpose.AGENT_CARD, server_url, network="loopback", max_bytes=100, timeout_s=2
            )
            assert fetched.status == 307
            await dialler.close()
        return bool(target.seen.requests)


@row("SS-4", "a name is harmless when it is checked and inside when it is connected", by_setting)
async def rebound(stage: Stage) -> bool:
    """The twin checks, and then connects by name, which asks once more."""
    answers = [["1.1.1.1"], ["127.0.0.1"]]

    async def resolver(_name: str) -> list[str]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    dialler = Dialler(FakeClock(), resolver=resolver)
    first = await dialler.resolve("rebind.example", "public")
    second = tuple(await resolver("")) if stage.off else await dialler.resolve("rebind.example", "public")
    await dialler.close()
    assert first == ("1.1.1.1",)
    return second != first


@row("SC-1", "a token for reading writes", by_setting)
async def reader_writes(stage: Stage) -> bool:
    """The twin holds the scope that the challenge names."""
    async with world() as upstreams:
        one = {"url": upstreams.add_mcp("one"), "network": "loopback", "trust": "trusted"}
        async with composed(settings(stage.path / "state", mcp={"one": one})) as wall:
            async with httpx2.AsyncClient() as http:
                known = (await http.get(f"{wall.url}/.well-known/oauth-protected-resource/mcp/one")).json()
            assert known["scopes_supported"] == ["one:read"], "the first scopes are the least there is"
            assert not any("*" in scope for scope in known["scopes_supported"])
            token = wall.mint("/mcp/one", "one:read", *(["one:write"] if stage.off else []))
            answer = await wall.call("one", "echo", {"text": "x"}, token=token)
            if answer.status == 403:
                challenge = answer.header("www-authenticate")
                assert 'error="insufficient_scope"' in challenge
                assert _scopes(challenge) == {"one:write"}
                told = answer.json["error"]["data"]["decision_id"]
                assert told in {r["decision_id"] for r in wall.records("decision")}, "the step can be followed"
            return bool(upstreams.calls("mcp", "one"))


@row("SC-2", "a challenge tells every scope there is", by_setting)
async def catalogue_in_challenge(stage: Stage) -> bool:
    """The twin reads the metadata of every server: the search does find scopes where they stand."""
    async with world() as upstreams:
        names = {name: {"url": upstreams.add_mcp(name), "network": "loopback"} for name in ("one", "two", "three")}
        async with composed(settings(stage.path / "state", mcp=names)) as wall:
            body, headers = modern("tools/list")
            first = await wall.post("/mcp/one", body, headers=headers)
            write = await wall.call("one", "echo", {"text": "x"}, token=wall.mint("/mcp/one", "one:read"))
            told = first.header("www-authenticate") + write.header("www-authenticate")
            assert (first.status, write.status) == (401, 403)
            if stage.off:
                async with httpx2.AsyncClient() as http:
                    known = [await http.get(f"{wall.url}/.well-known/oauth-protected-resource/mcp/{n}") for n in names]
                told = " ".join(answer.text for answer in known)
    return bool(_scopes(told) & {"two:read", "two:write", "three:read", "three:write", "*"})


def _scopes(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+:(?:read|write)", text))
