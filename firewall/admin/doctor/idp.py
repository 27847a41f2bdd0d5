"""``bartizan doctor idp ISSUER``: may an issuer's own tokens be taken here (direct mode), and what to configure.

The proof is written for every profile of ``identity.issuers`` with this issuer: the front door starts with
such a profile only when its proof stands (`identity.issuers.preflight`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from firewall.config import Config, front_door, rooms
from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.oidc.examination import Examination
from firewall.identity.oidc.findings import Examined, Finding, Question
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.oidc.secret import Secrets, secret_reader
from firewall.identity.oidc.settings import ProviderSettings
from firewall.net.address import Network, classify
from firewall.net.dial import Dialler, DiallerSettings
from firewall.state.sqlite import SQLiteStore
from firewall.wire.http import parse_url

SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What ``doctor idp`` says. proved: names of the profiles whose proof was written."""

    examined: Examined
    resource: str
    snippet: str
    proved: tuple[str, ...]

    def document(self) -> JSONObject:
        """Return the JSON form."""
        findings: list[JSON] = [asdict(found) for found in self.examined.findings]
        missing: list[JSON] = list(self.examined.missing)
        proved: list[JSON] = list(self.proved)
        return {
            "ok": self.examined.direct,
            "issuer": self.examined.issuer,
            "resource": self.resource,
            "direct": self.examined.direct,
            "missing": missing,
            "findings": findings,
            "proved": proved,
            "snippet": self.snippet,
        }

    def verdict(self) -> str:
        """Return the one sentence that it comes to."""
        if self.examined.direct:
            return "direct: yes"
        why = [found.text for found in self.examined.findings if found.outcome == "fail"]
        return "direct: no because " + "; ".join(dict.fromkeys(why))


def examine_idp(
    config: Config,
    issuer: str,
    *,
    clock: Clock,
    environment: Mapping[str, str],
    resource: str = "",
    token: str = "",
    fetcher: ProviderFetcher | None = None,
) -> Report:
    """Examine an issuer, write the proof for its profiles, and say what to configure.

    resource: path of the resource that its tokens should be for. token: a sample access token. Blocks;
    some seconds at most. Raises ConfigFault: idp_issuer and those of the configuration; StateUnavailable.
    """
    profiles = [p for p in front_door.issuers(config) if p.issuer == issuer]
    provider = next((p for p in front_door.identity_providers(config) if p.issuer == issuer), None)
    path = resource or next((path for p in profiles for path in p.audiences), "") or _first_resource(config)
    read = secret_reader(environment)
    now_s = clock.now_us() // SECOND_US
    reports = []
    for profile in profiles or [None]:  # type: ignore[list-item]
        question = _question(config, issuer, path, profile, provider, read, token)
        found = asyncio.run(_ask(question, fetcher, clock, now_s, rooms.way_out(config)))
        reports.append((profile, _agree(_here(found, config, path), profile)))
    proved = _prove(config, clock, reports)
    examined = next((e for _, e in reports if not e.direct), reports[0][1])
    return Report(examined, config.public_url + path, _snippet(examined, config, path, profiles, provider), proved)


async def _ask(
    question: Question, fetcher: ProviderFetcher | None, clock: Clock, now_s: int, leaving: DiallerSettings
) -> Examined:
    if fetcher is not None:
        return await Examination(question, fetcher, now_s).run()
    dialler = Dialler(clock, leaving)
    try:
        return await Examination(question, dialler, now_s).run()
    finally:
        await dialler.close()


def _question(
    config: Config,
    issuer: str,
    path: str,
    profile: IssuerProfile | None,
    provider: ProviderSettings | None,
    read: Secrets,
    token: str,
) -> Question:
    network: Network = profile.network if profile else provider.network if provider else _network_of(issuer)
    client, secret = "", ""
    if profile is not None and profile.kind == "opaque":
        client, secret = profile.client_id, _secret(read, profile.secret)
    elif provider is not None:
        client, secret = provider.client_id, _secret(read, provider.secret)
    return Question(
        issuer=issuer,
        resource=config.public_url + path,
        audiences=profile.audiences.get(path, ()) if profile else (),
        typ=profile.typ if profile else "at+jwt",
        kind=profile.kind if profile else "jwt",
        client_id=client,
        redirect_uri=config.public_url + provider.callback_path if provider else "",
        secret=secret,
        introspection=profile.introspection_url if profile else "",
        token=token,
        network=network,
    )


def _here(examined: Examined, config: Config, path: str) -> Examined:
    """Return the outcome, with a word where the file names no such resource: a server that was registered is elsewhere."""
    specs = tuple(rooms.mcp_spec(config, name, given) for name, given in config.mcp.items())
    agents = [(name, given.title) for name, given in config.a2a.items()]
    known = [resource.path for resource in front_door.protected_resources(config, specs, agents)]
    if path in known:
        return examined
    fix = f"there are {', '.join(known[:8])}" if known else "name a server in the file first"
    found = Finding("here", "warn", f"{path} is no resource of this configuration", fix)
    return Examined(examined.issuer, (*examined.findings, found), examined.metadata)


def _agree(examined: Examined, profile: IssuerProfile | None) -> Examined:
    """Return the outcome, worse where the profile says other addresses than the issuer itself."""
    if profile is None or not examined.metadata:
        return examined
    found: list[Finding] = []
    member, ours = ("introspection_endpoint", profile.introspection_url)
    if profile.kind == "jwt":
        member, ours = "jwks_uri", profile.jwks_uri
    if (ours or profile.kind != "jwt") and examined.metadata.get(member) != ours:
        text = f"identity.issuers.{profile.name} has another {member} than the issuer publishes"
        found.append(Finding("profile", "fail", text, f"write the {member} of its metadata"))
    return Examined(examined.issuer, (*examined.findings, *found), examined.metadata)


def _prove(config: Config, clock: Clock, reports: Sequence[tuple[IssuerProfile | None, Examined]]) -> tuple[str, ...]:
    named = [(profile, examined) for profile, examined in reports if profile is not None]
    if not named:
        return ()
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = SQLiteStore(config.state / "state.db")
    try:
        proofs = Preflights(store, clock)
        return tuple(p.name for p, examined in named if proofs.write(p, examined.missing).direct)
    finally:
        store.close()


def _snippet(
    examined: Examined, config: Config, path: str, profiles: Sequence[IssuerProfile], provider: ProviderSettings | None
) -> str:
    """Return what to write into bartizan.yaml: the direct profile where it is possible, else the provider."""
    public_url, network = config.public_url, provider.network if provider is not None else _network_of(examined.issuer)
    inside = "" if network == "public" else f"      network: {network}\n"
    if examined.direct and not profiles:
        uri = examined.metadata.get("jwks_uri")
        return (
            f"identity:\n  issuers:\n    {_free(config.identity.issuers)}:\n"
            f"      issuer: {examined.issuer}\n      jwks_uri: {uri}\n{inside}"
            f"      audiences:\n        {path}: [{public_url}{path}]\n"
            "# then run this command again: it proves the profile as it stands\n"
        )
    if provider is not None or profiles or not examined.metadata:
        return ""
    name = _free(config.identity.providers)
    lines = [
        "identity:",
        "  providers:",
        f"    {name}:",
        f"      issuer: {_as_it_says(examined)}",
        *inside.splitlines(),
        f"      shape: {shape_of(examined.issuer)}",
        "      client_id: …",
        "      client_secret: env:CORP_SECRET",
        "      roles: {agents: dev}",
        "      scopes_of: {agents: ['*']}",
    ]
    if "s256" in examined.missing and shape_of(examined.issuer) != "entra":
        lines.append("      unadvertised_s256: true      # only if it is understood all the same")
    lines.append(f"# register there as redirect URI: {public_url}/callback/{name}")
    return "\n".join(lines) + "\n"


def _free(taken: Collection[str]) -> str:
    """Return a name that the file does not hold yet."""
    return next(
        name for number in range(len(taken) + 1) if (name := f"corp{number + 1}" if number else "corp") not in taken
    )


def _as_it_says(examined: Examined) -> str:
    """Return the issuer as its own metadata names it, where that differs by slashes at the end alone."""
    told = examined.metadata.get("issuer")
    same = isinstance(told, str) and told.rstrip("/") == examined.issuer.rstrip("/")
    return str(told) if same else examined.issuer


def shape_of(issuer: str) -> str:
    """Return which product an issuer's address speaks of; ``generic`` when none."""
    host, path = parse_host(issuer), issuer.partition("://")[2].partition("/")[2]
    for ending, shape in _HOSTS:
        if host == ending or host.endswith("." + ending):
            return shape
    return "keycloak" if path.startswith("realms/") or "/realms/" in path else "generic"


def parse_host(url: str) -> str:
    """Return the host of an address, "" when it has none."""
    return url.partition("://")[2].partition("/")[0].partition(":")[0].lower()


_HOSTS: Final = (
    ("login.microsoftonline.com", "entra"),
    ("login.microsoftonline.us", "entra"),
    ("sts.windows.net", "entra"),
    ("okta.com", "okta"),
    ("oktapreview.com", "okta"),
    ("auth0.com", "auth0"),
    ("accounts.google.com", "google"),
)


def _network_of(issuer: str) -> Network:
    try:
        host = parse_url(issuer).host
    except Malformed:
        fix = "give the issuer exactly as its tokens name it, such as https://idp.example"
        raise ConfigFault("idp_issuer", "not an address in normal form", fix=fix) from None
    written = "loopback" if host == "localhost" else classify(host)
    return "loopback" if written == "loopback" else "private" if written == "private" else "public"


def _secret(read: Secrets, source: str) -> str:
    try:
        return read(source) if source else ""
    except UpstreamFault:
        return ""  # another check says that it is missing; the issuer can be examined without


def _first_resource(config: Config) -> str:
    return f"/mcp/{next(iter(config.mcp))}" if config.mcp else "/mcp"
