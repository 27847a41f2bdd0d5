"""`bartizan approvals` and `approve`: what waits is shown exactly, and a person's word is taken with a password."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firewall.admin.parts import AdminSettings
from firewall.admin.rights import SECOND
from tests.admin.rig import TENANT
from tests.cli.test_commands import Node, node
from tests.support.door import PASSWORD

__all__ = ["node"]

DIGEST = "sha256:" + "1" * 64


@pytest.fixture
def four(node: Node) -> Node:
    """A node in which acts need two people, with an approver and a pin that waits."""
    object.__setattr__(node.room.parts, "settings", AdminSettings(four_eyes=frozenset(SECOND)))
    users = node.room.parts.identity.users
    asyncio.run(users.create("grace", PASSWORD, tenant=TENANT, roles=("approver",)))
    asyncio.run(users.create("bob", PASSWORD, tenant=TENANT, roles=("operator",)))
    node.room.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    return node


def ask(node: Node) -> str:
    made = node.json("pins", "approve", "time", "now", "--digest", DIGEST)
    return str(made["parked"]["id"])


def status(node: Node) -> str:
    return node.room.parts.pins.status(TENANT, "time", "tool", "now", DIGEST)


def decide(node: Node, *words: str, user: str = "grace", password: str = PASSWORD) -> tuple[int, str, str]:
    return node.run(*words, "--user", user, "--password-stdin", "--yes", stdin=password + "\n")


def test_what_needs_two_is_parked_and_done_by_a_second_persons_word(four: Node) -> None:
    code, out, _ = four.run("pins", "approve", "time", "now", "--digest", DIGEST)
    assert code == 0
    assert "Waits for a second person" in out
    assert status(four) == "new"
    (row,) = four.json("approvals", "list")["approvals"]
    assert f"bartizan approve {row['id']}" in out
    code, out, _ = four.run("approvals", "show", row["id"])
    assert code == 0
    for shown in (DIGEST, row["digest"], "uid:", "pins.approve"):
        assert shown in out
    code, _, err = four.run("approve", row["id"], "--user", "grace", "--password-stdin", stdin=PASSWORD + "\n")
    assert code != 0
    assert "--yes" in err  # a script says that it has looked; a password alone agrees to nothing
    assert status(four) == "new"
    code, out, err = decide(four, "approve", row["id"])
    assert (code, out) == (0, "Done.\n"), err
    assert row["digest"] in err  # what was agreed to was shown before
    assert status(four) == "approved"
    code, _, err = decide(four, "approve", row["id"])
    assert code == 1
    assert "state_conflict" in err


def test_the_owner_alone_a_wrong_password_and_another_role_do_nothing(four: Node) -> None:
    one = ask(four)
    code, _, err = four.run("approve", one)
    assert code == 2
    assert "--user" in err
    for words in ({"password": "wrong"}, {"user": "nobody"}, {"user": "bob"}):
        code, _, err = decide(four, "approve", one, **words)
        assert code == 1, err
        assert PASSWORD not in err
    assert status(four) == "new"


def test_a_request_is_denied_or_withdrawn(four: Node) -> None:
    one = ask(four)
    code, out, _ = decide(four, "approvals", "deny", one)
    assert (code, out) == (0, "Denied; nothing was done.\n")
    four.room.door.clock.advance(1)
    other = ask(four)
    assert four.json("approvals", "withdraw", other)["state"] == "withdrawn"
    states = {a["id"]: a["state"] for a in four.json("approvals", "list")["approvals"]}
    assert states == {one: "denied", other: "withdrawn"}
    assert four.json("approvals", "list", "--state", "pending")["approvals"] == []
    assert status(four) == "new"


def test_what_changed_meanwhile_is_not_done_and_told(four: Node) -> None:
    one = ask(four)
    four.room.parts.pins.observe(TENANT, "time", "tool", "now", "sha256:" + "2" * 64)
    code, out, _ = decide(four, "approve", one)
    assert (code, out) == (1, "Not done: state_conflict.\n")


def test_stops_servers_and_people_wait_too(four: Node) -> None:
    four.run("kill", "pull", "--upstream", "time")
    assert "Waits for a second person" in four.run("kill", "release", "--upstream", "time")[1]
    assert four.room.parts.kill_switch.stops()
    four.room.parts.registry.register(TENANT, "mcp", "notes", {"url": "https://n.example/mcp"}, by="x")
    assert "Waits for a second person" in four.run("servers", "approve", "notes")[1]
    assert "Waits for a second person" in four.run("users", "set", "bob", "--role", "approver")[1]
    code, out, _ = four.run("users", "add", "eve", "--role", "viewer", "--password-stdin", stdin=PASSWORD + "\n")
    assert code == 0
    assert "Waits for a second person" in out
    waiting: list[dict[str, Any]] = four.json("approvals", "list")["approvals"]
    assert {a["act"] for a in waiting} == {"kill.lift", "registry.approve", "users.admin"}
    for one in waiting:
        assert decide(four, "approve", one["id"])[0] == 0
    assert four.room.parts.kill_switch.stops() == []
    assert four.room.parts.registry.state(TENANT, "mcp", "notes") == "approved"
    assert {u.name: u.roles for u in four.room.parts.identity.users.list(TENANT)}["eve"] == ("viewer",)


@pytest.mark.parametrize("one", ["../users", "a/b", "a%2fb", "é", ""])
def test_an_id_that_is_none_reaches_no_other_path(four: Node, one: str) -> None:
    code, _, err = four.run("approvals", "show", one)
    assert code == 2
    assert "approval_id" in err


def test_a_token_for_the_admin_api_is_a_persons_and_no_more_than_that(node: Node) -> None:
    users = node.room.parts.identity.users
    asyncio.run(users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",)))
    code, out, _ = node.run("token", "--admin", "--user", "ada")
    assert code == 0
    assert out.startswith("bzb_")
    assert out.count("\n") == 1
    code, _, err = node.run("token", "--admin", "--user", "ada", "--role", "operator")
    assert code == 1
    assert "bearer_role" in err
    assert node.run("token", "--admin", "--user", "nobody")[0] == 1
    assert node.json("token", "--admin", "--role", "operator")["user"] == ""
