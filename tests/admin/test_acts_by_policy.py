"""Policy decides about acts of people: one person, two, or not at all; by no other way round, and closed on failure."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from firewall.admin.parts import AdminSettings
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput
from firewall.decide import bundle as bundles
from firewall.decide.regorus import RegorusEngine
from firewall.enforce.admin_gate import AdminGate
from firewall.net.runtime import RandomIds
from firewall.record.show import explain, explain_text
from tests.admin.rig import POLICY, TENANT, Room, gate_of, make_room
from tests.admin.test_approvals import DIGEST, OTHER, PIN, approved, ask, decide
from tests.support.door import PASSWORD, make_door
from tests.support.kit import QuietTelemetry

ROOT = Path(__file__).resolve().parents[2]
DAY, NIGHT = 1_795_428_000_000_000, 1_795_399_200_000_000  # a Monday, 10:00 and 02:00 UTC
STOP = {"scope": "upstream", "name": "time"}


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of docs/admin.md of one kind: what the document shows is what runs here."""
    text = (ROOT / "docs" / "admin.md").read_text()
    return [part.partition("```")[0] for part in text.split(f"```{kind}\n")[1:]]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    """The shipped bundle with the rules of docs/admin.md."""
    root = tmp_path_factory.mktemp("house") / "policies"
    shutil.copytree(ROOT / "policies", root)
    (root / "firewall/rules/house_acts.rego").write_text(blocks("rego")[0])
    (root / "replay/50-house-acts.jsonl").write_text(blocks("json")[0])
    return bundles.read(root)


def room_of(directory: Path, bundle: bundles.Bundle, **settings: Any) -> Room:
    door = make_door()
    made = make_room(directory, door, settings=AdminSettings(**settings), policy=bundle)
    object.__setattr__(made.parts, "gate", gate_of(bundle, made.log, door))
    made.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    return made


@pytest.fixture
def by_rule(tmp_path: Path, house: bundles.Bundle) -> Iterator[Room]:
    """A room whose configuration asks for nobody, and whose policy does; it is Monday morning."""
    made = room_of(tmp_path, house)
    at(made, DAY)
    yield made
    made.log.writer.close()


def at(room: Room, now_us: int) -> None:
    clock = room.door.clock
    clock.advance((now_us - clock.now_us()) / 1_000_000)


def decisions(room: Room) -> list[tuple[str, str, list[str]]]:
    """Return effect, code and rules of every recorded decision about an act."""
    found = [r for r in room.log.records if r.get("point") == "admin.act"]
    return [(r["decision"]["effect"], r["fault"], r["decision"]["rules"]) for r in found]  # type: ignore[index,call-overload,misc]


def test_the_cases_of_the_document_pass(house: bundles.Bundle) -> None:
    assert sum(case.source.startswith("replay/50-house-acts") for case in house.cases) == 3
    assert (
        bundles.failing_cases(replace(house, cases=tuple(c for c in house.cases if c.point is Point.ADMIN_ACT))) == []
    )


async def test_by_day_one_person_approves_a_definition_and_at_night_two_do(by_rule: Room) -> None:
    bob, carol = await by_rule.person("operator", "bob"), await by_rule.person("approver", "carol")
    assert (await bob.api("pins/approve", PIN)).status_code == 200
    assert approved(by_rule)
    by_rule.parts.pins.observe(TENANT, "time", "tool", "later", OTHER)
    at(by_rule, NIGHT + 24 * 3_600_000_000)
    for person, name in ((bob, "bob"), (carol, "carol")):
        await person.sign_in(name)
    parked = await ask(bob, body={**PIN, "name": "later", "digest": OTHER})
    assert parked["rules"] == ["house_acts.pin_at_night"]
    assert by_rule.parts.pins.status(TENANT, "time", "tool", "later", OTHER) == "new"
    assert (await decide(carol, parked)).json()["state"] == "done"
    assert by_rule.parts.pins.status(TENANT, "time", "tool", "later", OTHER) == "approved"
    assert decisions(by_rule) == [
        ("allow", "", []),
        ("approve", "approval_pending", ["house_acts.pin_at_night"]),
        ("allow", "", []),
    ]


async def test_without_the_rule_the_same_act_at_night_needs_one_person(tmp_path: Path) -> None:
    """The twin of the test above: the rule is what parks."""
    plain = room_of(tmp_path, POLICY)
    at(plain, NIGHT)
    bob = await plain.person("operator", "bob")
    assert (await bob.api("pins/approve", PIN)).status_code == 200
    assert approved(plain)
    plain.log.writer.close()


async def test_a_stop_of_the_named_tenant_is_released_by_two_by_whatever_way(by_rule: Room) -> None:
    """Console, API, a script's bearer and the owner's socket come to the same question."""
    await by_rule.person("approver", "carol")
    bob = await by_rule.person("operator", "bob")
    assert (await bob.api("kill", STOP)).status_code == 201
    assert (await bob.api("kill/release", STOP)).status_code == 202
    form = await bob.post("/stops/release", STOP)
    assert form.headers["location"].startswith("/approvals/a_")
    async with by_rule.owner() as owner, by_rule.http() as http:
        assert (await owner.post("/api/v1/kill/release", json=STOP)).status_code == 202
        everywhere = {"scope": "all", "everywhere": True}
        assert (await owner.post("/api/v1/kill", json=everywhere)).status_code == 201
        assert (await owner.post("/api/v1/kill/release", json=everywhere)).status_code == 202
        other = {**STOP, "name": "mail"}
        assert (await owner.post("/api/v1/kill?tenant=globex", json=other)).status_code == 201
        released = await owner.post("/api/v1/kill/release?tenant=globex", json=other)
        assert (released.status_code, released.json()) == (200, {"released": True})  # the twin: another tenant's
        bearer = (await owner.post("/api/v1/bearers", json={"role": "operator", "user": "bob"})).json()["bearer"]
        script = await http.post("/api/v1/kill/release", json=STOP, headers={"Authorization": f"Bearer {bearer}"})
        assert script.json()["error"] == "fresh"  # a script never came this far
    assert {s.name for s in by_rule.parts.kill_switch.stops()} == {"time", "*"}


async def test_a_stop_of_everything_keeps_nobody_from_asking_to_release_it(by_rule: Room) -> None:
    bob, carol = await by_rule.person("operator", "bob"), await by_rule.person("approver", "carol")
    everything = {"scope": "all"}
    assert (await bob.api("kill", everything)).status_code == 201
    parked = await ask(bob, "kill/release", everything)
    assert (await decide(carol, parked)).json()["state"] == "done"
    assert by_rule.parts.kill_switch.stops() == []


async def test_who_asked_is_not_the_second_person_of_policy(by_rule: Room) -> None:
    at(by_rule, NIGHT)
    carol, dave = await by_rule.person("approver", "carol"), await by_rule.person("approver", "dave")
    parked = await ask(carol)
    assert (await decide(carol, parked)).json()["error"] == "second_self"
    async with by_rule.owner() as owner:  # nor by another way in
        word = {"digest": parked["digest"], "person": {"name": "carol", "password": PASSWORD}}
        path = f"/api/v1/approvals/{parked['id']}/approve"
        assert (await owner.post(path, json=word)).json()["error"] == "second_self"
        assert (await owner.post(path, json={"digest": parked["digest"]})).json()["error"] == "role"
    assert not approved(by_rule)
    assert (await decide(dave, parked)).json()["state"] == "done"


async def test_what_was_agreed_to_lifts_no_rule_that_nobody_was_shown(by_rule: Room) -> None:
    """Asked by day because configuration says so, agreed to at night: policy wants what carol was not shown."""
    object.__setattr__(by_rule.parts, "settings", AdminSettings(four_eyes=frozenset({"pins.approve"})))
    bob, carol = await by_rule.person("operator", "bob"), await by_rule.person("approver", "carol")
    at(by_rule, DAY + 6 * 3_600_000_000 + 3_590_000_000)  # ten seconds before five
    for person, name in ((bob, "bob"), (carol, "carol")):
        await person.sign_in(name)
    parked = await ask(bob)
    assert parked["rules"] == ["admin.second_person"]
    at(by_rule, DAY + 7 * 3_600_000_000 + 10_000_000)
    done = (await decide(carol, parked)).json()
    assert (done["state"], done["outcome"]) == ("failed", "second_stale")
    assert not approved(by_rule)
    again = await ask(bob)
    assert set(again["rules"]) == {"admin.second_person", "house_acts.pin_at_night"}
    assert (await decide(carol, again)).json()["state"] == "done"  # the twin: she was shown both


async def test_rules_that_were_altered_in_the_store_fit_the_digest_no_more(by_rule: Room) -> None:
    from firewall.identity import records

    at(by_rule, NIGHT)
    bob, carol = await by_rule.person("operator", "bob"), await by_rule.person("approver", "carol")
    parked = await ask(bob)
    book = by_rule.door.store.collection("approvals")
    entry = book.get(TENANT, parked["id"])
    assert entry is not None
    book.put(TENANT, parked["id"], records.encode({**records.decode(entry.value), "rules": ["house_acts.release"]}))
    assert (await decide(carol, parked)).status_code == 409
    assert not approved(by_rule)


# -- what policy refuses, and what goes wrong ------------------------------------------------------------


def rewritten(directory: Path, **changes: str) -> bundles.Bundle:
    """Return the shipped bundle with the admin package replaced."""
    root = directory / "other"
    shutil.copytree(ROOT / "policies", root)
    source = (root / "firewall/rules/admin.rego").read_text()
    for part, new in changes.items():
        old = {"effect": '"effect": "approve"', "when": "\tnot one_is_enough\n"}[part]
        assert old in source
        source = source.replace(old, new)
    (root / "firewall/rules/admin.rego").write_text(source)
    return bundles.read(root)


async def test_an_act_that_policy_denies_is_not_done_and_says_by_which_rule(tmp_path: Path) -> None:
    strict = room_of(tmp_path, rewritten(tmp_path, effect='"effect": "deny"'), four_eyes=frozenset({"pins.approve"}))
    bob = await strict.person("operator", "bob")
    refused = await bob.api("pins/approve", PIN)
    assert (refused.status_code, refused.json()["error"]) == (403, "admin_denied")
    assert "admin.second_person (A second person must agree)" in refused.json()["detail"]
    assert not approved(strict)
    assert decisions(strict) == [("deny", "denied", ["admin.second_person"])]
    shown = (await bob.post("/pins/approve", {**PIN})).text
    assert "admin.second_person" in shown
    strict.log.writer.close()


async def test_a_policy_that_asks_for_nobody_does_not_take_back_what_configuration_asks(tmp_path: Path) -> None:
    """Permission is an intersection (DESIGN §6b-6): a careless author loosens nothing."""
    loose = room_of(
        tmp_path, rewritten(tmp_path, when="\tfalse\n\tnot one_is_enough\n"), four_eyes=frozenset({"pins.approve"})
    )
    bob, carol = await loose.person("operator", "bob"), await loose.person("approver", "carol")
    parked = await ask(bob)
    assert parked["rules"] == ["core.four_eyes"]
    assert (await decide(carol, parked)).json()["state"] == "done"
    loose.log.writer.close()


class Engine:
    """An engine that answers what it is told to, or raises it."""

    name, revision = "scripted", "sha256:scripted"

    def __init__(self, answer: bytes | Exception) -> None:
        self.answer = answer

    def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


ALLOW: dict[str, Any] = {
    "contract": "1",
    "decision": True,
    "effect": "allow",
    "risk": 0,
    "reasons": [],
    "obligations": [],
}
REASON = {"rule": "a.b", "effect": "transform", "code": "x", "owasp": [], "severity": 1}
DUTY = {"type": "clean", "pointer": "/wish/name"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (RuntimeError("gone"), "policy_unavailable"),
        (b"", "policy_unavailable"),
        (b"{}", "policy_unavailable"),
        (orjson.dumps({**ALLOW, "decision": False}), "policy_unavailable"),
        (orjson.dumps({**ALLOW, "effect": "maybe"}), "policy_unavailable"),
        (orjson.dumps({**ALLOW, "effect": "transform", "reasons": [REASON], "obligations": [DUTY]}), "admin_denied"),
    ],
)
async def test_an_act_about_which_nothing_can_be_decided_is_not_done(
    room: Room, answer: bytes | Exception, error: str
) -> None:
    clock = room.door.clock
    gate = AdminGate(Engine(answer), room.log, QuietTelemetry(), clock, RandomIds())
    object.__setattr__(room.parts, "gate", gate)
    room.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    bob = await room.person("operator", "bob")
    refused = await bob.api("pins/approve", PIN)
    assert (refused.status_code, refused.json()["error"]) == (503 if error == "policy_unavailable" else 403, error)
    assert "gone" not in refused.text
    assert not approved(room)
    gate = AdminGate(Engine(orjson.dumps(ALLOW)), room.log, QuietTelemetry(), clock, RandomIds())
    object.__setattr__(room.parts, "gate", gate)
    assert (await bob.api("pins/approve", PIN)).status_code == 200  # the twin: the same act, decided


class Elsewhere(Engine):
    """An engine in another process, which has to be waited for."""

    def __init__(self, engine: RegorusEngine) -> None:
        super().__init__(b"")
        self.engine = engine
        self.name, self.revision = engine.name, engine.revision
        self.meanwhile: Callable[[], object] = lambda: None

    async def decide_remote(self, point: Point, input_json: bytes) -> bytes:
        await asyncio.sleep(0)
        self.meanwhile()
        return self.engine.decide(point, input_json)


async def test_an_engine_in_another_process_is_waited_for_and_what_changed_meanwhile_is_not_done(
    room: Room, house: bundles.Bundle
) -> None:
    engine = Elsewhere(RegorusEngine(house, "interpreter"))
    gate = AdminGate(engine, room.log, QuietTelemetry(), room.door.clock, RandomIds())
    object.__setattr__(room.parts, "gate", gate)
    pins = room.parts.pins
    pins.observe(TENANT, "time", "tool", "now", DIGEST)
    at(room, DAY)
    bob = await room.person("operator", "bob")
    engine.meanwhile = lambda: pins.observe(TENANT, "time", "tool", "now", OTHER)
    assert (await bob.api("pins/approve", PIN)).status_code == 409  # judged as it was, and it is not that any more
    assert not approved(room)
    engine.meanwhile = lambda: None
    assert (await bob.api("pins/approve", {**PIN, "digest": OTHER})).status_code == 200
    assert approved(room, OTHER)


async def test_an_act_whose_decision_cannot_be_recorded_is_not_done(room: Room) -> None:
    room.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    bob = await room.person("operator", "bob")
    csrf = await bob.csrf()
    room.log.down = True
    headers = {"x-csrf-token": csrf, "content-type": "application/json", "Origin": "http://127.0.0.1:8701"}
    answer = await bob.http.post("/api/v1/pins/approve", content=orjson.dumps(PIN), headers=headers)
    assert answer.status_code == 503
    room.log.down = False
    assert not approved(room)


async def test_a_denied_account_is_not_made(tmp_path: Path) -> None:
    strict = room_of(tmp_path, rewritten(tmp_path, effect='"effect": "deny"'), four_eyes=frozenset({"users.admin"}))
    await strict.person("approver", "carol")
    person = {"name": "eve", "password": PASSWORD, "roles": ["viewer"]}
    async with strict.owner() as owner:
        assert (await owner.post("/api/v1/users", json=person)).json()["error"] == "admin_denied"
    assert [u.name for u in strict.parts.identity.users.list(TENANT)] == ["carol"]
    strict.log.writer.close()


# -- the record -----------------------------------------------------------------------------------------


async def test_the_whole_story_of_an_act_is_explained_by_one_id(by_rule: Room, tmp_path: Path) -> None:
    at(by_rule, NIGHT)
    bob, carol = await by_rule.person("operator", "bob"), await by_rule.person("approver", "carol")
    parked = await ask(bob)
    await decide(carol, parked)
    text = explain_text(explain(tmp_path / "audit", parked["exchange"]))
    for line in (
        "admin.act: pins.approve pins.approve",
        "rules: house_acts.pin_at_night",
        f"approval.asked pins.approve by bob ({parked['id']})",
        "pins.approve time/tool/now by bob, and carol agreed",
        f"approval.done pins.approve by carol ({parked['id']})",
        "Outcome: ok",
    ):
        assert line in text, text
    page = await carol.http.get(f"/approvals/{parked['id']}")
    assert "house_acts.pin_at_night" in page.text
    assert (await carol.http.get(f"/decisions/{parked['exchange']}")).status_code == 200


async def test_a_record_of_an_act_holds_no_value_of_it(by_rule: Room) -> None:
    at(by_rule, NIGHT)
    bob = await by_rule.person("operator", "bob")
    by_rule.parts.pins.observe(TENANT, "time", "tool", "secret-name", DIGEST)
    await ask(bob, body={**PIN, "name": "secret-name"})
    (record,) = [r for r in by_rule.log.records if r.get("point") == "admin.act"]
    assert "secret-name" not in str(record)


async def test_every_act_that_can_need_two_is_asked_of_policy_first(tmp_path: Path) -> None:
    """One table of acts, one way to do them: an act beside it would be a way round policy."""
    from firewall.admin.rights import SECOND

    closed = room_of(tmp_path, rewritten(tmp_path, effect='"effect": "deny"'), four_eyes=frozenset(SECOND))
    closed.parts.registry.register(TENANT, "mcp", "notes", {"url": "https://n.example/mcp"}, by="x")
    await closed.person("approver", "carol")
    await closed.person("viewer", "eve")
    calls: dict[str, list[tuple[str, Any]]] = {
        "pins.approve": [("pins/approve", PIN)],
        "registry.approve": [("registry/mcp/notes/approve", {})],
        "kill.lift": [("kill/release", STOP)],
        "users.admin": [
            ("users", {"name": "zoe", "password": PASSWORD, "roles": []}),
            ("users/eve/set", {"roles": ["operator"], "scopes": []}),
            ("users/eve/enable", {}),
            ("users/eve/remove", {}),
            ("users/eve/links", {"issuer": "https://idp.example", "subject": "1"}),
        ],
    }
    assert set(calls) == set(SECOND)
    async with closed.owner() as owner:
        assert (await owner.post("/api/v1/kill", json=STOP)).status_code == 201
        for path, body in [one for listed in calls.values() for one in listed]:
            answer: httpx2.Response = await owner.post(f"/api/v1/{path}", json=body)
            assert answer.json().get("error") == "admin_denied", (path, answer.text)
    assert closed.parts.registry.state(TENANT, "mcp", "notes") == "pending"
    assert closed.parts.kill_switch.stops()
    closed.log.writer.close()
