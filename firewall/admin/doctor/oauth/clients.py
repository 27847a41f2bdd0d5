"""The programs that ask for tokens: their redirects, documents, registrations, and what they may ever get."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urlsplit

from firewall.admin.doctor.check import Check, Examination, Patient, count
from firewall.admin.doctor.oauth import trace
from firewall.admin.doctor.oauth.face import resources
from firewall.config import Config
from firewall.config.rooms import way_out
from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import BartizanError, ConfigFault, Malformed
from firewall.core.step_up import LEVELS
from firewall.identity.cimd import pinned
from firewall.identity.settings import CIMD_HOSTS, LOOPBACK
from firewall.net.dial import Dialler, Purpose
from firewall.wire import cimd, oauth

ASK_S: Final = 5.0
# Documents of programs that people have (oauth reference §3); asked for with --reach alone.
KNOWN: Final = (
    "https://claude.ai/oauth/claude-code-client-metadata",
    "https://claude.ai/oauth/mcp-oauth-client-metadata",
    "https://vscode.dev/oauth/client-metadata.json",
)
PROXIES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def redirects(patient: Patient) -> Iterator[Check]:
    """oauth-02: a program on somebody's own computer listens on another port than the one that is registered."""
    for name, client in patient.config.identity.clients.items():
        for uri in client.redirect_uris:
            try:
                oauth.check_redirect_uri(uri)
            except Malformed:
                fix = "write http://127.0.0.1/callback or http://localhost/callback: any port then counts; https elsewhere"
                yield Check("oauth-02", "fail", f"client {name} registers a redirect that no request can use", fix, uri)
                return
            if urlsplit(uri).hostname in LOOPBACK and uri.startswith("https:"):
                fix = "register the http spelling of it, without a port"
                text = f"client {name} redirects to https on loopback: there the port must be the same each time"
                yield Check("oauth-02", "warn", text, fix, uri)
                return
    text = "loopback redirects match on any port, for 127.0.0.1, [::1] and localhost alike"
    yield Check("oauth-02", "ok", text)


def lasting(patient: Patient) -> Iterator[Check]:
    """oauth-06: people sign in again every few minutes, since their program never gets a refresh token."""
    config = patient.config
    short = sorted(
        name
        for name, client in config.identity.clients.items()
        if "authorization_code" in client.grants and "refresh_token" not in client.grants
    )
    if short:
        yield Check(
            "oauth-06",
            "warn",
            f"people of client {short[0]} sign in again every {config.identity.access_token_s} s: it gets no refresh token",
            f"add refresh_token to identity.clients.{short[0]}.grants",
            f"without it: {', '.join(short)}",
        )
    else:
        yield Check(
            "oauth-06", "ok", "every client that people sign in for may refresh; upstream tokens live apart from ours"
        )


def registrations(patient: Patient) -> Iterator[Check]:
    """oauth-16: anybody registers programs, and thousands are left behind."""
    config = patient.config
    if config.identity.registration == "on" and urlsplit(config.public_url).hostname in LOOPBACK:
        yield Check("oauth-16", "ok", "any program may register (RFC 7591), and only those of this machine reach us")
    elif config.identity.registration == "on":
        yield Check(
            "oauth-16",
            "warn",
            "anybody who reaches us may register a program (RFC 7591)",
            "set identity.registration: off, unless programs without a metadata document must connect",
            f"identity.registration on at {config.public_url}; unused ones end after 24 h",
        )
    else:
        yield Check("oauth-16", "ok", "programs are known by their documents; a token's aud is always the resource")


def documents(patient: Patient) -> Iterator[Check]:
    """oauth-17: the document of a program cannot be fetched from where we stand."""
    config = patient.config
    given = config.identity.cimd
    proxy = next((name for name in PROXIES if os.environ.get(name)), "")
    if given.policy != "off" and proxy and not config.egress.proxy:
        yield Check(
            "oauth-17",
            "warn",
            "a web proxy is set here, and not used: what is not in the file leaves this machine directly or not at all",
            "name it as egress.proxy, let this node reach port 443 of their hosts, or pin their documents in "
            "identity.cimd.pinned",
            f"{proxy} is set",
        )
        return
    wanted = [url for url in KNOWN if _fetched(config, url)]
    if not patient.reach or not wanted:
        yield Check("oauth-17", "ok", f"{len(given.pinned)} pinned; others are fetched when needed (--reach tries)")
        return
    failing = [(url, why) for url, why in zip(wanted, _try(patient, wanted), strict=True) if why]
    if failing:
        url, why = failing[0]
        fix = "open the way to its host, or save the document from a browser and pin it in identity.cimd.pinned"
        yield Check(
            "oauth-17",
            "warn",
            f"{count(len(failing), 'known document')} cannot be fetched from here",
            fix,
            f"{url}: {why}",
        )
    else:
        yield Check("oauth-17", "ok", f"{count(len(wanted), 'known document')} can be fetched from here")


def pins(patient: Patient) -> Iterator[Check]:
    """oauth-18: a document is refused, for a member too many or a method that is left out."""
    given = patient.config.identity.cimd
    try:
        documents = pinned.load(given.pinned, frozenset(given.ports))
    except ConfigFault as error:
        text = "a pinned document is refused, so its program cannot sign in"
        yield Check("oauth-18", "fail", text, error.fix, error.detail)
        return
    text = "unknown members and a missing authentication method are accepted"
    yield Check("oauth-18", "ok", f"{text}; {len(documents)} pinned documents read")


def reachable_scopes(patient: Patient) -> Iterator[Check]:
    """oauth-19: a program asks for more, gets the same, and asks again: what it lacks can never be had."""
    config = patient.config
    known = [scope for resource in resources(config) for scope in resource.scopes]
    limits = [(f"identity.clients.{n}.scopes", c.scopes) for n, c in config.identity.clients.items()]
    limits += [
        (f"identity.providers.{n}.scopes_of.{group}", (given,) if isinstance(given, str) else given)
        for n, p in config.identity.providers.items()
        for group, given in p.scopes_of.items()
    ]
    for where, patterns in limits:
        dead = [p for p in patterns if not any(oauth.scope_allowed(scope, (p,)) for scope in known)]
        if dead and known:
            fix = f"there are: {', '.join(sorted(set(known))[:8])}"
            yield Check("oauth-19", "fail", f"{where} permits something that no resource has", fix, ", ".join(dead))
            return
    for where, level in _levels(config):
        if level not in _attainable(config):
            fix = "ask for mfa, or map the provider's own word in identity.providers.NAME.acr"
            text = f"{where} asks for a sign-in that nobody here can reach: its callers are challenged for ever"
            yield Check(
                "oauth-19", "fail", text, fix, f"acr {level!r}; can be reached: {', '.join(_attainable(config))}"
            )
            return
    if (found := trace.circles(patient)) is not None:
        grant, scope, times = found
        yield Check(
            "oauth-19",
            "warn",
            f"a program was told {times} times within a day that it lacks one scope, and came back without it",
            "give it that scope at the sign-in, in its own settings; a client that only refreshes never asks for more",
            f"gid {grant} lacks {scope}; bartizan doctor trace {grant} tells what it did",
        )
        return
    yield Check("oauth-19", "ok", f"{len(known)} scopes, and every limit and step-up can be reached")


# -- helpers ----------------------------------------------------------------------------------------------------


def _fetched(config: Config, url: str) -> bool:
    given = config.identity.cimd
    hosts = given.hosts or CIMD_HOSTS
    return url not in given.pinned and (
        given.policy == "any" or (given.policy == "allowlist" and urlsplit(url).hostname in hosts)
    )


def _try(patient: Patient, urls: list[str]) -> list[str]:
    """Return why each document cannot be had, "" for those that can."""

    async def one(dialler: Dialler, url: str) -> str:
        try:
            found = await dialler.fetch(Purpose.CIMD, url, max_bytes=METADATA_BYTES, timeout_s=ASK_S)
            if found.status != 200:
                return f"status {found.status}"
            cimd.parse_document(url, found.body)
        except BartizanError as error:
            return error.code
        return ""

    async def every() -> list[str]:
        dialler = Dialler(patient.clock, way_out(patient.config))
        try:
            return list(await asyncio.gather(*(one(dialler, url) for url in urls)))
        finally:
            await dialler.close()

    return asyncio.run(every())


def _levels(config: Config) -> Iterable[tuple[str, str]]:
    for kind, upstreams in (("mcp", config.mcp), ("a2a", config.a2a)):
        for name, given in upstreams.items():
            if given.step_up is not None and given.step_up.acr:
                yield f"{kind}.{name}.step_up", given.step_up.acr


def _attainable(config: Config) -> list[str]:
    mapped = {level for provider in config.identity.providers.values() for level in provider.acr.values()}
    return sorted({*LEVELS, *mapped})


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("oauth-02", redirects),
    ("oauth-06", lasting),
    ("oauth-16", registrations),
    ("oauth-17", documents),
    ("oauth-18", pins),
    ("oauth-19", reachable_scopes),
)
