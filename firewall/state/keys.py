"""The node's own keys: made at first start, kept in files that only their owner can read.

    <directory>/<kind>-<name>.<generation>      kinds: ec (PKCS #8 PEM, P-256), ed25519 (PEM), secret (32 bytes)

- A file appears whole or not at all, and never over another (write aside, ``link``): workers that
  start together end up with one key, whoever was first.
- A directory or file that others may read, that another user owns, or that is a symlink is refused:
  a key that may have leaked is not a key.
- Where there is a secret to seal them under, files are sealed (`state.unlock`); plain ones are then sealed at the
  start of a node, or when they are next read.
- Rotation adds a generation; the newest signs, older ones are kept for verifying until removed.
- Nothing here is ever logged; errors name the file, never its content.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Final, Literal, get_args

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall.core.errors import ConfigFault
from firewall.state import unlock as sealing

Kind = Literal["ec", "ed25519", "secret"]
SECRET_BYTES: Final = 32
FILE_BYTES: Final = 4096
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class KeyRing:
    """Makes and loads keys by name. One per process; thread-safe.

    directory: made with mode 0700 where missing.
    unlock: what files are sealed under, None for plain ones (`unlock.unlock_secret`).
    token_bytes: source of secret bytes (the operating system's; tests inject their own).
    Raises ConfigFault: key_permissions, key_damaged, key_unavailable, key_locked.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        unlock: bytes | None = None,
        token_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.directory = Path(directory)
        self._unlock = unlock
        self._token_bytes = token_bytes
        self._lock = Lock()
        self._loaded: dict[tuple[Kind, str, int], bytes] = {}
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigFault("key_unavailable", str(self.directory), fix="make the directory writable") from error
        os.close(self._open_directory())

    def __repr__(self) -> str:
        return f"KeyRing({str(self.directory)!r})"

    def ec_signing_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Return the newest P-256 key of a name (ES256, RFC 7518 §3.4); makes the first one."""
        return self.ec_signing_keys(name)[0]

    def ec_signing_keys(self, name: str) -> list[ec.EllipticCurvePrivateKey]:
        """Return every generation, newest first: the first signs, all of them verify."""
        keys = []
        for generation, data in self._all("ec", name):
            key = _load_pem(data, f"ec-{name}.{generation}")
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
                raise _damaged(f"ec-{name}.{generation}")
            keys.append(key)
        return keys

    def ec_key(self, name: str, generation: int) -> ec.EllipticCurvePrivateKey:
        """Return one generation; raises ConfigFault("key_unavailable") when it is not there."""
        file = f"ec-{name}.{generation}"
        with self._lock:
            directory = self._open_directory()
            try:
                key = _load_pem(self._content(directory, file), file)
            except OSError as error:
                raise ConfigFault("key_unavailable", f"{file}: {type(error).__name__}") from error
            finally:
                os.close(directory)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise _damaged(file)
        return key

    def make(self, kind: Kind, name: str, generation: int) -> None:
        """Make one generation where it is missing: for whoever keeps a plan of which one signs."""
        with self._lock:
            directory = self._open_directory()
            try:
                if generation not in self._generations(directory, kind, name):
                    self._make(directory, kind, name, generation)
            except OSError as error:
                raise ConfigFault("key_unavailable", f"{kind}-{name}: {type(error).__name__}") from error
            finally:
                os.close(directory)

    def generations(self, kind: Kind, name: str) -> list[int]:
        """Return the numbers of what is there, oldest first."""
        with self._lock:
            directory = self._open_directory()
            try:
                return sorted(self._generations(directory, kind, name))
            finally:
                os.close(directory)

    def ed25519(self, name: str) -> Ed25519PrivateKey:
        """Return the newest Ed25519 key of a name (RFC 8032); makes the first one."""
        return self.ed25519_keys(name)[0]

    def ed25519_keys(self, name: str) -> list[Ed25519PrivateKey]:
        """Return every generation, newest first."""
        keys = []
        for generation, data in self._all("ed25519", name):
            key = _load_pem(data, f"ed25519-{name}.{generation}")
            if not isinstance(key, Ed25519PrivateKey):
                raise _damaged(f"ed25519-{name}.{generation}")
            keys.append(key)
        return keys

    def secret(self, name: str) -> bytes:
        """Return the newest 32 secret bytes of a name; makes the first ones."""
        return self.secrets(name)[0]

    def secrets(self, name: str) -> list[bytes]:
        """Return every generation, newest first: the first seals, all of them open."""
        found = self._all("secret", name)
        for generation, data in found:
            if len(data) != SECRET_BYTES:
                raise _damaged(f"secret-{name}.{generation}")
        return [data for _, data in found]

    def rotate(self, kind: Kind, name: str) -> int:
        """Make the next generation and return its number (1, 2, …)."""
        with self._lock:
            directory = self._open_directory()
            try:
                generation = max(self._generations(directory, kind, name), default=0) + 1
                self._make(directory, kind, name, generation)
                return generation
            finally:
                os.close(directory)

    def retire(self, kind: Kind, name: str, generation: int) -> None:
        """Remove an old generation: what it signed no longer verifies.

        Raises ConfigFault("key_in_use") for the newest one, "key_unavailable" when there is none.
        """
        with self._lock:
            directory = self._open_directory()
            try:
                present = self._generations(directory, kind, name)
                if generation not in present:
                    raise ConfigFault("key_unavailable", f"{kind}-{name}.{generation}")
                if generation == max(present):
                    raise ConfigFault("key_in_use", f"{kind}-{name}.{generation}", fix="rotate first")
                os.unlink(f"{kind}-{name}.{generation}", dir_fd=directory)
                os.fsync(directory)
                self._loaded.pop((kind, name, generation), None)
            except OSError as error:
                raise ConfigFault("key_unavailable", f"{kind}-{name}: {type(error).__name__}") from error
            finally:
                os.close(directory)

    def seal_all(self) -> None:
        """Seal every file that lies open, whoever reads it or not: old generations, keys of what is switched off (OP-04).

        First every sealed one must open, so that under another secret nothing is changed. Raises ConfigFault.
        """
        with self._lock:
            directory = self._open_directory()
            try:
                files = [file for file in sorted(os.listdir(directory)) if _is_key(file)]
                sealed = {file: sealing.is_sealed(_read(directory, file)) for file in files}
                for file in sorted(files, key=lambda file: not sealed[file]):
                    self._content(directory, file)
            except FileNotFoundError:
                return  # retired since we looked, by a worker that has done this already
            except OSError as error:
                raise ConfigFault("key_unavailable", f"{self.directory}: {type(error).__name__}") from error
            finally:
                os.close(directory)

    # -- files -----------------------------------------------------------------------------------

    def _all(self, kind: Kind, name: str) -> list[tuple[int, bytes]]:
        with self._lock:
            directory = self._open_directory()
            try:
                generations = self._generations(directory, kind, name)
                if not generations:
                    self._make(directory, kind, name, 1)
                    generations = self._generations(directory, kind, name)
                found = []
                for generation in sorted(generations, reverse=True):
                    slot = (kind, name, generation)
                    try:
                        if slot not in self._loaded:
                            self._loaded[slot] = self._content(directory, f"{kind}-{name}.{generation}")
                    except FileNotFoundError:
                        continue  # retired since we looked: as if we had looked a moment later
                    found.append((generation, self._loaded[slot]))
                if not found:
                    raise FileNotFoundError
                return found
            except OSError as error:
                raise ConfigFault("key_unavailable", f"{kind}-{name}: {type(error).__name__}") from error
            finally:
                os.close(directory)

    def _open_directory(self) -> int:
        try:
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigFault("key_unavailable", f"{self.directory}: {type(error).__name__}") from error
        info = os.fstat(handle)
        if info.st_uid != os.geteuid() or info.st_mode & 0o077:
            os.close(handle)
            raise ConfigFault("key_permissions", str(self.directory), fix=f"chmod 700 {self.directory}")
        return handle

    @staticmethod
    def _generations(directory: int, kind: Kind, name: str) -> list[int]:
        if not name or len(name) > 40 or not _NAME.issuperset(name):
            raise ConfigFault("key_name", "a key's name is a-z, 0-9, _ and -")
        prefix = f"{kind}-{name}."
        numbers = [entry.removeprefix(prefix) for entry in os.listdir(directory) if entry.startswith(prefix)]
        return [int(number) for number in numbers if number.isascii() and number.isdigit()]

    def _make(self, directory: int, kind: Kind, name: str, generation: int) -> None:
        if kind == "ec":
            data = _pem(ec.generate_private_key(ec.SECP256R1()))
        elif kind == "ed25519":
            data = _pem(Ed25519PrivateKey.generate())
        else:
            data = self._token_bytes(SECRET_BYTES)
        file = f"{kind}-{name}.{generation}"
        aside = self._aside(directory, self._at_rest(file, data))
        try:
            # Another worker was first: its key counts, ours is forgotten.
            os.link(aside, file, src_dir_fd=directory, dst_dir_fd=directory)
        except FileExistsError:
            pass
        finally:
            os.unlink(aside, dir_fd=directory)
        os.fsync(directory)

    def _content(self, directory: int, file: str) -> bytes:
        """Return what a key file holds; a plain one is sealed on the way, where there is something to seal it under."""
        content = _read(directory, file)
        if sealing.is_sealed(content):
            return sealing.opened(self._unlock, file, content)
        if self._unlock is not None:
            aside = self._aside(directory, self._at_rest(file, content))
            os.rename(aside, file, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        return content

    def _at_rest(self, file: str, data: bytes) -> bytes:
        return data if self._unlock is None else sealing.seal(self._unlock, file, data, self._token_bytes)

    def _aside(self, directory: int, data: bytes) -> str:
        """Write a file of its own and return its name; nobody looks for it."""
        aside = f".new-{os.getpid()}-{self._token_bytes(8).hex()}"
        handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            os.unlink(aside, dir_fd=directory)
            raise
        return aside


def thumbprint(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> str:
    """Return the JWK thumbprint of the public key (RFC 7638; RFC 8037 §2 for Ed25519): our ``kid``."""
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        x, y = (_b64(n.to_bytes(32, "big")) for n in (point.x, point.y))
        text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    else:
        text = f'{{"crv":"Ed25519","kty":"OKP","x":"{_b64(public.public_bytes_raw())}"}}'
    return _b64(hashlib.sha256(text.encode()).digest())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_pem(data: bytes, file: str) -> object:
    try:
        return serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise _damaged(file) from None  # the library's text may describe the key


def _read(directory: int, file: str) -> bytes:
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise ConfigFault(
                "key_permissions", file, fix=f"make a new key if others could read it, then chmod 600 {file}"
            )
        return os.read(handle, FILE_BYTES)
    finally:
        os.close(handle)


def _is_key(file: str) -> bool:
    """Return whether a file of the directory is named as a key of ours is."""
    start, _, generation = file.rpartition(".")
    kind, _, name = start.partition("-")
    return kind in get_args(Kind) and bool(name) and generation.isascii() and generation.isdigit()


def _damaged(file: str) -> ConfigFault:
    return ConfigFault("key_damaged", file, fix="restore the file from a backup, or remove it to get a new key")
