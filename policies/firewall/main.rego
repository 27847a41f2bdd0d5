# METADATA
# scope: package
# title: The decision
# description: |
#   Joins what the rule packages say into one document of the decision contract.
#   Permission is an intersection: every package of `granted` must grant, and no package can take
#   back what another one found. Findings only ever restrict. No priorities and no first match.
#   What is between the marks is replaced, for the compiled engine, by one rule per package.
# schemas:
#   - input: schema.input
package firewall

import future.keywords.not
import rego.v1

# METADATA
# entrypoint: true
decision := {
	"contract": "1",
	"decision": effect in {"allow", "transform"},
	"effect": effect,
	"risk": risk,
	"reasons": reasons,
	"obligations": obligations,
	"shadow": shadow,
	"lifted": lifted,
} if not quiet

# The ordinary case, for speed: granted, and no package found anything.
decision := {
	"contract": "1",
	"decision": true,
	"effect": "allow",
	"risk": 0,
	"reasons": [],
	"obligations": [],
	"shadow": [],
	"lifted": [],
} if quiet

quiet if {
	count(found) == 0
	granted
}

# mark: enumerated
found contains f if {
	some rules in data.firewall.rules
	some f in rules.finding
}

# mark: end

# Both halves must agree: who is asking (identity) and what may be reached at all (tools).
granted if {
	input.point != "admin.act"
	count(data.firewall.rules.identity.grant) > 0
	count(data.firewall.rules.tools.grant) > 0
}

# People who run the house reach no upstream: instead of tools, a package of its own says what they may.
granted if {
	input.point == "admin.act"
	count(data.firewall.rules.identity.grant) > 0
	count(data.firewall.rules.admin.grant) > 0
}

shadowed contains f if {
	some f in found
	f.rule in data.config.shadow_rules
}

# An exception is data with an owner and an end; it lifts one rule for one subject at one resource.
excepted contains f if {
	some f in found
	some e in data.config.exceptions
	f.rule == e.rule
	input.subject.properties.tenant == e.tenant
	input.subject.id == e.subject
	input.resource.id == e.resource
	is_number(input.context.time_us)
	is_number(e.expires_us)
	input.context.time_us < e.expires_us
}

# A person's approval lifts the rules that were shown, and only where a person could decide.
excepted contains f if {
	some f in found
	f.effect == "approve"
	f.rule in input.context.approval.rules
}

live := found - (shadowed | excepted)

# What is not a known milder effect of a complete finding counts as deny.
milder := {"allow", "transform", "approve"}

complete(f) if {
	is_string(f.rule)
	is_string(f.code)
	is_array(f.owasp)
	is_number(f.severity)
	is_array(f.obligations)
}

effect_of(f) := f.effect if {
	f.effect in milder
	complete(f)
}

effect_of(f) := "deny" if not f.effect in milder

effect_of(f) := "deny" if not complete(f)

reason(f) := {
	"rule": object.get(f, "rule", "core.malformed_finding"),
	"effect": effect_of(f),
	"code": object.get(f, "code", "denied"),
	"owasp": object.get(f, "owasp", []),
	"severity": object.get(f, "severity", 100),
}

effects := {effect_of(f) | some f in live}

default effect := "deny"

effect := "approve" if {
	granted
	not "deny" in effects
	"approve" in effects
}

effect := "transform" if {
	granted
	not "deny" in effects
	not "approve" in effects
	"transform" in effects
}

effect := "allow" if {
	granted
	not "deny" in effects
	not "approve" in effects
	not "transform" in effects
}

reasons contains reason(f) if some f in live

reasons contains {
	"rule": "core.default_deny", "effect": "deny", "code": "no_grant",
	"owasp": ["ASI02", "ASI03"], "severity": 50,
} if {
	not granted
	not "deny" in effects
}

obligations contains o if {
	some f in live
	some o in f.obligations
}

shadow contains reason(f) if some f in shadowed

lifted contains reason(f) if some f in excepted

default risk := 0

risk := max({r.severity | some r in reasons}) if count(reasons) > 0
