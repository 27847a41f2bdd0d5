"""A server and an agent of one name: neither moves the other's pins."""

from firewall.enforce.pins import OF_A_SERVER, OF_AN_AGENT, Pins
from firewall.state.memory import MemoryStore
from tests.support.kit import FixedClock, LocalMarks


def book() -> Pins:
    clock = FixedClock()
    return Pins(MemoryStore(clock).collection("pins"), LocalMarks(), clock)


def test_forgetting_an_agent_does_not_make_a_changed_tool_of_its_namesake_new_again():
    pins = book()
    pins.observe("default", "echo", "tool", "say", "sha256:a", trust=True)
    pins.observe("default", "echo", "card", "https://agent.example/card", "sha256:c", trust=True)
    assert pins.observe("default", "echo", "tool", "say", "sha256:b") == "changed"
    assert pins.forget("default", "echo", OF_AN_AGENT) == 1
    assert not pins.first_contact("default", "echo")  # a second first contact would pin the changed tool
    assert pins.status("default", "echo", "tool", "say", "sha256:b") == "changed"
    # the twin: the server itself was revoked
    assert pins.forget("default", "echo", OF_A_SERVER) == 1
    assert pins.first_contact("default", "echo")


def test_a_pinned_card_does_not_take_the_first_contact_of_a_server():
    pins = book()
    pins.observe("default", "echo", "card", "https://agent.example/card", "sha256:c", trust=True)
    assert pins.first_contact("default", "echo")
    pins.observe("default", "echo", "instructions", "instructions", "sha256:i")
    assert not pins.first_contact("default", "echo")


def test_a_server_that_showed_nothing_has_been_met():
    pins = Pins(MemoryStore().collection("pins"), LocalMarks(), FixedClock())
    assert [pins.meet("default", "echo") for _ in range(3)] == [True, False, False]
    assert list(pins.list("default")) == list(pins.list("default", "echo")) == []
    assert pins.meet("other", "echo")
    assert pins.meet("default", "echo-2")
    pins.forget("default", "echo", OF_AN_AGENT)
    assert not pins.meet("default", "echo")
    pins.forget("default", "echo", OF_A_SERVER)
    assert pins.meet("default", "echo")


def test_a_server_with_pins_from_before_was_met():
    pins = Pins(MemoryStore().collection("pins"), LocalMarks(), FixedClock())
    pins.observe("default", "echo", "tool", "a", "sha256:1")
    assert not pins.meet("default", "echo")


def test_a_worker_that_noted_a_definition_before_its_first_contact_is_told():
    pins = book()
    assert pins.meet("default", "echo")  # by another worker, which has not observed yet
    assert not pins.meet("default", "echo")
    assert pins.observe("default", "echo", "tool", "say", "sha256:a") == "new"
    before = pins.epoch()
    assert pins.observe("default", "echo", "tool", "say", "sha256:a", trust=True) == "approved"
    assert pins.epoch() != before
