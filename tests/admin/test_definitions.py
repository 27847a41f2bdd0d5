"""Definitions are remembered by the digest that their pin holds."""

from firewall.admin.definitions import DEFINITION_BYTES, WAITING, Definitions
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore
from mcp_gateway import lists
from tests.admin.rig import Room

TOOL = {"name": "now", "description": "Tells the time.", "inputSchema": {"type": "object"}}


def test_the_review_that_is_wrapped_says_what_it_said_and_the_definition_is_kept(room: Room) -> None:
    definitions = room.parts.definitions
    asked = []
    review = definitions.noting(lambda value: asked.append(value) or [])  # type: ignore[func-returns-value]
    found = lists.definition(TOOL)
    assert review(found.value) == []
    assert asked == [found.value]
    assert definitions.get(found.digest) == TOOL  # before it is written, and after
    assert definitions.write() == 1
    assert definitions.write() == 0
    assert definitions.get(found.digest) == TOOL
    assert definitions.get("sha256:" + "0" * 64) is None
    assert definitions.get("") is None


def test_what_is_too_large_or_too_many_is_let_go() -> None:
    definitions = Definitions(MemoryStore(FakeClock()).collection("definitions"))
    definitions.note({"description": "a" * DEFINITION_BYTES})
    assert definitions.write() == 0
    for number in range(WAITING + 5):
        definitions.note({"name": number})
    assert definitions.write() == WAITING


def test_what_has_no_canonical_form_is_let_go() -> None:
    definitions = Definitions(MemoryStore(FakeClock()).collection("definitions"))
    definitions.note({"name": "\ud800"})
    assert definitions.write() == 0
