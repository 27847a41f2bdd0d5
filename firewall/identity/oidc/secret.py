"""The secret we hold at a provider: named in the settings, read when used, never kept in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from firewall.core.errors import UpstreamFault

SECRET_BYTES = 4096

Secrets = Callable[[str], str]


def secret_reader(environment: Mapping[str, str]) -> Secrets:
    """Return ``read(source)``: the secret behind ``env:NAME`` or ``file:/path``.

    A file must be its owner's alone; it is read again at each use, so that a new secret needs no
    restart. Raises UpstreamFault("credentials"), which never says what the secret is.
    """

    def read(source: str) -> str:
        kind, _, name = source.partition(":")
        data = environment.get(name, "").encode("utf-8", "surrogateescape") if kind == "env" else _file(name)
        if not data or len(data) > SECRET_BYTES or any(not 0x20 <= byte <= 0x7E for byte in data):
            raise UpstreamFault("credentials", f"the client secret behind {kind}:{name} is missing or unusable")
        return data.decode("ascii")

    return read


def _file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UpstreamFault("credentials", f"{name} is readable by others", fix="chmod 600")
            return file.read(SECRET_BYTES + 1).strip()
    except OSError:
        raise UpstreamFault("credentials", f"{name} cannot be read") from None
