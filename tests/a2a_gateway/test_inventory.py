"""What is known of an agent, and when its card is looked at again."""

import json

import pytest
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from joserfc.jwk import ECKey

from a2a_gateway.inventory import AgentSpec, CardKey, Inventory, InventorySettings
from examples.demo_a2a_agent import DemoAgent
from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.core.finding import Finding
from firewall.enforce.lock import Lock, Locked
from firewall.enforce.pins import PinRules, Pins
from firewall.enforce.registry import Registry
from firewall.net.dial import Fetched
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore
from tests.support.kit import LocalMarks

pytestmark = pytest.mark.anyio
URL = "http://127.0.0.1:8791/"
CARD_URL = f"{URL}.well-known/agent-card.json"
AGENT = DemoAgent(URL)


class Web:
    """What the dialler would bring: a card, a status, or a fault."""

    def __init__(self):
        self.asked = 0
        self.answer = AGENT.cards["restore"]

    async def fetch(self, purpose, url, *, network, max_bytes, timeout_s, headers=(), body=None):
        self.asked += 1
        if isinstance(self.answer, UpstreamFault):
            raise self.answer
        if isinstance(self.answer, Fetched):
            return self.answer
        return Fetched(200, {}, json.dumps(agent_card_to_dict(self.answer)).encode())


class Shelf:
    def __init__(self, review=lambda _definition: [], rules=PinRules(), **spec):  # noqa: B008  frozen
        self.clock, self.marks, self.web = FakeClock(), LocalMarks(), Web()
        self.store = MemoryStore(self.clock)
        self.registry = Registry(self.store.collection("r"), self.marks, self.clock, lambda _r: None)
        self.pins = Pins(self.store.collection("p"), self.marks, self.clock, rules)
        self.spec = AgentSpec(CARD_URL, AGENT.jwks(), network="loopback", **spec)
        self.registry.register("default", "a2a", "echo", self.spec.to_json(), by="t")
        self.registry.approve("default", "a2a", "echo", by="t")
        self.inventory = Inventory(
            registry=self.registry,
            pins=self.pins,
            dialler=self.web,
            review=review,
            clock=self.clock,
            signing=CardKey(ECKey.generate_key("P-256"), "k"),
            settings=InventorySettings("https://fw.example", card_ttl_s=5),
        )

    async def get(self):
        return await self.inventory.get("echo")


async def test_a_card_is_looked_at_once_within_its_time_and_again_after_it():
    shelf = Shelf()
    first = await shelf.get()
    assert (first.problem, first.resource.properties["pin"]) == ("", "approved")
    assert await shelf.get() is first
    shelf.clock.advance(4.9)
    await shelf.get()
    assert shelf.web.asked == 1
    shelf.clock.advance(0.2)
    await shelf.get()
    assert shelf.web.asked == 2


async def test_our_signature_is_made_once_per_card():
    shelf = Shelf()
    first = await shelf.get()
    shelf.clock.advance(6)
    again = await shelf.get()
    assert again is not first
    assert again.served == first.served
    assert again.etag == first.etag


async def test_silence_changes_nothing_and_a_first_silence_is_tried_again_soon():
    shelf = Shelf()
    shelf.web.answer = UpstreamFault("unreachable")
    assert (await shelf.get()).problem == "unreachable"
    shelf.web.answer = AGENT.cards["restore"]
    shelf.clock.advance(1.1)
    good = await shelf.get()
    assert good.problem == ""
    for answer in (UpstreamFault("timeout"), Fetched(503), Fetched(404)):
        shelf.web.answer = answer
        assert (await shelf.inventory.refresh("echo")).problem == ""


@pytest.mark.parametrize("answer", [UpstreamFault("too_large"), UpstreamFault("malformed"), Fetched(200, {}, b"{}")])
async def test_a_bad_card_is_an_answer_and_takes_the_agent_out_of_service(answer):
    shelf = Shelf()
    await shelf.get()
    shelf.web.answer = answer
    bad = await shelf.inventory.refresh("echo")
    assert (bad.problem, bad.card, bad.served) == ("card_invalid", None, None)
    assert bad.resource.properties["signed"] == "failed"


async def test_a_state_or_pin_that_changes_anywhere_on_the_node_counts_at_the_next_call():
    shelf = Shelf()
    assert (await shelf.get()).resource.properties["state"] == "approved"
    shelf.registry.suspend("default", "a2a", "echo", by="t")
    assert (await shelf.get()).resource.properties["state"] == "suspended"
    assert shelf.web.asked == 1


async def test_an_agent_that_its_operator_moves_is_met_anew_and_one_that_moves_itself_is_not():
    shelf = Shelf()
    await shelf.get()
    there = DemoAgent("http://127.0.0.1:8799/", AGENT.key)
    shelf.web.answer = there.cards["restore"]
    moved_itself = await shelf.inventory.refresh("echo")
    assert moved_itself.problem == "card_origin"
    spec = AgentSpec(f"{there.url}.well-known/agent-card.json", AGENT.jwks(), network="loopback")
    shelf.registry.configure("default", "a2a", "echo", spec.to_json())
    assert (await shelf.get()).problem == ""


async def test_a_grave_finding_keeps_first_contact_from_pinning_and_a_slight_one_does_not():
    def seen(severity):
        return lambda _card: [Finding("PIN-04", "review.x", "review", severity, "/name", "review")]

    assert (await Shelf(seen(40)).get()).problem == "card_new"
    assert (await Shelf(seen(39)).get()).problem == ""


async def test_a_changed_card_is_refused_unless_its_operator_only_warns():
    for rules, pin, problem in (
        (PinRules(), "changed", "card_changed"),
        (PinRules({"echo": "ask"}), "changed", "card_changed"),
        (PinRules({"echo": "warn"}), "warned", ""),
    ):
        shelf = Shelf(rules=rules)
        await shelf.get()
        shelf.web.answer = AGENT.cards["change"]
        changed = await shelf.inventory.refresh("echo")
        assert (changed.resource.properties["pin"], changed.problem) == (pin, problem)


async def test_with_a_lock_only_the_card_that_it_holds_is_approved():
    digest = (await Shelf().get()).resource.properties["hash"]
    assert (await Shelf(rules=PinRules(lock=Lock())).get()).problem == "card_new"
    held = PinRules(lock=Lock({("echo", "card", CARD_URL): Locked(digest)}))
    assert (await Shelf(rules=held).get()).problem == ""


async def test_an_unknown_name_asks_nobody():
    shelf = Shelf()
    for name in ("nobody", "../echo", "", "x" * 100):
        assert await shelf.inventory.get(name) is None
        assert shelf.inventory.spec(name) is None
    assert shelf.web.asked == 0


async def test_the_published_key_is_public_only():
    (key,) = Shelf().inventory.keys_document()["keys"]
    assert "d" not in key
    assert (key["kid"], key["alg"], key["use"]) == ("k", "ES256", "sig")


def test_a_spec_survives_its_way_through_the_registry():
    spec = AgentSpec(
        CARD_URL, AGENT.jwks(), "loopback", "trusted", ("a", "b"), ("https://x.example",), True, ("urn:x",)
    )
    assert AgentSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "members",
    [
        {"card_url": "ftp://x"},
        {"card_url": 1},
        {"keys": {"keys": []}},
        {"keys": {"keys": [{"kty": "oct", "k": "AA"}]}},
        {"keys": "x"},
        {"network": "any"},
        {"trust": "maybe"},
        {"tenants": []},
        {"tenants": "default"},
        {"public_card": "yes"},
        {"unknown": 1},
    ],
)
def test_a_wrong_spec_names_its_member(members):
    with pytest.raises(ConfigFault) as caught:
        AgentSpec.from_json({**AgentSpec(CARD_URL).to_json(), **members})
    assert caught.value.detail
