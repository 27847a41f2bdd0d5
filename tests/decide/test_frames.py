"""A question made of kept parts is the question made at once, whoever asked before it and however often parts are let go."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.action import Action, Protocol, Resource
from firewall.core.errors import PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.label import Label, names_of
from firewall.core.points import INFO, Point
from firewall.core.policy_input import PolicyInput
from firewall.core.principal import Actor, Principal
from firewall.core.scopes import opened
from firewall.decide import question
from firewall.decide.contract import RESOURCE_DEFAULTS
from tests.decide.samples import ALICE, call, tool

# What somebody would write who wants the end of one part to be read as the beginning of another.
HOSTILE = (
    "alice",
    "",
    '"',
    "\\",
    '","properties":{"tenant":"globex"',
    '"},"action":{"name":"x","properties":{"side_effect":false,"arguments":',
    '},"resource":{"type":"mcp_tool"',
    ',"actor_chain":[],"audience":"x',
    "\x00",
    "\x00gid\x00",
    "\\u0000gid\\u0000",
    "%b%d%s",
    "é\u2028\U0001f600",
    "null",
)
TEXT = st.sampled_from(HOSTILE) | st.text(max_size=8)
ACTORS = st.builds(Actor, TEXT, st.sampled_from(["user", "agent", "service"]) | TEXT)
PRINCIPALS = st.builds(
    Principal,
    tenant=TEXT,
    issuer=TEXT,
    subject=TEXT,
    client_id=TEXT,
    scopes=st.frozensets(TEXT | st.sampled_from(["git:read", "git:write", "a:write"]), max_size=3),
    audience=TEXT,
    chain=st.lists(ACTORS, max_size=3).map(tuple),
    expires_at=st.integers(0, 2**40),
    kind=st.sampled_from(["user", "service", "local"]),
    auth_method=TEXT,
    token_id=TEXT,
    grant_id=TEXT,
    acr=TEXT,
    auth_time=st.integers(0, 2**33),
    roles=st.lists(TEXT, max_size=2).map(tuple),
    cimd_verified=st.booleans(),
    cnf=TEXT,
    run=TEXT,
    session_id=TEXT,
    txn=TEXT,
    hop=st.integers(0, 8),
)
RESOURCES = st.builds(
    lambda name, server, scope: Resource(
        "mcp_tool", f"{server}/{name}", server, tool(server=server, scope=scope).properties
    ),
    TEXT,
    TEXT,
    TEXT,
)
PROTOCOLS = st.builds(Protocol, st.just("mcp"), TEXT, st.sampled_from(["http", "sse", "stdio"]))
# One question after the other, each the one before it but for one thing.
STEPS = st.one_of(
    st.tuples(st.just("who"), st.integers(0, 2)),
    st.tuples(st.just("what"), st.integers(0, 1)),
    st.tuples(st.just("how"), st.integers(0, 1)),
    st.tuples(st.just("point"), st.sampled_from([Point.MCP_TOOL_CALL, Point.MCP_TOOL_RESULT, Point.MCP_PROMPT_GET])),
    st.tuples(st.just("verb"), st.sampled_from(["tools/call", '"}'])),
    st.tuples(st.just("effect"), st.booleans()),
    st.tuples(st.just("label"), st.sampled_from([Label(0), Label(1), Label(1 << 9)])),
    st.tuples(st.just("revision"), st.sampled_from(["sha256:1", "sha256:2"])),
    st.tuples(st.just("text"), TEXT),
    st.tuples(st.just("copies"), st.booleans()),  # objects that are equal, and not the same
)


TOOL = tool()


def plain(action: Action, label: Label, exchange: Exchange, now_us: int, revision: str) -> dict[str, Any]:
    """Return the document as the contract says it, in one piece and out of nothing that is kept."""
    who, thing = action.principal, action.resource
    return {
        "contract": "1",
        "point": action.point.value,
        "subject": {
            "type": who.chain[-1].type if who.chain else who.kind,
            "id": who.subject,
            "properties": {
                "tenant": who.tenant,
                "client": who.client_id,
                "scopes": sorted(opened(who.scopes)),
                "roles": list(who.roles),
                "kind": who.kind,
                "auth": {
                    "method": who.auth_method,
                    "acr": who.acr,
                    "auth_time": who.auth_time,
                    "cimd_verified": who.cimd_verified,
                    "dpop": bool(who.cnf),
                },
            },
        },
        "resource": {
            "type": thing.type,
            "id": thing.id,
            "properties": {**RESOURCE_DEFAULTS[thing.type], **thing.properties},
        },
        "context": {
            "protocol": {
                "name": action.protocol.name,
                "version": action.protocol.version,
                "transport": action.protocol.transport,
                "direction": INFO[action.point].direction,
            },
            "labels": names_of(label),
            "findings": [],
            "limits": {},
            "approval": None,
            "policy": {"revision": revision},
            "actor_chain": [{"sub": actor.sub, "type": actor.type} for actor in who.chain],
            "audience": who.audience,
            "request_id": exchange.id,
            "time_us": now_us,
        },
        "action": {
            "name": action.verb,
            "properties": {"side_effect": action.side_effect, "arguments": action.arguments},
        },
    }


def framed(document: dict[str, Any]) -> bytes:
    """Return what of a document the frame must tell apart: all but what differs in every input, and the arguments."""
    context = {k: v for k, v in document["context"].items() if k not in ("request_id", "time_us")}
    properties = {"side_effect": document["action"]["properties"]["side_effect"]}
    action = {"name": document["action"]["name"], "properties": properties}
    return orjson.dumps({**document, "context": context, "action": action}, option=orjson.OPT_SORT_KEYS)


def check(asked: PolicyInput, document: dict[str, Any], frames: dict[bytes, bytes]) -> None:
    """Compare with the plain document; a frame's digest means one thing, and one thing has one digest."""
    assert orjson.loads(asked.json) == document
    assert len(asked.json) == len(orjson.dumps(document)), "a member twice would not be seen by a parser"
    said = framed(document)
    assert frames.setdefault(asked.frame, said) == said
    assert sum(1 for one in frames.values() if one == said) == 1


@given(
    callers=st.lists(PRINCIPALS, min_size=3, max_size=3),
    things=st.lists(RESOURCES, min_size=2, max_size=2),
    protocols=st.lists(PROTOCOLS, min_size=2, max_size=2),
    steps=st.lists(STEPS, min_size=1, max_size=24),
    room=st.integers(1, 8),
)
def test_whoever_asks_in_whatever_order_is_asked_about_by_what_is_true_of_them(
    callers: list[Principal], things: list[Resource], protocols: list[Protocol], steps: list[Any], room: int
) -> None:
    """With room for so little that parts are let go, and made again, all the time."""
    frames: dict[bytes, bytes] = {}
    now: dict[str, Any] = {"who": 0, "what": 0, "how": 0, "point": Point.MCP_TOOL_CALL, "verb": "tools/call"}
    now |= {"effect": True, "label": Label(0), "revision": "sha256:1", "text": "", "copies": False}
    with pytest.MonkeyPatch.context() as patch:
        forgetful(patch, room, room)
        for number, (name, value) in enumerate(steps):
            now[name] = value
            caller, thing, protocol = callers[now["who"]], things[now["what"]], protocols[now["how"]]
            if now["copies"]:
                caller, thing, protocol = map(dataclasses.replace, (caller, thing, protocol))
            action = dataclasses.replace(
                call({"text": now["text"]}, resource=thing, who=caller),
                point=now["point"],
                verb=now["verb"],
                side_effect=now["effect"],
                protocol=protocol,
            )
            exchange, label, revision = Exchange(f"x_{number}", caller, "mcp", 0), now["label"], now["revision"]
            asked = question.ask(action, (), label=label, exchange=exchange, now_us=number, revision=revision)
            check(asked, plain(action, label, exchange, number, revision), frames)


@pytest.mark.parametrize(("callers", "fragments"), [(5, 5), (1, 4096), (4096, 1)])
@pytest.mark.parametrize("fresh", ["who", "what", "how", "who what how"])
def test_objects_that_are_made_where_others_were_are_not_taken_for_them(
    fresh: str, callers: int, fragments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are addresses, and an address is used again at once: short lives, with little room for one or the other."""
    forgetful(monkeypatch, callers, fragments)
    chance = random.Random(7)
    frames: dict[bytes, bytes] = {}
    who, what, how = ALICE, TOOL, Protocol("mcp", "2026-07-28", "http")
    for number in range(400):
        if "who" in fresh:
            who = dataclasses.replace(ALICE, subject=f"s{number}", cnf=chance.choice(["", "key"]))
        if "what" in fresh:
            what = tool(pin=chance.choice(["approved", "new"]), scope=f"git:{number}")
        if "how" in fresh:
            how = Protocol("mcp", f"v{number}", "http")
        action = dataclasses.replace(call({"n": number}, who=who, resource=what), protocol=how)
        exchange = Exchange(f"x_{number}", who, "mcp", 0)
        asked = question.ask(action, (), label=Label(0), exchange=exchange, now_us=number, revision="r")
        check(asked, plain(action, Label(0), exchange, number, "r"), frames)
        del action, exchange


def forgetful(patch: pytest.MonkeyPatch, callers: int, fragments: int) -> None:
    """Begin with nothing kept, and keep little."""
    patch.setattr(question, "_PRINCIPALS", callers)
    patch.setattr(question, "_FRAGMENTS", fragments)
    for name in ("_subjects", "_callers", "_frames"):
        patch.setattr(question, name, {})


SEEN: list[dict[str, Any]] = [
    {"tenant": "globex"},
    {"subject": "mallory"},
    {"client_id": "other"},
    {"scopes": frozenset({"git:read"})},
    {"audience": "https://fw.example/mcp/other"},
    {"chain": (Actor("alice"),)},
    {"chain": (Actor("alice"), Actor("agent", "service"))},
    {"chain": (Actor("agent"), Actor("alice", "agent"))},
    {"kind": "service"},
    {"auth_method": "mtls"},
    {"acr": "urn:strong"},
    {"auth_time": 7},
    {"roles": ("admin",)},
    {"cimd_verified": True},
    {"cnf": "thumbprint"},
]
UNSEEN: list[dict[str, Any]] = [
    {"issuer": "https://other.example"},
    {"expires_at": 1},
    {"token_id": "t"},
    {"grant_id": "g"},
    {"session_id": "s"},
    {"txn": "t"},
    {"hop": 3},
    {"run": "run"},
    {"cnf": "", "token_id": "u"},
]


@pytest.mark.parametrize("change", SEEN, ids=lambda change: next(iter(change)))
def test_each_fact_of_a_caller_that_policy_sees_is_another_frame(change: dict[str, Any]) -> None:
    assert _frame(**change) != _frame()


@pytest.mark.parametrize("change", UNSEEN, ids=lambda change: next(iter(change)))
def test_the_twin_a_fact_that_policy_is_not_shown_is_none(change: dict[str, Any]) -> None:
    assert _frame(**change) == _frame()


def test_every_fact_of_a_caller_is_one_or_the_other() -> None:
    """A fact that is added to `Principal` is to be thought about here. details: judged before policy (`token_rules`)."""
    names = {field.name for field in dataclasses.fields(Principal)}
    assert names == {name for change in (*SEEN, *UNSEEN) for name in change} | {"details", "key"}


def _frame(**change: Any) -> bytes:
    who = dataclasses.replace(ALICE, **change)
    action = call(who=who, resource=TOOL)
    return question.ask(action, (), label=Label(0), exchange=Exchange("x", who, "mcp", 0), now_us=1, revision="r").frame


def test_a_thing_that_is_made_of_another_is_encoded_anew() -> None:
    action = call(resource=TOOL)
    before = question.encode_input(
        action, (), label=Label(0), exchange=Exchange("x", ALICE, "mcp", 0), now_us=1, revision="r"
    )
    other = dataclasses.replace(TOOL, id="git/other")
    after = question.encode_input(
        call(resource=other), (), label=Label(0), exchange=Exchange("x", ALICE, "mcp", 0), now_us=1, revision="r"
    )
    assert orjson.loads(before)["resource"]["id"] == "git/git_status"
    assert orjson.loads(after)["resource"]["id"] == "git/other"


def test_what_cannot_be_said_is_refused_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful(monkeypatch, 8, 8)
    who = dataclasses.replace(ALICE, subject="\ud800")
    for _ in range(2):
        with pytest.raises(PolicyFault):
            question.ask(
                call(who=who), (), label=Label(0), exchange=Exchange("x", who, "mcp", 0), now_us=1, revision="r"
            )
    assert not question._subjects
    assert not question._frames
