package firewall.tests.questions

import data.firewall.tests.identity.call

import future.keywords.not
import rego.v1

url := object.union(call, {
	"point": "mcp.elicitation.ask",
	"action": {"name": "elicitation/create", "properties": {"arguments": {
		"mode": "url", "scheme": "https", "host_class": "public", "host": "login.example.com", "userinfo": false, "idn": false,
	}}},
	"resource": {"type": "mcp_server", "id": "git", "properties": {"asks": ["elicitation"]}},
})

form(fields) := object.union(url, {"action": {"properties": {"arguments": {"mode": "form", "fields": fields}}}})

roots := object.union(url, {"point": "mcp.roots.answer", "resource": {"properties": {"asks": ["roots"], "trust": "untrusted"}}})

rules(document) := found if {
	found := {r.rule | some r in data.firewall.decision.reasons} with input as document
}

test_an_address_passes_where_no_hosts_are_named if {
	data.firewall.decision.effect == "allow" with input as url
}

test_an_address_stays_among_the_hosts_that_are_named if {
	own := {"git": ["example.com"]}
	data.firewall.decision.effect == "allow" with input as url with data.config.elicitation_hosts as own
	foreign := {"git": ["example.org", "n.example.com"]}
	decision := data.firewall.decision with input as url with data.config.elicitation_hosts as foreign
	"questions.foreign_host" in {r.rule | some r in decision.reasons}
}

test_a_host_that_only_ends_alike_is_foreign if {
	document := object.union(url, {"action": {"properties": {"arguments": {"host": "evilexample.com"}}}})
	decision := data.firewall.decision with input as document with data.config.elicitation_hosts as {"git": ["example.com"]}
	"questions.foreign_host" in {r.rule | some r in decision.reasons}
}

test_another_upstream_s_hosts_say_nothing if {
	data.firewall.decision.effect == "allow" with input as url with data.config.elicitation_hosts as {"time": ["example.org"]}
}

test_a_name_of_the_house_passes_only_where_it_is_written_down if {
	document := object.union(url, {"action": {"properties": {"arguments": {"host_class": "private", "host": "sso.corp.internal"}}}})
	"questions.unsafe_address" in rules(document)
	data.firewall.decision.effect == "allow" with input as document with data.config.elicitation_hosts as {"git": ["corp.internal"]}
}

test_an_address_of_the_house_passes_nowhere if {
	document := object.union(url, {"action": {"properties": {"arguments": {"host_class": "private", "host": "10.0.0.1"}}}})
	data.firewall.decision.effect == "deny" with input as document with data.config.elicitation_hosts as {"git": ["10.0.0.1"]}
}

test_forms_never_name_secrets if {
	every field in ["Password", "new-password", "api key", "X.Token", "pin", "cardNumber"] {
		"questions.secret_form" in rules(form(["name", field]))
	}
}

test_ordinary_forms_pass if {
	every field in ["branch", "spinner", "tokenise", "keynote", "dashboard"] {
		not "questions.secret_form" in rules(form(["name", field]))
	}
}

test_a_form_as_long_as_the_contract_admits_is_still_judged if {
	fields := [sprintf("field%d", [n]) | some n in numbers.range(1, 1024)]
	data.firewall.decision.effect == "allow" with input as form(fields)
	"questions.secret_form" in rules(form(array.concat(fields, ["password"])))
}

test_roots_are_told_to_whom_the_configuration_names if {
	"questions.roots_untrusted" in rules(roots)
	data.firewall.decision.effect == "allow" with input as roots with data.config.roots_to_untrusted as ["git"]
}

test_questions_grant_nothing if {
	not "grant" in object.keys(data.firewall.rules.questions) with input as url
}
