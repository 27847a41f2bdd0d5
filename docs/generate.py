"""Writes the documents that are made from the code: configuration.md, bartizan.schema.json, cli.md,
errors.md, api.md.

    .venv/bin/python docs/generate.py

Words are written here, facts come from the code. A setting without words, or words without a setting,
stops it; tests/project/test_documents.py fails when a document is not what this makes.
"""

from __future__ import annotations

import argparse
import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from firewall import config
from firewall.admin.api import Need
from firewall.admin.console import ROUTERS
from firewall.admin.rights import MATRIX
from firewall.cli import main as command
from firewall.config.load import ENVIRONMENT
from firewall.config.model import Config
from firewall.core.errors import FAULTS
from firewall.record.verify import PROBLEMS

HERE = Path(__file__).resolve().parent
MADE = "<!-- Made by docs/generate.py: change the words there, the facts in the code. -->\n"

# -- configuration -------------------------------------------------------------------------------------------

SECTIONS = {
    "": "The node",
    "listeners": "Listeners",
    "policy": "Policy",
    "audit": "Audit",
    "limits": "Limits",
    "identity": "Front door",
    "mcp.NAME": "MCP servers",
    "a2a.NAME": "A2A agents",
    "llm": "Language models",
    "telemetry": "Telemetry",
    "admin": "Console",
    "authzen": "Other enforcers",
}

WORDS = {
    "version": "Version of this file's format.",
    "public_url": "The bare origin that clients use, and the issuer of tokens. https, or http on loopback. Never derived from a request.",
    "state_dir": "Keys, store, shared memory, audit log and `admin.sock`. Only its owner may read it (0700).",
    "tenant": "The tenant of this installation's own people and upstreams.",
    "node": "This node's name: in records, spans and the audit log's origin. Letters, digits, `.`, `_` and `-`, at most 63.",
    "workers": "Processes that share the ports.",
    "trusted_proxies": "Addresses or networks whose `X-Forwarded-For` and `-Proto` count; nobody else's do.",
    "hosts": "Further Host values of the data listener, beside that of `public_url`.",
    "origins": "Browser origins that may call the data listener, beside `public_url`. Never `*`.",
    "mcp_origins": "Origins of web pages whose MCP clients may call `/mcp` from a browser (CORS), such as `https://inspector.example`. None by default; never `*`. See docs/mcp.md.",
    "demo": "Set by the demonstration alone.",
    "mcp_catalog": "What `/mcp` lists: `full` all tools, `search` three tools of ours that find, describe and call them. For catalogues that are too large to read.",
    "mcp_sessions": "Bounds of MCP sessions of 2025-11-25 and older, and of the streams that callers hold open; per worker. Read at start.",
    "mcp_sessions.ttl_s": "Seconds from its opening after which a session ends; its client opens another.",
    "mcp_sessions.idle_s": "Seconds without a request, a question or an open stream after which it ends. At most `ttl_s`.",
    "mcp_sessions.most": "Sessions of a worker at the same time; beyond it a new one is refused with 503, after idle ones were ended.",
    "mcp_sessions.per_caller": "Sessions of one caller; beyond it its own longest idle one ends. At most `most`.",
    "mcp_sessions.streams_per_caller": "Streams that one caller holds open by `GET` or `subscriptions/listen`; beyond it 429.",
    "lock": "A `bartizan.lock` (`bartizan pins export` writes it), beside this file unless absolute. With it, only definitions that stand in it are approved, whatever a first contact trusted. Read at start.",
    "listeners.data": "Agents connect here.",
    "listeners.admin": "People and metrics: its own port and cookies; keep it off the agents' network.",
    "listeners.*.host": "Address to bind.",
    "listeners.*.port": "Port; 0 takes a free one.",
    "listeners.*.names": "Further Host values that reach it, such as `admin.example:8701`; what it binds on loopback or by address is known.",
    "listeners.*.tls": "TLS ends here when set.",
    "listeners.*.tls.cert": "Certificate chain, PEM.",
    "listeners.*.tls.key": "Its key, PEM, readable by the owner alone.",
    "listeners.*.tls.client_ca": "Require a client certificate of this authority (mutual TLS).",
    "policy.engine": "`regorus` is embedded; `opa-server` asks an OPA server on this host.",
    "policy.mode": "`auto` runs compiled what passed the self-test, else on the strict interpreter.",
    "policy.bundle": "Your own policy directory; the packaged rules without it.",
    "policy.opa": "Where the OPA server is.",
    "policy.opa.url": "Loopback URL.",
    "policy.opa.unix_socket": "Unix socket, instead of the URL.",
    "policy.opa.timeout_ms": "Milliseconds for one decision; past it the answer is no.",
    "audit.durability": "`disk` waits for `fdatasync` before anything is forwarded; `batch` for the write alone.",
    "audit.directory": "Where the logs stand; `audit` in the state directory without it.",
    "audit.spool": "A second directory, on another volume, for when the first takes nothing.",
    "audit.max_bytes": "Size of an audit directory at which it counts as full: then calls are refused.",
    "audit.segment_bytes": "Size at which a worker's log is sealed and another goes on.",
    "audit.segment_hours": "Age at which it is, where anything happened in it; 0 looks at the size only.",
    "audit.retain_days": "Days after which the records of a sealed log are deleted, its signed checkpoint kept; 0 deletes nothing.",
    "limits.calls_per_minute": "Calls per caller and minute, over all workers. 0 refuses everything.",
    "limits.tokens_per_day": "Model tokens per caller and UTC day.",
    "limits.usd_per_day": "US dollars per caller and UTC day.",
    "identity.access_token_s": "Seconds that an access token lives.",
    "identity.refresh_days": "Days after which a connection ends however much it is used, and the person signs in again. People read it on the consent page.",
    "identity.refresh_idle_days": "Days without a renewal after which it ends. What is longer than `refresh_days` changes nothing.",
    "identity.client_per_minute": "Requests at `/token`, `/par` and `/device_authorization` that one client which proves who it is may "
    "make in a minute, from everywhere together. Beyond that it is told 429, and the record says so (`identity.client.busy`).",
    "identity.device_grant": "Programs without a browser may ask by a code that a person types at `/device` (RFC 8628). The client needs `device_code` among its `grants`.",
    "identity.passwords": "Whether people may sign in with a password of this node. `off` leaves the providers; the first user then needs one of them, or the operator's socket.",
    "identity.providers": "Identity providers (OpenID Connect) that people sign in at; our own tokens are issued afterwards.",
    "identity.providers.NAME.issuer": "The provider, exactly as its tokens name it. For many-tenant Entra with `{tenantid}` in it.",
    "identity.providers.NAME.title": "What the button says after *Continue with*; the name without it.",
    "identity.providers.NAME.shape": "Fills in what this product does differently.",
    "identity.providers.NAME.client_id": "What the provider calls us.",
    "identity.providers.NAME.client_secret": "Where our secret is: `env:NAME`, or `file:/path` that only its owner can read. Never the secret itself.",
    "identity.providers.NAME.client_auth": "How we show who we are. `private_key_jwt` signs with the key at `/.well-known/client-jwks.json`.",
    "identity.providers.NAME.discovery": "Where its metadata stands, when not at `/.well-known/openid-configuration` under the issuer.",
    "identity.providers.NAME.scopes": "What we ask it for.",
    "identity.providers.NAME.claims": "Which claims say what; a dot leads into an object (`realm_access.roles`).",
    "identity.providers.NAME.claims.subject": "What names a person there for ever. Accounts are linked by it and the issuer, never by address.",
    "identity.providers.NAME.claims.name": "Shown on our pages, compared with nothing.",
    "identity.providers.NAME.claims.groups": "The groups of a person.",
    "identity.providers.NAME.claims.tenant": "Which of its tenants somebody belongs to; without it everybody belongs to `tenant`.",
    "identity.providers.NAME.roles": "Roles by group; `*` is everybody. Imported at each sign-in: what is gone there ends here, with all that was given.",
    "identity.providers.NAME.scopes_of": "Patterns of what members of a group may give to programs, such as `time:*`; `*` is everybody.",
    "identity.providers.NAME.tenants": "Tenant of ours by value of the tenant claim; any other value is refused.",
    "identity.providers.NAME.create": "Whether somebody unknown gets an account: if a group of theirs stands in `roles` or `scopes_of`, always, or never.",
    "identity.providers.NAME.forced_for": "Tenants whose people sign in here and nowhere else; a password of theirs counts for nothing.",
    "identity.providers.NAME.recheck_hours": "How long what it said about a person holds. Afterwards their programs are refused until they sign in there again: whoever was let go there is gone here too. 0 is for ever.",
    "identity.providers.NAME.acr": "Our level (`pwd`, `mfa`) by the provider's `acr`. Without an entry a multi-factor `amr` means `mfa`, everything else `pwd`.",
    "identity.providers.NAME.parameters": "Further parameters for its authorization endpoint, such as `audience` or `hd`.",
    "identity.providers.NAME.userinfo": "Ask its userinfo endpoint for claims that the ID token leaves out.",
    "identity.providers.NAME.sign_out": "Sign people out there too when they sign out here.",
    "identity.providers.NAME.network": "Where it is; plain http is for `loopback` alone.",
    "identity.providers.NAME.unadvertised_s256": "It understands PKCE with S256 although its metadata does not say so.",
    "identity.providers.NAME.trusted_audiences": "Others that may stand beside us in an ID token's `aud`.",
    "identity.clients": "OAuth clients registered by hand, by client id.",
    "identity.clients.NAME.name": "Shown on the consent page.",
    "identity.clients.NAME.redirect_uris": "Exact redirect URIs; on loopback any port.",
    "identity.clients.NAME.grants": "What it may ask tokens with.",
    "identity.clients.NAME.scopes": "Patterns of the most it may ever have, such as `time:*`; none means all.",
    "identity.clients.NAME.jwks": "Its public keys, for `private_key_jwt`; none makes it a public client.",
    "identity.clients.NAME.resource": "Path of the resource that it stands behind, such as `/a2a/planner`: it may exchange tokens for that audience.",
    "identity.clients.NAME.may_act": "Client that may exchange the tokens that people give to this one; its own id lets it do so itself. One of `identity.clients`, one that `bartizan clients add` registers in the same tenant, or the address of a client's document.",
    "identity.clients.NAME.pushed_only": "Whether it must ask for authorization by pushed requests (RFC 9126) alone.",
    "identity.clients.NAME.orchestrator": "Whether it may begin runs (clean contexts for flow labels) by token exchange; needs keys or a secret.",
    "identity.clients.NAME.dpop": "It gets tokens that are bound to its key (DPoP) and no others. Without, it gets one whenever it sends a proof.",
    "identity.dpop": "Tokens that only the holder of a key can use (RFC 9449). Bearer tokens stay the default.",
    "identity.dpop.nonces": "Refuse every proof that was not made with a nonce of ours; otherwise only clocks that differ by more than a minute need one.",
    "identity.dpop.required_at": "Paths of resources, such as `/mcp/bank`, where bearer tokens are refused.",
    "identity.issuers": "Issuers whose access tokens are taken as they are (direct mode). Each must have passed `bartizan doctor idp` as it stands here.",
    "identity.issuers.NAME.issuer": "Exactly what its tokens say in `iss`.",
    "identity.issuers.NAME.jwks_uri": "Where its public keys are; without it, where its metadata says.",
    "identity.issuers.NAME.algorithms": "Signatures that count.",
    "identity.issuers.NAME.typ": "`any` for issuers that mark access tokens `JWT` (Entra, Okta); then ID tokens are told apart by their claims.",
    "identity.issuers.NAME.audiences": "Path of a resource here, and the values of `aud` that mean it.",
    "identity.issuers.NAME.several_audiences": "A token may name other audiences too.",
    "identity.issuers.NAME.scope_claim": "The claim with scopes, a string or a list: `scope`, `scp`, `permissions`.",
    "identity.issuers.NAME.scopes": "Scopes here by scope there; without any, those of the same name count. Nothing beyond the resource's own is ever given.",
    "identity.issuers.NAME.subject_claim": "What names a person there for ever; here they are `NAME|it`.",
    "identity.issuers.NAME.client_claim": "What names the client; without it the first of `client_id`, `azp`, `appid`, `cid`.",
    "identity.issuers.NAME.tenant_claim": "Which of its tenants somebody belongs to; without it everybody belongs to `tenant`.",
    "identity.issuers.NAME.tenants": "Tenant of ours by value of the tenant claim; any other value is refused.",
    "identity.issuers.NAME.groups_claim": "The groups of a person; a dot leads into an object.",
    "identity.issuers.NAME.roles": "Roles here by group there.",
    "identity.issuers.NAME.max_age_s": "Longest time that one of its tokens may be meant to live.",
    "identity.issuers.NAME.introspection": "For tokens that only the issuer can read: it is asked, at most every 30 s per token.",
    "identity.issuers.NAME.introspection.url": "Its introspection endpoint (RFC 7662).",
    "identity.issuers.NAME.introspection.client_id": "What the issuer calls us.",
    "identity.issuers.NAME.introspection.client_secret": "Where our secret is: `env:NAME`, or `file:/path` that only its owner can read. Never the secret itself.",
    "identity.issuers.NAME.network": "Where it is; plain http is for `loopback` alone.",
    "identity.trusted_issuers": "Identity providers whose identity assertions (ID-JAG) are accepted as grants, by issuer.",
    "identity.trusted_issuers.NAME.jwks": "Its public keys; exactly one of this and `jwks_uri`.",
    "identity.trusted_issuers.NAME.jwks_uri": "Where its public keys are.",
    "identity.trusted_issuers.NAME.network": "Where `jwks_uri` is; plain http is for `private` and `loopback`.",
    "identity.trusted_issuers.NAME.algorithms": "Signatures that count.",
    "identity.trusted_issuers.NAME.clients": "Clients that may present its assertions; none means all that have the grant `jwt_bearer`.",
    "identity.trusted_issuers.NAME.scopes": "Patterns of the most that it may let anybody ask for.",
    "identity.trusted_issuers.NAME.realms": "Its own tenants that are believed; none takes only assertions without a `tenant`.",
    "identity.trusted_issuers.NAME.max_lifetime_s": "Longest time that one of its assertions may be meant to live.",
    "identity.trusted_issuers.NAME.reusable": "Whether an assertion may be presented again until it expires.",
    "identity.trusted_issuers.NAME.create": "Whether somebody unknown gets an account at first contact. Accounts are linked by issuer and subject, never by address.",
    "identity.trusted_issuers.NAME.roles": "Roles of accounts made so.",
    "identity.trusted_issuers.NAME.acr_of": "What its authentication contexts (`acr`) are called here, such as `mfa`; another one proves nothing.",
    "identity.trusted_issuers.NAME.account_scopes": "Patterns of what such an account may give away; none means nothing.",
    "identity.runs": "Runs: clean contexts for flow labels.",
    "identity.runs.lifetime_s": "Longest time that a run lasts.",
    "identity.runs.per_hour": "Runs that a client may begin in an hour.",
    "egress": "How our own fetches leave: metadata, keys, documents of clients. Governed traffic does not go this way.",
    "egress.proxy": "An HTTP proxy for what is fetched from public addresses; it then judges which addresses names may lead to.",
    "egress.network": "The one class of address that the proxy may have.",
    "identity.cimd": "Client id metadata documents.",
    "identity.signals": "Who may tell us that a session was revoked or an account changed (Shared Signals, CAEP). See docs/signals.md.",
    "identity.signals.NAME.issuer": "The transmitter, exactly as `iss` of its events names it.",
    "identity.signals.NAME.audience": "What its events name as `aud`; `public_url` when nothing is given.",
    "identity.signals.NAME.jwks": "Its keys, in place of `jwks_uri`.",
    "identity.signals.NAME.jwks_uri": "Where its keys stand.",
    "identity.signals.NAME.push_secret": "What it presents as bearer at `/ssf/events`: `env:NAME` or `file:/path`, at least 16 characters. Without one it cannot push.",
    "identity.signals.NAME.poll_url": "Where we ask for events (RFC 8936), in place of a push or beside it.",
    "identity.signals.NAME.poll_secret": "What we present there as bearer: `env:NAME` or `file:/path`.",
    "identity.signals.NAME.poll_seconds": "How often we ask.",
    "identity.signals.NAME.accounts": "Under which issuer its accounts are linked here, when not under its own.",
    "identity.signals.NAME.email": "Whether an e-mail address may name a person: one whose user name here is that address. Addresses change hands; identifiers do not.",
    "identity.signals.NAME.window_minutes": "How old an event may be.",
    "identity.signals.NAME.silent_minutes": "After how long without a word `doctor` and the log raise an alarm; 0 never.",
    "identity.signals.NAME.network": "Of its keys and its poll address.",
    "identity.cimd.policy": "Which hosts are fetched at all: those of the list, any public one, none, or those that Rego permits at `identity.client`.",
    "identity.cimd.hosts": "Hosts of the allowlist, instead of the known clients' ones; `*.name` for all below one.",
    "identity.cimd.ports": "Ports that a client's address may name beside 443.",
    "identity.cimd.pinned": "Documents that are not fetched, by client id URL: written here, or the name of a file.",
    "identity.registration": "Whether clients may register themselves at `/register` (RFC 7591).",
    "identity.workloads": "Platforms whose credentials authenticate clients: SPIFFE trust domains, Kubernetes clusters.",
    "identity.workloads.NAME.kind": "What its credentials are: JWT-SVIDs, or service account tokens.",
    "identity.workloads.NAME.issuer": "The trust domain, or the cluster's issuer exactly as its tokens name it.",
    "identity.workloads.NAME.clients": "Which of its subjects is which client; each written out.",
    "identity.workloads.NAME.jwks": "Its public keys, written here.",
    "identity.workloads.NAME.jwks_file": "A file with its keys (a JWK Set or a SPIFFE bundle), read again as it changes.",
    "identity.workloads.NAME.jwks_uri": "Where its keys are fetched.",
    "identity.workloads.NAME.ca_file": "Its authority, instead of the system's.",
    "identity.workloads.NAME.max_age_s": "The longest life of a credential that is accepted, in seconds.",
    "identity.workloads.NAME.once": "Take each credential a single time, by its `jti`.",
    "identity.clients.NAME.jwks_uri": "Where its public keys are fetched, instead of `jwks`.",
    "identity.clients.NAME.network": "Where `jwks_uri` is; plain http is for `private` and `loopback`.",
    "identity.clients.NAME.secret_sha256": "SHA-256 of its random secret, in hex; better: `bartizan clients add`.",
    "*.network": "The one class of address it may resolve to.",
    "*.trust": "Whether its texts are vouched for; what an untrusted one says marks the reader's context.",
    "*.tenants": "Whom it serves; none means this installation's tenant, `*` all.",
    "*.title": "Shown to people.",
    "*.delegates": "Scopes of other upstreams that people may give along with it, such as `time:read`: the client that stands behind it (`identity.clients.NAME.resource`) exchanges its tokens for those upstreams.",
    "*.credential": "What we present to it. An agent's own token never goes there.",
    "*.credential.header": "Header that carries it.",
    "*.credential.scheme": "Word before the value; may be empty.",
    "*.credential.env": "Environment variable that holds the value.",
    "*.auth": "How tokens for it are obtained: one place for its tools, lists, streams and everything else. See [accounts.md](accounts.md).",
    "*.auth.ways": "Sources of a token. Their order is fixed: `exchange` (RFC 8693), `id_jag`, `user` (each person connects an account of their own), `client` (our own, for nobody in particular); then `credential`. The first that fits the caller decides.",
    "*.auth.issuer": "Its authorization server. Empty: found by what it says of itself (RFC 9728). Must be given beside a secret or an assertion, which are for one issuer only.",
    "*.auth.network": "The class of address that the authorization server may resolve to; the upstream's own unless given.",
    "*.auth.scopes": "What is asked for; empty asks for what the upstream names.",
    "*.auth.client_id": "Our client there, registered by hand: for servers that take neither client documents nor registrations.",
    "*.auth.secret_env": "Environment variable that holds its secret.",
    "*.auth.secret_file": "File that holds its secret, readable by the owner alone.",
    "*.auth.method": "How we authenticate at the token endpoint. Empty: by the secret; without one as a public client (`none`) where people alone sign in and the server takes those, else by our keys.",
    "*.auth.assertion_env": "Environment variable with a JWT that the platform gives this workload; `client` presents it in place of client credentials (RFC 7523).",
    "*.auth.assertion_file": "The same from a file, such as a projected service-account token; read whenever a token is asked for.",
    "*.auth.s256_assumed": "Use a server that does not say that it knows PKCE with S256.",
    "*.auth.origins": "Further origins at which the issuer's endpoints may stand. Others are refused.",
    "*.auth.resource": "Its resource identifier (RFC 8707), where it is not what the upstream says or its URL.",
    "*.auth.send_resource": "Whether to send the resource; off for servers that refuse it.",
    "*.auth.expected_audience": "The `aud` of exchanged tokens, where it is not the resource.",
    "*.auth.parameters": "Further parameters of authorization requests, such as `audience` or `access_type`.",
    "*.auth.dpop": "Bind tokens to a key of ours (RFC 9449): `auto` where the upstream and its authorization server both say that they know it, `on` where the server does, `off` never.",
    "*.auth.group": "Which of our client documents names its redirect URI: `/oauth/client/GROUP.json`. For more upstreams than one document can hold.",
    "*.auth.idp": "Issuer of the identity provider that gives ID-JAGs.",
    "*.auth.idp_client_id": "Our client at that provider.",
    "*.auth.idp_secret_env": "Environment variable that holds its secret.",
    "*.auth.idp_secret_file": "File that holds its secret, readable by the owner alone.",
    "*.credential.file": "File that holds the value, readable by the owner alone.",
    "*.tls": "PEM files for the connection to it.",
    "*.tls.ca_file": "Its authority, instead of the system's.",
    "*.tls.client_cert": "Our client certificate.",
    "*.tls.client_key": "Its key.",
    "mcp.NAME.url": "Streamable HTTP endpoint. Give this or `command`.",
    "mcp.NAME.command": "A local program and its arguments, spoken to over stdio, in a cage.",
    "mcp.NAME.env": "Its whole environment, beside PATH, HOME, TMPDIR, LANG and the proxy variables.",
    "mcp.NAME.read": "Absolute paths that it may read, beside system libraries and its scratch directory.",
    "mcp.NAME.write": "Absolute paths that it may read and write.",
    "mcp.NAME.era": "Revision it is spoken to with; `auto` asks it.",
    "mcp.NAME.transport": "`sse` speaks the deprecated HTTP+SSE of 2024-11-05 to `url`; needs `legacy_sse: true`.",
    "mcp.NAME.legacy_sse": "Must be written down beside `transport: sse`.",
    "mcp.NAME.lists": "`granted` lists what the caller's token opens. `grantable` also lists what its person could give it, and a call of that is answered with the scope challenge (see docs/mcp.md).",
    "mcp.NAME.asks": "Questions that it may put to its callers: `sampling`, `elicitation`, `roots`. None are declared to it otherwise.",
    "mcp.NAME.answer_s": "Seconds that such a question waits for its answer.",
    "mcp.NAME.roots": "Absolute paths; of a client's roots, only those at or below one of them are told to the server.",
    "mcp.NAME.app_domains": "Origins that its MCP Apps may load from and talk to, such as `https://api.example`, and that its icons may come from beside its own host; what else is asked for is taken out.",
    "mcp.NAME.app_permissions": "Devices that its MCP Apps may use.",
    "mcp.NAME.pins": "`tofu` trusts clean definitions at first contact, `strict` waits for a person.",
    "mcp.NAME.step_up": "The sign-in that callers must have had (RFC 9470); without it they are told how to get one. Services, which never sign in, are refused.",
    "mcp.NAME.step_up.scope": "For operations that need this scope, such as `files:write`; empty for all.",
    "mcp.NAME.step_up.acr": "The least level: `pwd`, `mfa`, or exactly what an identity provider says; empty for any.",
    "mcp.NAME.step_up.max_age_s": "The greatest age of the sign-in in seconds; -1 for any.",
    "mcp.NAME.on_change": "What a changed definition means: `block` withholds it until a person approves it, `ask` does the same and puts it first wherever an operator looks, `warn` lets it pass while its review finds nothing, and says so in every record.",
    "mcp.NAME.tools": "Effect class by tool; `write` for the rest.",
    "mcp.NAME.sandbox": "`required` refuses to start it without every wall; `auto` takes what the kernel gives, but at least seccomp.",
    "mcp.NAME.unsandboxed": "Must be written down to run it without seccomp, or with `sandbox: off`.",
    "mcp.NAME.deadline_s": "Seconds for one call.",
    "a2a.NAME.card_url": "Where its agent card stands; its origin is the only one called, but for `origins`.",
    "a2a.NAME.step_up": "The sign-in that callers must have had; as `mcp.NAME.step_up`.",
    "a2a.NAME.step_up.scope": "For operations that need this scope; empty for all.",
    "a2a.NAME.step_up.acr": "The least level; empty for any.",
    "a2a.NAME.step_up.max_age_s": "The greatest age of the sign-in in seconds; -1 for any.",
    "a2a.NAME.on_change": "What a changed card means; as `mcp.NAME.on_change`.",
    "a2a.NAME.keys": "JWK Set of public keys, one of which must have signed the card; without, a person approves the card's digest.",
    "a2a.NAME.origins": "Further origins that it may be called at.",
    "a2a.NAME.public_card": "Show our card of it without sign-in.",
    "a2a.NAME.extensions": "URIs of A2A extensions that may pass.",
    "llm.providers": "Providers, by name.",
    "llm.providers.NAME.base_url": "Where its API stands, the version included.",
    "llm.providers.NAME.protocol": "What it speaks.",
    "llm.models": "Models that clients may name, by alias.",
    "llm.models.NAME.provider": "A name under `llm.providers`.",
    "llm.models.NAME.model": "The provider's name of it.",
    "llm.models.NAME.input_usd": "US dollars per million input tokens.",
    "llm.models.NAME.output_usd": "US dollars per million output tokens.",
    "llm.models.NAME.free": "It costs nothing, so that prices of zero are meant; without, an unpriced model is refused.",
    "llm.models.NAME.max_output_tokens": "The most one answer may have; also what is reserved for it.",
    "admin.four_eyes": "Acts that need a second person, with the role `approver`, before they are done. See docs/admin.md.",
    "admin.approval_hours": "For how long a request for a second person waits.",
    "admin.idle_minutes": "After how long without a page a session of the console ends.",
    "admin.session_hours": "After how long a session of the console ends in any case.",
    "authzen.enforcers": "Other enforcers that may ask our policy at `/access/v1/evaluation`, by client id: each a client with `client_credentials`, of `identity.clients` or registered by `bartizan clients add` in the same tenant. Without any there is no such endpoint. See docs/authzen.md.",
    "authzen.enforcers.NAME.obligations": "What it promises to do; a decision that asks for anything else is a no to it.",
    "authzen.enforcers.NAME.scopes": "Patterns of the scopes it may say that its callers have. None by default.",
    "authzen.enforcers.NAME.roles": "Roles it may say that its callers have, where they are strangers to us.",
    "authzen.enforcers.NAME.strangers": "Whether it may ask about people and programs that have no account here.",
    "telemetry.otlp_endpoint": "Where spans go (OTLP over HTTP); empty sends none.",
    "telemetry.sample_ratio": "Share of requests that get a span when the caller did not say.",
}


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def settings(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting by its path; NAME stands for a name of yours."""
    for name, found in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = models_in(found.annotation)
        named = typing.get_origin(found.annotation) is dict
        if not (inner and named and f"{path}.NAME" in SECTIONS) and path not in SECTIONS:
            yield path, found
        for one in inner[:1]:
            yield from settings(one, f"{path}.NAME." if named else f"{path}.")


def words_for(path: str) -> str:
    """Return what is said of a setting; its own words before those of its kind. Raises KeyError."""
    parts = path.split(".")
    tries = [path]
    if parts[0] == "listeners" and len(parts) > 2:
        tries.append(".".join(["listeners", "*", *parts[2:]]))
    tries += [f"*.{'.'.join(parts[at + 1 :])}" for at, part in enumerate(parts) if part == "NAME"]
    for candidate in tries:
        if candidate in WORDS:
            return candidate
    raise KeyError(path)


def configuration() -> str:
    """Return configuration.md."""
    rows: dict[str, list[str]] = {section: [] for section in SECTIONS}
    used = set()
    for path, found in settings():
        section = max((s for s in SECTIONS if path == s or path.startswith(f"{s}.") or s == ""), key=len)
        key = words_for(path)
        used.add(key)
        rows[section].append(f"| `{path}` | {type_text(found)} | {default_text(found)} | {WORDS[key]} |")
    unused = set(WORDS) - used
    if unused:
        raise KeyError(f"words without a setting: {', '.join(sorted(unused))}")
    lines = [
        MADE,
        "# Configuration",
        "",
        "One YAML file, `bartizan.yaml`. `bartizan init` writes one to start from, `bartizan config check --config FILE`",
        "checks it, `bartizan config show --config FILE` prints what is in force. Unknown keys, repeated keys and values out",
        "of bounds are errors, told with their place; the node does not start with them. The JSON Schema for editors is",
        "[bartizan.schema.json](bartizan.schema.json).",
        "",
        "Secrets are never written in the file: a credential names an environment variable or a file. These variables of the",
        "environment override the file: " + ", ".join(f"`{name}` (`{key}`)" for name, key in ENVIRONMENT.items()) + ".",
        "`NAME` stands for a name of yours: a–z, 0–9 and single hyphens, at most 40 characters for servers and agents.",
    ]
    for section, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| Key | Type | Default | What it does |", "|---|---|---|---|", *rows[section]]
    return "\n".join(lines) + "\n"


def type_text(found: FieldInfo) -> str:
    """Return a setting's type in a reader's words."""
    told = [f"≥ {m.ge}" for m in found.metadata if hasattr(m, "ge")] + [
        f"> {m.gt}" for m in found.metadata if hasattr(m, "gt")
    ]
    told += [f"≤ {m.le}" for m in found.metadata if hasattr(m, "le")]
    return _type(found.annotation) + (f", {', '.join(told)}" if told else "")


def _type(annotation: object) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        named = _type(inner[1])
        return "mapping" if named in {"section", "any"} else f"mapping of {named}"
    if inner:
        return " or ".join(_type(part) for part in inner if part is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(annotation, "any")  # type: ignore[call-overload, no-any-return]


def default_text(found: FieldInfo) -> str:
    """Return a setting's default."""
    if found.default is PydanticUndefined:
        return "**required**"
    if isinstance(found.default, BaseModel) or found.default in (None, "", (), {}):
        return ""
    value = list(found.default) if isinstance(found.default, tuple) else found.default
    return f"`{json.dumps(value) if not isinstance(value, (str, Path)) else value}`"


# -- command line ----------------------------------------------------------------------------------------------

SHARED = {"config", "state_dir", "guarded", "json", "help"}


def cli() -> str:
    """Return cli.md."""
    top = command.parser()
    (commands,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    lines = [
        MADE,
        "# Command line",
        "",
        "    bartizan [--config FILE | --state-dir DIR | --run NAME] [--json] COMMAND …",
        "",
        "- `--config FILE`: bartizan.yaml. Without one, the demonstration of `bartizan up` is meant.",
        "- `--state-dir DIR`: where the node keeps its state.",
        "- `--run NAME`: the state of `bartizan run` of that name is meant ([run.md](run.md)).",
        "- `--json`: print JSON. All four may stand before or after the command.",
        "",
        "Exit codes: 0 ok · 1 a check failed or something was denied · 2 usage · 3 not running · 4 configuration.",
        "Errors are one line with a code, and a mend where there is one; `BARTIZAN_DEBUG=1` adds the traceback.",
        "",
        "Commands that change or mint something ask the running node over `admin.sock` in its state directory, which answers",
        "to its own user and to root alone. `explain`, `audit`, `backup`, `config`, `policy` and `doctor` read files and work",
        "without it. Every change is a record in the audit log, with who made it.",
    ]
    for title, members in command.GROUPS:
        lines += ["", f"## {title}"]
        for name, module in members:
            parser = commands.choices[name]
            lines += ["", f"### bartizan {name}", "", command.summary(module)]
            verbs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
            if not verbs:
                lines += options_of(f"bartizan {name}", parser)
                continue
            for verb, inner in verbs[0].choices.items():
                lines += ["", f"**{verb}**: {inner.description}", *options_of(f"bartizan {name} {verb}", inner)]
    return "\n".join(lines) + "\n"


def options_of(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return the usage and options of one command."""
    actions = [a for a in parser._actions if a.dest not in SHARED]
    said = [
        (a.metavar or a.dest).upper() if a.nargs != "?" else f"[{(a.metavar or a.dest).upper()}]"  # type: ignore[union-attr]
        for a in actions
        if not a.option_strings
    ]
    options = ["[options]"] if any(a.option_strings for a in actions) else []
    # Where a command line of somebody else's follows, ours has to end before it.
    words = [*options, *said] if any("--" in word for word in said) else [*said, *options]
    lines = ["", f"    {' '.join([name, *words])}"]
    rows = []
    for action in actions:
        value = (
            ""
            if action.nargs == 0
            else f" {action.metavar or ('|'.join(action.choices) if action.choices else action.dest.upper())}"
        )
        label = (
            f"{action.option_strings[-1]}{value}"
            if action.option_strings
            else str(action.metavar or action.dest).upper()
        )
        if action.help or action.option_strings:
            text = action.help or ""
            required = " **required**" if action.required and action.option_strings else ""
            rows.append(f"- `{label}`" + (f": {text}" if text else "") + required)
    return lines + (["", *rows] if rows else [])


# -- errors -----------------------------------------------------------------------------------------------------


def errors() -> str:
    """Return errors.md."""
    lines = [
        MADE,
        "# Errors",
        "",
        "A caller is told one of these and nothing else: the HTTP status, the JSON-RPC code, this sentence, and an id. Nothing that",
        "a caller or an upstream sent is repeated. What was decided is in the audit log: operators find the reasons with",
        "`bartizan explain ID`. What cannot be read as a message (malformed, oversized, headers that disagree, an unknown method)",
        "is refused before a decision; its record says who sent it and which of these it was told. Before anybody is known, a foreign",
        "host or origin, framing that is not acceptable and a token that is not good here have a record and an id as well: in each",
        "minute and worker 60 in all and 10 for one network, so that nobody makes a flood of them. What is beyond is counted, and has no",
        "id. What the front door refuses to strangers is bounded the same way (docs/audit.md); its answers name an OAuth error, and no",
        "id. Nor has a request without a token, which asks for the way in, a wrong path, or a wrong HTTP method.",
        "A denied `tools/call` is a tool result with `isError: true`, so that the model can adapt. Over MCP, denials by policy and",
        "faults of an upstream (-31502) are answers on HTTP 200; over A2A, all refusals but those of sign-in and scope.",
        "",
        "| Code | HTTP | JSON-RPC | What the caller reads |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{code}` | {fault.status} | {fault.rpc_code} | {fault.text} |" for code, fault in FAULTS.items()]
    lines += [
        "",
        "Codes −31999 to −31000 are ours; −32768 to −32000 are those of JSON-RPC, MCP and A2A.",
        "",
        "## What `bartizan audit verify` finds",
        "",
        "| Code | What it means |",
        "|---|---|",
        *(f"| `{code}` | {text} |" for code, text in PROBLEMS.items()),
    ]
    return "\n".join(lines) + "\n"


# -- the admin API -------------------------------------------------------------------------------------------

LETTERS = {"viewer": "v", "operator": "o", "approver": "p", "admin": "a", "owner": "w"}


def api() -> str:
    """Return api.md: every route of the admin API, with the row of the matrix that it is."""
    lines = [
        MADE,
        "# The admin API",
        "",
        "On the admin listener, below `/api/v1`, and on `admin.sock` for the owner. Bodies are JSON, and so is every answer; what is wrong is",
        "`{error, detail, fix}` with the status. `?tenant=` names another tenant: the owner's alone. Who asks is told by a",
        "session of the console (a change carries its token in `x-csrf-token`), a bearer, or the socket ([admin.md](admin.md)).",
        "",
        "Who may: v viewer, o operator, p approver, a admin, w owner. **Fresh** acts need a person who proved a moment ago who they are; a script",
        "cannot. **Two** acts wait for a second person where `admin.four_eyes` names them: the answer is then 202 with `parked`.",
        "",
        "| Method | Path | Who | | What it does |",
        "|---|---|---|---|---|",
    ]
    for method, path, act, about in sorted(routes(), key=lambda row: (row[1], row[0])):
        right = MATRIX[act]
        who = "".join(letter if role in right.roles else "·" for role, letter in LETTERS.items())
        conditions = ", ".join(word for word, given in (("fresh", right.fresh), ("two", right.second)) if given)
        lines.append(f"| {method} | `{path}` | `{who}` | {conditions} | {about} |")
    lines += ["", "The acts by name, as `firewall/admin/rights.py` has them and `admin.four_eyes` takes them:", ""]
    lines += ["| Act | Who | | Paths |", "|---|---|---|---|"]
    for act, right in MATRIX.items():
        who = "".join(letter if role in right.roles else "·" for role, letter in LETTERS.items())
        conditions = ", ".join(word for word, given in (("fresh", right.fresh), ("two", right.second)) if given)
        paths = " ".join(f"`{m} {p}`" for m, p, a, _ in sorted(routes(), key=lambda row: row[1]) if a == act)
        lines.append(f"| `{act}` | `{who}` | {conditions} | {paths or 'pages of the console alone'} |")
    return "\n".join(lines) + "\n"


def routes() -> list[tuple[str, str, str, str]]:
    """Return method, path, act and first sentence of every route of the admin API. Raises KeyError for one without an act."""
    found = []
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            (act,) = (d.call.act for d in route.dependant.dependencies if isinstance(d.call, Need))
            about = (route.endpoint.__doc__ or "").strip().splitlines()[0]
            found += [(method, route.path, act, about.replace("|", "\\|")) for method in sorted(route.methods or ())]
    return found


def schema() -> str:
    """Return bartizan.schema.json."""
    return json.dumps(config.schema(), indent=2, ensure_ascii=False) + "\n"


DOCUMENTS: dict[str, Any] = {
    "configuration.md": configuration,
    "bartizan.schema.json": schema,
    "cli.md": cli,
    "errors.md": errors,
    "api.md": api,
}

if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        (HERE / name).write_text(make(), encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
