"""What people can see and move: one method per verb, the same for pages, API and command line.

Every change is recorded before it takes effect, with who did it: what cannot be recorded does not happen.
A caller reaches the caller's own tenant; the node's owner names one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final, get_args

from pydantic import ValidationError

from a2a_gateway.inventory import AgentSpec
from firewall.admin.access import Access
from firewall.admin.caller import Caller, Refused
from firewall.admin.health import readiness
from firewall.admin.parts import AdminParts
from firewall.admin.rights import WEIGHTY
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
from firewall.identity.people.links import Link
from firewall.identity.people.users import User
from firewall.identity.throttle import NODE
from firewall.wire.http import parse_url

# What an MCP server may be told to be by API. A command, an environment, paths, certificates and credentials
# come from the configuration file alone: whoever holds an account must not start programs or read files here.
MCP_SPEC: Final = frozenset({"url", "network", "trust", "tenants", "tools", "pins", "era", "deadline_s"})
AGENT_FILES: Final = ("ca_file", "client_cert", "client_key")
DAY_US: Final = 86_400_000_000
REASON_CHARS: Final = 200


class Desk:
    """The verbs of the admin room. Raises Malformed, Conflict, ConfigFault, AuditUnavailable, StateUnavailable."""

    def __init__(self, parts: AdminParts, access: Access) -> None:
        self._parts = parts
        self._access = access

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
        return self._parts.kill_switch.pull(tenant, known, name, by=caller.name)

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

    # -- tokens and bearers --------------------------------------------------------------------------------

    def resources(self, caller: Caller) -> list[JSONObject]:
        """Return what a token can be minted for."""
        known = self._parts.identity.resources.by_uri.items()
        return [
            {"resource": uri, "title": r.title, "scopes": list(r.scopes), "default_scopes": list(r.default_scopes)}
            for uri, r in known
            if not r.tenants or caller.tenant in r.tenants
        ]

    def token(self, caller: Caller, resource: str, scopes: tuple[str, ...], ttl_s: int) -> JSONObject:
        """Mint a token of the operator's for one resource; identity records it. Raises Malformed: operator_*."""
        issued = self._parts.identity.operator_tokens.mint_for_operator(
            resource, scopes, ttl_s, by=caller.name, tenant=caller.tenant
        )
        return {
            "access_token": issued.token,
            "expires_in": issued.expires_in,
            "scope": " ".join(issued.scopes),
        }

    def bearer(self, caller: Caller, role: str, ttl_s: int, *, user: str = "") -> JSONObject:
        """Mint a bearer for the admin API: the node's own, or a person's, which is never more than that person is.

        user: a person's name; the owner names anybody, a person nobody but themselves.
        Raises Malformed: bearer_role, bearer_ttl, bearer_many, user_unknown.
        """
        person = self.user(caller, user) if user else None
        if caller.role != "owner" and (person is None or person.subject != caller.subject):
            raise Refused("role", fix="only the node's owner makes bearers for others")
        self._record(caller, "bearer.mint", f"{role} {user}".strip())
        text, made = self._access.bearers.mint(caller.tenant, role, ttl_s, by=caller.name, user=person)
        return {"bearer": text, **asdict(made)}

    def bearers(self, caller: Caller) -> list[JSONObject]:
        """Return what is known of bearers, never their secrets; a person sees their own."""
        found = self._access.bearers.list(caller.tenant)
        return [asdict(b) for b in found if caller.role == "owner" or (b.user and b.user == caller.subject)]

    def end_bearer(self, caller: Caller, bearer_id: str) -> bool:
        """End a bearer, one's own unless one is the owner; return whether it lived."""
        if caller.role != "owner" and not any(b["bearer_id"] == bearer_id for b in self.bearers(caller)):
            return False
        self._record(caller, "bearer.end", bearer_id[:64])
        return self._access.bearers.end(caller.tenant, bearer_id)

    def sessions(self, caller: Caller) -> list[JSONObject]:
        """Return the console's sessions of the tenant."""
        return [asdict(s) for s in self._access.sessions.list(caller.tenant)]

    def end_sessions(self, caller: Caller, name: str) -> int:
        """End every console session of a person; return how many there were."""
        user = self.user(caller, name)
        self._record(caller, "sessions.end", user.subject)
        return self._access.sessions.end_of(caller.tenant, user.subject)

    # -- people --------------------------------------------------------------------------------------------

    def users(self, caller: Caller) -> list[User]:
        """Return the people of the tenant."""
        return self._parts.identity.users.list(caller.tenant)

    def user(self, caller: Caller, name: str) -> User:
        """Return a person by name. Raises Malformed("user_unknown")."""
        user = next((u for u in self.users(caller) if u.name == name), None)
        if user is None:
            raise Malformed("user_unknown", fix="see `bartizan users list`")
        return user

    async def add_user(
        self, caller: Caller, name: str, password: str, roles: tuple[str, ...], scopes: tuple[str, ...]
    ) -> User:
        """Add a person; identity records it. Raises Malformed: user_name, password_weak; Conflict; Refused("role")."""
        self._weighty(caller, roles)
        self._record(caller, "user.add", name[:64])
        return await self._parts.identity.users.create(name, password, tenant=caller.tenant, roles=roles, scopes=scopes)

    async def prepare_user(self, caller: Caller, name: str, password: str) -> User:
        """Add a person who can do nothing yet: no role, no scope, disabled. Raises as `add_user`."""
        made = await self.add_user(caller, name, password, (), ())
        return self._parts.identity.users.update(made.tenant, made.subject, roles=(), scopes=(), disabled=True)

    def set_user(self, caller: Caller, name: str, roles: tuple[str, ...], scopes: tuple[str, ...]) -> User:
        """Give a person exactly these roles and scopes, and let them in; what they had given before ends.

        Raises Malformed("user_unknown"), Refused("role").
        """
        user = self.user(caller, name)
        self._weighty(caller, set(roles) - set(user.roles))
        self._record(caller, "user.set", user.subject, " ".join(roles))
        return self._parts.identity.users.update(user.tenant, user.subject, roles=roles, scopes=scopes)

    def enable_user(self, caller: Caller, name: str, *, enabled: bool) -> User:
        """Let a person in again, or end everything of theirs at once. Raises Malformed("user_unknown")."""
        user = self.user(caller, name)
        if enabled:
            self._weighty(caller, user.roles if user.disabled else ())
        self._record(caller, "user.enable" if enabled else "user.disable", user.subject)
        return self._parts.identity.users.update(
            user.tenant, user.subject, roles=user.roles, scopes=user.scopes, disabled=not enabled
        )

    def account_links(self, caller: Caller, name: str) -> list[Link]:
        """Return who a person is at issuers elsewhere. Raises Malformed("user_unknown")."""
        return self._parts.identity.links.of_user(caller.tenant, self.user(caller, name).subject)

    def link_account(self, caller: Caller, name: str, issuer: str, subject: str, realm: str = "") -> Link:
        """Let somebody at an issuer in as this person: by (issuer, subject), never by address.

        Raises Malformed: user_unknown, link_identity; Conflict where that account leads to somebody already;
        Refused("role"): whoever may not give a person's roles may not give the person to somebody else.
        """
        user = self.user(caller, name)
        self._weighty(caller, user.roles)
        self._record(caller, "user.link", user.subject, issuer)
        return self._parts.identity.links.link(caller.tenant, issuer, subject, user.subject, realm=realm)

    def unlink_account(self, caller: Caller, name: str, issuer: str, subject: str, realm: str = "") -> bool:
        """End a link of a person, and what the person had given; return whether there was one."""
        user = self.user(caller, name)
        if (issuer, subject, realm) not in [(x.issuer, x.subject, x.realm) for x in self.account_links(caller, name)]:
            return False
        self._record(caller, "user.unlink", user.subject, issuer)
        return self._parts.identity.links.unlink(caller.tenant, issuer, subject, realm=realm)

    def _weighty(self, caller: Caller, roles: Iterable[str]) -> None:
        """Raise Refused unless these roles may be given: an administrator alone makes no peer and no approver."""
        if caller.role != "owner" and not caller.second and not WEIGHTY.isdisjoint(roles):
            raise Refused("role", fix="only the node's owner, or two people, give the roles approver and admin")

    def first_contact(self, caller: Caller) -> JSONObject:
        """Return a new one-time code; {} while there is an administrator already."""
        self._record(caller, "first_contact.open", "first-contact")
        code = self._parts.identity.first_contact.open()
        return {"code": code.text, "expires_s": code.expires_s} if code else {}

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

    # -- records ---------------------------------------------------------------------------------------------

    def _record(self, caller: Caller, verb: str, what: str, text: str = "", *, tenant: str = "") -> None:
        record: JSONObject = {
            "kind": "admin",
            "tenant": tenant or caller.tenant,
            "by": caller.name,
            "verb": verb,
            "object": _shown(what),
        }
        if text:
            record["text"] = _shown(text)
        if caller.second:
            record["second"] = caller.second
        self._parts.audit.append(record)


def _shown(text: str) -> str:
    """Return typed text without control and format characters, at most 200 characters."""
    return "".join(c for c in text[:REASON_CHARS] if unicodedata.category(c)[0] != "C")


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


def user_json(user: User) -> JSONObject:
    """Return a user as the API shows one; there is no password to leave out."""
    return {**asdict(user), "roles": list(user.roles), "scopes": list(user.scopes)}
