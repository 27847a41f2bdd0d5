"""What `bartizan run` says to people, on stderr; nothing on stdout.

A word of the server's own stands there in one place: where it could not be opened, a few lines of its stderr,
escaped, and said to be nobody's but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from firewall.cli.guarding import closed_paths, closed_words, program_paths, run_state
from firewall.cli.output import safe
from firewall.cli.stderr import Stderr
from firewall.core.upstream_words import upstream_words

if TYPE_CHECKING:
    from firewall.guarded import GuardedSettings, Met
    from firewall.net.pidfile import Left

SAID: Final = 5  # lines of a program that failed; `bartizan servers stderr` has them all
OWN_WORDS: Final = "it said on its stderr (its own words: believe nothing, follow nothing):"


class Speaker:
    """What a run says to people, on stderr: a few lines, or JSON lines."""

    def __init__(self, *, as_json: bool, out: Stderr | None = None) -> None:
        """out: where it is said; None: on our stderr."""
        self.as_json = as_json
        self._out = out or Stderr()

    def say(self, event: str, *lines: str, **facts: Any) -> None:
        """Say one thing; the first line is the sentence. Where nobody reads, it is not said: the protocol goes on."""
        if self.as_json:
            self._out.write(orjson.dumps({"event": event, **facts}).decode() + "\n")
        else:
            first, *rest = [safe(line) for line in lines]
            self._out.write("\n".join([f"bartizan: {first}", *(f"  {line}" for line in rest)]) + "\n")

    def stuck(self, silent_s: float) -> None:
        """Say that this guard stood still itself; it ends, and the server with it."""
        self.say(
            "stuck",
            f"fault stuck: this guard stood still for {silent_s:.0f} s and ends, with the server; its client may start it again",
            "if it happens again: report it, with what was called last (`audit show`)",
            silent_s=round(silent_s, 1),
        )

    def ended(self, left: Left) -> None:
        """Say that a run before this one did not stop by itself, if it was its watchdog that ended it."""
        if not left.stuck:
            return  # its client killed it, most likely: the record says so, and there is nothing to mend
        self.say(
            "stuck_before",
            "the run before stood still, and was ended by its watchdog",
            "if it happens again: report it, with what was called last (`audit show`)",
            silent_s=left.silent_s,
            begun_us=left.begun_us,
        )

    def met(self, settings: GuardedSettings, met: Met) -> None:
        """Say what the server turned out to be: at first contact what was pinned, later what waits."""
        spec, name = settings.spec, settings.spec.name
        counts: dict[str, int] = {}
        for pin in met.pins:
            counts[pin.kind] = counts.get(pin.kind, 0) + 1
        waiting = [pin for pin in met.pins if pin.status != "approved"]
        facts = {
            "name": name, "fresh": met.fresh, "pins": counts, "waiting": len(waiting), "fault": met.code,
            "state": str(settings.paths.state), "missing_walls": list(met.missing), "untrusted_stderr": list(met.said),
        }  # fmt: skip
        if met.code:
            what, mend = upstream_words(met.code, remote=bool(spec.url))
            lines = [f"{name}: {what} ({met.code})", f"mend: {mend}", _closed_to(settings), *own_words(met.said[:SAID])]
            self.say("met", *(line for line in lines if line), **facts)
            return
        told = _counted(counts)
        own = (
            f"bartizan --run {name}"
            if settings.paths.state == run_state(name)
            else f"bartizan --state-dir {settings.paths.state}"
        )
        if met.fresh:
            lines = [
                f"{name}: first contact; pinned as they are now: {told or 'nothing yet'}. A change is stopped until you agree.",
                f"{own} pins status     what is pinned, what waits",
                f"{own} audit show      what was called, what was decided",
                f"{own} explain ID      why (the id stands in every refusal)",
                _cage_words(settings),
                _closed_to(settings),
            ]
        else:
            lines = [f"{name}: guarded; {told or 'nothing is pinned'}"]
        if waiting:
            names = ", ".join(f"{pin.kind} {pin.name}".strip() for pin in waiting[:5])
            lines.append(f"{len(waiting)} wait for you and are not served: {names}{' …' if len(waiting) > 5 else ''}")
            every = " --all" if len(waiting) > 1 else ""
            lines.append(f"look: {own} pins diff {name}")
            lines.append(f"agree: {own} pins approve {name}{every}     (shows it again, and asks)")
        if met.missing and spec.sandbox != "off":
            lines.append(f"this kernel lacks: {', '.join(met.missing)}; the server runs without")
        self.say("met", *(line for line in lines if line), **facts)

    def refused(self, settings: GuardedSettings, host: str, port: int, address_class: str) -> None:
        """Say that the child wanted to connect somewhere, and what would allow it."""
        shown = host[:120]
        name, given = host.lower().rstrip("."), settings.hosts
        if given is not None and not {(name, port), (name, 0)} & given:
            mend = f"if that is right: --allow-host {shown}" + ("" if port in (80, 443) else f":{port}")
        elif address_class in ("private", "loopback") and address_class != settings.spec.network:
            mend = f"it stands at a {address_class} address; if that is right: --network {address_class}"
        else:
            mend = f"that address ({address_class}) or port is open to no server; see: bartizan --run {settings.spec.name} audit show"
        self.say(
            "egress_refused",
            f"{settings.spec.name}: it wanted {shown}:{port}, which was refused",
            mend,
            name=settings.spec.name, host=shown, port=port, address_class=address_class,
        )  # fmt: skip


def own_words(lines: Sequence[str]) -> list[str]:
    """Return a program's lines as they are shown: each marked, since none of them is ours."""
    return [OWN_WORDS, *(f"  | {line}" for line in lines)] if lines else []


def _counted(counts: dict[str, int]) -> str:
    """Return "2 tools, its instructions"."""
    single = {"instructions": "its instructions", "set": "the set of them", "server": "what it says of itself"}
    return ", ".join(
        single.get(kind) or f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in sorted(counts.items(), reverse=True)
    )


def _closed_to(settings: GuardedSettings) -> str:
    spec = settings.spec
    if not spec.command or spec.sandbox == "off":
        return ""
    return closed_words(closed_paths(spec.command[1:], (*spec.read, *spec.write)))


def _cage_words(settings: GuardedSettings) -> str:
    spec = settings.spec
    if not spec.command:
        return f"it is reached at {spec.url}, on a {spec.network} address only"
    if spec.sandbox == "off":
        return "it runs WITHOUT a sandbox: it can do what you can"
    hosts = (
        "any public host" if settings.hosts is None else ", ".join(sorted(h for h, _ in settings.hosts)) or "no host"
    )
    writes = ", ".join(spec.write) or "nothing of yours"
    return f"it may write {writes}, connect to {hosts}, and reads its own installation" + (
        f" and {', '.join(path for path in spec.read if path not in program_paths(spec.command[0]))}"
        if set(spec.read) - set(program_paths(spec.command[0]))
        else ""
    )
