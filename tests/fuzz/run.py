"""``make fuzz``: hostile bytes for every parser for a bounded time, then for the whole firewall.

    python -m tests.fuzz.run [--seconds S] [--seed N] [--target NAME] [--no-whole]

A finding is written to ``build/fuzz/<target>-<n>`` with the error beside it; exit 1 if there is one.
An input of at most 64 KiB that takes longer than the limit is a finding as well.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.mcp import fuzz_mcp
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target, attempt
from tests.fuzz.whole import fuzz_whole
from tests.sim.planted import ERAS

OUT = Path(__file__).resolve().parents[2] / "build" / "fuzz"
SLOW_S = 0.5


def fuzz(target: Target, seconds: float, seed: int) -> int:
    """Fuzz one target; return how many findings there are."""
    chance = random.Random(f"{seed}/{target.name}")
    until = time.monotonic() + seconds
    codes: Counter[str] = Counter()
    slowest, findings, corpus = 0.0, 0, list(target.corpus)
    while time.monotonic() < until and findings < 5:
        data = mutated(corpus, chance)
        began = time.perf_counter()
        try:
            code = attempt(target, data)
        except Exception:
            findings += 1
            report(target.name, findings, data, traceback.format_exc())
            continue
        took = time.perf_counter() - began
        if took > SLOW_S:
            findings += 1
            report(target.name, findings, data, f"took {took:.2f} s\n")
        slowest = max(slowest, took)
        if codes[code] == 0 and len(corpus) < 200:
            corpus.append(data)  # the first input with a new outcome is a good start for more
        codes[code] += 1
    told = ", ".join(f"{code} {count}" for code, count in codes.most_common(4))
    print(f"  {target.name:<15} {sum(codes.values()):>8} inputs  slowest {slowest * 1000:6.1f} ms  {told}", flush=True)
    return findings


def report(name: str, number: int, data: bytes, told: str) -> None:
    """Keep a finding."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}-{number}").write_bytes(data)
    (OUT / f"{name}-{number}.txt").write_text(told)
    print(f"  FINDING {name}: {OUT / f'{name}-{number}'}\n{told}", file=sys.stderr)


def main() -> int:
    """Fuzz; return the exit code."""
    options = argparse.ArgumentParser(prog="make fuzz")
    options.add_argument("--seconds", type=float, default=90.0, help="for all of it together")
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--target", choices=sorted(TARGETS), help="this one only")
    options.add_argument("--no-whole", action="store_true", help="parsers only")
    given = options.parse_args()
    chosen = [TARGETS[given.target]] if given.target else list(TARGETS.values())
    whole = not given.no_whole and not given.target
    share = given.seconds / (len(chosen) + (10 if whole else 0))
    print(f"seed {given.seed}, {share:.1f} s for each of {len(chosen)} parsers", flush=True)
    findings = sum(fuzz(target, share, given.seed) for target in chosen)
    if whole:
        with tempfile.TemporaryDirectory(prefix="bartizan-fuzz-") as place:
            made = asyncio.run(fuzz_whole(Path(place) / "state", seconds=6 * share, seed=given.seed))
        print(f"  the whole       {made.sent:>8} requests, statuses {dict(sorted(made.statuses.items()))}", flush=True)
        for number, (data, told) in enumerate(made.findings, 1):
            report("whole", number, data, told)
        findings += len(made.findings)
        for era in ERAS:
            seen = asyncio.run(fuzz_mcp(era, seconds=2 * share, seed=given.seed))
            print(
                f"  mcp {era:<11} {seen.sent:>8} requests, statuses {dict(sorted(seen.statuses.items()))}", flush=True
            )
            for number, told in enumerate(seen.findings, 1):
                report(f"mcp-{era}", number, told.encode("utf-8", "replace"), told)
            findings += len(seen.findings)
    print("no findings" if not findings else f"{findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
