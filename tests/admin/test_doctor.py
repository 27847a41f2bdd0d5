"""Doctor names what is wrong, and how to mend it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from firewall import config as configuration
from firewall.admin import doctor
from firewall.admin.doctor import check as checks
from firewall.admin.doctor import machine, node, oauth
from firewall.net.runtime import FakeClock, SystemClock
from firewall.state.sqlite import SQLiteStore
from mcp_gateway.child_words import COLLECTION, ChildWords
from mcp_gateway.sandbox import Support
from tests.net.certificates import authority
from tests.support.composed import free_port

CLOCK = FakeClock(1_795_000_000_000_000)


def patient(state: Path, *, running: bool = False, reach: bool = False, **raw: Any) -> checks.Patient:
    values = {"state_dir": str(state), **raw}
    return checks.Patient(configuration.build(values), CLOCK, running, reach)


def found(look: checks.Examination, who: checks.Patient) -> list[tuple[str, str]]:
    made = list(look(who))
    assert all(c.mend or c.status == "ok" for c in made), made
    return [(c.status, c.text) for c in made]


def test_a_whole_examination_of_a_fresh_place_fails_nothing(tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    config = configuration.build(
        {
            "state_dir": str(tmp_path / "state"),
            "public_url": f"http://127.0.0.1:{port}",
            "listeners": {"data": {"port": port}, "admin": {"port": admin}},
        }
    )
    document = doctor.as_json(doctor.examine(config, clock=CLOCK))
    assert document["ok"], document
    assert not (tmp_path / "state").exists()  # looking makes nothing


def test_files_that_others_can_read_are_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "keys").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    key = state / "keys" / "secret-seal.1"
    key.write_bytes(b"x" * 32)
    key.chmod(0o600)
    assert found(node.state, patient(state))[0][0] == "ok"
    for path, mode in ((key, 0o640), (state / "keys", 0o755), (state, 0o750)):
        before = path.stat().st_mode
        path.chmod(mode)
        ((status, text),) = found(node.state, patient(state))
        assert status == "fail"
        assert str(path) in text
        path.chmod(before)
    key.write_bytes(b"rubbish")
    made = doctor.examine(patient(state).config, clock=CLOCK)
    assert [(c.status, "secret-seal.1" in c.text) for c in made if c.name == "state"] == [("fail", True)]


def test_a_damaged_store_is_a_finding_and_no_traceback(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "state.db").write_bytes(b"not a database at all, certainly not" * 100)
    made = doctor.examine(patient(state).config, clock=CLOCK)
    assert "fail" in {c.status for c in made if c.name == "state"}


def test_a_taken_port_is_told_and_a_free_one_is_not(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        who = {"listeners": {"data": {"port": port}, "admin": {"port": 0}}}
        assert [s for s, _ in found(node.ports, patient(tmp_path, **who))] == ["fail", "ok"]
        # With a running node the same port is as it should be.
        assert [s for s, _ in found(node.ports, patient(tmp_path, running=True, **who))] == ["ok", "ok"]
    assert [s for s, _ in found(node.ports, patient(tmp_path, **who))] == ["ok", "ok"]
    assert [s for s, _ in found(node.ports, patient(tmp_path, running=True, **who))] == ["fail", "ok"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ({"public_url": "http://127.0.0.1:8700"}, "ok"),
        ({"public_url": "http://127.0.0.1:9999"}, "fail"),
        ({"public_url": "https://fw.example", "listeners": {"data": {"port": 443}}}, "warn"),
        ({"public_url": "https://fw.example", "trusted_proxies": ["10.0.0.1"]}, "ok"),
    ],
)
def test_the_public_url_is_held_against_the_listener(tmp_path: Path, raw: dict[str, Any], status: str) -> None:
    assert found(node.public_url, patient(tmp_path, **raw))[0][0] == status


def test_plain_http_beyond_loopback_is_told(tmp_path: Path) -> None:
    who = {"listeners": {"data": {"host": "0.0.0.0", "port": 1}, "admin": {"host": "0.0.0.0", "port": 2}}}
    assert [s for s, _ in found(node.tls, patient(tmp_path, **who))] == ["warn", "fail"]
    for host in ("127.0.0.2", "::1", "localhost"):
        near = {"listeners": {"data": {"host": host, "port": 1}, "admin": {"host": host, "port": 2}}}
        assert found(node.tls, patient(tmp_path, **near)) == []
    assert found(node.tls, patient(tmp_path)) == []


def test_a_certificate_is_read_with_its_end(tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")
    cert, key = str(files.cert), str(files.key)
    os.chmod(key, 0o600)
    who = {"listeners": {"data": {"port": 1, "tls": {"cert": cert, "key": key}}, "admin": {"port": 2}}}
    now_us = time.time_ns() // 1000  # the certificate is valid for an hour from now
    for days, expected in ((0, "warn"), (-30, "ok"), (1, "fail")):
        who_when = checks.Patient(patient(tmp_path, **who).config, FakeClock(now_us + days * 86_400_000_000))
        assert [s for s, _ in found(node.tls, who_when)] == [expected]
    os.chmod(key, 0o644)
    assert ("fail", "data: others can read the key file") in found(node.tls, patient(tmp_path, **who))
    missing = {"listeners": {"data": {"port": 1, "tls": {"cert": "/none", "key": key}}, "admin": {"port": 2}}}
    made = doctor.examine(patient(tmp_path, **missing).config, clock=CLOCK)
    assert [c.text for c in made if c.name == "tls"] == ["tls_files a TLS file of a listener cannot be read"]


def test_an_address_of_another_network_is_told_with_the_setting_that_mends_it(tmp_path: Path) -> None:
    who = {"mcp": {"notes": {"url": "https://127.0.0.1:9/mcp"}, "far": {"url": "https://n.example/mcp"}}}
    made = list(node.upstreams(patient(tmp_path, **who)))
    assert [(c.status, c.mend) for c in made] == [
        ("fail", "set network: loopback for this one upstream"),
        ("ok", ""),
    ]
    mended = {"mcp": {"notes": {"url": "http://127.0.0.1:9/mcp", "network": "loopback"}}}
    assert [s for s, _ in found(node.upstreams, patient(tmp_path, **mended))] == ["ok"]


def test_upstreams_are_reached_only_when_asked(tmp_path: Path) -> None:
    who = {"mcp": {"notes": {"url": f"http://127.0.0.1:{free_port()}/mcp", "network": "loopback"}}}
    assert found(node.upstreams, patient(tmp_path, **who))[0][0] == "ok"
    assert found(node.upstreams, patient(tmp_path, reach=True, **who))[0][0] == "fail"
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        url = f"http://127.0.0.1:{there.getsockname()[1]}/mcp"
        near = {"mcp": {"notes": {"url": url, "network": "loopback"}}}
        assert found(node.upstreams, patient(tmp_path, reach=True, **near))[0][0] == "ok"


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    who = {"workers": 4, "mcp": {"x": {"command": ["no-such-program-here"]}}}
    assert [s for s, _ in found(node.upstreams, patient(tmp_path, **who))] == ["fail"]
    who = {"workers": 4, "mcp": {"x": {"command": ["sh"]}}}
    assert [s for s, _ in found(node.upstreams, patient(tmp_path, **who))] == ["ok"]


@pytest.mark.parametrize("opened", [False, True], ids=["it failed", "it runs"])
def test_what_a_program_said_that_did_not_start_is_told_as_its_own_words(tmp_path: Path, opened: bool) -> None:
    asked = patient(tmp_path, **{"mcp": {"x": {"command": ["sh"]}}})
    asked.config.state.mkdir(parents=True, exist_ok=True)
    store = SQLiteStore(asked.config.state / "state.db")
    ear = ChildWords(store.collection(COLLECTION), SystemClock()).of(asked.config.tenant, "x")
    ear.hear(b"no such \x1b[2J file\n")
    if opened:
        ear.open()
    ear.write()
    store.close()
    told = [(s, t) for s, t in found(node.upstreams, asked) if "no such" in t]
    assert [s for s, _ in told] == ([] if opened else ["warn"])
    assert "\x1b" not in str([t for _, t in told])
    assert all("its own words" in t for _, t in told)


def test_a_credential_that_is_missing_or_open_is_told_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret-value")
    secret.chmod(0o644)
    given = {"url": "https://n.example/mcp"}
    who = {
        "mcp": {
            "a": {**given, "credential": {"env": "BARTIZAN_TEST_TOKEN"}},
            "b": {**given, "credential": {"file": str(secret)}},
            "c": {**given, "credential": {"file": str(tmp_path / "none")}},
        }
    }
    monkeypatch.delenv("BARTIZAN_TEST_TOKEN", raising=False)
    made = found(node.credentials, patient(tmp_path, **who))
    assert [s for s, _ in made] == ["warn", "fail", "fail"]
    assert "s3cret" not in str(made)
    monkeypatch.setenv("BARTIZAN_TEST_TOKEN", "x")
    secret.chmod(0o600)
    (tmp_path / "none").write_text("x")
    (tmp_path / "none").chmod(0o600)
    assert [s for s, _ in found(node.credentials, patient(tmp_path, **who))] == ["ok"]


def test_policy_says_its_mode_and_an_opa_that_does_not_answer(tmp_path: Path) -> None:
    assert found(node.policy, patient(tmp_path))[0][0] != "fail"
    who = {"policy": {"engine": "opa-server", "opa": {"url": f"http://127.0.0.1:{free_port()}"}}}
    assert found(node.policy, patient(tmp_path, **who))[-1][0] == "fail"
    (tmp_path / "empty").mkdir()
    assert found(node.policy, patient(tmp_path, policy={"bundle": str(tmp_path / "empty")}))[0][0] == "fail"


def test_a_clock_that_is_behind_is_told(tmp_path: Path) -> None:
    log = tmp_path / "audit" / "log_x"
    log.mkdir(parents=True)
    (log / "entries").write_text("")
    os.utime(log / "entries", (1_795_000_100, 1_795_000_100))
    assert found(node.clock, patient(tmp_path))[0][0] == "fail"
    os.utime(log / "entries", (1_794_000_000, 1_794_000_000))
    assert found(node.clock, patient(tmp_path))[0][0] == "ok"
    early = checks.Patient(patient(tmp_path).config, FakeClock(1_000_000_000_000_000))
    assert found(node.clock, early)[0][0] == "fail"


def test_a_kernel_without_walls_is_told_when_there_is_somebody_to_cage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = patient(tmp_path, mcp={"git": {"command": ["git"]}})
    monkeypatch.setattr("mcp_gateway.sandbox.detect", lambda: Support(0, True, False))
    ((status, text),) = found(machine.walls, local)
    assert status == "warn"
    assert "git" in text
    assert "landlock, network namespace" in text
    assert "reach out by themselves" in text
    assert found(machine.walls, patient(tmp_path))[0][0] == "ok"
    monkeypatch.setattr("mcp_gateway.sandbox.detect", lambda: Support(7, True, True))
    assert found(machine.walls, local)[0][0] == "ok"


def test_a_package_of_another_distribution_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(machine.rooms, patient(tmp_path))[0][0] == "ok"
    monkeypatch.setattr(machine, "packages_distributions", lambda: {"llm_router": ["bartizan", "llm-router"]})
    ((status, text),) = found(machine.rooms, patient(tmp_path))
    assert status == "fail"
    assert "llm-router" in text


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_patient: checks.Patient) -> list[checks.Check]:
        raise ZeroDivisionError

    monkeypatch.setattr(machine, "EXAMINATIONS", (("odd", broken),))
    monkeypatch.setattr(node, "EXAMINATIONS", ())
    monkeypatch.setattr(oauth, "EXAMINATIONS", ())
    (one,) = doctor.examine(patient(tmp_path).config, clock=CLOCK)
    assert (one.name, one.status) == ("odd", "fail")
    assert doctor.as_json([one])["ok"] is False


def test_a_silent_or_paused_stream_of_events_and_its_secrets_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firewall.admin.doctor.signals import signals
    from firewall.config import front_door
    from firewall.identity.ssf.health import StreamHealth
    from firewall.state.sqlite import SQLiteStore

    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    stream = {
        "issuer": "https://idp.example",
        "jwks_uri": "https://idp.example/jwks",
        "push_secret": "env:IDP_PUSH",
        "silent_minutes": 10,
    }
    who = patient(state, identity={"signals": {"idp": stream}})
    assert found(signals, patient(state)) == []
    assert found(signals, who)[0][0] == "warn"
    monkeypatch.setenv("IDP_PUSH", "short")
    assert found(signals, who) == [("fail", "idp: the secret behind env:IDP_PUSH is too short")]
    monkeypatch.setenv("IDP_PUSH", "a-long-enough-secret")
    (transmitter,) = front_door.transmitters(who.config)
    past = FakeClock(CLOCK.now_us() - 11 * 60 * 1_000_000)
    for clock, status, expected in ((CLOCK, "enabled", "ok"), (CLOCK, "paused", "fail"), (past, "enabled", "fail")):
        store = SQLiteStore(state / "state.db", clock=clock)
        StreamHealth(store, clock).heard(transmitter, status)
        store.close()
        assert [s for s, _ in found(signals, who)] == [expected]


@pytest.mark.parametrize(
    ("ago_s", "running", "polls", "expected"),
    [(301, True, True, "warn"), (299, True, True, "ok"), (301, False, True, "ok"), (301, True, False, "ok")],
    ids=["no_answer_to_five_polls", "answers", "no_node_runs", "only_pushes"],
)
def test_a_poll_address_that_does_not_answer_is_told_while_a_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ago_s: int, running: bool, polls: bool, expected: str
) -> None:
    from firewall.admin.doctor.signals import signals
    from firewall.config import front_door
    from firewall.identity.ssf.health import StreamHealth
    from firewall.state.sqlite import SQLiteStore

    monkeypatch.setenv("IDP_PUSH", "a-long-enough-secret")
    stream = {"issuer": "https://idp.example", "jwks_uri": "https://idp.example/jwks", "push_secret": "env:IDP_PUSH"}
    if polls:
        stream |= {"poll_url": "https://idp.example/poll", "poll_secret": "env:IDP_PUSH", "poll_seconds": 60}
    who = patient(tmp_path, running=running, identity={"signals": {"idp": stream}})
    (transmitter,) = front_door.transmitters(who.config)
    past = FakeClock(CLOCK.now_us() - ago_s * 1_000_000)
    store = SQLiteStore(tmp_path / "state.db", clock=past)
    StreamHealth(store, past).heard(transmitter)
    store.close()
    assert [s for s, _ in found(signals, who)] == [expected]


async def test_acts_that_need_two_people_need_somebody_who_can_agree(tmp_path: Path) -> None:
    from firewall.admin.doctor.people import people
    from firewall.identity import records
    from firewall.state.sqlite import SQLiteStore

    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    who = patient(state, admin={"four_eyes": ["kill.lift"]})
    assert found(people, who) == []
    store = SQLiteStore(state / "state.db", clock=CLOCK)
    expected = []
    for name, roles, disabled in (
        ("u_1", ["admin"], False),
        ("u_2", ["approver"], True),
        ("u_3", ["approver"], False),
        ("u_4", ["viewer", "approver"], False),
    ):
        store.collection("users").put("default", name, records.encode({"roles": roles, "disabled": disabled}))
        expected.append(found(people, who)[0][0])
    store.close()
    assert expected == ["fail", "fail", "warn", "ok"]
    assert found(people, patient(state)) == []
