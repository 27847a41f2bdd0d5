"""A policy bundle: reading it, its revision, and whether its compiled form may decide.

Loading, in this order, each step a reason to refuse or to stay with the interpreter:

    files ─▶ manifest ─▶ revision ─▶ profile (`profile.examine`) ─▶ decision cases pass on the interpreter
          ─▶ one folded program per point (`specialise`) ─▶ self-test (`selftest`) ─▶ compiled

A breach of the profile or a failing case refuses the bundle (ConfigFault); a program that does not
compile or a self-test that fails only keeps the bundle on the interpreter, and `Bundle.why` says
so. The verdict is kept under a key of everything it depends on: in ``selftest.json`` beside the
policies that we ship (`bartizan policy check --write` makes it), and with the programs in the state
directory, so that a start never pays for it twice.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import orjson
import yaml

from firewall.core import bounds
from firewall.core.errors import ConfigFault, PolicyFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.protected_paths import PATH_ARGUMENTS, PROTECTED_NAMES, PROTECTED_PREFIXES
from firewall.decide import cases as case_file
from firewall.decide import contract, places, profile, program, selftest, specialise
from firewall.decide.cases import Case
from firewall.decide.profile import Rule
from firewall.state.once import one_at_a_time

FILE_BYTES: Final = 1 * bounds.MIB
FILES: Final = 500
ROOTS: Final = ("firewall", "config")
VERDICT_FILE: Final = "selftest.json"
_CACHE_SUFFIX: Final = ".policy"
_LOCK_SUFFIX: Final = ".policy.lock"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle. Immutable; engines are made from it, one per thread.

    revision: ``sha256:…`` over everything that can change a decision.
    modules, tests: path inside the bundle → Rego source. data: the document at ``data``.
    packages: rule packages in order. programs: point → compiled program, {} on the interpreter.
    mode, why: what may run, and the reason.
    """

    path: Path
    revision: str
    modules: Mapping[str, str]
    tests: Mapping[str, str]
    data: JSONObject
    data_json: str
    packages: tuple[str, ...]
    rules: tuple[Rule, ...]
    cases: tuple[Case, ...]
    mode: Literal["compiled", "interpreter"] = "interpreter"
    why: str = "not self-tested"
    programs: Mapping[Point, bytes] = field(default_factory=dict)
    mutants: int = 0

    def specialised(self, point: Point) -> dict[str, str]:
        """Return the modules of one point's program: path → source."""
        config = self.data.get("config")
        known = config if isinstance(config, dict) else {}
        return specialise.specialise(self.modules, known, point, self.packages)


def default_path() -> Path:
    """Return the directory of the policies that ship with us: in the wheel, else in the source tree."""
    packaged = Path(__file__).resolve().parent.parent / "_policies"
    return packaged if packaged.is_dir() else packaged.parent.parent / "policies"


def load(
    path: Path | str | None = None,
    *,
    state_dir: Path | str | None = None,
    trust_shipped: bool = True,
    wait: bool = True,
    monotonic_ns: Callable[[], int] = time.monotonic_ns,
) -> Bundle:
    """Return the bundle in a directory, ready to decide; compiled if it earned that.

    path: None means the policies that ship with us. state_dir: where the self-test's outcome is
    kept between starts (files readable by the owner only); None keeps nothing. trust_shipped:
    whether a verdict beside the policies saves the self-test. wait: False starts on the interpreter
    instead of running a self-test that nobody kept (it takes seconds).
    Raises ConfigFault: policy_files, policy_manifest, policy_profile, policy_cases.
    """
    bundle = read(path)
    key = cache_key(bundle)
    kept = _cached(state_dir, key)
    if kept is None and trust_shipped and _shipped(bundle, key):
        kept = _compiled_once(bundle, state_dir, key, monotonic_ns)
    if kept is not None:
        return _with(bundle, *kept)
    failures = failing_cases(bundle)
    if failures:
        raise ConfigFault("policy_cases", "\n".join(failures[:20]), fix="run `bartizan policy test` for the whole list")
    if not wait:
        return _with(bundle, "interpreter", "not self-tested yet: run `bartizan policy check`", {}, 0)
    verdict = _judge(bundle, monotonic_ns)
    _keep(state_dir, key, verdict)
    return _with(bundle, *verdict)


def awaits_test(path: Path | str, *, state_dir: Path | str) -> bool:
    """Return whether `load` would have to run the self-test first: no verdict on this bundle is kept anywhere.

    Raises ConfigFault: policy_files, policy_manifest, policy_profile.
    """
    bundle = read(path)
    key = cache_key(bundle)
    return _cached(state_dir, key) is None and not _shipped(bundle, key)


def read(path: Path | str | None = None) -> Bundle:
    """Return the bundle in a directory, checked against the profile, for the interpreter."""
    root = Path(path) if path is not None else default_path()
    files = _files(root)
    manifest = _manifest(files)
    modules = {n: _utf8(n, t) for n, t in files.items() if n.endswith(".rego") and not n.endswith("_test.rego")}
    tests = {n: _utf8(n, t) for n, t in files.items() if n.endswith("_test.rego")}
    data = _data(files)
    data_json = orjson.dumps(data, option=orjson.OPT_SORT_KEYS).decode()
    report = profile.examine(modules, tests, manifest)
    if report.faults:
        faults = places.placed(report.faults, {**modules, **tests})
        raise ConfigFault("policy_profile", "\n".join(map(str, faults[:50])), fix="run `bartizan policy check`")
    packages = tuple(
        sorted(
            specialise.package_of(source).removeprefix("firewall.rules.")
            for source in modules.values()
            if specialise.package_of(source).startswith("firewall.rules.")
        )
    )
    return Bundle(
        path=root,
        revision=_revision(
            {n: t for n, t in files.items() if not n.endswith("_test.rego") and not n.startswith("replay/")}
        ),
        modules=modules,
        tests=tests,
        data=data,
        data_json=data_json,
        packages=packages,
        rules=tuple(report.rules),
        cases=tuple(case_file.parse_cases({n: t for n, t in files.items() if n.startswith("replay/")})),
    )


def failing_cases(bundle: Bundle) -> list[str]:
    """Return what the bundle's own decision cases say against it, on the interpreter."""
    strict = program.Strict(bundle.modules, bundle.data_json)
    failures: list[str] = []
    for case in bundle.cases:
        try:
            answer = strict.decide(case.point, case.document)
            contract.parse_decision(answer, revision="", engine="")
        except PolicyFault as fault:
            failures.append(f"{case.source}: {case.name}: {fault.code}: {fault.detail}")
            continue
        failures.extend(f"{case.source}: {case.name}: {text}" for text in case.differences(orjson.loads(answer)))
    return failures


def programs_of(bundle: Bundle) -> dict[Point, bytes]:
    """Return one compiled program per point. Raises PolicyFault("policy_unavailable")."""
    return {point: program.compile_program(bundle.specialised(point), bundle.data_json) for point in Point}


# -- files ---------------------------------------------------------------------------------------


def _files(root: Path) -> dict[str, bytes]:
    """Return the bundle's files by their path inside it; links and strangers are not followed."""
    if not root.is_dir():
        raise ConfigFault("policy_files", f"{root} is not a directory", fix="set policy.bundle to a policy directory")
    found: dict[str, bytes] = {}
    for directory, names, files in os.walk(root, followlinks=False):
        names[:] = sorted(n for n in names if not n.startswith("."))
        for name in sorted(files):
            file = Path(directory, name)
            inside = file.relative_to(root).as_posix()
            if not (inside.endswith((".rego", ".jsonl")) or name in ("data.yaml", "data.json", ".manifest")):
                continue
            if file.is_symlink():
                raise ConfigFault("policy_files", f"{inside} is a symbolic link")
            content = file.read_bytes()
            if len(content) > FILE_BYTES or len(found) >= FILES:
                raise ConfigFault("policy_files", f"{inside}: too large, or too many files")
            found[inside] = content
    return found


def _utf8(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigFault("policy_files", f"{name} is not UTF-8") from None


def _manifest(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the packages that must grant; checks roots, entry point and contract."""
    try:
        manifest = orjson.loads(files.get(".manifest", b""))
        metadata = manifest["metadata"]
        grants = tuple(metadata["grants"])
        fits = (
            set(manifest["roots"]) == set(ROOTS)
            and manifest["rego_version"] == 1
            and metadata["contract"] == "1"
            and metadata["entrypoint"] == "firewall/decision"
            and all(isinstance(name, str) for name in grants)
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        fits, grants = False, ()
    if not fits or not grants:
        raise ConfigFault("policy_manifest", "the .manifest is missing or not one of this contract")
    return grants


def _data(files: Mapping[str, bytes]) -> JSONObject:
    """Return the document at ``data``: each data file below the folders that it lies in, as OPA does."""
    data: JSONObject = {}
    for name, content in files.items():
        folder, _, leaf = name.rpartition("/")
        if leaf not in ("data.yaml", "data.json"):
            continue
        if folder.split("/", 1)[0] != "config":
            raise ConfigFault("policy_files", f"{name}: data belongs below config/")
        try:
            value = yaml.safe_load(content) if leaf == "data.yaml" else orjson.loads(content)
        except (yaml.YAMLError, orjson.JSONDecodeError):
            raise ConfigFault("policy_files", f"{name} cannot be read") from None
        if not isinstance(value, dict):
            raise ConfigFault("policy_files", f"{name} is not an object")
        at: JSON = data
        for part in folder.split("/"):
            assert isinstance(at, dict)
            at = at.setdefault(part, {})
        assert isinstance(at, dict)
        if at.keys() & value.keys():
            raise ConfigFault("policy_files", f"{name} repeats members of another data file")
        at.update(value)
    config = data.get("config")
    if isinstance(config, dict):
        config["paths_inspected"] = _paths_inspected(config)
    return data


def _paths_inspected(config: JSONObject) -> bool:
    """Return whether the bundle's lists of protected paths are the ones that inspection has built in."""

    def listed(name: str, built_in: Iterable[str]) -> bool:
        given = config.get(name)
        return isinstance(given, list) and {g for g in given if isinstance(g, str)} == set(built_in)

    return (
        listed("path_arguments", PATH_ARGUMENTS)
        and listed("protected_prefixes", PROTECTED_PREFIXES)
        and listed("protected_names", PROTECTED_NAMES)
    )


def _revision(files: Mapping[str, bytes]) -> str:
    rows = [f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items())]
    return "sha256:" + hashlib.sha256("".join(rows).encode()).hexdigest()


# -- compiled or not ---------------------------------------------------------------------------------

_Kept = tuple[Literal["compiled", "interpreter"], str, dict[Point, bytes], int]


def _judge(bundle: Bundle, monotonic_ns: Callable[[], int], *, tested: bool = False) -> _Kept:
    try:
        programs = programs_of(bundle)
        if tested:
            return "compiled", "profile and self-test passed before it was shipped", programs, 0
        verdict = selftest.run(programs, bundle.modules, bundle.data_json, bundle.cases, monotonic_ns)
    except (PolicyFault, ValueError) as error:
        detail = error.detail if isinstance(error, PolicyFault) else str(error)
        return "interpreter", f"does not compile: {detail}", {}, 0
    if not verdict.passed:
        return "interpreter", f"self-test: {verdict.why}", {}, verdict.mutants
    return "compiled", verdict.why, programs, verdict.mutants


def _compiled_once(bundle: Bundle, state_dir: Path | str | None, key: str, monotonic_ns: Callable[[], int]) -> _Kept:
    """Compile for all who share the state directory: one process at a time, and who waited loads."""
    if state_dir is None:
        return _judge(bundle, monotonic_ns, tested=True)
    with one_at_a_time(Path(state_dir) / (key[:32] + _LOCK_SUFFIX)):
        kept = _cached(state_dir, key)
        if kept is None:
            kept = _judge(bundle, monotonic_ns, tested=True)
            _keep(state_dir, key, kept)
        return kept


def _with(
    bundle: Bundle, mode: Literal["compiled", "interpreter"], why: str, programs: Mapping[Point, bytes], mutants: int
) -> Bundle:
    return Bundle(
        path=bundle.path,
        revision=bundle.revision,
        modules=bundle.modules,
        tests=bundle.tests,
        data=bundle.data,
        data_json=bundle.data_json,
        packages=bundle.packages,
        rules=bundle.rules,
        cases=bundle.cases,
        mode=mode,
        why=why,
        programs=programs,
        mutants=mutants,
    )


def cache_key(bundle: Bundle) -> str:
    """Return a digest of all that a verdict depends on: bundle, cases, engine, and our own generator."""
    digest = hashlib.sha256(bundle.revision.encode())
    digest.update(bundle.data_json.encode())
    for case in bundle.cases:
        digest.update(case.document)
    digest.update(program.VERSION.encode())
    for part in (specialise, selftest, profile, program, contract, case_file):
        digest.update(Path(str(part.__file__)).read_bytes())
    return digest.hexdigest()


def _shipped(bundle: Bundle, key: str) -> bool:
    """Whether a passed self-test of exactly this bundle, engine and generator lies beside the policies.

    Whoever can write that file can write the policies, so it is no new trust.
    """
    try:
        verdict = orjson.loads((bundle.path / VERDICT_FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return isinstance(verdict, dict) and verdict.get("key") == key and verdict.get("passed") is True


def write_verdict(bundle: Bundle) -> None:
    """Write a passed self-test beside the policies. Raises ConfigFault("policy_files")."""
    verdict = {
        "key": cache_key(bundle),
        "passed": bundle.mode == "compiled",
        "revision": bundle.revision,
        "engine": program.VERSION,
    }
    try:
        (bundle.path / VERDICT_FILE).write_bytes(
            orjson.dumps(verdict, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )
    except OSError:
        raise ConfigFault("policy_files", f"{VERDICT_FILE} cannot be written") from None


def _cached(state_dir: Path | str | None, key: str) -> _Kept | None:
    if state_dir is None:
        return None
    try:
        content = (Path(state_dir) / (key[:32] + _CACHE_SUFFIX)).read_bytes()
        check, _, body = content.partition(b"\n")
        if hashlib.sha256(key.encode() + body).hexdigest().encode() != check:
            return None
        kept = orjson.loads(body)
        programs = {Point(name): base64.b64decode(text) for name, text in kept["programs"].items()}
        return kept["mode"], kept["why"], programs, kept["mutants"]
    except (OSError, orjson.JSONDecodeError, KeyError, ValueError, AttributeError):
        return None


def _keep(state_dir: Path | str | None, key: str, kept: _Kept) -> None:
    """Write the verdict for the next start; a state directory that cannot be written costs time only."""
    if state_dir is None:
        return
    mode, why, programs, mutants = kept
    body = orjson.dumps(
        {
            "mode": mode,
            "why": why,
            "mutants": mutants,
            "programs": {point.value: base64.b64encode(text).decode() for point, text in programs.items()},
        }
    )
    target = Path(state_dir) / (key[:32] + _CACHE_SUFFIX)
    check = hashlib.sha256(key.encode() + body).hexdigest().encode()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(check + b"\n" + body)
        temporary.replace(target)
    except OSError:
        return
