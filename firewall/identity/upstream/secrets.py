"""Client secrets from where an operator put them: read when used, never kept in a setting."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from firewall.core.errors import UpstreamFault
from firewall.identity.upstream.settings import Secret

SECRET_BYTES: Final = 8192


def read_secret(secret: Secret, environment: Mapping[str, str], *, shared: bool = False) -> str:
    """Return a secret's text. Raises UpstreamFault("credentials"): missing, too long, or readable by others.

    shared: others may read the file, as platforms leave the short-lived tokens that they project.
    """
    if secret.env:
        data = environment.get(secret.env, "").encode("utf-8", "surrogateescape")
    else:
        data = _from_file(secret.file, shared=shared)
    if not data or len(data) > SECRET_BYTES or any(not 0x20 <= byte <= 0x7E for byte in data):
        raise UpstreamFault("credentials", "the secret is missing, too long or holds characters that cannot be sent")
    return data.decode("ascii")


def _from_file(name: str, *, shared: bool) -> bytes:
    try:
        with Path(name).open("rb") as file:
            if not shared and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UpstreamFault("credentials", f"{name} is readable by others", fix="chmod 600")
            return file.read(SECRET_BYTES + 1).strip()
    except OSError:
        raise UpstreamFault("credentials", f"{name} cannot be read") from None
