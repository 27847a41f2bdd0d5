"""OP-04: keys rotate with overlap; what was signed before still verifies, until it cannot be alive any more."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import AuditUnavailable, Malformed, Unauthenticated
from firewall.core.jsonvalue import JSONObject
from firewall.identity.rfc9068.rotation import LIFETIME_S, PUBLISHED_S, KeyRotation, Plan
from firewall.identity.rfc9068.tokens import SigningKeys, TokenFacts, TokenIssuer
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.keys import KeyRing, thumbprint
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from firewall.wire import jwt, strict_json
from tests.support.door import assertion, client_credentials, make_door


class Node:
    """A state directory and a store; `worker` starts one more process over them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "keys"
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.marks = SharedMarks(None)
        self.events: list[tuple[str, JSONObject]] = []

    def worker(self) -> KeyRotation:
        return KeyRotation(
            KeyRing(self.directory), self.store, self.marks, self.clock, lambda e, f: self.events.append((e, f))
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def token(self, keys: SigningKeys) -> str:
        issuer = TokenIssuer("https://fw.example", keys, self.clock, RandomIds(), lifetime_s=300)
        return issuer.issue(TokenFacts("acme", "u", "c", "https://fw.example/mcp/time", ("time:read",), "g")).token


def kids(keys: SigningKeys) -> list[str]:
    document = keys.jwks()
    assert isinstance(document, dict)
    found = document["keys"]
    assert isinstance(found, list)
    return [str(key["kid"]) for key in found if isinstance(key, dict)]


def verifies(token: str, keys: SigningKeys) -> bool:
    unchecked = jwt.parse_compact(token.encode())
    key = keys.by_kid.get(unchecked.kid)
    if key is None:
        return False
    jwt.verify(unchecked, key)
    return True


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_op_04_current_and_next_key_are_published_from_the_first_start(node: Node) -> None:
    rotation = node.worker()
    assert len(kids(rotation.keys)) == 2
    assert kids(rotation.keys)[0] == rotation.keys.kid
    assert node.files() == ["ec-as.1", "ec-as.2"]
    assert [state.state for state in rotation.states()] == ["current", "next"]


def test_op_04_the_key_set_never_holds_a_private_member(node: Node) -> None:
    rotation = node.worker()
    rotation.rotate(by="test")
    text = strict_json.dumps(rotation.keys.jwks()).decode()
    keys = strict_json.loads(text.encode())
    assert isinstance(keys, dict)
    assert isinstance(keys["keys"], list)
    assert [set(key) for key in keys["keys"] if isinstance(key, dict)] == [
        {"kty", "crv", "x", "y", "kid", "use", "alg"}
    ] * 3


def test_op_04_the_key_that_takes_over_was_published_before(node: Node) -> None:
    rotation = node.worker()
    announced = kids(rotation.keys)[1]
    assert rotation.rotate(by="test") == announced == rotation.keys.kid
    assert announced in kids(rotation.keys)
    assert len(kids(rotation.keys)) == 3


def test_op_04_a_token_signed_before_the_rotation_still_verifies_and_a_retired_key_no_longer_does(node: Node) -> None:
    rotation = node.worker()
    old = node.token(rotation.keys)
    rotation.rotate(by="test")
    assert verifies(old, rotation.keys)
    node.clock.advance(PUBLISHED_S - 1)
    rotation.keep()
    assert verifies(old, rotation.keys)
    left: list[bool] = []
    rotation.keys.on_leave(lambda: left.append(True))
    node.clock.advance(1)
    rotation.keep()
    assert not verifies(old, rotation.keys)
    assert len(kids(rotation.keys)) == 2
    assert left == [True]
    # A restart brings nothing back.
    assert not verifies(old, node.worker().keys)


def test_op_04_a_key_rotates_by_itself_at_ninety_days_at_a_start_and_by_the_timer(node: Node) -> None:
    rotation = node.worker()
    first = rotation.keys.kid
    node.clock.advance(LIFETIME_S - 1)
    assert not rotation.keep()
    assert node.worker().keys.kid == first
    node.clock.advance(1)
    assert rotation.keep()
    second = rotation.keys.kid
    assert second != first
    assert not rotation.keep()
    node.clock.advance(LIFETIME_S)
    assert node.worker().keys.kid not in (first, second)
    assert [facts["by"] for event, facts in node.events if event == "identity.key.rotated"] == ["age", "age"]


def test_op_04_every_worker_follows_and_several_that_find_it_due_rotate_once(node: Node) -> None:
    workers = [node.worker() for _ in range(4)]
    assert len({worker.keys.kid for worker in workers}) == 1
    epoch = node.marks.epoch()
    node.clock.advance(LIFETIME_S)
    token = node.token(workers[3].keys)
    assert [worker.keep() for worker in workers] == [True, False, False, False]
    assert node.marks.epoch() != epoch
    assert len({worker.keys.kid for worker in workers}) == 1
    assert all(verifies(token, worker.keys) for worker in workers)
    assert node.files() == ["ec-as.2", "ec-as.3"]


def test_a_worker_that_starts_while_another_rotates_follows_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first = node.worker()
    node.clock.advance(LIFETIME_S)
    plain = KeyRotation._successor
    met: list[str] = []

    def late(self: KeyRotation, plan: Plan, *, compromised: bool) -> Plan:
        if not met:
            met.append("once")
            first.keep()
        return plain(self, plan, compromised=compromised)

    monkeypatch.setattr(KeyRotation, "_successor", late)
    second = node.worker()
    assert met
    assert second.keys.kid == first.keys.kid
    assert len([event for event, _ in node.events if event == "identity.key.rotated"]) == 1


def test_a_token_of_the_new_key_verifies_at_a_worker_that_has_not_heard_yet(node: Node) -> None:
    one, other = node.worker(), node.worker()
    one.rotate(by="test")
    assert other.keys.kid != one.keys.kid
    assert verifies(node.token(one.keys), other.keys)
    other.refresh()
    assert other.keys.kid == one.keys.kid


def test_op_04_the_private_half_of_a_retired_key_leaves_the_disk_and_files_are_private(node: Node) -> None:
    rotation = node.worker()
    leaving = KeyRing(node.directory).ec_key("as", 1)
    rotation.rotate(by="test")
    assert node.files() == ["ec-as.2", "ec-as.3"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in node.directory.iterdir()} == {0o600}
    entry = node.store.collection("signing_keys").get("_node", "as")
    assert entry is not None
    secret = ECKey.import_key(leaving).as_dict(private=True)["d"]
    assert str(secret).encode() not in entry.value
    assert thumbprint(leaving) in kids(rotation.keys)


def test_a_compromised_directory_ends_every_token_and_passes_over_the_key_that_lay_there(node: Node) -> None:
    rotation = node.worker()
    before = kids(rotation.keys)
    old = node.token(rotation.keys)
    rotation.rotate(by="test", compromised=True)
    assert not set(before) & set(kids(rotation.keys))
    assert not verifies(old, rotation.keys)
    assert len(node.files()) == 2


def test_op_04_without_the_overlap_tokens_would_end_with_the_rotation(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test above."""
    monkeypatch.setattr("firewall.identity.rfc9068.rotation.PUBLISHED_S", 0)
    rotation = node.worker()
    old = node.token(rotation.keys)
    rotation.rotate(by="test")
    assert not verifies(old, rotation.keys)


async def test_op_04_a_cached_token_ends_with_its_key(node: Node) -> None:
    rotation = node.worker()
    door = make_door(keys=rotation.keys)
    async with door.http() as http:
        token = (await client_credentials(http, assertion(door))).json()["access_token"]
    assert door.verified(token)
    rotation.rotate(by="test")
    assert door.verified(token)
    rotation.rotate(by="test", compromised=True)
    with pytest.raises(Unauthenticated):
        door.verified(token)


async def test_op_04_without_being_told_the_cache_would_go_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above."""
    monkeypatch.setattr(SigningKeys, "on_leave", lambda self, told: None)
    rotation = node.worker()
    door = make_door(keys=rotation.keys)
    async with door.http() as http:
        token = (await client_credentials(http, assertion(door))).json()["access_token"]
    assert door.verified(token)
    rotation.rotate(by="test", compromised=True)
    assert door.verified(token)


def test_a_node_from_before_the_plan_goes_on_with_the_key_it_had(node: Node) -> None:
    ring = KeyRing(node.directory)
    had = thumbprint(ring.ec_signing_key("as"))
    rotation = node.worker()
    assert rotation.keys.kid == had
    assert node.files() == ["ec-as.1", "ec-as.2"]


def test_a_store_older_than_the_key_files_does_not_stop_the_node(node: Node) -> None:
    rotation = node.worker()
    entry = node.store.collection("signing_keys").get("_node", "as")
    assert entry is not None
    for _ in range(3):
        rotation.rotate(by="test")
    node.store.collection("signing_keys").put("_node", "as", entry.value)
    after = node.worker()
    assert after.keys.kid == rotation.keys.kid
    assert node.files() == ["ec-as.4", "ec-as.5"]


def test_a_rotation_that_cannot_be_recorded_is_told(node: Node) -> None:
    def down(_event: str, _facts: JSONObject) -> None:
        raise AuditUnavailable("audit_unavailable")

    rotation = KeyRotation(KeyRing(node.directory), node.store, node.marks, node.clock, down)
    with pytest.raises(AuditUnavailable):
        rotation.rotate(by="test")
    assert verifies(node.token(rotation.keys), node.worker().keys)


def test_keys_of_another_curve_never_sign() -> None:
    with pytest.raises(Malformed):
        SigningKeys(ECKey.generate_key("P-384", private=True))
