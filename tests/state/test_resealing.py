"""The envelope secret is replaced while workers run: nothing is lost, nothing stays behind, wherever it is cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.core.errors import AuditUnavailable, ConfigFault, StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Store
from firewall.net.runtime import FakeClock
from firewall.state import resealing
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing
from firewall.state.memory import MemoryStore
from firewall.state.resealing import SETTLES_S, EnvelopeRotation
from firewall.state.sqlite import SQLiteStore

ROWS = ("grants", "clients")
TENANTS = ("acme", "rival", "_node")


@dataclass
class Node:
    """A state directory and a store; `rotation` and `envelopes` are one more process over them."""

    directory: Path
    clock: FakeClock = field(default_factory=FakeClock)
    events: list[tuple[str, JSONObject]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.clock)

    def ring(self) -> KeyRing:
        return KeyRing(self.directory / "keys")

    def envelopes(self, store: Store | None = None, ring: KeyRing | None = None) -> Envelopes:
        known = ring or self.ring()
        return Envelopes(store or self.store, lambda: known.secrets("envelope"), ROWS)

    def rotation(self, store: Store | None = None, ring: KeyRing | None = None, record: Any = None) -> EnvelopeRotation:
        ring, store = ring or self.ring(), store or self.store
        record = record or (lambda event, facts: self.events.append((event, facts)))
        return EnvelopeRotation(ring, store, self.envelopes(store, ring), self.clock, record)

    def keep(self, tenant: str, row: str, text: str, envelopes: Envelopes | None = None) -> None:
        """Store a row as its owners do."""
        name, _, key = row.partition("/")
        sealed = (envelopes or self.envelopes()).seal(tenant, row, text)
        self.store.collection(name).put(tenant, key, sealed)

    def read(self, tenant: str, row: str, envelopes: Envelopes | None = None) -> object:
        name, _, key = row.partition("/")
        entry = self.store.collection(name).get(tenant, key)
        return None if entry is None else (envelopes or self.envelopes()).open(tenant, row, entry.value)

    def secrets(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "keys").iterdir() if not path.name.startswith("."))

    def fill(self, each: int = 3) -> dict[tuple[str, str], str]:
        """Keep rows of every tenant in every collection; return what they say."""
        said = {(t, f"{name}/{n}"): f"{t} {name} {n}" for t in TENANTS for name in ROWS for n in range(each)}
        for (tenant, row), text in said.items():
            self.keep(tenant, row, text)
        return said

    def all_said(self, said: dict[tuple[str, str], str]) -> bool:
        envelopes = self.envelopes()
        return all(self.read(tenant, row, envelopes) == text for (tenant, row), text in said.items())

    def to_the_end(self) -> None:
        """Go on as workers' timers do, until nothing is under way."""
        for _ in range(8):
            self.rotation().keep()
            self.clock.advance(SETTLES_S)
        assert not self.rotation().is_under_way()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_everything_is_sealed_anew_under_a_new_secret_and_says_what_it_said(node: Node) -> None:
    said = node.fill()
    before = {e.key: e for e in node.store.collection("grants").scan("acme")}
    progress = node.rotation().rotate(by="ann")
    assert (progress.state, progress.rows, progress.left, progress.generations) == ("settling", len(said), 0, (1, 2))
    assert node.all_said(said)
    after = {e.key: e for e in node.store.collection("grants").scan("acme")}
    assert all(before[key].value != after[key].value for key in before)
    assert all((before[key].version, before[key].expires_us) == (e.version, e.expires_us) for key, e in after.items())
    # The newest secret alone opens all of it, and no key under the old one is left to be used.
    newest = node.ring().secrets("envelope")[0]
    alone = Envelopes(node.store, lambda: (newest,), ROWS)
    assert all(node.read(tenant, row, alone) == text for (tenant, row), text in said.items())


def test_older_keys_and_secrets_go_when_nothing_is_under_them_and_every_worker_had_time(node: Node) -> None:
    said = node.fill()
    node.rotation().rotate(by="ann")
    node.clock.advance(SETTLES_S - 1)
    assert node.rotation().step().state == "settling"
    assert node.secrets() == ["secret-envelope.1", "secret-envelope.2"]
    assert len(list(node.store.collection("envelope_keys").scan("acme", "key/"))) == 2
    node.clock.advance(1)
    assert node.rotation().step().state == "idle"
    assert node.secrets() == ["secret-envelope.2"]
    assert len(list(node.store.collection("envelope_keys").scan("acme", "key/"))) == 1
    assert node.all_said(said)
    assert node.events == [
        ("identity.envelope.rotated", {"generation": 2, "by": "ann"}),
        ("identity.envelope.retired", {"generation": 2, "rows": len(said)}),
    ]
    assert not node.rotation().is_under_way()


def test_a_second_order_goes_on_with_the_rotation_under_way_and_begins_none(node: Node) -> None:
    node.fill()
    node.rotation().rotate(by="ann")
    assert node.rotation().rotate(by="bob").generation == 2
    node.to_the_end()
    assert node.rotation().rotate(by="bob").generation == 3


def test_running_workers_read_and_seal_all_the_while_without_being_told(node: Node) -> None:
    said = node.fill()
    workers = [node.envelopes() for _ in range(4)]
    for worker in workers[:2]:  # two of them have opened the keys before, two have not
        assert node.read("acme", "grants/0", worker) == "acme grants 0"
    node.rotation().rotate(by="ann")
    for n, worker in enumerate(workers):
        assert all(node.read(tenant, row, worker) == text for (tenant, row), text in said.items())
        node.keep("acme", f"grants/new{n}", f"sealed by {n}", worker)
    node.to_the_end()
    for worker in (*workers, node.envelopes()):
        assert [node.read("acme", f"grants/new{n}", worker) for n in range(4)] == [f"sealed by {n}" for n in range(4)]
    assert node.all_said(said)


# -- cut anywhere -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Ends the process at its n-th moment: each write has one before it and one after it."""

    def __init__(self, at: int) -> None:
        self.left = at

    def burn(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise Killed

    def around(self, call: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            self.burn()
            made = call(*given, **named)
            self.burn()
            return made

        return run


class Wired:
    """Anything whose writes burn a fuse. A process that was killed does not tidy up: its ``delete`` comes to nothing."""

    def __init__(self, it: Any, fuse: Fuse) -> None:
        self._it, self._fuse = it, fuse

    def collection(self, name: str) -> Wired:
        return Wired(self._it.collection(name), self._fuse)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._it, name)
        if self._fuse.left < 0:
            return _nothing  # whatever a ``finally`` tries
        return self._fuse.around(found) if name in ("put", "swap", "delete", "take", "make", "retire") else found


def _nothing(*_given: Any, **_named: Any) -> None:
    return None


def cut(node: Node, at: int) -> bool:
    """Have a process rotate and finish, killed at one moment; return whether it came to its end before."""
    fuse = Fuse(at)
    rotation = node.rotation(
        Wired(node.store, fuse),  # type: ignore[arg-type]
        Wired(node.ring(), fuse),  # type: ignore[arg-type]
        fuse.around(lambda event, facts: node.events.append((event, facts))),
    )
    try:
        rotation.rotate(by="ann")
        node.clock.advance(SETTLES_S)
        rotation.step()
    except Killed:
        return False
    return True


def test_cut_at_any_moment_nothing_is_lost_and_the_next_process_comes_to_the_end(tmp_path: Path) -> None:
    at, whole = 0, False
    while not whole:
        node = Node(tmp_path / str(at))
        said = node.fill(each=1)
        whole = cut(node, at)
        assert node.all_said(said), at  # at once, before anybody went on
        node.keep("acme", "grants/after", "sealed by another worker")
        node.clock.advance(60)  # the lease of the dead
        if at % 2:
            node.rotation().rotate(by="bob")  # by the next order, or by the timer alone
        node.to_the_end()
        assert node.all_said({**said, ("acme", "grants/after"): "sealed by another worker"}), at
        generations = node.ring().generations("secret", "envelope")
        begun = {str(f["generation"]) for e, f in node.events if e == "identity.envelope.rotated"}
        retired = [f["generation"] for e, f in node.events if e == "identity.envelope.retired"]
        assert generations == [max(retired, default=1)], at
        assert begun == {str(n) for n in range(2, generations[0] + 1)}, at
        under = {key for t in TENANTS for key in node.envelopes().older_keys() if key[0] == t}
        assert not under, at
        at += 1
    assert at > 50  # there were as many moments


CHILD = """
import sys
from pathlib import Path
from firewall.net.runtime import SystemClock
from firewall.state import resealing
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing
from firewall.state.sqlite import SQLiteStore

state = Path(sys.argv[1])
ring, store = KeyRing(state / "keys"), SQLiteStore(state / "state.db")
envelopes = Envelopes(store, lambda: ring.secrets("envelope"), ("grants",))
reseal, done = envelopes.reseal, 0

def told(tenant, row):
    global done
    reseal(tenant, row)
    done += 1
    if done == 20:
        print("now", flush=True)

envelopes.reseal = told
resealing.EnvelopeRotation(ring, store, envelopes, SystemClock(), lambda *_: None).rotate(by="ann")
print("end", flush=True)
"""


def test_a_process_that_is_killed_for_good_in_the_middle_leaves_a_rotation_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firewall.net.runtime import SystemClock

    ring, store = KeyRing(tmp_path / "keys"), SQLiteStore(tmp_path / "state.db", durable=False)
    envelopes = Envelopes(store, lambda: ring.secrets("envelope"), ("grants",))
    grants, n = store.collection("grants"), 2000
    for at in range(n):
        grants.put("acme", f"{at:04}", envelopes.seal("acme", f"grants/{at:04}", at))
    with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        assert child.stdout.read() == b""
    rotation = EnvelopeRotation(ring, store, envelopes, SystemClock(), lambda *_: None)
    found = rotation.progress()
    assert found.state == "sealing"
    assert 0 < found.left <= n - 20
    monkeypatch.setattr(resealing, "SETTLES_S", 0)
    store.collection("envelope_rotation").delete("_node", "lease")  # or half a minute later
    for _ in range(60):
        if rotation.step().state == "idle":
            break
    assert ring.generations("secret", "envelope") == [2]
    fresh = Envelopes(store, lambda: KeyRing(tmp_path / "keys").secrets("envelope"), ("grants",))
    assert [fresh.open("acme", f"grants/{e.key}", e.value) for e in grants.scan("acme")] == list(range(n))
    store.close()


# -- races --------------------------------------------------------------------------------------------------


def slow_worker(node: Node) -> bool:
    """A worker seals under the old key, and stores only after all was sealed anew; return whether that is readable."""
    node.fill(each=1)
    late = node.envelopes().seal("acme", "grants/late", "late")
    rotation = node.rotation()
    rotation.rotate(by="ann")
    rotation.step()
    node.store.collection("grants").put("acme", "late", late)
    node.clock.advance(SETTLES_S)
    rotation.step()
    try:
        return node.read("acme", "grants/late") == "late"
    except StateUnavailable:
        return False


def test_what_a_slow_worker_stores_under_an_old_key_is_found_and_sealed_anew(node: Node) -> None:
    assert slow_worker(node)
    assert node.secrets() == ["secret-envelope.2"]


def test_twin_without_the_wait_what_a_slow_worker_stores_is_lost(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resealing, "SETTLES_S", 0)
    assert not slow_worker(node)


class Meanwhile:
    """A store in which somebody changes a row between the look at it and the swap."""

    def __init__(self, node: Node, *, swaps: bool) -> None:
        self._node, self._swaps = node, swaps

    def collection(self, name: str) -> Any:
        outer, it = self, self._node.store.collection(name)

        class Watched:
            def swap(self, tenant: str, key: str, before: bytes, after: bytes) -> bool:
                if (tenant, key) == ("acme", "0"):
                    outer._node.store.collection(name).delete(tenant, key)
                    outer._node.keep(tenant, f"{name}/{key}", "linked anew")  # version 1, as before
                if outer._swaps:
                    return it.swap(tenant, key, before, after)
                it.put(tenant, key, after, if_version=1)
                return True

            def __getattr__(self, wanted: str) -> Any:
                return getattr(it, wanted)

        return Watched()


def test_a_row_that_was_replaced_meanwhile_stays_as_it_is(node: Node) -> None:
    node.fill()
    node.rotation(Meanwhile(node, swaps=True)).rotate(by="ann")  # type: ignore[arg-type]
    node.to_the_end()
    assert node.read("acme", "grants/0") == "linked anew"


def test_twin_by_version_alone_the_credential_from_before_would_come_back(node: Node) -> None:
    node.fill()
    node.rotation(Meanwhile(node, swaps=False)).rotate(by="ann")  # type: ignore[arg-type]
    assert node.read("acme", "grants/0") == "acme grants 0"


def test_workers_that_go_on_at_the_same_time_come_to_the_same_end(node: Node) -> None:
    said = node.fill(each=20)
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            rotation = node.rotation()
            barrier.wait(10)
            rotation.rotate(by="ann")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    node.to_the_end()
    assert node.all_said(said)
    assert node.secrets() == ["secret-envelope.2"]


class Ticking(FakeClock):
    """A clock by which every look at the time takes a quarter of a step."""

    def monotonic_ns(self) -> int:
        self.advance(resealing.STEP_S / 4)
        return super().monotonic_ns()


def test_one_step_ends_after_a_while_and_says_what_is_left(tmp_path: Path) -> None:
    node = Node(tmp_path, Ticking())
    said = node.fill(each=4)
    progress, lefts = node.rotation().rotate(by="ann"), list[int]()
    while progress.state == "sealing":
        lefts.append(progress.left)
        assert node.all_said(said)
        progress = node.rotation().step()
    assert lefts == sorted(lefts, reverse=True)
    assert 3 < len(lefts) < len(said)
    assert progress.left == 0


# -- what is lost, and what comes back -----------------------------------------------------------------------


@pytest.fixture
def restored(node: Node, tmp_path: Path) -> tuple[Node, dict[tuple[str, str], str]]:
    """A node whose store is from before a rotation that has ended: its secret is gone from keys/."""
    said = node.fill()
    shutil.copytree(tmp_path / "keys", tmp_path / "copy")
    before = {
        (name, tenant, e.key): e
        for name in (*ROWS, "envelope_keys")
        for tenant in TENANTS
        for e in node.store.collection(name).scan(tenant)
    }
    node.rotation().rotate(by="ann")
    node.to_the_end()
    node.store = MemoryStore(node.clock)
    for (name, tenant, key), entry in before.items():
        node.store.collection(name).put(tenant, key, entry.value)
    return node, said


def test_of_a_restored_backup_the_old_secret_put_back_opens_all_and_it_is_sealed_anew_by_itself(
    restored: tuple[Node, dict[tuple[str, str], str]], tmp_path: Path
) -> None:
    node, said = restored
    with pytest.raises(StateUnavailable):
        node.read("acme", "grants/0")
    shutil.copy(tmp_path / "copy" / "secret-envelope.1", tmp_path / "keys" / "secret-envelope.1")
    assert node.all_said(said)
    node.to_the_end()  # nobody gave an order
    assert node.all_said(said)
    assert node.secrets() == ["secret-envelope.2"]
    assert node.events[-2:] == [
        ("identity.envelope.rotated", {"generation": 2, "by": "restore"}),
        ("identity.envelope.retired", {"generation": 2, "rows": len(said)}),
    ]


def test_without_the_old_secret_a_rotation_makes_sealing_possible_again_and_leaves_what_it_cannot_read(
    restored: tuple[Node, dict[tuple[str, str], str]], tmp_path: Path
) -> None:
    node, said = restored
    with pytest.raises(StateUnavailable):
        node.keep("acme", "grants/new", "new")
    progress = node.rotation().rotate(by="ann")
    assert (progress.left, progress.unreadable) == (0, len(said))
    node.keep("acme", "grants/new", "new")
    node.to_the_end()
    assert node.read("acme", "grants/new") == "new"
    # Found after all: what could not be read then is as it was.
    shutil.copy(tmp_path / "copy" / "secret-envelope.1", tmp_path / "keys" / "secret-envelope.1")
    node.to_the_end()
    assert node.all_said({**said, ("acme", "grants/new"): "new"})
    assert node.secrets() == ["secret-envelope.3"]


def test_a_rotation_whose_own_secret_is_lost_says_so_and_goes_no_further(node: Node, tmp_path: Path) -> None:
    said = node.fill()
    rotation = node.rotation(Ticked(node))  # type: ignore[arg-type]
    with pytest.raises(Killed):
        rotation.rotate(by="ann")
    (tmp_path / "keys" / "secret-envelope.2").unlink()
    node.clock.advance(60)
    with pytest.raises(ConfigFault) as refused:
        node.rotation().step()
    assert (refused.value.code, node.secrets()) == ("key_unavailable", ["secret-envelope.1"])
    assert node.rotation().rotate(by="ann").generation == 3
    node.to_the_end()
    assert node.all_said(said)


class Ticked:
    """A store of a process that is killed with the first key of the new secret."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collection(self, name: str) -> Any:
        return (
            Wired(self._node.store.collection(name), Fuse(0))
            if name == "envelope_keys"
            else self._node.store.collection(name)
        )


def test_secrets_that_cannot_be_read_at_the_moment_end_a_step_and_remove_nothing(node: Node, tmp_path: Path) -> None:
    said = node.fill()
    rotation = node.rotation()
    rotation.rotate(by="ann")
    node.clock.advance(SETTLES_S)
    (tmp_path / "keys").chmod(0o755)
    for attempt in (node.rotation, lambda: rotation):
        with pytest.raises(ConfigFault):
            attempt().step()
    (tmp_path / "keys").chmod(0o700)
    assert node.secrets() == ["secret-envelope.1", "secret-envelope.2"]
    node.to_the_end()
    assert node.all_said(said)


def test_a_secret_that_cannot_be_read_for_a_moment_loses_no_row(node: Node) -> None:
    """Rows under older keys that were not to be read just then were taken for lost, and their keys removed."""
    said = node.fill()
    node.rotation().rotate(by="ann")
    slow = node.envelopes()
    node.keep("acme", "grants/late", "late")
    keys = node.store.collection("envelope_keys")
    current = keys.get("acme", "current")
    assert current is not None
    made = (entry.key.removeprefix("key/") for entry in keys.scan("acme", "key/"))
    older = next(key_id for key_id in made if key_id != current.value.decode())
    node.store.collection("grants").put("acme", "late", slow._seal("acme", older, "grants/late", orjson.dumps("late")))
    node.clock.advance(SETTLES_S)
    ring, asked, quiet = node.ring(), 0, 0

    def secrets() -> list[bytes]:
        nonlocal asked
        asked += 1
        if 2 <= asked - quiet <= 3:
            raise ConfigFault("key_unavailable", "OSError")
        return ring.secrets("envelope")

    for quiet in range(14):  # noqa: B007  how often they are read before they cannot be, for two times
        asked = 0
        envelopes = Envelopes(node.store, secrets, ROWS)
        rotation = EnvelopeRotation(ring, node.store, envelopes, node.clock, lambda *_: None)
        with suppress(StateUnavailable):
            rotation.step()
    node.to_the_end()
    assert node.all_said({**said, ("acme", "grants/late"): "late"})


def test_the_record_that_cannot_be_written_stops_the_rotation_before_anything_is_sealed_anew(node: Node) -> None:
    said = node.fill()

    def full(_event: str, _facts: JSONObject) -> None:
        raise AuditUnavailable("audit_write")

    with pytest.raises(AuditUnavailable):
        node.rotation(record=full).rotate(by="ann")
    assert len(list(node.store.collection("envelope_keys").scan("acme", "key/"))) == 1
    node.clock.advance(60)
    node.to_the_end()
    assert node.all_said(said)
