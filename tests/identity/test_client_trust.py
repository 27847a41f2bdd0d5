"""Which clients that describe themselves are fetched at all: by domain, and by Rego before and after the fetch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON, get
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput, document_of
from firewall.core.ports import ClientFacts
from firewall.decide.bundle import load, read
from firewall.decide.regorus import RegorusEngine
from firewall.enforce.client_gate import ClientGate
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.cimd.trust import HostTrust
from firewall.identity.settings import IdentitySettings
from firewall.identity.throttle import Throttle
from firewall.net.dial import Fetched
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryStore
from firewall.wire import strict_json
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, ORIGIN, NoNetwork
from tests.support.kit import ALLOW, BrokenEngine, kit

JSON_TYPE = {"content-type": "application/json"}


class Asked:
    """A policy that notes what it is asked."""

    def __init__(self, *, fetch: bool = True, document: bool = True) -> None:
        self.answers = {"fetch": fetch, "document": document}
        self.facts: list[ClientFacts] = []

    async def permits(self, facts: ClientFacts) -> bool:
        self.facts.append(facts)
        return self.answers[facts.stage]


def documents(policy: Asked | ClientGate | None, clock: FakeClock | None = None, **changes: object) -> ClientDocuments:
    values: dict[str, object] = {"cimd_policy": "policy", "cimd_hosts": (), **changes}
    network = NoNetwork()
    body = strict_json.dumps({**CIMD_DOCUMENT, "redirect_uris": ["https://app.example/cb", "https://evil.example/cb"]})
    network.answers[CIMD_URL] = Fetched(200, JSON_TYPE, body)
    return ClientDocuments(IdentitySettings(ORIGIN, **values), network, clock or FakeClock(), policy=policy)  # type: ignore[arg-type]


async def refused(found: ClientDocuments, url: str = CIMD_URL, **how: bool) -> str:
    with pytest.raises(Malformed) as caught:
        await found.get(url, **how)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("claude.ai", True),
        ("agents.corp.example", True),
        ("a.b.corp.example", True),
        ("corp.example", False),
        ("evilcorp.example", False),
        ("claude.ai.evil.example", False),
        ("sub.claude.ai", False),
        ("aclaude.ai", False),
    ],
)
async def test_hosts_are_listed_by_name_or_by_everything_below_a_name(host: str, listed: bool) -> None:
    trust = HostTrust(IdentitySettings(ORIGIN, cimd_hosts=("claude.ai", "*.corp.example")), None)
    assert trust.lists(host) is listed
    if listed:
        await trust.check_host(f"https://{host}/c", host)
    else:
        with pytest.raises(Malformed, match="cimd_host"):
            await trust.check_host(f"https://{host}/c", host)


async def test_policy_is_asked_about_the_host_before_anything_leaves() -> None:
    policy = Asked(fetch=False)
    found = documents(policy)
    assert await refused(found) == "cimd_host"
    assert found._fetcher.asked == []  # type: ignore[attr-defined]
    assert policy.facts == [ClientFacts(CIMD_URL, "app.example", listed=False, stage="fetch")]


async def test_policy_is_asked_about_the_document_and_told_where_it_leads() -> None:
    policy = Asked(document=False)
    found = documents(policy)
    assert await refused(found) == "cimd_refused"
    said = policy.facts[1]
    assert (said.stage, said.redirect_hosts, said.foreign_hosts) == (
        "document",
        ("app.example", "evil.example"),
        ("evil.example",),
    )
    assert (said.auth_method, said.loopback_only) == ("none", False)


async def test_a_document_that_policy_no_longer_wants_does_not_stand_in_for_itself() -> None:
    policy, clock = Asked(), FakeClock()
    found = documents(policy, clock)
    assert await found.get(CIMD_URL)
    clock.advance(3601)
    policy.answers["document"] = False
    assert await refused(found, allow_stale=True) == "cimd_refused"


async def test_without_anybody_to_ask_policy_permits_nothing() -> None:
    found = documents(None)
    assert await refused(found) == "cimd_host"
    assert found._fetcher.asked == []  # type: ignore[attr-defined]


# -- the real engine and the shipped rules -------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> RegorusEngine:
    return RegorusEngine(load(), "interpreter")


@pytest.mark.parametrize("hosts", [(), ("app.example",), ("*.example",), ("other.example",)])
async def test_the_shipped_rules_permit_listed_hosts_and_deny_all_others(
    engine: RegorusEngine, hosts: tuple[str, ...]
) -> None:
    made = kit(engine=engine)
    found = documents(ClientGate(made.guard, made.clock, "acme"), cimd_hosts=hosts)
    permitted = hosts in (("app.example",), ("*.example",))
    if permitted:
        assert (await found.get(CIMD_URL)).client_id == CIMD_URL
    else:
        assert await refused(found) == "cimd_host"
    decisions = [r for r in made.audit.records if r["kind"] == "decision"]
    assert [r["decision"]["effect"] for r in decisions] == (["allow", "allow"] if permitted else ["deny"])


def house(root: Path, directory: Path) -> RegorusEngine:
    """Return an engine with the shipped bundle, the rule of docs/clients.md and its data."""
    text = (root / "docs" / "clients.md").read_text(encoding="utf-8")
    (rego,) = (part.partition("```")[0] for part in text.split("```rego\n")[1:])
    shutil.copytree(root / "policies", directory)
    (directory / "firewall/rules/house_clients.rego").write_text(rego, encoding="utf-8")
    data = directory / "config/data.yaml"
    data.write_text(data.read_text().replace("client_domains: []", "client_domains: [example]"), encoding="utf-8")
    return RegorusEngine(read(directory), "interpreter")


async def test_the_rule_of_the_document_judges_what_a_document_says(root: Path, tmp_path: Path) -> None:
    made = kit(engine=house(root, tmp_path / "policies"))
    gate = ClientGate(made.guard, made.clock, "acme")
    found = documents(gate)
    assert await refused(found) == "cimd_refused"  # its host may be a client, and it leads to evil.example
    rules = [r["decision"]["rules"] for r in made.audit.records if r["kind"] == "decision"]
    assert rules == [[], ["house_clients.leads_away"]]
    at_home = documents(gate)
    body = strict_json.dumps({**CIMD_DOCUMENT, "redirect_uris": ["https://app.example/cb", "http://127.0.0.1/cb"]})
    at_home._fetcher.answers[CIMD_URL] = Fetched(200, JSON_TYPE, body)  # type: ignore[attr-defined]
    assert (await at_home.get(CIMD_URL)).client_id == CIMD_URL  # the twin: the same client, which stays at home


async def test_rego_reads_everything_that_is_known_of_a_client() -> None:
    """What a rule reads is what the gate was told: a fact that gets lost on the way would decide nothing."""

    class Reading:
        name, revision = "reading", "sha256:reading"

        def __init__(self) -> None:
            self.read: list[JSON] = []

        def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
            document = strict_json.loads(document_of(question))
            assert isinstance(document, dict)
            self.read.append(get(document, ("action", "properties", "arguments")))
            return strict_json.dumps(ALLOW)

    engine = Reading()
    made = kit(engine=engine)
    gate = ClientGate(made.guard, made.clock, "acme")
    for stage in ("fetch", "document"):
        facts = ClientFacts(
            CIMD_URL,
            "app.example",
            listed=False,
            stage=stage,  # type: ignore[arg-type]
            redirect_hosts=("app.example", "evil.example"),
            foreign_hosts=("evil.example",),
            keys_host="keys.example",
            auth_method="private_key_jwt",
            grant_types=("authorization_code",),
            scopes=("time:read",),
        )
        assert await gate.permits(facts)
    assert engine.read == [
        {"url": CIMD_URL},
        {
            "url": CIMD_URL,
            "redirect_hosts": ["app.example", "evil.example"],
            "foreign_hosts": ["evil.example"],
            "keys_host": "keys.example",
            "loopback_only": False,
            "auth_method": "private_key_jwt",
            "grant_types": ["authorization_code"],
            "scopes": ["time:read"],
        },
    ]


async def test_an_engine_that_fails_permits_nothing() -> None:
    made = kit(engine=BrokenEngine())
    found = documents(ClientGate(made.guard, made.clock, "acme"), cimd_hosts=("app.example",))
    assert await refused(found) == "cimd_host"


async def test_a_client_that_is_stopped_is_not_fetched(engine: RegorusEngine) -> None:
    made = kit(engine=engine)
    gate = ClientGate(made.guard, made.clock, "acme")
    facts = ClientFacts(CIMD_URL, "app.example", listed=True, stage="fetch")
    assert await gate.permits(facts)
    made.guard.kill_switch.pull("acme", "client", CIMD_URL, by="test")
    assert not await gate.permits(facts)


# -- who may make us fetch, and how often ---------------------------------------------------------------------


async def test_cl_01_one_address_causes_ten_fetches_a_minute_and_others_their_own_ten() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    workers = [NoNetwork(), NoNetwork()]
    settings = IdentitySettings(ORIGIN, cimd_policy="any")
    found = [ClientDocuments(settings, network, clock, throttle=Throttle(store, clock)) for network in workers]
    codes = []
    for number in range(30):
        with pytest.raises(Malformed) as caught:
            await found[number % 2].get(f"https://h{number}.example/c", address=f"2001:db8:1:2::{number:x}")
        codes.append(caught.value.code)
    assert codes == ["cimd_fetch"] * 10 + ["cimd_busy"] * 20
    assert sum(len(network.asked) for network in workers) == 10
    with pytest.raises(Malformed, match="cimd_fetch"):
        await found[0].get("https://other.example/c", address="198.51.100.1")
    clock.advance(60)
    with pytest.raises(Malformed, match="cimd_fetch"):
        await found[0].get("https://again.example/c", address="2001:db8:1:2::1")


async def test_what_is_known_already_costs_nobody_a_fetch() -> None:
    clock = FakeClock()
    found = documents(None, clock, cimd_policy="any")
    found._throttle = Throttle(MemoryStore(clock), clock)
    for _ in range(50):
        assert await found.get(CIMD_URL, address="192.0.2.7")


# -- pinned copies ----------------------------------------------------------------------------------------------


async def test_a_document_is_pinned_by_the_name_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "client.json"
    file.write_bytes(strict_json.dumps(CIMD_DOCUMENT))
    found = documents(None, cimd_pinned={CIMD_URL: str(file)})
    assert (await found.get(CIMD_URL)).client_name == "Example Agent"
    assert found._fetcher.asked == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data", [None, b"", b"{}", b"x", strict_json.dumps({**CIMD_DOCUMENT, "pad": "x" * 2000, "more": "y" * 4000})]
)
def test_a_pinned_file_that_is_no_document_of_that_client_stops_the_start(tmp_path: Path, data: bytes | None) -> None:
    file = tmp_path / "client.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigFault) as caught:
        documents(None, cimd_pinned={CIMD_URL: str(file)})
    assert caught.value.code == "cimd_pinned"
