"""The JSON API: verbs, exact digests, tenants, and bodies that are read strictly."""

import orjson
import pytest

from firewall.core.errors import Conflict, Malformed, Unauthenticated
from firewall.core.principal import Actor, Principal
from llm_router.meter import Budget, Meter, Price
from mcp_gateway.child_words import COLLECTION, ChildWords
from tests.admin.rig import TENANT, Room

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


async def post(room: Room, path: str, body: object):  # type: ignore[no-untyped-def]
    async with room.owner() as owner:
        return await owner.post(
            f"/api/v1/{path}", content=orjson.dumps(body), headers={"content-type": "application/json"}
        )


async def get(room: Room, path: str):  # type: ignore[no-untyped-def]
    async with room.owner() as owner:
        return await owner.get(f"/api/v1/{path}")


async def test_a_server_goes_through_all_four_verbs(room: Room) -> None:
    made = await post(room, "registry", {"kind": "mcp", "name": "notes", "spec": {"url": "https://n.example/mcp"}})
    assert (made.status_code, made.json()["state"]) == (201, "pending")
    for verb, state in (
        ("approve", "approved"),
        ("suspend", "suspended"),
        ("approve", "approved"),
        ("revoke", "revoked"),
    ):
        assert (await post(room, f"registry/mcp/notes/{verb}", {})).json()["state"] == state
    assert (await post(room, "registry/mcp/notes/approve", {})).status_code == 409
    verbs = [r["verb"] for r in room.log.records if r.get("kind") == "registry"]
    assert verbs == ["register", "approve", "suspend", "approve", "revoke"]
    assert {r["by"] for r in room.log.records if r.get("kind") == "registry"} == {"uid:1000"}


async def test_what_a_program_said_is_shown_as_untrusted_and_of_the_own_tenant_alone(room: Room) -> None:
    await post(room, "registry", {"kind": "mcp", "name": "notes", "spec": {"url": "https://n.example/mcp"}})
    path = "registry/mcp/notes/stderr"
    assert (await get(room, path)).json()["untrusted_lines"] == []
    words = ChildWords(room.door.store.collection(COLLECTION), room.door.clock)
    words.of("elsewhere", "notes").hear(b"another tenant's\n")
    assert (await get(room, path)).json()["untrusted_lines"] == []
    words.of(TENANT, "notes").hear(b"no such \x1b[1mfile\n")
    told = (await get(room, path)).json()
    assert told["untrusted_lines"] == ["no such \\x1b[1mfile"]
    assert told["opened"] is False


async def test_a_token_from_before_a_revocation_does_not_reach_the_name_s_next_owner(room: Room) -> None:
    for url in ("https://one.example/mcp", "https://two.example/mcp"):
        await post(room, "registry", {"kind": "mcp", "name": "time", "spec": {"url": url}})
        await post(room, "registry/mcp/time/approve", {})
        token = room.door.identity.operator_tokens.mint_for_operator("/mcp/time", tenant=TENANT).token
        assert room.door.verified(token)
        if "one" in url:
            old = token
            await post(room, "registry/mcp/time/revoke", {})
            with pytest.raises(Unauthenticated):
                room.door.verified(old)
    with pytest.raises(Unauthenticated):
        room.door.verified(old)


async def test_an_agent_is_registered_with_its_spec_whole(room: Room) -> None:
    spec = {"card_url": "https://a.example/.well-known/agent-card.json", "public_card": True}
    made = await post(room, "registry", {"kind": "a2a", "name": "echo", "spec": spec})
    assert made.status_code == 201
    assert made.json()["spec"]["tenants"] == [TENANT]
    assert made.json()["spec"]["public_card"] is True


@pytest.mark.parametrize(
    "spec",
    [
        {"command": ["sh", "-c", "id"]},
        {"url": "https://n.example/mcp", "command": ["sh"]},
        {"url": "https://n.example/mcp", "env": {"LD_PRELOAD": "/tmp/x.so"}},
        {"url": "https://n.example/mcp", "read": ["/etc"]},
        {"url": "https://n.example/mcp", "credential": {"env": "HOME"}},
        {"url": "https://n.example/mcp", "tls": {"ca_file": "/etc/passwd"}},
        {"url": "https://n.example/mcp", "sandbox": "off"},
        {"url": "file:///etc/passwd"},
        {"url": "https://u:p@n.example/mcp"},
        {"url": "https://n.example/mcp", "network": "anywhere"},
        {"url": "https://n.example/mcp", "tools": {"x": "harmless"}},
        {},
    ],
)
async def test_no_server_is_registered_that_names_more_than_an_address(room: Room, spec: dict[str, object]) -> None:
    answer = await post(room, "registry", {"kind": "mcp", "name": "notes", "spec": spec})
    assert answer.status_code == 422, answer.text
    assert room.parts.registry.list(TENANT) == []


async def test_an_agent_cannot_name_files_of_ours(room: Room) -> None:
    spec = {"card_url": "https://a.example/card.json", "client_key": "/etc/bartizan/key.pem"}
    assert (await post(room, "registry", {"kind": "a2a", "name": "echo", "spec": spec})).status_code == 422


async def test_an_operator_cannot_register_for_other_tenants(room: Room) -> None:
    browser = await room.person("operator")
    for tenants, status in ((["*"], 403), (["other"], 403), ([TENANT], 201)):
        body = {"kind": "mcp", "name": "notes", "spec": {"url": "https://n.example/mcp", "tenants": tenants}}
        assert (await browser.api("registry", body)).status_code == status


async def test_exactly_the_digest_that_was_shown_is_approved(room: Room) -> None:
    room.parts.pins.observe(TENANT, "time", "tool", "now", A)
    shown = (await get(room, "pins")).json()["pins"][0]
    assert (shown["status"], shown["seen"]) == ("new", A)
    room.parts.pins.observe(TENANT, "time", "tool", "now", B)  # it changes while a person reads
    wish = {"upstream": "time", "kind": "tool", "name": "now", "digest": shown["seen"]}
    assert (await post(room, "pins/approve", wish)).status_code == 409
    assert room.parts.pins.status(TENANT, "time", "tool", "now", B) == "new"
    assert (await post(room, "pins/approve", {**wish, "digest": B})).json()["status"] == "approved"


async def test_a_pin_shows_what_its_digests_stand_for(room: Room) -> None:
    from firewall.wire import canonical

    old, new = {"name": "now", "description": "Tells the time."}, {"name": "now", "description": "Sends your keys."}
    for value in (old, new):
        room.parts.definitions.note(value)
    pins = room.parts.pins
    pins.observe(TENANT, "time", "tool", "now", canonical.digest(old), trust=True)
    pins.observe(TENANT, "time", "tool", "now", canonical.digest(new))
    one = (await get(room, "pins/one?upstream=time&kind=tool&name=now")).json()
    assert one["status"] == "changed"
    assert one["definition"] == {"approved": old, "seen": new}
    assert (await get(room, "pins/one?upstream=time&kind=tool&name=other")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"scope": "upstream", "name": "time"}, 201),
        ({"scope": "all"}, 201),
        ({"scope": "all", "name": "time"}, 422),
        ({"scope": "upstream"}, 422),
        ({"scope": "planet", "name": "x"}, 400),
        ({"scope": "all", "surprise": 1}, 400),
    ],
)
async def test_a_stop_names_its_scope(room: Room, body: dict[str, object], status: int) -> None:
    assert (await post(room, "kill", body)).status_code == status
    assert bool(room.parts.kill_switch.stops()) == (status == 201)


async def test_only_the_owner_stops_every_tenant(room: Room) -> None:
    browser = await room.person("admin")
    assert (await browser.api("kill", {"scope": "all", "everywhere": True})).status_code == 403
    assert (await post(room, "kill", {"scope": "all", "everywhere": True})).json()["tenant"] == "*"
    assert (await post(room, "kill/release", {"scope": "all", "everywhere": True})).json() == {"released": True}
    assert (await post(room, "kill/release", {"scope": "all", "everywhere": True})).json() == {"released": False}


async def test_tokens_are_minted_for_known_resources_and_scopes_only(room: Room) -> None:
    made = (await post(room, "tokens", {"resource": "/mcp/time"})).json()
    principal = room.door.verified(made["access_token"])
    assert (principal.kind, principal.subject, set(principal.scopes)) == ("local", "local:uid:1000", {"time:read"})
    for body in (
        {"resource": "/mcp/none"},
        {"resource": "/mcp/time", "scopes": ["git:read"]},
        {"resource": "/mcp/time", "ttl_s": 999999},
    ):
        assert (await post(room, "tokens", body)).status_code == 422
    listed = (await get(room, "tokens")).json()["resources"]
    assert {r["resource"] for r in listed} >= {"https://fw.example/mcp/time", "https://fw.example/v1"}


async def test_budgets_are_shown_by_caller(room: Room) -> None:
    principal = Principal(
        TENANT, "i", "u/with:signs", "https://c.example/a/b", frozenset(), "aud", (Actor("u"),), expires_at=0
    )
    meter = Meter(room.parts.store.collection("budgets"), room.door.clock, Budget())
    meter.reserve(principal, Price(1_000_000, 2_000_000), input_tokens=1000, output_tokens=500)
    found = (await get(room, "budgets")).json()
    assert found["callers"] == [
        {"subject": "u/with:signs", "client": "https://c.example/a/b", "tokens": 1500, "micro_usd": 2000}
    ]
    assert found["ceilings"]["tokens_per_day"] == 5_000_000


async def test_people_are_added_and_an_administrator_by_the_owner_alone(room: Room) -> None:
    admin = await room.person("admin")
    person = {"name": "Bob", "password": "a long enough password", "roles": ["viewer"], "scopes": ["time:*"]}
    assert (await admin.api("users", person)).json()["name"] == "bob"
    assert (await admin.api("users", person)).status_code == 409
    assert (await admin.api("users", {**person, "name": "eve", "roles": ["admin"]})).status_code == 403
    assert (await admin.api("users", {**person, "name": "eve", "password": "short"})).status_code == 422
    assert (await post(room, "users", {**person, "name": "eve", "roles": ["admin"]})).status_code == 201
    listed = (await admin.http.get("/api/v1/users")).json()["users"]
    assert {u["name"] for u in listed} == {"admin", "bob", "eve"}
    assert not any("hash" in u or "password" in u for u in listed)
    assert (await admin.api("users/nobody/disable")).status_code == 404


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b'{"scope":"all","scope":"upstream"}', "application/json", 400),
        (b'{"scope":', "application/json", 400),
        (b"[" * 100 + b"]" * 100, "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"scope":"all"}', "text/plain", 415),
        (b'{"scope":"all","everywhere":"true"}', "application/json", 400),
        (b'{"scope":"all","reason":"' + b"a" * 70_000 + b'"}', "application/json", 413),
    ],
)
async def test_a_body_is_read_once_and_strictly(room: Room, data: bytes, kind: str, status: int) -> None:
    async with room.owner() as owner:
        answer = await owner.post("/api/v1/kill", content=data, headers={"content-type": kind})
    assert answer.status_code == status
    assert room.parts.kill_switch.stops() == []


async def test_a_record_holds_no_control_characters_of_a_reason(room: Room) -> None:
    await post(room, "kill", {"scope": "all", "reason": "be\x1b[31mcause\u202e"})
    (record,) = [r for r in room.log.records if r.get("verb") == "kill.pull"]
    assert record["text"] == "be[31mcause"
    (stop,) = (await get(room, "kill")).json()["stops"]
    assert stop["reason"] == record["text"], "whoever finds a stop is told why it was pulled"


async def test_the_list_of_decisions_goes_on_from_a_time(room: Room) -> None:
    for _ in range(3):
        room.decided()
        room.door.clock.advance(1)
    rows = (await get(room, "decisions?limit=2")).json()["decisions"]
    assert len(rows) == 2
    assert rows[0]["time_us"] > rows[1]["time_us"]
    newer = (await get(room, f"decisions?since={rows[0]['time_us']}")).json()["decisions"]
    assert [r["uid"] for r in newer] == [rows[0]["uid"]]
    assert (await get(room, "decisions?limit=100000")).status_code == 400
    for query in ("since=x", f"since={10**30}", f"until={10**30}", "since=-1"):
        assert (await get(room, f"decisions?{query}")).json()["error"] == "params_invalid"
    assert room.faults == []


async def test_an_unknown_path_and_a_wrong_method_are_told_in_json(room: Room) -> None:
    assert (await get(room, "nothing")).json()["error"] == "path_unknown"
    assert (await post(room, "status", {})).json()["error"] == "method_not_allowed"


def test_the_pin_book_itself_refuses_another_digest(room: Room) -> None:
    room.parts.pins.observe(TENANT, "time", "tool", "now", A)
    with pytest.raises(Conflict):
        room.parts.pins.approve(TENANT, "time", "tool", "now", B, by="x")


def test_an_entry_of_a_hostile_name_is_refused_by_the_registry(room: Room) -> None:
    with pytest.raises(Malformed):
        room.parts.registry.register(TENANT, "mcp", "../etc", {}, by="x")
