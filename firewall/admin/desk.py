"""What people can see and move: one method per verb, the same for pages, API and command line.

Every change is recorded before it takes effect, with who did it: what cannot be recorded does not happen.
A caller reaches the caller's own tenant; the node's owner names one.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final, get_args

from pydantic import ValidationError

from a2a_gateway.inventory import AgentSpec
from firewall.admin.accounts_desk import AccountsDesk, shown
from firewall.admin.caller import Caller, Refused
from firewall.admin.health import readiness
from firewall.config.model import MCPUpstream
from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.detect.visible import visible
from firewall.enforce.changes import changes
from firewall.enforce.kill_switch import GLOBAL, Stop
from firewall.enforce.kill_switch import Scope as StopScope
from firewall.enforce.lock import Locked, render
from firewall.enforce.pins import OF_A_SERVER, OF_AN_AGENT, Pin
from firewall.enforce.pins import Kind as PinKind
from firewall.enforce.registry import Kind, RegistryEntry, Verb, check_name
from firewall.identity.throttle import NODE
from firewall.wire.http import parse_url
from mcp_gateway import child_words
from mcp_gateway.child_words import Words

# What an MCP server may be told to be by API. A command, an environment, paths, certificates and credentials
# come from the configuration file alone: whoever holds an account must not start programs or read files here.
MCP_SPEC: Final = frozenset({"url", "network", "trust", "tenants", "tools", "pins", "era", "deadline_s", "lists"})
AGENT_FILES: Final = ("ca_file", "client_cert", "client_key")
DAY_US: Final = 86_400_000_000
REASON_CHARS: Final = 200


class Desk(AccountsDesk):
    """The verbs of the admin room. Raises Malformed, Conflict, ConfigFault, AuditUnavailable, StateUnavailable."""

    def for_tenant(self, caller: Caller, tenant: str) -> Caller:
        """Return the caller as of a tenant: only the node's owner may name another. Raises Refused("role")."""
        if not tenant or tenant == caller.tenant:
            return caller
        if caller.role != "owner":
            raise Refused("role", fix="this needs the role owner")
        return replace(caller, tenant=tenant)

    def status(self, caller: Caller) -> JSONObject:
        """Return what this node is and how it does."""
        parts = self._parts
        return {
            "version": parts.version,
            "node": parts.config.node,
            "public_url": parts.config.public_url,
            "workers": parts.config.workers,
            "demo": parts.config.demo,
            "health": readiness(parts),
            "policy": {
                "revision": parts.policy.revision,
                "mode": parts.policy.mode,
                "why": parts.policy.why,
                "rules": len(parts.policy.rules),
            },
            "audit": {"vkeys": list(parts.vkeys), **parts.audit_stats()},
            "walls_missing": {name: list(walls) for name, walls in parts.walls_missing().items() if walls},
            "stops": len(self.stops(caller)),
            "you": {"name": caller.name, "role": caller.role, "tenant": caller.tenant},
            "four_eyes": [*sorted(parts.settings.four_eyes)],
        }

    # -- registry ------------------------------------------------------------------------------------

    def registry(self, caller: Caller, kind: Kind | None = None) -> list[RegistryEntry]:
        """Return servers and agents."""
        return self._parts.registry.list(caller.tenant, kind)

    def words(self, caller: Caller, name: str) -> Words | None:
        """Return what the last child of a local MCP server said first on stderr: untrusted text, escaped."""
        return child_words.read(self._parts.store.collection(child_words.COLLECTION), caller.tenant, check_name(name))

    def register(self, caller: Caller, kind: Kind, name: str, spec: JSONObject) -> RegistryEntry:
        """Add a pending entry, by address only. Raises ConfigFault: registry_spec, agent_spec; Malformed, Conflict."""
        made = self._mcp_spec(caller, spec) if kind == "mcp" else self._agent_spec(caller, spec)
        old = self._parts.registry.get(caller.tenant, kind, check_name(name))
        if old is not None and old.state == "revoked":
            self._end(caller, kind, name)  # a revocation that was cut short has not said all of it
        return self._parts.registry.register(caller.tenant, kind, name, made, by=caller.name)

    def move(self, caller: Caller, kind: Kind, name: str, verb: Verb) -> RegistryEntry:
        """Approve, suspend or revoke. Revoking forgets the pins: the name's next owner is met anew."""
        registry = self._parts.registry
        moves = {"approve": registry.approve, "suspend": registry.suspend, "revoke": registry.revoke}
        entry = moves[verb](caller.tenant, kind, name, by=caller.name)
        if verb == "revoke":
            self._end(caller, kind, name)
        return entry

    def _end(self, caller: Caller, kind: Kind, name: str) -> None:
        """End all that was said of a name: tokens, OAuth grants, consents and pins.

        The home tenant's entry decides where the name leads for every tenant, so its end is everybody's.
        """
        parts = self._parts
        everybody = caller.tenant == parts.config.tenant
        parts.identity.grants.standing.end_upstream(NODE if everybody else caller.tenant, kind, name)
        parts.pins.forget(caller.tenant, name, OF_A_SERVER if kind == "mcp" else OF_AN_AGENT)

    def _mcp_spec(self, caller: Caller, spec: JSONObject) -> JSONObject:
        strange = sorted(spec.keys() - MCP_SPEC)
        if strange or "url" not in spec:
            raise ConfigFault(
                "registry_spec",
                f"not for the registry: {', '.join(strange)}" if strange else "a url is needed",
                fix=f"give: {', '.join(sorted(MCP_SPEC))}; everything else belongs in bartizan.yaml",
            )
        try:
            given = MCPUpstream.model_validate(spec)
            parse_url(given.url)
        except ValidationError as error:
            told = [
                f"{'.'.join(map(str, p['loc']))}: {p['msg'].removeprefix('Value error, ')}"
                for p in error.errors(include_input=False)
            ]
            raise ConfigFault("registry_spec", "; ".join(told), fix="see docs/configuration.md, mcp") from None
        except Malformed:
            raise ConfigFault("registry_spec", "url: not a URL with one reading", fix="such as https://h/mcp") from None
        self._own_tenants(caller, given.tenants)
        made: JSONObject = given.model_dump(mode="json", include=set(spec))
        return made

    def _agent_spec(self, caller: Caller, spec: JSONObject) -> JSONObject:
        if any(spec.get(name) for name in AGENT_FILES):
            raise ConfigFault("agent_spec", "files", fix="certificates of an agent belong in bartizan.yaml")
        given = AgentSpec.from_json({"tenants": [caller.tenant], **spec})
        self._own_tenants(caller, given.tenants)
        return given.to_json()

    def _own_tenants(self, caller: Caller, tenants: tuple[str, ...]) -> None:
        if caller.role != "owner" and not set(tenants) <= {caller.tenant}:
            raise Refused("role", "tenants", fix="only the node's owner lets an entry serve other tenants")

    # -- pins ----------------------------------------------------------------------------------------

    def pins(self, caller: Caller, upstream: str = "", status: str = "") -> list[Pin]:
        """Return pins: those that ask for a person first, then those that wait for one."""
        found = [p for p in self._parts.pins.list(caller.tenant, upstream) if status in ("", p.status)]
        return sorted(found, key=lambda p: (not p.asks, p.status == "approved", p.upstream, p.kind, p.name))

    def pin(self, caller: Caller, upstream: str, kind: str, name: str) -> JSONObject:
        """Return a pin with the definitions behind its digests, where they are remembered.

        Raises Malformed("pin_unknown").
        """
        for found in self._parts.pins.list(caller.tenant, upstream):
            if found.kind == kind and found.name == name:
                definitions = self._parts.definitions
                approved = definitions.get(found.in_force)
                seen = approved if found.seen == found.in_force else definitions.get(found.seen)
                known = approved is not None and seen is not None
                return {
                    **pin_json(found),
                    "definition": {"approved": approved, "seen": seen},
                    "changes": [c.to_json() for c in changes(approved, seen)] if known else None,
                }
        raise Malformed("pin_unknown", fix="see `bartizan pins status`")

    def approve_pin(self, caller: Caller, upstream: str, kind: PinKind, name: str, digest: str) -> Pin:
        """Approve exactly the digest that was shown. Raises Conflict when the definition changed since."""
        if kind not in get_args(PinKind):
            raise Malformed("pin_unknown")
        self._record(caller, "pins.approve", f"{upstream}/{kind}/{name}", digest)
        return self._parts.pins.approve(caller.tenant, upstream, kind, name, digest, by=caller.name)

    def lock(self, caller: Caller) -> str:
        """Return the text of a lock file with everything that is approved now (`enforce.lock`)."""
        entries = []
        for pin in self._parts.pins.list(caller.tenant):
            if pin.approved:
                at = datetime.fromtimestamp(pin.since_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                locked = Locked(pin.approved, self._title(pin), pin.by, at)
                entries.append(((pin.upstream, pin.kind, pin.name), locked))
        return render(entries)

    def _title(self, pin: Pin) -> str:
        """Return what a definition calls itself; a set, how many it holds."""
        value = self._parts.definitions.get(pin.approved)
        if not isinstance(value, dict):
            return ""
        if pin.kind == "set":
            return f"{len(value)} definitions"
        words = value.get("serverInfo") if pin.kind == "instructions" else value
        title = words.get("title") or words.get("name") if isinstance(words, dict) else ""
        return visible(title) if isinstance(title, str) else ""

    # -- kill switch -----------------------------------------------------------------------------------

    def stops(self, caller: Caller) -> list[Stop]:
        """Return the stops that concern the caller's tenant."""
        return [s for s in self._parts.kill_switch.stops() if s.tenant in (caller.tenant, GLOBAL)]

    def pull(self, caller: Caller, scope: str, name: str, *, reason: str = "", everywhere: bool = False) -> Stop:
        """Stop a scope at once. everywhere: for every tenant of the node, which is the owner's to do."""
        known, name, tenant = self.stop_scope(caller, scope, name, everywhere)
        self._record(caller, "kill.pull", f"{known}/{name}", reason, tenant=tenant)
        return self._parts.kill_switch.pull(tenant, known, name, by=caller.name, reason=shown(reason))

    def release(self, caller: Caller, scope: str, name: str, *, reason: str = "", everywhere: bool = False) -> bool:
        """End a stop; return whether it stood."""
        known, name, tenant = self.stop_scope(caller, scope, name, everywhere)
        self._record(caller, "kill.release", f"{known}/{name}", reason, tenant=tenant)
        return self._parts.kill_switch.release(tenant, known, name)

    def stop_scope(self, caller: Caller, scope: str, name: str, everywhere: bool) -> tuple[StopScope, str, str]:
        """Return scope, name and tenant of a stop as they are kept. Raises Malformed("kill_scope"), Refused("role")."""
        known = next((s for s in get_args(StopScope) if s == scope), None)
        if known is None or (known == "all") != (name in ("", GLOBAL)):
            raise Malformed("kill_scope", fix="all, or upstream, subject or client with a name")
        if everywhere and caller.role != "owner":
            raise Refused("role", fix="only the node's owner stops every tenant")
        return known, name or GLOBAL, GLOBAL if everywhere else caller.tenant

    # -- budgets ---------------------------------------------------------------------------------------------

    def budgets(self, caller: Caller) -> JSONObject:
        """Return what each caller spent or reserved today (UTC), and the ceilings."""
        day = self._parts.clock.now_us() // DAY_US
        spent: dict[str, dict[str, JSON]] = {}
        for entry in self._parts.store.collection("budgets").scan(caller.tenant, f"{day}/"):
            who, _, kind = entry.key.partition("/")[2].rpartition("/")
            digits, _, rest = who.partition(":")
            if kind not in ("tokens", "usd") or not (digits.isascii() and digits.isdigit()):
                continue
            subject, client = rest[: int(digits)], rest[int(digits) + 1 :]
            row = spent.setdefault(who, {"subject": subject, "client": client, "tokens": 0, "micro_usd": 0})
            row["tokens" if kind == "tokens" else "micro_usd"] = int(entry.value)
        limits = self._parts.config.limits
        rows: list[JSON] = list(spent.values())
        ceilings: JSONObject = {
            "tokens_per_day": limits.tokens_per_day,
            "micro_usd_per_day": round(limits.usd_per_day * 1_000_000),
            "calls_per_minute": limits.calls_per_minute,
        }
        return {"callers": rows, "ceilings": ceilings}


def pin_json(pin: Pin) -> JSONObject:
    """Return a pin as the API shows it."""
    return {**asdict(pin), "reasons": list(pin.reasons), "status": pin.status, "asks": pin.asks, "label": label_of(pin)}


def label_of(pin: Pin) -> str:
    """Return what a pin is about, as people say it."""
    if pin.kind == "instructions":
        return "instructions"
    return f"set of {pin.name}s" if pin.kind == "set" else f"{pin.kind} {visible(pin.name)}"


def entry_json(entry: RegistryEntry) -> JSONObject:
    """Return a registry entry as the API shows it."""
    return asdict(entry)
