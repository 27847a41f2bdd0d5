"""What clients and browsers see: our own metadata, the names of resources, the addresses of pages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from firewall.admin.doctor.check import Check, Examination, Patient, count
from firewall.config import Config, front_door, rooms
from firewall.core.errors import BartizanError, UpstreamFault
from firewall.core.jsonvalue import JSON
from firewall.identity.resources import WELL_KNOWN_PRM
from firewall.identity.settings import LOOPBACK, ProtectedResource
from firewall.net.dial import Dialler, Purpose
from firewall.wire import strict_json

SERVER_METADATA: Final = "/.well-known/oauth-authorization-server"
ANSWER_BYTES: Final = 64 * 1024
ASK_S: Final = 5.0
ASKED: Final = 20  # resources whose metadata is asked for


def own_metadata(patient: Patient) -> Iterator[Check]:
    """oauth-01: behind a proxy that ends TLS, metadata names http:// or another host, and no client gets further."""
    config = patient.config
    if config.public_url.startswith("http://") and config.trusted_proxies:
        yield Check(
            "oauth-01",
            "warn",
            "a proxy stands in front, but public_url is plain http: metadata will name an address that only works behind it",
            "set public_url to the https origin that clients use",
            f"public_url {config.public_url}, trusted_proxies {', '.join(config.trusted_proxies)}",
        )
        return
    if not patient.running:
        yield Check(
            "oauth-01", "ok", f"metadata is built from {config.public_url} alone; a running node asks for it too"
        )
        return
    found = ask(patient, [SERVER_METADATA])[SERVER_METADATA]
    if isinstance(found, str):
        yield Check(
            "oauth-01",
            "warn",
            f"our own metadata could not be fetched at the public address: {found}",
            "see that public_url leads here, also from this machine",
            config.public_url + SERVER_METADATA,
        )
        return
    wrong = [name for name in sorted(found) if _is_address(name) and not _ours(found[name], config.public_url)]
    if wrong:
        yield Check(
            "oauth-01",
            "fail",
            "what answers at the public address names another issuer or host: clients will refuse it",
            "have the proxy lead public_url to this node, and change nothing of the answers",
            f"{wrong[0]}: {_shown(found[wrong[0]])}, expected under {config.public_url}",
        )
    else:
        yield Check("oauth-01", "ok", "metadata at the public address names the public address everywhere")


def other_names(patient: Patient) -> Iterator[Check]:
    """oauth-09: consent fails: a page opened under another name posts to a door that does not know its browser."""
    config = patient.config
    ours = urlsplit(config.public_url).netloc
    others = sorted(set(config.hosts) - {ours})
    if others:
        yield Check(
            "oauth-09",
            "warn",
            "the data listener also answers to other names: sign-in and consent pages opened there cannot be sent",
            "lead people to public_url only: redirect the other names in front of us, or take them out of hosts",
            f"hosts {', '.join(others)}; forms and cookies belong to {ours}",
        )
    else:
        yield Check("oauth-09", "ok", "pages are served under one name; reloading one leaves every copy of it valid")


def resource_metadata(patient: Patient) -> Iterator[Check]:
    """oauth-15: a proxy rewrites or swallows the inserted well-known path, so no client finds the resource's metadata."""
    paths = [resource.path for resource in resources(patient.config)][:ASKED]
    if not patient.running or not paths:
        yield Check("oauth-15", "ok", "resource metadata stands at the path-inserted address (RFC 9728 §3.1)")
        return
    answers = ask(patient, [WELL_KNOWN_PRM + path for path in paths])
    for path in paths:
        found, expected = answers[WELL_KNOWN_PRM + path], patient.config.public_url + path
        told = found if isinstance(found, str) else found.get("resource")
        if told != expected:
            yield Check(
                "oauth-15",
                "fail",
                f"the metadata of {path} cannot be had at the public address: clients cannot sign in for it",
                "let the proxy in front pass /.well-known/ on unchanged, path included",
                f"{patient.config.public_url}{WELL_KNOWN_PRM}{path}: {_shown(told)}",
            )
            return
    yield Check("oauth-15", "ok", f"the metadata of {count(len(paths), 'resource')} is where clients look for it")


def resource_names(patient: Patient) -> Iterator[Check]:
    """oauth-03: one slash more or less, and a token is for something that does not exist."""
    config = patient.config
    known = {resource.path for resource in resources(config)}
    named = [(f"identity.clients.{name}.resource", c.resource) for name, c in config.identity.clients.items()]
    named += [(f"identity.issuers.{n}.audiences", p) for n, i in config.identity.issuers.items() for p in i.audiences]
    named += [("identity.dpop.required_at", path) for path in config.identity.dpop.required_at]
    wrong = [(where, path) for where, path in named if path and path not in known]
    if wrong:
        where, path = wrong[0]
        near = path.rstrip("/") if path.rstrip("/") in known else ""
        yield Check(
            "oauth-03",
            "fail",
            f"{where} names a resource that does not exist: it says nothing about any that does",
            f"write {near}" if near else f"choose one of {', '.join(sorted(known)) or 'none: there is none yet'}",
            f"{path!r}",
        )
    else:
        yield Check("oauth-03", "ok", f"{count(len(known), 'resource')}, each under one exact name")


# -- helpers ----------------------------------------------------------------------------------------------------


def resources(config: Config) -> tuple[ProtectedResource, ...]:
    """Return what is protected here, by configuration. Raises ConfigFault."""
    specs = tuple(rooms.mcp_spec(config, name, given) for name, given in config.mcp.items())
    return front_door.protected_resources(config, specs, [(name, given.title) for name, given in config.a2a.items()])


def ask(patient: Patient, paths: list[str]) -> Mapping[str, Mapping[str, JSON] | str]:
    """Return what our public address answers at each path: an object, or why there is none."""

    async def one(dialler: Dialler, path: str) -> Mapping[str, JSON] | str:
        loopback = urlsplit(patient.config.public_url).hostname in LOOPBACK
        try:
            found = await dialler.fetch(
                Purpose.HEALTH,
                patient.config.public_url + path,
                network="loopback" if loopback else "public",
                max_bytes=ANSWER_BYTES,
                timeout_s=ASK_S,
            )
            value = strict_json.loads(found.body)
        except UpstreamFault as error:
            return {"unreachable": "it does not answer", "timeout": "no answer in time"}.get(error.code, error.code)
        except BartizanError:
            return "the answer is not JSON"
        if found.status != 200:
            return f"status {found.status}"
        return value if isinstance(value, dict) else "the answer is no object"

    async def every() -> Mapping[str, Mapping[str, JSON] | str]:
        dialler = Dialler(patient.clock, rooms.way_out(patient.config))
        try:
            return {path: await one(dialler, path) for path in paths}
        finally:
            await dialler.close()

    return asyncio.run(every())


def _is_address(name: str) -> bool:
    return name in ("issuer", "jwks_uri") or name.endswith("_endpoint")


def _ours(value: JSON, public_url: str) -> bool:
    return isinstance(value, str) and (value == public_url or value.startswith(public_url + "/"))


def _shown(value: JSON) -> str:
    return repr(value)[:160]


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("oauth-01", own_metadata),
    ("oauth-03", resource_names),
    ("oauth-09", other_names),
    ("oauth-15", resource_metadata),
)
