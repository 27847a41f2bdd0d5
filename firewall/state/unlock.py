"""Key files at rest: sealed under a secret that lies elsewhere, so that a copied state directory signs nothing.

The secret comes from a file outside the state directory: the one that ``BARTIZAN_UNLOCK_FILE`` names, else the
systemd credential ``bartizan-unlock`` (systemd.exec(5), LoadCredential=). Any KMS agent that can write a file
will do. Without one, key files are protected by their permissions alone.

    sealed file = magic ‖ nonce (12) ‖ AES-256-GCM(key, text, associated data = the file's name)
    key         = HKDF-SHA-256(secret, the file's name)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firewall.core.errors import ConfigFault
from firewall.state.vault import derive

VARIABLE: Final = "BARTIZAN_UNLOCK_FILE"
CREDENTIAL: Final = "bartizan-unlock"
LEAST_BYTES: Final = 32
MOST_BYTES: Final = 4096
_MAGIC: Final = b"bartizan sealed key 1\n"
_NONCE: Final = 12
_FIX: Final = f"set {VARIABLE} to the file that holds the secret they were sealed with"


def unlock_secret(environ: Mapping[str, str]) -> bytes | None:
    """Return the secret that key files are sealed under, None where nobody gave one.

    The file holds 32 to 4,096 bytes (a trailing line end does not count) that others may not read; it may be a
    link, as mounted secrets are. Raises ConfigFault("key_unlock").
    """
    named = environ.get(VARIABLE, "")
    if not named and (directory := environ.get("CREDENTIALS_DIRECTORY")):
        credential = Path(directory) / CREDENTIAL
        named = str(credential) if credential.exists() else ""
    if not named:
        return None
    try:
        with open(named, "rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(MOST_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigFault("key_unlock", f"{named}: {type(error).__name__}", fix=f"see {VARIABLE}") from error
    if not stat.S_ISREG(info.st_mode) or info.st_mode & 0o027:
        raise ConfigFault("key_unlock", f"{named}: others may read or change it", fix=f"chmod 400 {named}")
    if not LEAST_BYTES <= len(data) <= MOST_BYTES:
        raise ConfigFault(
            "key_unlock", f"{named}: too short or too long", fix=f"put {LEAST_BYTES} random bytes or more into it"
        )
    return data


def seal(secret: bytes, file: str, data: bytes, token_bytes: Callable[[int], bytes]) -> bytes:
    """Return the content of a sealed key file. file: its name, which it is bound to."""
    nonce = token_bytes(_NONCE)
    return _MAGIC + nonce + _cipher(secret, file).encrypt(nonce, data, file.encode())


def is_sealed(content: bytes) -> bool:
    """Return whether a key file is sealed; a plain one begins otherwise."""
    return content.startswith(_MAGIC)


def opened(secret: bytes | None, file: str, content: bytes) -> bytes:
    """Return what a sealed file holds. Raises ConfigFault("key_locked") for another secret, name or content."""
    if secret is None:
        raise ConfigFault("key_locked", f"{file} is sealed", fix=_FIX)
    sealed = content[len(_MAGIC) :]
    try:
        return _cipher(secret, file).decrypt(sealed[:_NONCE], sealed[_NONCE:], file.encode())
    except (InvalidTag, ValueError):
        raise ConfigFault("key_locked", f"{file} does not open", fix=_FIX) from None


def _cipher(secret: bytes, file: str) -> AESGCM:
    return AESGCM(derive(secret, "key file", file))
