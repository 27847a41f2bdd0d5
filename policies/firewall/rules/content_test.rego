package firewall.tests.content

import data.firewall.tests.identity.call

import future.keywords.not
import rego.v1

with_finding(category, severity) := object.union(call, {"context": {"findings": [{
	"control": "SCAN-00", "rule": "example", "category": category, "severity": severity,
	"pointer": "/params/arguments/text", "item": "", "detector": "patterns",
}]}})

test_a_secret_in_arguments_is_stopped if {
	data.firewall.decision.effect == "deny" with input as with_finding("secret", 90)
}

test_a_finding_of_unreadable_severity_closes_everything if {
	data.firewall.decision.effect == "deny" with input as with_finding("injection", "90")
}

test_private_addresses_pass_for_upstreams_that_need_them if {
	document := with_finding("egress", 90)
	data.firewall.decision.effect == "deny" with input as document
	data.firewall.decision.effect == "allow" with input as document with data.config.private_url_upstreams as ["git"]
}

test_content_grants_nothing if {
	not "grant" in object.keys(data.firewall.rules.content) with input as call
}
