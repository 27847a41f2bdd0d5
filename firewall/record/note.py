"""Signed notes and checkpoints: ``c2sp.org/signed-note@v1.0.0``, ``c2sp.org/tlog-checkpoint@v1.0.0``.

    <origin> LF <size> LF <base64 root> LF          the text
    LF
    — <key name> <base64(key id ‖ signature)> LF    one or more; the dash is U+2014

A verifier ignores keys that it does not know and refuses a note where a known key's signature fails.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from firewall.core.errors import Malformed

ED25519: Final = 0x01
SIGNATURES: Final = 64
NOTE_CHARS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under its name."""

    name: str
    key_id: bytes
    key: Ed25519PublicKey

    @classmethod
    def of(cls, name: str, key: Ed25519PublicKey) -> Verifier:
        """Return the verifier of a key; raises Malformed("vkey_invalid") for a name with spaces or ``+``."""
        if not name or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
            raise Malformed("vkey_invalid")
        return cls(name, _key_id(name, key), key)

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        """Return the verifier of ``name+hex(key id)+base64(type ‖ key)``; raises Malformed("vkey_invalid")."""
        parts = vkey.strip().split("+", 2)  # base64 may hold a plus, the name may not
        if len(parts) != 3:
            raise Malformed("vkey_invalid")
        try:
            data = base64.b64decode(parts[2], validate=True)
            if len(data) != 33 or data[0] != ED25519:
                raise Malformed("vkey_invalid")
            made = cls.of(parts[0], Ed25519PublicKey.from_public_bytes(data[1:]))
            claimed = bytes.fromhex(parts[1])
        except (ValueError, binascii.Error):
            raise Malformed("vkey_invalid") from None
        if made.key_id != claimed:
            raise Malformed("vkey_invalid")
        return made

    def vkey(self) -> str:
        """Return the verifier key's text form."""
        data = bytes([ED25519]) + self.key.public_bytes_raw()
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(data).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: origin, number of entries, root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Return the checkpoint in a note's text; extension lines are allowed. Raises Malformed("checkpoint_invalid")."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise Malformed("checkpoint_invalid")
        size = lines[1]
        if not (size.isascii() and size.isdigit()) or len(size) > 19 or (size[0] == "0" and size != "0"):
            raise Malformed("checkpoint_invalid")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except (ValueError, binascii.Error):
            raise Malformed("checkpoint_invalid") from None
        if len(root) != 32:
            raise Malformed("checkpoint_invalid")
        return cls(lines[0], int(size), root)


class Signer:
    """A private key under its name. Its text form never shows the key."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self.verifier = Verifier.of(name, key.public_key())
        self._key = key

    def __repr__(self) -> str:
        return f"Signer({self.verifier.vkey()!r})"

    def sign(self, text: str) -> str:
        """Return the note of a text that ends with a newline."""
        if not text.endswith("\n"):
            raise ValueError("a note's text ends with a newline")
        blob = self.verifier.key_id + self._key.sign(text.encode())
        return f"{text}\n— {self.verifier.name} {base64.b64encode(blob).decode()}\n"


def open_note(note: str, verifiers: Iterable[Verifier]) -> str:
    """Return the text of a note that at least one known key signed.

    Raises Malformed: note_invalid (shape), note_unsigned (no known key), note_forged (a known
    key's signature does not hold).
    """
    if len(note) > NOTE_CHARS or any(c < " " and c != "\n" for c in note):
        raise Malformed("note_invalid")
    cut = note.rfind("\n\n")
    if cut < 0 or not note.endswith("\n"):
        raise Malformed("note_invalid")
    text, lines = note[: cut + 1], note[cut + 2 : -1].split("\n")
    if not 1 <= len(lines) <= SIGNATURES:
        raise Malformed("note_invalid")
    known = {(v.name, v.key_id): v for v in verifiers}
    signed = False
    for line in lines:
        name, blob = _signature(line)
        verifier = known.get((name, blob[:4]))
        if verifier is None:
            continue
        try:
            verifier.key.verify(blob[4:], text.encode())
        except InvalidSignature:
            raise Malformed("note_forged") from None
        signed = True
    if not signed:
        raise Malformed("note_unsigned")
    return text


def _signature(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "—" or not parts[1]:
        raise Malformed("note_invalid")
    try:
        blob = base64.b64decode(parts[2], validate=True)
    except (ValueError, binascii.Error):
        raise Malformed("note_invalid") from None
    if len(blob) < 5:
        raise Malformed("note_invalid")
    return parts[1], blob


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([ED25519]) + key.public_bytes_raw()).digest()[:4]
