"""Where a policy file is not Rego: the engine's own place and words for a parse error, for whoever wrote it.

The profile says that a file does not parse; this asks the engine again and reads its answer, which is about
the operator's own text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from firewall.decide.profile import Fault

PARSE_ERROR = "parse_error"
WORDS_CHARS = 160


def placed(faults: Sequence[Fault], sources: Mapping[str, str]) -> list[Fault]:
    """Return the faults with parse errors at their real line, told in the engine's words.

    What only follows from a file that does not parse (a package without its grant) is left out.
    """
    if not any(fault.code == PARSE_ERROR for fault in faults):
        return list(faults)
    kept = [fault for fault in faults if fault.code != "grants_missing"]
    return [_placed(fault, sources[fault.path]) if fault.code == PARSE_ERROR else fault for fault in kept]


def _placed(fault: Fault, source: str) -> Fault:
    import regorus

    try:
        regorus.Engine().add_policy(fault.path, source)
    except Exception as error:  # noqa: BLE001  the binding raises what it likes; it is read as text
        line, column, words = _read(str(error))
        told = f"column {column}: {words}" if column else words
        return replace(fault, line=line or fault.line, subject=told)
    return fault


def _read(text: str) -> tuple[int, int, str]:
    """Return line, column and words of ``--> file:4:16 … error: words``; zeros and "" for what is not there."""
    line = column = 0
    words = ""
    for row in text.splitlines():
        row = row.strip()
        if row.startswith("-->"):
            _, first, second = row.rsplit(":", 2) if row.count(":") >= 2 else ("", "", "")
            line, column = (int(n) if n.isascii() and n.isdigit() else 0 for n in (first, second))
        elif row.startswith("error:"):
            words = row.removeprefix("error:").strip()[:WORDS_CHARS]
            break
    return line, column, words
