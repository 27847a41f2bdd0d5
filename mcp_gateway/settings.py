"""What the MCP gateway is told by configuration: its upstreams and its own bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from firewall.core.bounds import LIST_CHUNK, UPSTREAM_IDLE_S, UPSTREAM_TOTAL_S
from firewall.core.errors import ConfigFault
from mcp_gateway.action import EFFECT_CLASSES, ServerFacts
from mcp_gateway.apps import NONE as NO_RIGHTS
from mcp_gateway.apps import Rights

ASKS: Final = frozenset({"sampling", "elicitation", "roots"})
NAME_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One MCP server behind us. Commands and addresses come from here and from nowhere else (ISO-02).

    url: Streamable HTTP endpoint; network: the class of address it may resolve to.
    command: the stdio program and its arguments. env: its whole environment beside PATH, HOME, TMPDIR,
    LANG and the proxy variables. read, write: absolute paths it may read, or read and write, beside
    system libraries and its scratch directory.
    sandbox: ``required`` refuses a kernel without all of Landlock, seccomp and network namespaces;
    ``auto`` takes what there is; ``off`` takes nothing. Without seccomp a child, which has our user id,
    could reach the operator's socket: that needs ``unsandboxed=True`` written down, in any mode.
    effects: tool → effect class (default ``write``). pins: ``tofu`` pins what first contact shows;
    ``strict`` waits for an operator. era: ``auto`` asks the upstream.
    ttl_s: how old a catalogue may be at a call; list_age_s: at a list. Seconds.
    asks: which questions a server may put to its callers (`ASKS`); none are declared to it otherwise, and
    one that it puts all the same is answered with method-not-found. answer_s: how long one waits.
    roots: absolute paths; of a client's roots only what lies at or below one of them is told to the server.
    apps: the origins and devices that its MCP Apps may use (`apps.Rights`); none by default, and its own host for icons.
    lists: ``granted`` shows what the caller's token opens; ``grantable`` also what its person could add to it.
    transport ``sse`` is HTTP+SSE of 2024-11-05, deprecated: it needs ``legacy_sse=True`` written down.
    """

    name: str
    transport: Literal["http", "stdio", "sse"] = "http"
    url: str = ""
    network: Literal["public", "private", "loopback"] = "public"
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    sandbox: Literal["auto", "required", "off"] = "auto"
    unsandboxed: bool = False
    trust: Literal["trusted", "untrusted"] = "untrusted"
    tenants: tuple[str, ...] = ("*",)
    effects: Mapping[str, str] = field(default_factory=dict)
    pins: Literal["tofu", "strict"] = "tofu"
    era: Literal["auto", "modern", "legacy"] = "auto"
    deadline_s: float = UPSTREAM_TOTAL_S
    idle_s: float = UPSTREAM_IDLE_S
    open_s: float = 15.0
    ttl_s: float = 60.0
    list_age_s: float = 2.0
    asks: frozenset[str] = frozenset()
    answer_s: float = 300.0
    roots: tuple[str, ...] = ()
    legacy_sse: bool = False
    apps: Rights = NO_RIGHTS
    lists: Literal["granted", "grantable"] = "grantable"

    def __post_init__(self) -> None:
        """Raise ConfigFault: upstream_name, upstream_address, upstream_effect, upstream_unsandboxed, upstream_asks, upstream_sse."""
        name = self.name
        if (
            not 1 <= len(name) <= 40
            or not set(name) <= NAME_CHARS
            or not name[0].isalpha()
            or "--" in name
            or name[-1] == "-"
        ):
            raise ConfigFault(
                "upstream_name", f"mcp upstream {name[:40]!r}", fix="lower-case letters, digits, single hyphens"
            )
        if (self.transport != "stdio") != bool(self.url) or (self.transport == "stdio") != bool(self.command):
            raise ConfigFault(
                "upstream_address", f"mcp upstream {name}", fix="give a url for http, a command for stdio"
            )
        for tool, effect in self.effects.items():
            if effect not in EFFECT_CLASSES:
                raise ConfigFault(
                    "upstream_effect", f"{name}: tool {tool}", fix="one of " + ", ".join(sorted(EFFECT_CLASSES))
                )
        if self.url and not self.apps.home:
            object.__setattr__(self, "apps", replace(self.apps, home=self.url))
        if self.transport == "stdio" and self.sandbox == "off" and not self.unsandboxed:
            raise ConfigFault(
                "upstream_unsandboxed", f"mcp upstream {name}", fix="write unsandboxed: true beside sandbox: off"
            )

        if not self.asks <= ASKS or not all(_is_absolute(root) for root in self.roots):
            raise ConfigFault(
                "upstream_asks",
                f"mcp upstream {name}",
                fix=f"asks: some of {', '.join(sorted(ASKS))}; roots: absolute paths without . and ..",
            )
        if (self.transport == "sse") != self.legacy_sse:
            raise ConfigFault(
                "upstream_sse",
                f"mcp upstream {name}",
                fix="write legacy_sse: true beside transport: sse, and only there",
            )

    @property
    def facts(self) -> ServerFacts:
        """The part that policy may read."""
        return ServerFacts(self.name, self.trust, self.network, self.tenants, self.effects, tuple(sorted(self.asks)))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of legacy sessions. ttl_s: of a sealed id. idle_s: after which a session without requests and streams ends. sessions: per worker.

    per_caller: sessions of one caller, per worker; streams: that one caller holds open by GET, or by a modern listen.
    """

    ttl_s: int = 8 * 3600
    idle_s: int = 1800
    sessions: int = 10_000
    per_caller: int = 256
    streams: int = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """public_url: scheme and authority that clients use, no trailing slash.

    workers: processes of this node.
    scratch: directory under which children get their working directories; outside keys, state, policy.
    catalog: what the aggregate lists: ``full`` all tools, ``search`` three tools of ours that find, describe
    and call them.
    private: absolute paths that no child may be given (keys, state, policy).
    sessions: bounds of legacy sessions and of the streams that callers hold open.
    egress_socket: path of the unix socket of our egress proxy, or "" when there is none; ``{name}``
    in it is replaced by the upstream's name.
    """

    public_url: str
    upstreams: tuple[UpstreamSpec, ...]
    aggregated: bool = True
    catalog: Literal["full", "search"] = "full"
    workers: int = 1
    page: int = LIST_CHUNK
    sessions: Bounds = Bounds()
    scratch: str = ""
    private: tuple[str, ...] = ()
    egress_socket: str = ""
    links: int = 256
    review_severity: int = 60

    def __post_init__(self) -> None:
        """Raise ConfigFault: upstream_twice."""
        names = [spec.name for spec in self.upstreams]
        if len(set(names)) != len(names):
            raise ConfigFault("upstream_twice", fix="give each mcp upstream a name of its own")


def _is_absolute(path: str) -> bool:
    return path == "/" or (path.startswith("/") and not {"", ".", ".."} & set(path[1:].removesuffix("/").split("/")))
