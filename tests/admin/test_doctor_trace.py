"""`bartizan doctor trace`: one person's way through the front door, by whatever they can name of it."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall import config as configuration
from firewall.admin.doctor.oauth.timeline import timeline
from firewall.cli.main import main
from firewall.config import Config
from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.users import subjects_called
from firewall.net.runtime import FakeClock, RandomIds
from firewall.record.audit import AuditWriter
from firewall.record.show import explain, explain_text
from firewall.state.sqlite import SQLiteStore
from tests.support.door import CIMD_URL, Browser, Door, authorize_query, make_door, redeem

KEY = Ed25519PrivateKey.generate()
STRANGER = "https://tool.unknown.example/client.json"


class Log:
    """A node's state directory, with a clock that moves a millisecond with each record."""

    def __init__(self, state: Path) -> None:
        self.clock = FakeClock(time.time_ns() // 1000)
        self.state = state
        self.config: Config = configuration.build({"state_dir": str(state), "public_url": "https://fw.example"})
        directory = self.config.audit_dir
        directory.mkdir(parents=True, mode=0o700)
        self._writer = AuditWriter(directory, KEY, self.clock, RandomIds(), hmac_key=b"k" * 32)

    def write(self, *records: dict[str, Any]) -> None:
        for record in records:
            self._writer.append({"v": 1, "kind": "auth", **record})
            self.clock.advance(0.001)

    def told(self, about: str, *, since_us: int = 0) -> list[JSONObject]:
        self._writer.close()
        return timeline(self.config, about, since_us=since_us, clock=self.clock)

    def names(self, about: str, *, since_us: int = 0) -> list[str]:
        return [str(event["event"]).removeprefix("identity.") for event in self.told(about, since_us=since_us)]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "state")


def decision(**more: Any) -> dict[str, Any]:
    return {
        "kind": "decision",
        "phase": "refused",
        "point": "mcp.tool.call",
        "exchange": "x_1",
        "decision_id": "d_1",
        "tenant": "acme",
        "subject": "u_1",
        "client": "tool",
        "fault": "denied",
        "action": {"proto": "mcp", "version": "2026-07-28", "method": "tools/call", "resource": "git/push"},
        "decision": {"effect": "deny", "rules": ["tools.not_granted"]},
        **more,
    }


async def signed_in(door: Door, name: str, *, wrong: bool = False) -> str:
    """Go through the pages as somebody and return the id of the OAuth grant that came of it."""
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        if wrong:
            assert (await browser.sign_in(page, name, "wrong")).status_code == 403
            door.clock.advance(5)
        page = await browser.sign_in(page, name)
        sent = await browser.approve(page) if page.status_code == 200 else page
        code = sent.headers["location"].partition("code=")[2].partition("&")[0]
        assert (await redeem(http, code)).status_code == 200
    return str(door.named("identity.token.issued")[-1]["gid"])


async def test_a_person_is_followed_by_name_grant_and_client_and_nobody_elses_way_is_joined(log: Log) -> None:
    """Through the real pages: Ada types a wrong password and then signs in; Bob does so beside her, by the same client."""
    door = make_door()
    ada, bob = await door.user("ada"), await door.user("bob")
    first = await signed_in(door, "ada", wrong=True)
    await signed_in(door, "bob")
    second = await signed_in(door, "ada")
    log.write(*({"event": event, **facts} for event, facts in door.events))
    store = SQLiteStore(log.config.state / "state.db", clock=log.clock)
    for name in ("users", "user_names"):
        for tenant in ("acme", "_node"):
            for entry in door.store.collection(name).scan(tenant):
                store.collection(name).put(tenant, entry.key, entry.value)
    assert subjects_called(store, "Ada ") == {("acme", ada.subject)}
    store.close()

    ways = ["login", "consent.given", "code.issued", "token.issued"]
    assert log.names(first) == ["login.failed", *ways]
    again = log.told(second)  # agreed to before, so nobody was asked a second time
    assert [e["event"] for e in again] == ["identity.login", "identity.code.issued", "identity.token.issued"]
    assert {e.get("gid", second) for e in again} == {second}
    assert log.names("ada") == ["user.created", "login.failed", *ways, "login", "code.issued", "token.issued"]
    assert log.told("ada") == log.told("ADA") == log.told(ada.subject)
    assert bob.subject not in str(log.told("ada"))
    assert {e.get("sub") for e in log.told(CIMD_URL)} == {ada.subject, bob.subject}
    assert log.told(CIMD_URL.split("/")[2]) == log.told(CIMD_URL)  # by its host, as a client that is unknown
    assert log.told("example") == []


async def test_a_client_that_nobody_knows_is_found_by_its_id_and_its_host(log: Log) -> None:
    door = make_door(cimd_hosts=("app.example",))
    odd = "https://tool.unknown.example/<script>alert(1)</script>"
    async with door.http() as http:
        for client_id in (STRANGER, odd, "tool-of-nobody", "https://[::1]/x", "https://a\u212alm.example/x"):
            reply = await http.get("/authorize", params=authorize_query(client_id=client_id))
            assert reply.status_code == 400
        form = {"grant_type": "authorization_code", "code": "x", "client_id": STRANGER}
        assert (await http.post("/token", data=form)).status_code in (400, 401)
    refused = door.named("identity.client.refused")
    digest = hashlib.sha256(STRANGER.encode()).hexdigest()[:16]
    assert {"client_host": "tool.unknown.example", "client_sha256": digest}.items() <= refused[0].items()
    assert refused[1]["client_host"] == "tool.unknown.example"
    assert [facts.get("client_host") for facts in refused[2:]] == [None] * 3
    assert refused[2]["code"] == "client_unknown"
    assert "script" not in str(door.events)  # nothing but the name of a host, and a digest
    assert "tool-of-nobody" not in str(door.events)

    log.write(*({"event": event, **facts} for event, facts in door.events))
    assert log.names(STRANGER) == ["client.refused", "token.refused"]
    assert log.names("tool.unknown.example") == ["client.refused", "client.refused", "token.refused"]
    assert log.names("tool-of-nobody") == ["client.refused"]
    assert log.names("https://other.example/client.json") == []


async def test_what_a_known_client_was_told_at_the_authorization_endpoint_is_recorded(log: Log) -> None:
    door = make_door()
    await door.user("ada")
    async with door.http() as http:
        browser = Browser(http)
        await browser.open(authorize_query(redirect_uri="https://elsewhere.example/cb"))
        await browser.open(authorize_query(scope="nothing:ever"))
        await browser.open(authorize_query(prompt="none"))
    told = [(f["client_id"], f["error"], f.get("code", "")) for f in door.named("identity.authorize.refused")]
    assert told == [
        (CIMD_URL, "invalid_request", "redirect_unknown"),
        (CIMD_URL, "invalid_scope", "scope_empty"),
        (CIMD_URL, "login_required", ""),
    ]
    assert "elsewhere.example" not in str(door.events)
    assert "nothing:ever" not in str(door.events)


def test_a_call_that_was_refused_leads_to_the_sign_in_behind_its_token(log: Log) -> None:
    log.write(
        {"event": "identity.login", "tenant": "acme", "sub": "u_1", "sid": "s_1", "txn": "t_1"},
        {
            "event": "identity.code.issued",
            "tenant": "acme",
            "sub": "u_1",
            "client_id": "tool",
            "txn": "t_1",
            "gid": "g_1",
        },
        {"event": "identity.token.issued", "tenant": "acme", "sub": "u_1", "client_id": "tool", "gid": "g_1"},
        {"event": "identity.token.issued", "tenant": "acme", "sub": "u_1", "client_id": "tool", "gid": "g_2"},
        {"event": "identity.token.issued", "tenant": "globex", "sub": "u_1", "client_id": "tool", "gid": "g_1"},
        decision(gid="g_1"),
        decision(exchange="x_2", decision_id="d_2", subject="svc", client="batch"),
        {
            "event": "identity.token.issued",
            "tenant": "acme",
            "sub": "svc",
            "client_id": "batch",
            "grant_type": "client",
        },
    )
    story = log.told("d_1")
    assert [e["event"] for e in story][-1] == "mcp.tool.call"
    assert story[-1] | {"effect": "deny", "rules": ["tools.not_granted"], "code": "denied"} == story[-1]
    assert [e.get("gid") for e in story if e["event"] == "identity.token.issued" and e["tenant"] == "acme"] == ["g_1"]
    assert story[0]["event"] == "identity.login"
    assert [e["event"] for e in log.told("d_2")] == ["mcp.tool.call", "identity.token.issued"]
    refused = {
        "kind": "edge",
        "phase": "refused",
        "fault": "token_invalid",
        "detail": "grant_revoked",
        "tenant": "acme",
    }
    whose = {"subject": "u_1", "client": "tool", "gid": "g_1"}
    again = Log(log.state.parent / "other")
    again.write(
        {"event": "identity.token.issued", "tenant": "acme", "sub": "u_1", "client_id": "tool", "gid": "g_1"},
        {"event": "identity.token.refused", "error": "invalid_request", "code": "form"},  # nobody's, and no part of it
        {**refused, **whose, "decision_id": "d_3"},
        {**refused, "tenant": "", "decision_id": "d_4"},
    )
    assert [e["event"] for e in again.told("d_3")] == ["identity.token.issued", "edge"]
    assert again.told("d_3")[-1]["detail"] == "grant_revoked"
    assert [e["event"] for e in again.told("d_4")] == ["edge"]
    assert "By OAuth grant g_1" in explain_text(explain(log.config.audit_dir, "d_1"))


def test_a_removed_person_is_followed_by_the_name_they_had(log: Log) -> None:
    """State has forgotten the name; the act that removed the account says whose it was."""
    log.write(
        {"kind": "admin", "tenant": "acme", "by": "root", "verb": "user.add", "object": "dora"},
        {"event": "identity.user.created", "tenant": "acme", "sub": "u_dora"},
        {"event": "identity.login", "tenant": "acme", "sub": "u_dora"},
        {"event": "identity.login", "tenant": "other", "sub": "u_dora"},  # a subject is of one tenant
        {"event": "identity.login", "tenant": "acme", "sub": "u_ada"},
        {"kind": "admin", "tenant": "acme", "by": "root", "verb": "user.remove", "object": "u_dora", "text": "dora"},
        {"event": "identity.user.removed", "tenant": "acme", "sub": "u_dora"},
        {"kind": "admin", "tenant": "acme", "by": "root", "verb": "user.link", "object": "u_ada", "text": "issuer"},
    )
    hers = ["user.created", "login", "user.removed"]
    assert log.names("dora") == log.names(" Dora ") == hers
    assert log.names("issuer") == []  # what another act says is no name


def test_a_trace_is_told_by_time_with_what_came_before_and_after(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    story: list[dict[str, Any]] = [
        {"event": "identity.idp.begun", "idp": "corp", "txn": "t_1"},
        {"event": "identity.idp.signed_in", "idp": "corp", "tenant": "acme", "sub": "u_1", "txn": "t_1"},
        {"event": "identity.login", "tenant": "acme", "sub": "u_1", "sid": "s_1", "txn": "t_1"},
        {
            "event": "identity.consent.given",
            "tenant": "acme",
            "sub": "u_1",
            "client_id": "other",
            "sid": "s_1",
            "txn": "t_1",
        },
        {"event": "identity.code.issued", "sub": "u_1", "client_id": "tool", "sid": "s_1", "txn": "t_2", "gid": "g_1"},
        {"event": "identity.token.refused", "error": "invalid_client", "code": "client_secret"},
        {
            "event": "identity.token.issued",
            "sub": "u_1",
            "client_id": "tool",
            "gid": "g_1",
            "grant_type": "refresh_token",
        },
        {"event": "identity.idp.failed", "idp": "corp", "code": "jwt_claims", "detail": "aud"},
        {"event": "identity.grant.revoked", "tenant": "acme", "sub": "u_1", "gid": "g_1", "reason": "refresh_reused"},
    ]
    log.write(*story)
    # The session was begun for another client: how the person proved who they are belongs here, that consent does not.
    ours = ["idp.begun", "idp.signed_in", "login", "code.issued", "token.issued", "grant.revoked"]
    assert log.names("g_1") == log.names("tool") == ours
    assert log.names("jwt_claims") == ["idp.failed"]
    assert len(log.names("")) == len(story)
    assert log.names("nobody") == []
    late = log.clock.now_us() - 1_500  # the last record alone is as new as that
    assert log.names("", since_us=late) == ["grant.revoked"]
    assert log.names("g_1", since_us=late) == ours  # what belongs to it is told however old it is
    assert log.names("g_1", since_us=late + 10_000) == []
    file = log.state / "bartizan.yaml"
    file.write_text(f"state_dir: {log.state}\n")
    assert main(["--config", str(file), "doctor", "trace", "corp", "--since", "10m"]) == 0
    assert "identity.idp.failed  code=jwt_claims detail=aud idp=corp" in capsys.readouterr().out
    assert main(["--config", str(file), "doctor", "trace", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["events"]) == len(story)
    assert main(["--config", str(file), "doctor", "trace", "--since", "soon"]) == 2
    capsys.readouterr()
    assert main(["--config", str(file), "doctor", "trace", "nobody"]) == 0
    assert "names 'nobody'" in capsys.readouterr().out
