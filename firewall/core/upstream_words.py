"""What an operator reads when an upstream could not be used: what happened, and what to do. Never a word of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Code of an UpstreamFault or of a refusal → (what happened, what to do).
UPSTREAM_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "unreachable": (
        "it could not be started or reached",
        "see whether it runs by itself; a caged program may lack a file (read), a host or a variable (env)",
    ),
    "cut_stream": (
        "it ended before it answered",
        "start its command by itself and see what it says; then give it what it lacked: read, write, env, hosts",
    ),
    "timeout": ("it did not answer in time", "start it by itself; a first download may simply take longer"),
    "malformed": ("what it answered is not MCP", "check its command or URL; a program's logs belong on its stderr"),
    "too_large": ("its answer was too large", "ask it for less"),
    "blocked_address": (
        "its address is not of the class that it was given",
        "say which network it stands in: public, private or loopback",
    ),
    "credentials": (
        "it refused what was presented to it, or nothing was there to present",
        "see that what its credential or auth names holds what it takes; `bartizan doctor` says what is missing here",
    ),
    "consent": ("nobody has connected an account at it yet", "each person connects their own at `/account/upstreams`"),
    "quarantined": ("a definition of it is new or changed", "look with `bartizan pins status`, then approve it or not"),
    "denied": ("policy refused it", "`bartizan audit show --effect deny` says why"),
    "not_approved": ("it is not approved", "`bartizan servers list` says its state"),
}


# The same of an upstream that is a URL, where a program's mend would be none.
REMOTE_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "unreachable": ("it could not be reached", "see whether its address and port are right, and answer from here"),
    "cut_stream": ("it ended before it answered", "see what its own log says of the request"),
    "timeout": ("it did not answer in time", "see whether it answers from here; its own log may say what it waits for"),
    "malformed": ("what it answered is not MCP", "check its URL: many serve MCP below a path, such as /mcp"),
}


def upstream_words(code: str, *, remote: bool = False) -> tuple[str, str]:
    """Return what happened and what to do; for an unknown code, the code and where to look. remote: it is a URL."""
    if remote and code in REMOTE_WORDS:
        return REMOTE_WORDS[code]
    return UPSTREAM_WORDS.get(code, (f"it could not be used ({code})", "`bartizan audit show` says what was decided"))
