"""Identity providers and issuers: what their products do differently, their keys, their audiences, whether they answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from firewall.admin.doctor.check import Check, Examination, Patient, count
from firewall.admin.doctor.idp import shape_of
from firewall.admin.doctor.oauth.face import resources
from firewall.config import Config, front_door
from firewall.config.rooms import way_out
from firewall.core.errors import BartizanError, ConfigFault, Malformed
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.oidc.metadata import METADATA_BYTES, parse_metadata
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.oidc.settings import ProviderSettings, shaped
from firewall.identity.rfc7523.client_keys import FETCH_S, parse_set
from firewall.net.address import Network
from firewall.net.dial import Dialler, Purpose
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt


def products(patient: Patient) -> Iterator[Check]:
    """oauth-05: Entra refuses ``resource``, does not say that it knows S256, registers nobody."""
    config = patient.config
    for name, given in config.identity.providers.items():
        known = shape_of(given.issuer)
        if known not in ("generic", given.shape):
            hard = known == "entra" and not given.unadvertised_s256
            yield Check(
                "oauth-05",
                "fail" if hard else "warn",
                f"provider {name} is {known}, and treated as {given.shape}: {_HARM[known]}",
                f"set identity.providers.{name}.shape: {known}",
                given.issuer,
            )
            return
    for name, issuer in config.identity.issuers.items():
        if shape_of(issuer.issuer) in ("entra", "google"):
            text = f"issuer {name} cannot issue tokens for our resources: it takes no resource parameter"
            fix = f"sign people in there instead: identity.providers with shape: {shape_of(issuer.issuer)}"
            yield Check("oauth-05", "fail", text, fix, issuer.issuer)
            return
    for name, auth in front_door.sign_ins(config).items():
        if shape_of(auth.issuer) == "entra" and auth.send_resource:
            text = f"upstream {name} gets its tokens from Entra, which refuses the resource that we send"
            yield Check("oauth-05", "fail", text, f"set auth.send_resource: false for {name}", auth.issuer)
            return
    yield Check("oauth-05", "ok", "every provider is treated as the product that its address speaks of")


def fixed_keys(patient: Patient) -> Iterator[Check]:
    """oauth-10: an issuer rotates its keys, and every token is refused until somebody restarts."""
    given = patient.config.identity
    fixed = [f"identity.trusted_issuers.{n}" for n, i in given.trusted_issuers.items() if i.jwks is not None]
    fixed += [f"identity.workloads.{n}" for n, w in given.workloads.items() if w.jwks is not None]
    fixed += [f"identity.signals.{n}" for n, s in given.signals.items() if s.jwks is not None]
    if fixed:
        yield Check(
            "oauth-10",
            "warn",
            f"{fixed[0]} has its keys written down: when it rotates them, everything of it is refused until you do too",
            "give jwks_uri in place of jwks where it publishes its keys",
            ", ".join(fixed),
        )
    else:
        yield Check(
            "oauth-10", "ok", "keys are fetched, asked for again at once when one is new, and dropped within 10 min"
        )


def audiences(patient: Patient) -> Iterator[Check]:
    """oauth-13: after an upgrade a real issuer's tokens are for nobody, and nothing says which audience was meant."""
    config = patient.config
    known = {resource.path for resource in resources(config)}
    for profile in front_door.issuers(config):
        if fault := _unproved(patient, profile.name):
            yield Check(
                "oauth-13", "fail", f"the node will not start with issuer {profile.name}: {fault.detail}", fault.fix
            )
            return
        bare = sorted(known - set(profile.audiences))
        if bare:
            yield Check(
                "oauth-13",
                "warn",
                f"tokens of issuer {profile.name} are refused at {count(len(bare), 'resource')}: no audience means them",
                f"name them in identity.issuers.{profile.name}.audiences, if its people should reach them",
                ", ".join(bare),
            )
            return
    for name, given in config.identity.providers.items():
        if config.public_url in given.trusted_audiences:
            text = f"provider {name} may name us as audience of its ID tokens: nobody could tell them from ours"
            yield Check("oauth-13", "fail", text, "take public_url out of trusted_audiences", config.public_url)
            return
    yield Check("oauth-13", "ok", "every issuer's audiences are written down, resource by resource")


def answers(patient: Patient) -> Iterator[Check]:
    """oauth-14: discovery fails in silence, and the sign-in page is all that anybody sees."""
    settings = [shaped(one) for one in front_door.identity_providers(patient.config)]
    read = secret_reader(os.environ)
    for one in settings:
        try:
            if one.secret:
                read(one.secret)
        except BartizanError as error:
            # Without a running node this is not the environment it will have.
            status = "fail" if patient.running or not one.secret.startswith("env:") else "warn"
            text = f"provider {one.name}: nobody can sign in, our own secret is missing"
            yield Check("oauth-14", status, text, f"put it where {one.secret} says", error.detail)  # type: ignore[arg-type]
            return
    keys = _key_sets(patient.config)
    told = f"{count(len(settings), 'provider')} and {count(len(keys), 'key set')}"
    if not settings and not keys:
        yield Check("oauth-14", "ok", "no provider or issuer is needed to sign in")
        return
    if not patient.reach:
        yield Check("oauth-14", "ok", f"{told} (not asked; --reach does)")
        return
    faults = asyncio.run(_ask(patient, settings, keys))
    if faults:
        where, why = faults[0]
        fix = "check its address and the network it is of; sign-ins and tokens of it are refused meanwhile"
        yield Check(
            "oauth-14", "fail", f"{where} cannot be used: {why}", fix, "; ".join(f"{w}: {y}" for w, y in faults)
        )
    else:
        yield Check("oauth-14", "ok", f"{told} answer as they must")


# -- helpers ----------------------------------------------------------------------------------------------------

_HARM: Final = {
    "entra": "its metadata does not advertise S256, so it is refused",
    "okta": "groups are not asked for",
    "auth0": "its claims may not be found",
    "keycloak": "names may be missing",
    "google": "tokens that name it without a scheme are refused",
}


@dataclass(frozen=True, slots=True)
class _KeySet:
    """A key set that configuration names, and whose it is. spiffe: it is a SPIFFE bundle."""

    whose: str
    uri: str
    network: Network
    ca_file: str = ""
    spiffe: bool = False


def _key_sets(config: Config) -> list[_KeySet]:
    given = config.identity
    found = [_KeySet(f"issuer {one.name}", one.jwks_uri, one.network) for one in front_door.issuers(config)]
    found += [
        _KeySet(f"trusted issuer {name}", one.jwks_uri, one.network) for name, one in given.trusted_issuers.items()
    ]
    found += [_KeySet(f"client {name}", one.jwks_uri, one.network) for name, one in given.clients.items()]
    found += [
        _KeySet(f"platform {name}", one.jwks_uri, one.network, one.ca_file, one.kind == "spiffe")
        for name, one in given.workloads.items()
    ]
    found += [_KeySet(f"transmitter {name}", one.jwks_uri, one.network) for name, one in given.signals.items()]
    return [one for one in found if one.uri]


def _unproved(patient: Patient, name: str) -> ConfigFault | None:
    path = patient.config.state / "state.db"
    (profile,) = (p for p in front_door.issuers(patient.config) if p.name == name)
    if not path.exists():
        return ConfigFault("issuer_unproved", "it was never checked", fix=f"run `bartizan doctor idp {profile.issuer}`")
    store = SQLiteStore(path)
    try:
        Preflights(store, patient.clock).require(profile)
    except ConfigFault as error:
        return error
    finally:
        store.close()
    return None


async def _ask(patient: Patient, settings: list[ProviderSettings], keys: list[_KeySet]) -> list[tuple[str, str]]:
    """Return what does not answer as it must: what it is, and why."""
    dialler = Dialler(patient.clock, way_out(patient.config))
    faults: list[tuple[str, str]] = []
    try:
        for one in settings:
            try:
                found = await dialler.fetch(
                    Purpose.IDP_METADATA,
                    one.metadata_url,
                    network=one.network,
                    max_bytes=METADATA_BYTES,
                    timeout_s=one.timeout_s,
                )
                if found.status != 200:
                    raise Malformed("idp_metadata", f"status {found.status}")
                metadata = parse_metadata(found.body, one)
                keys = [*keys, _KeySet(f"provider {one.name}", metadata.jwks_uri, one.network)]
            except BartizanError as error:
                faults.append((f"provider {one.name}", f"{error.code} {error.detail}".strip()))
        for known in keys:
            try:
                found = await dialler.fetch(
                    Purpose.JWKS,
                    known.uri,
                    network=known.network,
                    max_bytes=jwt.JWKS_BYTES,
                    timeout_s=FETCH_S,
                    ca_file=known.ca_file,
                )
                if found.status != 200:
                    raise Malformed("jwks_invalid", f"status {found.status}")
                parse_set(found.body, spiffe=known.spiffe)
            except BartizanError as error:
                faults.append((known.whose, f"{error.code} {error.detail}".strip()))
    finally:
        await dialler.close()
    return faults


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("oauth-05", products),
    ("oauth-10", fixed_keys),
    ("oauth-13", audiences),
    ("oauth-14", answers),
)
