"""Key files at rest: sealed under a secret that lies elsewhere, so that a copied state directory signs nothing (OP-04).

The secret comes from a file outside the state directory:

1. the one that ``BARTIZAN_UNLOCK_FILE`` names; any KMS agent that can write a file will do;
2. the systemd credential ``bartizan-unlock`` (systemd.exec(5), LoadCredential=);
3. the account's own, ``bartizan/unlock`` in its configuration directory (XDG Base Directory), made when it is missing
   and nothing is sealed yet. All nodes of an account share it.

    sealed file = magic ‖ nonce (12) ‖ AES-256-GCM(key, text, associated data = the file's name)
    key         = HKDF-SHA-256(secret, the file's name)
"""

from __future__ import annotations

import contextlib
import os
import secrets
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
_FIX: Final = (
    f"bring back the secret they were sealed with: {VARIABLE} names its file; without it, it is "
    "bartizan/unlock in the configuration directory of the account that made them (~/.config)"
)
_NAME_ONE: Final = f"put {LEAST_BYTES} random bytes into a file elsewhere and name it: {VARIABLE}=<file>"


def unlock_secret(environ: Mapping[str, str], keys: Path, *, make: bool = False) -> bytes | None:
    """Return the secret that the key files of a directory are sealed under; None where there is none yet.

    keys: the directory ``keys`` of the state directory. make: make the account's own secret where nobody named
    another and nothing is sealed. The file holds 32 to 4,096 bytes (a trailing line end does not count) that others
    may not read; it may be a link, as mounted secrets are. The account's own belongs to the account, in a directory
    that nobody else may change: whoever could put one there would know it. Raises ConfigFault: key_unlock, key_locked.
    """
    file, own = secret_file(environ)
    if file is None:
        if make:
            raise ConfigFault("key_unlock", "this account has no configuration directory", fix=_NAME_ONE)
        return None
    if Path(os.path.realpath(file)).is_relative_to(os.path.realpath(keys.parent)):
        raise ConfigFault("key_unlock", f"{file} lies in the state directory, as what it seals", fix=_NAME_ONE)
    if own and not _is_there(file):
        if not make:
            return None
        # Looked at again: a worker that started with us may have made it, and sealed a key, since.
        if _holds_sealed(keys) and not _is_there(file):
            raise ConfigFault("key_locked", f"{keys} holds sealed files, and {file} is missing", fix=_FIX)
        _make(file)
    return _read(file, own=own)


def secret_file(environ: Mapping[str, str]) -> tuple[Path | None, bool]:
    """Return the file that is meant, and whether it is the account's own; None where the account has no place for one."""
    if named := environ.get(VARIABLE):
        return Path(named), False
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if credential.exists():
            return credential, False
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # a relative one is ignored, as that specification says
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            return None, True
        base = os.path.join(home, ".config")
    return Path(base) / "bartizan" / "unlock", True


def secret_places(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that no local program may be given, because the secret lies there, or a link leads there."""
    file, own = secret_file(environ)
    if file is None:
        return ()
    return tuple(dict.fromkeys(os.path.realpath(path) for path in ((file.parent, file) if own else (file,))))


def _is_there(file: Path) -> bool:
    """Return whether the account has a file of that name, a link that leads nowhere included."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigFault("key_unlock", f"{file}: {type(error).__name__}", fix=_NAME_ONE) from error
    return True


def _read(file: Path, *, own: bool) -> bytes:
    try:
        # Without waiting: a pipe of that name would hold the start up for ever.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened_file:
            info = os.fstat(opened_file.fileno())
            data = opened_file.read(MOST_BYTES + 1).rstrip(b"\r\n") if stat.S_ISREG(info.st_mode) else b""
        around = os.stat(file.parent)
    except OSError as error:
        raise ConfigFault("key_unlock", f"{file}: {type(error).__name__}", fix=f"see {VARIABLE}") from error
    if not stat.S_ISREG(info.st_mode):
        raise ConfigFault("key_unlock", f"{file} is no file", fix=_NAME_ONE)
    if info.st_mode & 0o027:
        raise ConfigFault("key_unlock", f"{file}: others may read or change it", fix=f"chmod 400 {file}")
    if own and (around.st_mode & 0o022 or not {info.st_uid, around.st_uid} <= {0, os.geteuid()}):
        raise ConfigFault(
            "key_unlock",
            f"{file} or its directory is another account's, or others may change what lies there",
            fix=f"chmod 700 {file.parent}, and look who made the file",
        )
    if not LEAST_BYTES <= len(data) <= MOST_BYTES:
        raise ConfigFault(
            "key_unlock", f"{file}: too short or too long", fix=f"put {LEAST_BYTES} random bytes or more into it"
        )
    return data


def _make(file: Path) -> None:
    """Make the account's own secret; of nodes that start together the first one's counts."""
    aside = file.with_name(f".new-{os.getpid()}-{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400)
        try:
            with open(handle, "wb") as made:
                made.write(secrets.token_hex(LEAST_BYTES).encode() + b"\n")
                made.flush()
                os.fsync(made.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        finally:
            os.unlink(aside)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigFault("key_unlock", f"{file} cannot be made: {type(error).__name__}", fix=_NAME_ONE) from error


def _holds_sealed(keys: Path) -> bool:
    """Return whether any file there is sealed already: a new secret would open none of them."""
    for path in keys.glob("*-*.[0-9]*"):
        try:
            with open(path, "rb") as file:
                if is_sealed(file.read(len(_MAGIC))):
                    return True
        except OSError:
            continue  # the key ring says what is wrong with it
    return False


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
