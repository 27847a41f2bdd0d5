"""All rules in one database: which rules can match anywhere in these bytes? One pass, linear time.

hyperscan (block mode, one event a rule) answers; where it cannot be imported, google-re2's Set
does, more slowly, with the same rules. Either only *nominates*: `match.py` finds the place with
google-re2, so that both give the same findings (tests/detect/test_patterns.py).

The compiled database is kept in a directory that only we can write (its bytes are trusted by the
engine), named by the rules, the engine's version and the CPU: loading takes milliseconds, compiling
about a second. A file that does not load is compiled again.
"""

from __future__ import annotations

import os
import platform
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

import re2

from firewall.detect import egress, hygiene, injection, pii, secrets, views
from firewall.detect.rule import Rule

RULES: Final[tuple[Rule, ...]] = hygiene.RULES + secrets.RULES + pii.RULES + injection.RULES + egress.RULES + views.RULES
RULES_HASH: Final = sha256(b"\0".join(rule.pattern for rule in RULES)).hexdigest()
_MAGIC: Final = b"bartizan patterns 1\n"
_RE2_MEMORY: Final = 256 << 20


class Database(Protocol):
    """Which rules can match."""

    name: str

    def nominate(self, data: bytes) -> list[int]:
        """Return the indices into `RULES` of rules that match somewhere in data; order is free."""


class HyperscanDatabase:
    """The fast one. Thread-safe: every thread has its own scratch space."""

    def __init__(self, cache: Path | None = None) -> None:
        """Load from or compile into ``cache``; None compiles every time.

        Raises ImportError when hyperscan is not there.
        """
        import hyperscan

        self._hs: Any = hyperscan
        self.name = f"hyperscan/{hyperscan.__version__}"
        self._local = threading.local()
        self.loaded = False
        path = cache / f"patterns-{self._key()}.hsdb" if cache is not None else None
        self._database = self._load(path)
        if self._database is None:
            self._database = self._compile()
            if path is not None:
                self._store(path)
        self._scan = self._database.scan
        if 0 not in self.nominate("\U000e0041".encode()):  # the first rule is the tag rule: a database that is deaf must not serve
            raise RuntimeError("the pattern database does not answer")

    def _key(self) -> str:
        flags = b""
        try:
            with open("/proc/cpuinfo", "rb") as file:
                flags = next((line for line in file if line.startswith((b"flags", b"Features"))), b"")
        except OSError:
            pass
        parts = (RULES_HASH, self.name, platform.machine(), platform.system(), sha256(flags).hexdigest())
        return sha256("\n".join(parts).encode()).hexdigest()[:32]

    def _compile(self) -> Any:
        database = self._hs.Database(mode=self._hs.HS_MODE_BLOCK)
        count = len(RULES)
        flags = self._hs.HS_FLAG_SINGLEMATCH | self._hs.HS_FLAG_ALLOWEMPTY
        database.compile(expressions=[rule.pattern for rule in RULES], ids=list(range(count)), elements=count, flags=[flags] * count)
        return database

    def _load(self, path: Path | None) -> Any:
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return None
            data = file.read()
        body = data[len(_MAGIC) + 32 :]
        if not data.startswith(_MAGIC) or sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
            return None
        try:
            database = self._hs.loadb(body, self._hs.HS_MODE_BLOCK)
        except self._hs.error:
            return None
        self.loaded = True
        return database

    def _store(self, path: Path) -> None:
        body = self._hs.dumpb(self._database)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.parent.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return  # a directory that others can write is no place for bytes that we will trust
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + sha256(body).digest() + body)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def nominate(self, data: bytes) -> list[int]:
        """See `Database.nominate`."""
        try:
            scratch = self._local.scratch
        except AttributeError:
            scratch = self._local.scratch = self._hs.Scratch(self._database)
        hits: list[int] = []
        self._scan(data, _hit, 0, hits, scratch)
        return hits


def _hit(rule: int, _start: int, _end: int, _flags: int, hits: list[int]) -> None:
    hits.append(rule)


class RE2Database:
    """The fallback. A sentinel that every input matches tells an answer from a failure."""

    def __init__(self) -> None:
        self.name = "google-re2"
        options = re2.Options()
        options.max_mem = _RE2_MEMORY
        options.encoding = re2.Options.Encoding.LATIN1
        self._set = re2.Set.SearchSet(options)
        for rule in RULES:
            self._set.Add(rule.pattern)
        self._set.Add(rb"(?s).")
        self._set.Compile()

    def nominate(self, data: bytes) -> list[int]:
        """See `Database.nominate`."""
        if not data:
            return []
        hits = self._set.Match(data) or []
        if len(RULES) not in hits:  # out of memory: every rule may match
            return list(range(len(RULES)))
        return [hit for hit in hits if hit < len(RULES)]


def open_database(cache: Path | None = None) -> Database:
    """Return hyperscan's database, or google-re2's where hyperscan cannot be imported."""
    try:
        return HyperscanDatabase(cache)
    except ImportError:
        return RE2Database()
