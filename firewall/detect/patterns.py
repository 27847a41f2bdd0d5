"""Which rules can match anywhere in these bytes? Linear time.

hyperscan (block mode, one event a rule) answers from four databases: the first is asked always, that of numbers
where digits stand, that of tokens where a run of their bytes does, that of definitions where those are judged.
Where it cannot be imported, google-re2's Set does, more slowly, with the same rules. Either only *nominates*:
`match.py` finds the place with google-re2, so that both give the same findings (tests/detect/test_patterns.py).

The compiled databases are kept in a directory that only we can write (their bytes are trusted by
the engine), named by the rules, the engine's version and the CPU: loading takes milliseconds,
compiling seconds. A file that does not load is compiled again. Of several workers that start at once,
one compiles and the others load what it wrote.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

import re2

from firewall.detect import egress, hygiene, injection, pii, secrets, views
from firewall.detect.rule import DIGITS, RUN, Rule
from firewall.state.once import one_at_a_time

RULES: Final[tuple[Rule, ...]] = (
    hygiene.RULES + secrets.RULES + pii.RULES + injection.RULES + egress.RULES + views.RULES
)
# What only definitions are judged by: ordinary prose is dear to look through for it.
REVIEWS: Final = tuple(i for i, rule in enumerate(RULES) if rule.family == "review")
# Several rules may share the expressions of the first database; those that share one of `SHARED` are told
# apart by a database of their own, which is asked only then.
SHARED: Final = (DIGITS, RUN)
PROBES: Final = tuple(
    sorted(
        dict.fromkeys(rule.probe or (rule.pattern,) for i, rule in enumerate(RULES) if i not in REVIEWS),
        key=SHARED.__contains__,  # last: the engine makes one small automaton of them then, half as dear for digits
    )
)
NOMINATED: Final = tuple(
    tuple(i for i, rule in enumerate(RULES) if i not in REVIEWS and (rule.probe or (rule.pattern,)) == probe)
    for probe in PROBES
)
NUMBERS, TOKENS = (tuple(i for i, rule in enumerate(RULES) if rule.probe == probe) for probe in SHARED)
_SHARED_AT: Final = {PROBES.index(probe): at for at, probe in enumerate(SHARED)}
# The expressions of each database, and what each expression says when it matches.
_EXPRESSIONS: Final[tuple[tuple[tuple[bytes, int], ...], ...]] = (
    tuple((expression, i) for i, probe in enumerate(PROBES) for expression in probe),
    *(tuple((RULES[i].pattern, i) for i in rules) for rules in (NUMBERS, TOKENS, REVIEWS)),
)
RULES_HASH: Final = sha256(repr(_EXPRESSIONS).encode()).hexdigest()
_MAGIC: Final = b"bartizan patterns 3\n"
_RE2_MEMORY: Final = 256 << 20


class Database(Protocol):
    """Which rules can match."""

    name: str

    def nominate(self, data: bytes, definitions: bool = True) -> list[int]:
        """Return the indices into `RULES` of rules that match somewhere in data; order is free.

        definitions: whether those of family ``review`` are asked for.
        """


class HyperscanDatabase:
    """The fast one. Thread-safe: every thread has its own scratch space."""

    def __init__(self, cache: Path | None = None) -> None:
        """Load from or compile into ``cache``; None compiles every time.

        Raises ImportError when hyperscan is not there, RuntimeError when it does not answer.
        """
        import hyperscan

        self._hs: Any = hyperscan
        self.name = f"hyperscan/{self._hs.__version__}"
        self.loaded = False
        self._local = threading.local()
        path = cache / f"patterns-{self._key()}.hsdb" if cache is not None else None
        self._databases: list[Any] = self._load(path) or self._made(path)
        self._first, *self._shared, self._reviews = (database.scan for database in self._databases)
        # A database that is deaf must not serve: a tag character is the first rule's, the others have a word each.
        heard = set(self.nominate(_HEARD))
        if 0 not in heard or any(heard.isdisjoint(rules) for rules in (NUMBERS, TOKENS, REVIEWS)):
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

    def _made(self, path: Path | None) -> list[Any]:
        """Compile for all who have this cache: one at a time, and who waited loads."""
        if path is None or not _ours(path.parent):
            return self._compile()
        with one_at_a_time(path.with_suffix(".lock")):
            databases = self._load(path) or self._compile()
            if not self.loaded:
                self._store(path, databases)
            return databases

    def _compile(self) -> list[Any]:
        flags = self._hs.HS_FLAG_SINGLEMATCH | self._hs.HS_FLAG_ALLOWEMPTY
        out = []
        for rows in _EXPRESSIONS:
            expressions, ids = zip(*rows, strict=True)
            database = self._hs.Database(mode=self._hs.HS_MODE_BLOCK)
            database.compile(
                expressions=list(expressions), ids=list(ids), elements=len(rows), flags=[flags] * len(rows)
            )
            out.append(database)
        return out

    def _load(self, path: Path | None) -> list[Any] | None:
        """Return the databases of a file of ours that is whole and fits this CPU, else None."""
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            status, above = os.fstat(file.fileno()), path.parent.stat()
            if {status.st_uid, above.st_uid} != {os.geteuid()} or (status.st_mode | above.st_mode) & 0o022:
                return None
            data = file.read()
        body = data[len(_MAGIC) + 32 :]
        if not data.startswith(_MAGIC) or sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
            return None
        databases: list[Any] = []
        try:
            while body:
                cut = 8 + int.from_bytes(body[:8], "big")
                databases.append(self._hs.loadb(body[8:cut], self._hs.HS_MODE_BLOCK))
                body = body[cut:]
        except self._hs.error:
            return None
        if len(databases) != len(_EXPRESSIONS):
            return None
        self.loaded = True
        return databases

    def _store(self, path: Path, databases: Sequence[Any]) -> None:
        dumped = [self._hs.dumpb(database) for database in databases]
        body = b"".join(len(one).to_bytes(8, "big") + one for one in dumped)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + sha256(body).digest() + body)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def nominate(self, data: bytes, definitions: bool = True) -> list[int]:
        """See `Database.nominate`."""
        try:
            first, shared, last = self._local.scratch
        except AttributeError:
            first, *shared, last = (self._hs.Scratch(database) for database in self._databases)
            self._local.scratch = first, shared, last
        hits: list[int] = []
        self._first(data, _heard, 0, hits, first)
        out: list[int] = []
        if definitions:
            self._reviews(data, _heard, 0, out, last)
        if not hits:
            return out
        for probe in hits:
            at = _SHARED_AT.get(probe)
            if at is None:
                out += NOMINATED[probe]
            else:
                self._shared[at](data, _heard, 0, out, shared[at])
        return out


_HEARD: Final = f"\U000e0041 123-45-6789 {'a1' * 16} always bcc".encode()


def _ours(directory: Path) -> bool:
    """Make a directory; return whether it is one that others cannot write: a place for bytes that we will trust."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _heard(expression: int, _start: int, _end: int, _flags: int, hits: list[int]) -> None:
    hits.append(expression)


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

    def nominate(self, data: bytes, definitions: bool = True) -> list[int]:
        """See `Database.nominate`: here one set answers for all."""
        del definitions
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
