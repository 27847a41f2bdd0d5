"""`config check` and `up` agree: what a node refuses to start with is found, with its line, before it is started.

Every fault is tried at both: at the command, and at `app.build` and the start of its worker. The list of codes is
read from the sources, so that a new one is either tried here or said to come from elsewhere than the file.
"""

import ast
import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall import app, nucleus, rehearsal
from firewall import config as configuration
from firewall.cli import main as command
from firewall.config import front_door, named_clients
from firewall.core.errors import ConfigFault
from firewall.decide import bundle as policy_bundle
from firewall.identity.clients.registered import RegisteredClients
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.settings import ClientSettings
from firewall.net.runtime import SystemClock, Tasks
from firewall.nucleus import Paths
from firewall.state.sqlite import SQLiteStore
from firewall.state.unlock import secret_places
from tests.support.composed import ROOT, free_port, warm_cache


@dataclass(frozen=True)
class Case:
    """The line that is told is the one with the mark ``#!``; none for a fault of no single line."""

    code: str
    text: str
    machine: bool = False

    @property
    def line(self) -> int:
        return next((n for n, line in enumerate(self.text.splitlines(), 1) if "#!" in line), 0)


def provider(**changes: str) -> str:
    given = {"issuer": "https://idp.example", "client_id": "x", "client_secret": "env:X", **changes}
    inner = ", ".join(f"{key}: {value}" for key, value in given.items())
    return f"identity:\n  providers:\n    corp: {{{inner}}} #!\n"


def issuer(**changes: str) -> str:
    given = {"issuer": "https://idp.example", "audiences": "{/mcp/x: [x]}", **changes}
    inner = ", ".join(f"{key}: {value}" for key, value in given.items())
    return f"identity:\n  issuers:\n    corp: {{{inner}}} #!\n"


def client(inner: str, name: str = "app") -> str:
    return f"identity:\n  clients:\n    good: {{redirect_uris: ['https://a.example/cb']}}\n    {name}: {{{inner}}} #!\n"


def trusted(inner: str, name: str = "https://idp.example") -> str:
    return f"identity:\n  trusted_issuers:\n    {name}: {{{inner}}} #!\n"


def workload(inner: str) -> str:
    return f"identity:\n  workloads:\n    pods: {{{inner}}} #!\n"


def signals(inner: str) -> str:
    return f"identity:\n  signals:\n    corp: {{push_secret: env:X, {inner}}} #!\n"


def mcp(inner: str, name: str = "files") -> str:
    return f"mcp:\n  good: {{url: https://m.example/mcp}}\n  {name}: {{{inner}}} #!\n"


OPAQUE = "audiences: {/mcp/x: [x]}, introspection: {url: https://i.example/i, client_id: x, client_secret: env:X}"
URL = "url: https://m.example/mcp"
MANY = "\n".join(f"    m{n}: {{provider: p, model: x, input_usd: 1, output_usd: 1}}" for n in range(1001))
CASES = (
    Case("public_url", "public_url: https://FW.example #!\n"),
    Case("tenant_name", "tenant: 'no name' #!\n"),
    Case("tenant_name", provider(forced_for="['no name']")),
    Case("tenant_name", issuer(tenant_claim="t", tenants="{a: 'no name'}")),
    Case("idp_name", provider().replace("corp:", "code:")),
    Case("idp_issuer", provider(issuer="http://idp.example")),
    Case("idp_issuer", provider(issuer="https://github.com")),
    Case("idp_scopes", provider(scopes="[profile]")),
    Case("idp_secret", provider(client_secret="the-secret")),
    Case("idp_parameters", provider(parameters="{state: x}")),
    Case("idp_tenants", provider(claims="{tenant: tid}")),
    Case(
        "idp_forced",
        "identity:\n  providers: #!\n"
        "    a: {issuer: https://a.example, client_id: x, client_secret: env:X, forced_for: [default]}\n"
        "    b: {issuer: https://b.example, client_id: x, client_secret: env:X, forced_for: [default]}\n",
    ),
    Case("idp_none", "identity:\n  passwords: off #!\n"),
    Case("issuer_url", issuer(issuer="http://idp.example")),
    Case("issuer_url", trusted("jwks_uri: https://k.example/jwks", "http://idp.example")),
    Case("issuer_url", trusted("jwks_uri: http://127.0.0.1/jwks, network: loopback", "http://idp.example")),
    Case("issuer_url", trusted("jwks_uri: https://k.example/jwks", "http://127.0.0.1:9")),
    Case("issuer_name", issuer().replace("corp:", "'a|b':")),
    Case("issuer_algorithms", issuer(algorithms="[]")),
    Case("issuer_algorithms", trusted("jwks_uri: https://k.example/jwks, algorithms: []")),
    Case("issuer_audiences", issuer(audiences="{}")),
    Case("issuer_audiences", issuer(audiences="{mcp: [x]}")),
    Case("issuer_tenants", issuer(tenant_claim="t")),
    Case("issuer_secret", issuer(introspection="{url: https://idp.example/i, client_id: x, client_secret: plain}")),
    Case("issuer_own", issuer(issuer="https://fw.example")),
    Case(
        "issuer_twice",
        "identity:\n  issuers: #!\n"
        f"    a: {{issuer: https://a.example, {OPAQUE}}}\n"
        f"    b: {{issuer: https://b.example, {OPAQUE}}}\n",
    ),
    Case("issuer_unproved", issuer(), machine=True),
    Case("issuer_keys", trusted("scopes: ['*']")),
    Case("issuer_keys", trusted("jwks: {keys: [{kty: oct, k: AAAA}]}")),
    Case("client_id", client("redirect_uris: ['https://a.example/cb']", "https://a.example/client")),
    Case("client_secret", client("secret_sha256: abc")),
    Case("client_keys", client("jwks: {keys: []}, jwks_uri: https://k.example/jwks")),
    Case("client_keys", client("jwks: {keys: [{kty: oct, k: AAAA}]}")),
    Case("client_redirect", client("redirect_uris: ['http://192.168.1.7/cb']")),
    Case("client_redirect", client("redirect_uris: ['https://a.example/*']")),
    Case("client_method", client("grants: [client_credentials]")),
    Case("client_method", client("orchestrator: true")),
    Case("client_resource", client("resource: a2a/planner")),
    Case(
        "client_unknown",
        client("may_act: dcr_ghost")
        .replace(" #!", "")
        .replace("{may_act: dcr_ghost}", "\n      may_act: dcr_ghost #!"),
    ),
    Case("client_unknown", "authzen:\n  enforcers:\n    'a ghost': {scopes: ['x:*']} #!\n"),
    Case("client_unknown", "authzen:\n  enforcers:\n    'corp|gateway': {scopes: ['x:*']} #!\n"),
    Case("workload_keys", workload("kind: spiffe, issuer: prod.example, clients: {}")),
    Case("workload_keys", workload("kind: kubernetes, issuer: https://k8s.example, clients: {}, jwks: {keys: [{}]}")),
    Case("workload_issuer", workload("kind: spiffe, issuer: 'spiffe://x', clients: {}, jwks_uri: https://k.example")),
    Case(
        "workload_subject",
        workload("kind: spiffe, issuer: prod.example, clients: {x: app}, jwks_uri: https://k.example"),
    ),
    Case(
        "workload_twice",
        "identity:\n  workloads: #!\n"
        "    a: {kind: spiffe, issuer: p.example, clients: {}, jwks_uri: https://k.example}\n"
        "    b: {kind: spiffe, issuer: p.example, clients: {}, jwks_uri: https://k.example}\n",
    ),
    Case("signals_issuer", signals("issuer: '', jwks_uri: https://k.example")),
    Case("signals_keys", signals("issuer: https://i.example, jwks: {keys: 1}")),
    Case(
        "signals_url",
        signals(
            "issuer: https://i.example, jwks_uri: https://k.example, poll_url: http://k.example, poll_secret: env:X"
        ),
    ),
    Case("cimd_pinned", "identity:\n  cimd:\n    pinned:\n      https://a.example/c: {client_id: other} #!\n"),
    Case("cimd_pinned", "identity:\n  cimd:\n    pinned:\n      https://a.example/c: /no/such #!\n", machine=True),
    Case("upstream_asks", mcp(f"{URL}, roots: [relative]")),
    Case("upstream_auth", mcp(f"{URL}, auth: {{ways: []}}")),
    Case("upstream_auth", "a2a:\n  planner: {card_url: https://p.example/c, auth: {secret_env: X}} #!\n"),
    Case("credential_header", mcp(f"{URL}, credential: {{env: X, header: Host}}")),
    Case(
        "credential_header",
        "llm:\n  providers:\n    p: {base_url: https://p.example, credential: {env: X, header: 'a b'}} #!\n",
    ),
    Case("sandbox_private", mcp("command: [/bin/true], read: [STATE]"), machine=True),
    Case("sandbox_private", mcp("command: [/bin/true], read: [SECRET]"), machine=True),
    Case("sandbox_private", mcp("command: [HOME/server]"), machine=True),
    Case(
        "upstream_documents",
        "mcp:\n" + "".join(f"  m{n}: {{{URL}{n}, auth: {{ways: [user]}}}}\n" for n in range(120)),
    ),
    Case("config_invalid", f"llm:\n  providers: {{p: {{base_url: https://p.example}}}}\n  models:\n{MANY}\n"),
    Case("edge_host", "hosts: ['not a host'] #!\n"),
    Case("edge_proxy", "trusted_proxies: [nowhere] #!\n"),
    Case("tls_files", "listeners:\n  admin:\n    port: 0\n    tls: {cert: /no/such, key: /no/such} #!\n", machine=True),
    Case("otlp_endpoint", "telemetry:\n  otlp_endpoint: http://far.example #!\n"),
    Case("policy_opa", "policy:\n  engine: opa-server\n  opa: {url: 'http://far.example:8181'} #!\n"),
    Case("policy_files", "policy:\n  bundle: /no/such #!\n", machine=True),
    Case("lock_missing", "lock: /no/such #!\n", machine=True),
)
# Codes that the file is not to blame for, or that its shape makes unreachable, each with where it comes from.
ELSEWHERE = {
    "audit_directory": "state; `config check` names it among what the machine lacks",
    "admin_socket": "another node serves the state directory",
    "agent_spec": "an agent registered by command; for one of the file, told when it is first asked",
    "key_damaged": "keys",
    "key_in_use": "keys",
    "key_locked": "keys",
    "key_name": "keys",
    "key_permissions": "keys",
    "key_unavailable": "keys",
    "key_unlock": "keys",
    "backup_damaged": "bartizan backup and restore",
    "backup_exists": "bartizan backup and restore",
    "restore_exists": "bartizan backup and restore",
    "config_missing": "reading the file, before anything is examined",
    "config_unreadable": "reading the file, before anything is examined",
    "credential_name": "the shape: a credential has exactly one source",
    "export_place": "bartizan policy export",
    "issuer_lifetime": "the shape: bounds of max_age_s and max_lifetime_s",
    "listen": "the network",
    "lock_invalid": "as lock_missing, one step later; tests/enforce/test_lock.py",
    "lock_writable": "as lock_missing, one step later; tests/enforce/test_lock.py",
    "marks_in_use": "state",
    "marks_layout": "state",
    "marks_permissions": "state",
    "policy_cases": "as policy_files, one step later; tests/decide",
    "policy_manifest": "as policy_files, one step later; tests/decide",
    "policy_profile": "as policy_files, one step later; tests/decide",
    "registry_spec": "a server registered by command",
    "resource_twice": "the shape: names of upstreams are unique",
    "sample_ratio": "the shape: its bounds",
    "sandbox_missing": "the kernel",
    "scratch_missing": "a gateway composed without a node",
    "state_dir": "state",
    "state_foreign": "state",
    "state_schema_differs": "state",
    "state_schema_newer": "state",
    "upstream_address": "the shape: exactly one of url and command",
    "upstream_effect": "the shape: classes of effects",
    "upstream_name": "the shape: names of upstreams",
    "upstream_sse": "the shape: transport and legacy_sse",
    "upstream_tls": "the first call of an upstream, not the start",
    "upstream_twice": "the shape: names of upstreams are unique",
    "upstream_unsandboxed": "the shape: sandbox and unsandboxed",
    "worker_socket": "state",
    "workload_lifetime": "the shape: bounds of max_age_s",
}
SOURCES = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")
COMMANDS = ("firewall/cli/", "firewall/admin/", "firewall/tooling/")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nucleus.Nucleus]:
    """Make state, keys and policy once; what they refuse is not the file's."""
    state, made, build = tmp_path_factory.mktemp("core"), list[nucleus.Nucleus](), nucleus.build

    def kept(*given: Any, **more: Any) -> nucleus.Nucleus:
        made.append(build(*given, **more))
        return made[0]

    with warm_cache(state), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nucleus, "build", kept)
        app.build(configuration.build({"state_dir": str(state)}))
    yield made[0]
    made[0].close()


def written(tmp_path: Path, case: Case) -> Path:
    path = tmp_path / "bartizan.yaml"
    text = case.text.replace("STATE", str(tmp_path / "state")).replace("HOME", str(tmp_path))
    text = text.replace("SECRET", secret_places(os.environ)[0])
    if "listeners:" not in text:
        text += f"listeners: {{data: {{port: {free_port()}}}, admin: {{port: {free_port()}}}}}\n"
    if "public_url:" not in text:
        text += "public_url: https://fw.example\n"
    path.write_text(text + f"state_dir: {tmp_path / 'state'}\n")
    return path


def proved(config: configuration.Config, core: nucleus.Nucleus) -> None:
    """Have the issuers of a file proved where a worker looks, and where the command does."""
    try:
        profiles = front_door.issuers(config)
    except ConfigFault:
        return
    there = SQLiteStore(Paths(config.state).store, clock=SystemClock())
    for store in (core.store, there):
        for profile in profiles:
            Preflights(store, SystemClock()).write(profile, ())
    there.close()


async def started(config: configuration.Config) -> None:
    worker = app.build(config)
    try:
        await worker.start()
    finally:
        if worker.server is not None:
            await worker.server.stop()
        await worker.parts["admin_socket"].stop()
        await worker.tasks.close()


def refused_at_start(config: configuration.Config) -> str:
    try:
        asyncio.run(started(config))
    except ConfigFault as fault:
        return fault.code
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{CASES.index(case)}")
def test_what_a_node_refuses_to_start_with_is_told_with_its_line_before(
    case: Case,
    core: nucleus.Nucleus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(tmp_path, case)

    def standing(settings: nucleus.NucleusSettings, *, engine: Any, **_: Any) -> nucleus.Nucleus:
        if settings.bundle is not None:
            policy_bundle.load(settings.bundle)
        engine(core.bundle)
        return replace(core, tasks=Tasks())

    monkeypatch.setattr(nucleus, "build", standing)
    made = configuration.load(path, {})
    if case.code != "issuer_unproved":
        proved(made, core)
    assert refused_at_start(made) == case.code
    monkeypatch.undo()

    assert command.main(["config", "check", "--config", str(path), "--json"]) == 4
    out = orjson.loads(capsys.readouterr().out)
    told = [(fault["code"], fault["line"]) for fault in out["faults"]]
    assert told == [(case.code, case.line)]
    shape_only = command.main(["config", "check", "--config", str(path), "--shape-only"])
    assert shape_only == (0 if case.machine else 4)
    out = capsys.readouterr().out
    assert case.machine or f"{path}:{case.line}: " in out or not case.line


def test_a_file_without_a_fault_starts_and_passes(
    core: nucleus.Nucleus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the table: with nothing wrong, neither side refuses."""
    path = written(tmp_path, Case("", provider() + "mcp:\n  good: {url: https://m.example/mcp}\n"))
    monkeypatch.setattr(nucleus, "build", lambda _settings, **_: replace(core, tasks=Tasks()))
    made = configuration.load(path, {})
    assert refused_at_start(made) == ""
    assert rehearsal.refusals(made) == []


def test_a_client_that_is_there_may_be_named_elsewhere(tmp_path: Path) -> None:
    """The twin of client_unknown: one's own id, another client, a client's document, a client of an issuer."""
    text = (
        "identity:\n  clients:\n"
        "    gate: {grants: [client_credentials], secret_sha256: " + "ab" * 32 + ", may_act: gate}\n"
        "    desk: {redirect_uris: ['https://a.example/cb'], may_act: gate}\n"
        "    tool: {redirect_uris: ['https://a.example/cb'], may_act: 'https://a.example/client.json'}\n"
        "  issuers:\n    corp: {issuer: https://idp.example, audiences: {/access: [x]}}\n"
        "authzen:\n  enforcers: {gate: {}, 'corp|gateway': {}}\n"
    )
    made = configuration.load(written(tmp_path, Case("", text)), {})
    assert rehearsal.refusals(made, machine=False) == []
    named_clients.check(made)


def test_every_fault_of_a_file_is_told_at_once_with_the_place_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bartizan.yaml"
    path.write_text(
        "identity:\n"
        "  clients:\n"
        "    worker: {grants: [client_credentials]}\n"
        "    good: {redirect_uris: ['https://a.example/cb']}\n"
        "  providers:\n"
        "    corp: {issuer: 'http://idp.example', client_id: x, client_secret: 'env:X'}\n"
        "telemetry: {otlp_endpoint: 'http://far.example'}\n"
    )
    assert command.main(["config", "check", "--config", str(path), "--shape-only"]) == 4
    out = capsys.readouterr().out
    for told in (
        f"{path}:6: identity.providers.corp: idp_issuer",
        f"{path}:3: identity.clients.worker: client_method",
        f"{path}:7: telemetry.otlp_endpoint: otlp_endpoint",
    ):
        assert told in out, out
    assert "identity.clients.good" not in out


def test_a_client_of_a_platform_is_examined_together_with_the_platform(tmp_path: Path) -> None:
    """Alone it would have no way to authenticate, which is no fault of the file."""
    made = configuration.build(
        {
            "identity": {
                "clients": {"app": {"grants": ["client_credentials"]}},
                "workloads": {
                    "pods": {
                        "kind": "spiffe",
                        "issuer": "prod.example",
                        "clients": {"spiffe://prod.example/app": "app"},
                        "jwks_uri": "https://k.example/jwks",
                    }
                },
            }
        }
    )
    assert rehearsal.refusals(made) == []


def test_a_proved_issuer_passes_and_looking_makes_no_state(tmp_path: Path) -> None:
    made = configuration.load(written(tmp_path, Case("", issuer())), {})
    assert [one.fault.code for one in rehearsal.refusals(made)] == ["issuer_unproved"]
    assert not made.state.exists()
    store = SQLiteStore(Paths(made.state).store, clock=SystemClock())
    Preflights(store, SystemClock()).write(front_door.issuers(made)[0], ())
    store.close()
    assert rehearsal.refusals(made) == []


def test_a_wrong_shape_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bartizan.yaml"
    path.write_text("workers: 1\nidentity:\n  clients:\n    app:\n      surprise: 1\n")
    assert command.main(["config", "check", "--config", str(path)]) == 4
    assert f"{path}:5: identity.clients.app.surprise:" in capsys.readouterr().err


def codes_in(path: Path) -> set[str]:
    """Return the codes of every ConfigFault that a file makes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ConfigFault":
            first = node.args[0]
            assert isinstance(first, ast.Constant), f"{path}:{node.lineno}: its code is not written out"
            assert isinstance(first.value, str)
            found.add(first.value)
    return found


def test_every_code_that_a_room_can_refuse_with_is_in_the_table_or_comes_from_elsewhere() -> None:
    reachable: set[str] = set()
    for room in SOURCES:
        for path in (ROOT / room).rglob("*.py"):
            if not os.fspath(path.relative_to(ROOT)).startswith(COMMANDS):
                reachable |= codes_in(path)
    tried = {case.code for case in CASES}
    assert reachable - tried - ELSEWHERE.keys() == set()
    assert tried - reachable == set()
    assert not tried & ELSEWHERE.keys()
    assert all(re.fullmatch("[a-z_]+", code) for code in reachable)


def test_a_log_that_has_no_place_stops_the_start_and_one_place_is_enough(tmp_path: Path) -> None:
    """Else worker after worker would end, each with a traceback; the twin is a spool that can be made."""
    taken = tmp_path / "taken"
    taken.write_text("a file, no directory")
    state = {"state_dir": str(tmp_path / "state"), "public_url": "https://fw.example"}
    nowhere = {"directory": str(taken / "audit")}
    with pytest.raises(ConfigFault) as told:
        app.check(configuration.build({**state, "audit": nowhere}))
    assert (told.value.code, str(taken / "audit") in told.value.detail) == ("audit_directory", True)
    app.check(configuration.build({**state, "audit": {**nowhere, "spool": str(tmp_path / "spool")}}))


NAMING = (
    "identity:\n  clients:\n"
    "    desk: {redirect_uris: ['https://a.example/cb'], may_act: nightly}\n"
    "authzen:\n  enforcers: {gate: {}}\n"
)


def test_a_name_that_may_still_be_registered_by_command_starts_a_node_and_is_told_to_whoever_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, Case("", NAMING))
    made = configuration.load(path, {})
    named_clients.check(made)
    assert rehearsal.refusals(made, machine=False) == []
    assert command.main(["config", "check", "--config", str(path)]) == 1
    out = capsys.readouterr().out
    assert "identity.clients.desk.may_act: there is no client 'nightly'" in out
    assert "authzen.enforcers.gate: there is no client 'gate'" in out
    assert not (tmp_path / "state").exists()  # looking makes no state


@pytest.mark.parametrize(("tenant", "told"), [("default", []), ("beta", ["nightly", "gate"])])
def test_a_client_that_was_registered_by_command_is_there_for_its_own_tenant_alone(
    tmp_path: Path, tenant: str, told: list[str]
) -> None:
    made = configuration.load(written(tmp_path, Case("", NAMING)), {})
    place = Paths(made.state).store
    place.parent.mkdir(parents=True, mode=0o700)
    with closing(SQLiteStore(place, clock=SystemClock())) as store:
        clients = RegisteredClients(
            store, SystemClock(), os.urandom, lambda *_: None, taken=("desk",), end=lambda _id: None
        )
        for name in ("nightly", "gate"):
            clients.add(
                ClientSettings(
                    name,
                    name,
                    auth_method="client_secret_basic",
                    grant_types=("client_credentials",),
                    scopes=("*",),
                    tenant=tenant,
                ),
                by="me",
            )
    assert [name for _, name in rehearsal.unregistered(made)] == told
