package firewall.tests.identity

import future.keywords.not
import rego.v1

call := {
	"contract": "1",
	"point": "mcp.tool.call",
	"subject": {"type": "agent", "id": "alice", "properties": {
		"tenant": "acme", "client": "https://agent.example/client.json", "scopes": ["git:read"], "roles": [], "kind": "user",
		"auth": {"method": "oauth", "acr": "", "auth_time": 0, "cimd_verified": true, "dpop": false},
	}},
	"action": {"name": "tools/call", "properties": {"arguments": {}, "side_effect": true}},
	"resource": {"type": "mcp_tool", "id": "git/git_status", "properties": {
		"trust": "trusted", "schema": "ok", "server": "git", "state": "approved", "tenants": ["acme"],
		"effect_class": "read", "pin": "approved", "scope": "git:read",
	}},
	"context": {
		"time_us": 1795000000000000, "labels": [], "findings": [], "limits": {}, "approval": null,
		"actor_chain": [{"sub": "alice", "type": "user"}], "audience": "https://fw.example/mcp/git",
	},
}

test_an_ordinary_call_is_allowed if {
	data.firewall.decision.effect == "allow" with input as call
}

test_without_any_input_nothing_is_granted if {
	data.firewall.decision.effect == "deny" with input as {}
}

test_a_missing_tenant_is_refused_although_it_is_only_missing if {
	document := object.union(call, {"subject": {"properties": {"tenant": null}}})
	found := {r.rule | some r in data.firewall.decision.reasons} with input as document
	"identity.tenant_mismatch" in found
}

test_a_bearer_token_is_refused_where_dpop_is_asked if {
	document := object.union(call, {"resource": {"properties": {"effect_class": "pay"}}})
	found := {r.rule | some r in data.firewall.decision.reasons} with input as document with data.config.dpop_classes as ["pay"]
	"identity.bearer_token" in found
}

test_a_bound_token_is_enough_where_dpop_is_asked if {
	document := object.union(call, {
		"resource": {"properties": {"effect_class": "pay"}},
		"subject": {"properties": {"auth": {"dpop": true}}},
	})
	found := {r.rule | some r in data.firewall.decision.reasons} with input as document with data.config.dpop_classes as ["pay"]
	not "identity.bearer_token" in found
}

exception := {
	"rule": "identity.chain_too_deep", "tenant": "acme", "subject": "alice", "resource": "git/git_status",
	"expires_us": 1795000000000001, "ticket": "SEC-1",
}

deep := object.union(call, {"context": {"actor_chain": [1, 2, 3, 4, 5, 6]}})

test_an_exception_lifts_its_rule_until_it_ends if {
	data.firewall.decision.effect == "allow" with input as deep with data.config.exceptions as [exception]
}

test_an_exception_that_ended_lifts_nothing if {
	ended := object.union(exception, {"expires_us": 1795000000000000})
	data.firewall.decision.effect == "deny" with input as deep with data.config.exceptions as [ended]
}

test_an_exception_of_another_tenant_lifts_nothing if {
	foreign := object.union(exception, {"tenant": "globex"})
	data.firewall.decision.effect == "deny" with input as deep with data.config.exceptions as [foreign]
}

test_a_rule_in_shadow_is_reported_and_does_not_count if {
	decision := data.firewall.decision with input as deep with data.config.shadow_rules as ["identity.chain_too_deep"]
	decision.effect == "allow"
	count(decision.shadow) == 1
}

test_an_exception_never_grants if {
	document := object.union(call, {"resource": {"properties": {"pin": "none"}}})
	lifting := object.union(exception, {"rule": "core.default_deny"})
	data.firewall.decision.effect == "deny" with input as document with data.config.exceptions as [lifting]
}
