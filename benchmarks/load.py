"""Load by wrk, CPU by /proc: microseconds of CPU per request of a whole process tree.

CPU time is the primary figure (performance reference §11): on a shared machine wall time shows the
neighbours. Latency at c=1 is reported as a difference of medians measured in the same round.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cores import tree

TICK = os.sysconf("SC_CLK_TCK")

SCRIPT = """
wrk.method = "POST"
local body = [==[{body}]==]
{headers}
-- Every call is one of its own: what is remembered of earlier ones must not make it cheap. Letters, since long
-- numbers in a text are looked at more closely.
local n = 0
request = function()
  n = (n + 1) % 100000000
  return wrk.format(nil, nil, nil, (body:gsub("{serial}", (string.format("%08d", n):gsub("%d", function(d) return string.char(97 + tonumber(d)) end)), 1)))
end
local bad = 0
response = function(status, headers, body)
  if status ~= 200 or not string.find(body, '"result"', 1, true) or string.find(body, '"isError":true', 1, true) then bad = bad + 1 end
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout + summary.errors.connect, bad))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one target: requests answered, CPU µs per request, latency percentiles (µs), errors."""

    requests: int
    cpu_us: float
    per_s: float
    p50_us: float
    p99_us: float
    errors: int


def cpu_us(pid: int) -> float:
    """Return the user and system time of a process tree, µs (resolution: one clock tick)."""
    total = 0
    for at in tree(pid):
        try:
            fields = Path(f"/proc/{at}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total * 1_000_000 / TICK


def rss_mb(pid: int) -> float:
    """Return the memory of a process tree, MB: pages that several share count in parts (PSS)."""
    total = 0
    for at in tree(pid):
        try:
            lines = Path(f"/proc/{at}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def wrk(url: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: float, pid: int) -> Run:
    """Drive a URL with ``connections`` closed loops for ``seconds``; CPU is of the tree of ``pid``.

    body: where it says ``{serial}``, each request has a number of its own.
    """
    lua = SCRIPT.replace("{body}", body.decode()).replace(
        "{headers}", "\n".join(f'wrk.headers["{k}"] = "{v}"' for k, v in headers.items())
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua)
        script.flush()
        before = cpu_us(pid)
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "5s", "-s", script.name, url],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 30,
        )
        after = cpu_us(pid)
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said nothing: {done.stdout[-400:]} {done.stderr[-400:]}")
    requests, duration, p50, p99, errors, bad = (int(g) for g in found.groups())
    return Run(
        requests,
        (after - before) / max(1, requests),
        requests / (duration / 1e6),
        p50,
        p99,
        errors + bad,
    )
