"""What stands behind us: addresses with queries, secrets that everybody shares, audiences that blend, state that is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from firewall.admin.doctor.check import Check, Examination, Patient
from firewall.config import front_door

# What is written there is gone with the machine or with the container.
PASSING: Final = {"tmpfs": "memory", "ramfs": "memory", "overlay": "the writable layer of a container"}
MOUNTS: Final = Path("/proc/self/mounts")


def queries(patient: Patient) -> Iterator[Check]:
    """oauth-04: a query in a server's address, and its resource metadata names something else."""
    config = patient.config
    urls = [(f"mcp.{name}.url", given.url, given.auth) for name, given in config.mcp.items() if given.url]
    for where, url, auth in urls:
        parts = urlsplit(url)
        if not parts.query and not parts.fragment:
            continue
        signs_in = auth is not None and not auth.resource
        yield Check(
            "oauth-04",
            "fail" if signs_in or parts.fragment else "warn",
            f"{where} has a {'fragment' if parts.fragment else 'query'}: "
            + (
                "its resource metadata will not match it, so nobody can connect"
                if signs_in
                else "it is no name of a resource"
            ),
            "take it out of url; write auth.resource as the server names itself, and secrets under credential",
            f"{parts.scheme}://{parts.netloc}{parts.path}?…",  # a query may hold a secret
        )
        return
    yield Check("oauth-04", "ok", "no address of a server holds a query; one that a client adds to ours is ignored")


def shared_secrets(patient: Patient) -> Iterator[Check]:
    """oauth-11: one person's or the administrator's token at an upstream becomes everybody's."""
    config = patient.config
    for name, given in {**config.mcp, **config.a2a, **config.llm.providers}.items():
        several = "*" in given.tenants or len(given.tenants) > 1
        alone = given.auth is not None and set(given.auth.ways) == {"client"}
        if several and (given.credential is not None or alone):
            yield Check(
                "oauth-11",
                "warn",
                f"people of several tenants are one and the same caller at {name}",
                f"let each connect an account of their own ({name}.auth with ways: [user]), or name one tenant",
                f"tenants {', '.join(given.tenants)}; {'a credential' if given.credential else 'client credentials'} for all",
            )
            return
    yield Check("oauth-11", "ok", "no secret stands for people of several tenants; connected accounts are per person")


def blended(patient: Patient) -> Iterator[Check]:
    """oauth-12: the token that somebody brought is good at the upstream as well, or the upstream's own is good here."""
    config = patient.config
    behind = {given.url: name for name, given in config.mcp.items() if given.url}
    behind |= {auth.resource: name for name, auth in front_door.sign_ins(config).items() if auth.resource}
    for profile in front_door.issuers(config):
        meant: dict[str, str] = {}
        for path, values in profile.audiences.items():
            for value in values:
                if value in behind:
                    text = f"tokens of issuer {profile.name} for the upstream {behind[value]} itself are accepted at {path}"
                    fix = "have the issuer name our resource in aud; the upstream gets a token of its own"
                    yield Check("oauth-12", "fail", text, fix, value)
                    return
                if value in meant:
                    text = (
                        f"one token of issuer {profile.name} is good at {meant[value]} and at {path}: audiences blend"
                    )
                    yield Check("oauth-12", "fail", text, "give each resource an audience of its own", value)
                    return
                meant[value] = path
    yield Check("oauth-12", "ok", "no inbound token is ever sent on, and none of an upstream's is accepted here")


def lasting_state(patient: Patient) -> Iterator[Check]:
    """oauth-08: after a restart nobody is known: registrations, consents and refresh tokens are gone."""
    config = patient.config
    kind = filesystem(config.state)
    if kind in PASSING and not config.demo:
        yield Check(
            "oauth-08",
            "warn",
            f"state is kept in {PASSING[kind]}: with a restart every registration, consent and refresh token is gone",
            "set state_dir to a volume that stays",
            f"{config.state} on {kind}",
        )
    else:
        yield Check("oauth-08", "ok", "registrations, consents and refresh tokens survive a restart")


def filesystem(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the kind of file system that a path is or will be on, "" where the system does not say."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    place = path.expanduser().resolve()
    found, best = "", -1
    for line in lines:
        words = line.split(" ")
        if len(words) < 3:
            continue
        at = Path(words[1].encode().decode("unicode_escape"))
        if (place == at or at in place.parents) and len(at.parts) >= best:
            found, best = words[2], len(at.parts)
    return found


EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = (
    ("oauth-04", queries),
    ("oauth-08", lasting_state),
    ("oauth-11", shared_secrets),
    ("oauth-12", blended),
)
