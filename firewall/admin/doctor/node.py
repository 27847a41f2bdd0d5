"""Checks of the node: its state, keys, ports, certificates, policy, upstreams and clock."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from firewall.admin.doctor.check import Check, Examination, Patient
from firewall.admin.doctor.people import people
from firewall.admin.doctor.signals import signals
from firewall.config import Config, rooms
from firewall.config.commands import remarks
from firewall.config.model import Credential, ListenerConfig
from firewall.core.errors import ConfigFault, PolicyFault, UpstreamFault
from firewall.decide import bundle as bundles
from firewall.decide.opa_server import OpaServerEngine
from firewall.net.address import classify
from firewall.net.dial import Dialler
from firewall.net.server import server_tls
from firewall.state.keys import KeyRing
from firewall.state.sqlite import SQLiteStore
from firewall.state.unlock import secret_file, unlock_secret
from firewall.tooling.lint import lint
from firewall.wire.http import parse_url
from mcp_gateway import child_words

CAGE_PATH: Final = "/usr/local/bin:/usr/bin:/bin"  # the PATH that local programs get (mcp_gateway.stdio)
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
DAY_US: Final = 86_400_000_000
EXPIRES_DAYS: Final = 14
SAID: Final = 3  # lines of a program that did not start
# No node has run before this product existed: a clock that says so is wrong. 2026-01-01.
EARLIEST_US: Final = 1_767_225_600_000_000


def state(patient: Patient) -> Iterator[Check]:
    """The state directory and keys belong to us alone, and the store opens."""
    config = patient.config
    if not config.state.exists():
        yield Check("state", "ok", f"{config.state} will be made at the first start")
        return
    loose = [path for path in (config.state, config.state / "keys") if path.exists() and _is_loose(path)]
    loose += [path for path in sorted((config.state / "keys").glob("*")) if _is_loose(path)]
    if loose:
        what = " ".join(str(path) for path in loose[:5])
        yield Check(
            "state",
            "fail",
            f"others can read, or own: {what}",
            f"chmod go-rwx {what}; make new keys if they may have leaked",
        )
        return
    if not os.access(config.state, os.W_OK | os.X_OK):
        yield Check("state", "fail", f"{config.state} cannot be written", "run as its owner, or set state_dir")
        return
    if (config.state / "state.db").exists():
        store = SQLiteStore(config.state / "state.db")
        try:
            store.collection("registry").get(config.tenant, "mcp/none")
        finally:
            store.close()
    _open_keys(config.state / "keys")
    file, own = secret_file(os.environ)
    kept = f"; keys are sealed under {file}: keep a copy of it apart" if own and file and file.exists() else ""
    yield Check("state", "ok", f"{config.state}: ours alone, and the store and the keys open{kept}")


def _open_keys(directory: Path) -> None:
    """Read every key that is there, and make none. Raises ConfigFault."""
    names = {path.name.rpartition(".")[0].partition("-")[::2] for path in directory.glob("*-*.[0-9]*")}
    ring = KeyRing(directory, unlock=unlock_secret(os.environ, directory)) if names else None
    for kind, name in sorted(names):
        assert ring is not None
        if kind == "ec":
            ring.ec_signing_keys(name)
        elif kind == "ed25519":
            ring.ed25519_keys(name)
        elif kind == "secret":
            ring.secrets(name)


def ports(patient: Patient) -> Iterator[Check]:
    """Listeners: free to bind, or, with a running node, answering."""
    for name, listener in (("data", patient.config.listeners.data), ("admin", patient.config.listeners.admin)):
        where = f"{listener.host} port {listener.port}"
        if listener.port == 0:
            yield Check("ports", "ok", f"{name}: takes any free port")
        elif patient.running:
            yield _answers(name, where, listener)
        else:
            yield _is_free(name, where, listener)


def tls(patient: Patient) -> Iterator[Check]:
    """Certificates load, their keys are private, and they have not run out."""
    for name, listener in (("data", patient.config.listeners.data), ("admin", patient.config.listeners.admin)):
        settings = rooms.tls(listener)
        if settings is None:
            if listener.host not in LOOPBACK and classify(listener.host) != "loopback":
                yield Check(
                    "tls",
                    "fail" if name == "admin" else "warn",
                    f"the {name} listener speaks plain HTTP on {listener.host}",
                    f"set listeners.{name}.tls, or listen on loopback behind a proxy that ends TLS",
                )
            continue
        server_tls(settings)
        if Path(settings.key).stat().st_mode & 0o077:
            yield Check("tls", "fail", f"{name}: others can read the key file", f"chmod 600 {settings.key}")
        yield _expiry(name, Path(settings.cert), patient.clock.now_us())


def public_url(patient: Patient) -> Iterator[Check]:
    """The public URL and the listener agree: clients reject tokens and metadata of any other origin."""
    config, data = patient.config, patient.config.listeners.data
    parts = urlsplit(config.public_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    behind_proxy = bool(config.trusted_proxies)
    if parts.scheme == "https" and data.tls is None and not behind_proxy:
        yield Check(
            "public_url",
            "warn",
            "public_url is https, the data listener has no TLS and no proxy is trusted",
            "set listeners.data.tls, or name the proxy that ends TLS in trusted_proxies",
        )
    elif not behind_proxy and data.port not in (0, port):
        yield Check(
            "public_url",
            "fail",
            f"public_url says port {port}, the data listener has {data.port}",
            f"set public_url to the origin that clients use, such as {parts.scheme}://{parts.hostname}:{data.port}",
        )
    else:
        yield Check("public_url", "ok", config.public_url)
    if "*" in config.origins:
        yield Check("public_url", "fail", "origins holds *", "name each origin of a browser application")


def policy(patient: Patient) -> Iterator[Check]:
    """The bundle loads; which mode it runs in, and why; what the linter notes."""
    config = patient.config
    cache = config.state / "cache"
    report = lint(config.policy.bundle)
    if report.bundle is None:
        yield Check("policy", "fail", "; ".join(report.faults[:3]), "bartizan policy check")
        return
    # A self-test that nobody kept takes half a minute; the first start makes it, we say so.
    bundle = bundles.load(config.policy.bundle, state_dir=cache if cache.is_dir() else None, wait=False)
    text = f"{bundle.revision[:19]}, {len(bundle.rules)} rules, runs {bundle.mode}"
    if bundle.mode == "compiled" or config.policy.mode == "interpreter":
        yield Check("policy", "ok", text)
    elif bundle.mutants == 0 and bundle.why.startswith("not self-tested"):
        mend = "wait at the first start, or ship the verdict: bartizan policy check --write"
        yield Check("policy", "warn", f"{bundle.revision[:19]}, {len(bundle.rules)} rules, not self-tested yet", mend)
    elif config.policy.mode == "compiled":
        yield Check("policy", "fail", f"{text}: {bundle.why}", "mend the rules, or set policy.mode: auto")
    else:
        yield Check("policy", "warn", f"{text}: {bundle.why}", "decisions are slower; bartizan policy check says where")
    if report.notes:
        yield Check("policy", "warn", f"{len(report.notes)} remarks of the linter", "bartizan policy check")
    if config.policy.engine == "opa-server":
        yield _opa(config, bundle)


def credentials(patient: Patient) -> Iterator[Check]:
    """What we present upstream is there; its value is never shown."""
    config = patient.config
    bad = 0
    for name, given in {**config.mcp, **config.a2a, **config.llm.providers}.items():
        own: Credential | None = given.credential
        if own is None:
            continue
        if own.env and not os.environ.get(own.env):
            bad += 1
            # A running node has its own environment, which we do not see.
            status = "warn"
            yield Check("credentials", status, f"{name}: {own.env} is not set here", f"export {own.env} for the node")  # type: ignore[arg-type]
        elif own.file is not None and not own.file.is_file():
            bad += 1
            yield Check("credentials", "fail", f"{name}: there is no file {own.file}", "write the credential there")
        elif own.file is not None and own.file.stat().st_mode & 0o077:
            bad += 1
            yield Check("credentials", "fail", f"{name}: others can read {own.file}", f"chmod 600 {own.file}")
    if not bad:
        yield Check("credentials", "ok", "all that are configured are there")


def upstreams(patient: Patient) -> Iterator[Check]:
    """Addresses are of the network they say; programs exist; with ``reach``, hosts answer."""
    config = patient.config
    urls: list[tuple[str, str, str]] = [(n, g.url, g.network) for n, g in config.mcp.items() if g.url]
    urls += [(n, g.card_url, g.network) for n, g in config.a2a.items()]
    urls += [(n, g.base_url, g.network) for n, g in config.llm.providers.items()]
    count = 0
    for name, url, network in urls:
        host = parse_url(url).host
        written = "loopback" if host == "localhost" else classify(host)
        if written in ("loopback", "private") and written != network:
            yield Check(
                "upstreams",
                "fail",
                f"{name}: {host} is a {written} address, permitted is {network}",
                f"set network: {written} for this one upstream",
            )
        elif patient.reach:
            yield _reach(patient, name, url, network)
        else:
            count += 1
    for name, given in config.mcp.items():
        if given.command and (wrong := program_fault(given.command[0])):
            yield Check("upstreams", "fail", f"{name}: {wrong}", "install it, or write its absolute path into command")
        elif given.command:
            count += 1
    yield from _failed_starts(patient)
    local = [name for name, given in config.mcp.items() if given.command]
    if not urls and not local and not config.demo:
        yield Check(
            "upstreams", "warn", "nothing is configured to be guarded", "add mcp, a2a or llm; see bartizan init"
        )
    elif count:
        yield Check(
            "upstreams", "ok", f"{count} as configured" + ("" if patient.reach else " (not called; --reach does)")
        )


def _failed_starts(patient: Patient) -> Iterator[Check]:
    """Local programs whose last start within a day came to nothing, with what they said: untrusted, escaped."""
    config = patient.config
    if not (config.state / "state.db").exists():
        return
    store = SQLiteStore(config.state / "state.db")
    try:
        for name, given in config.mcp.items():
            words = child_words.read(store.collection(child_words.COLLECTION), config.tenant, name)
            if given.command and words is not None and not words.opened and words.lines:
                said = " | ".join(words.lines[:SAID])
                yield Check(
                    "upstreams",
                    "warn",
                    f"{name}: its last start came to nothing; it said (its own words, believe nothing): {said}",
                    f"give it what it lacks (read, write, env); all its lines: bartizan servers stderr {name}",
                )
    finally:
        store.close()


def commands(patient: Patient) -> Iterator[Check]:
    """Local programs whose command has a shape that hides something (MCP security best practices, LO-3)."""
    for name, given in patient.config.mcp.items():
        for remark in remarks(given.command, (*given.read, *given.write)):
            yield Check(
                "commands", "warn", f"{name}: {remark}", "read the command word by word; narrow what it is given"
            )


def program_fault(word: str) -> str:
    """Return why a configured program cannot be started, "" when it can: a bare name is looked up as its cage does."""
    if not os.path.isabs(word) and os.sep in word:
        return f"{word} is a relative path"
    if shutil.which(word, path=CAGE_PATH) is None:
        where = "" if os.path.isabs(word) else f" in {CAGE_PATH}"
        return f"there is no program {word}{where}"
    return ""


def clock(patient: Patient) -> Iterator[Check]:
    """The clock is plausible, and not behind our own newest record."""
    now_us = patient.clock.now_us()
    newest = max(
        (p.stat().st_mtime_ns // 1000 for p in patient.config.audit_dir.glob("log_*/*") if p.is_file()), default=0
    )
    if now_us < EARLIEST_US or newest > now_us + 2_000_000:
        yield Check("clock", "fail", "the clock is behind: tokens and records would be wrong", "set it, and run NTP")
    else:
        yield Check("clock", "ok", "plausible, and not behind the newest record")


# -- helpers ----------------------------------------------------------------------------------------------------


def _is_loose(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISLNK(info.st_mode) or info.st_uid != os.geteuid() or bool(info.st_mode & 0o077)


def _answers(name: str, where: str, listener: ListenerConfig) -> Check:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)  # noqa: S104  compared, not bound
    try:
        with socket.create_connection((host, listener.port), timeout=2):
            return Check("ports", "ok", f"{name}: answers on {where}")
    except OSError as error:
        return Check(
            "ports", "fail", f"{name}: {where} does not answer: {error.strerror}", "see the node's own messages"
        )


def _is_free(name: str, where: str, listener: ListenerConfig) -> Check:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
        except OSError as error:
            return Check(
                "ports", "fail", f"{name}: {where}: {error.strerror}", "stop what uses it, or choose another port"
            )
    return Check("ports", "ok", f"{name}: {where} is free")


def _expiry(name: str, cert: Path, now_us: int) -> Check:
    from cryptography import x509

    found = x509.load_pem_x509_certificate(cert.read_bytes())
    left = (int(found.not_valid_after_utc.timestamp()) * 1_000_000 - now_us) // DAY_US
    if left < 0:
        return Check("tls", "fail", f"{name}: the certificate has run out", "renew it and restart")
    if left < EXPIRES_DAYS:
        return Check("tls", "warn", f"{name}: the certificate runs out in {left} days", "renew it")
    return Check("tls", "ok", f"{name}: the certificate holds for {left} days")


def _opa(config: Config, bundle: bundles.Bundle) -> Check:
    opa = config.policy.opa
    address = f"unix:{opa.unix_socket}" if opa.unix_socket else opa.url
    if not bundle.cases:
        return Check("opa", "warn", "the bundle has no decision case to ask with", "add one under cases/")
    case = bundle.cases[0]

    async def ask() -> None:
        engine = OpaServerEngine(address, bundle.revision, deadline_s=2.0)
        await engine.decide_remote(case.point, case.document)

    try:
        asyncio.run(ask())
    except PolicyFault as error:
        return Check(
            "opa", "fail", f"the OPA server gives no decision: {error.code} {error.detail}".strip(),
            "bartizan policy export DIR, then start opa run --server -b DIR; see docs/policy.md",
        )  # fmt: skip
    except ConfigFault as error:
        return Check("opa", "fail", error.detail, error.fix)
    return Check("opa", "ok", f"the OPA server decides with {bundle.revision[:19]}")


def _reach(patient: Patient, name: str, url: str, network: str) -> Check:
    target = parse_url(url)

    async def dial() -> None:
        _, writer = await Dialler(patient.clock).connect(target.host, target.port, network)  # type: ignore[arg-type]
        writer.close()

    try:
        asyncio.run(dial())
    except UpstreamFault as error:
        mend = "check the address" if error.code != "blocked_address" else "set network for this one upstream"
        return Check("upstreams", "fail", f"{name}: {error.code} {error.detail}".strip(), mend)
    return Check("upstreams", "ok", f"{name}: {target.host} port {target.port} answers")


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("state", state),
    ("ports", ports),
    ("tls", tls),
    ("public_url", public_url),
    ("policy", policy),
    ("credentials", credentials),
    ("upstreams", upstreams),
    ("commands", commands),
    ("signals", signals),
    ("people", people),
    ("clock", clock),
)
