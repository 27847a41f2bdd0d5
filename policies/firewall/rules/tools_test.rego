package firewall.tests.tools

import data.firewall.tests.identity.call
import rego.v1

test_one_package_cannot_open_what_another_closes if {
	closed := object.union(call, {"resource": {"properties": {"pin": "none"}}})
	count(data.firewall.rules.identity.grant) > 0 with input as closed
	count(data.firewall.rules.tools.grant) == 0 with input as closed
	data.firewall.decision.effect == "deny" with input as closed
}

model := {
	"point": "llm.request",
	"resource": {"type": "llm_model", "id": "demo/small", "properties": {
		"tenants": ["*"], "scope": "git:read", "state": "approved", "priced": false,
	}},
	"context": {"audience": "https://fw.example/v1"},
}

test_a_model_without_a_price_passes_unless_prices_are_asked if {
	document := object.union(call, model)
	data.firewall.decision.effect == "allow" with input as document
	decision := data.firewall.decision with input as document with data.config.require_priced_models as true
	"tools.model_unpriced" in {r.rule | some r in decision.reasons}
}

test_an_unsigned_card_is_refused_where_signatures_are_asked if {
	document := object.union(call, {"resource": {"type": "a2a_agent", "properties": {"signed": "none"}}})
	decision := data.firewall.decision with input as document with data.config.require_signed_cards as true
	"tools.card_signature" in {r.rule | some r in decision.reasons}
}

with_argument(name) := object.union(call, {"action": {"properties": {"arguments": {name: "/home/a/.aws/credentials"}}}})

test_protected_paths_hold_for_every_spelling_of_the_argument if {
	every name in ["path", "File", "paths", "repo_path"] {
		document := with_argument(name)
		data.firewall.decision.effect == "deny" with input as document
			with data.config.paths_inspected as false
	}
}

test_protected_paths_leave_other_arguments_alone if {
	document := with_argument("message")
	data.firewall.decision.effect == "allow" with input as document
		with data.config.paths_inspected as false
}

# Where inspection has read the paths, a rule that reads them again would only cost.
test_protected_paths_are_left_to_inspection_where_the_lists_are_the_built_in_ones if {
	document := with_argument("path")
	data.firewall.decision.effect == "allow" with input as document
		with data.config.paths_inspected as true
}

client(host) := object.union(call, {
	"point": "identity.client",
	"resource": {"type": "host", "id": host, "properties": {"host": host, "state": "pending", "tenants": ["*"]}},
})

test_a_client_is_known_by_its_host_or_by_its_domain if {
	every host in ["app.example", "a.agents.example", "a.b.agents.example"] {
		document := client(host)
		data.firewall.decision.effect == "allow" with input as document
			with data.config.client_hosts as ["app.example"]
			with data.config.client_domains as ["agents.example"]
	}
}

test_a_client_of_a_like_named_host_is_not_known if {
	every host in ["xapp.example", "sub.app.example", "agents.example", "evilagents.example", "agents.example.evil.example"] {
		document := client(host)
		data.firewall.decision.effect == "deny" with input as document
			with data.config.client_hosts as ["app.example"]
			with data.config.client_domains as ["agents.example"]
	}
}
