# METADATA
# scope: package
# title: Identity and delegation
# description: |
#   Who is asking, for which tenant, with which scopes, through how many hands. Facts come from the
#   verified token alone. Grants are positive; each finding is the negation of a named positive rule,
#   so that a missing or mistyped fact denies.
# schemas:
#   - input: schema.input
package firewall.rules.identity

import data.firewall.lib.points

import future.keywords.not
import rego.v1

scopes := input.subject.properties.scopes

scope_held if input.resource.properties.scope in scopes

# Whoever may use any part of an upstream may hear its replies.
upstream_held if {
	is_string(input.resource.properties.server)
	concat(":", [input.resource.properties.server, "read"]) in scopes
}

upstream_held if {
	is_string(input.resource.properties.server)
	concat(":", [input.resource.properties.server, "write"]) in scopes
}

upstream_held if {
	is_string(input.resource.properties.server)
	concat(":", [input.resource.properties.server, "send"]) in scopes
}

tenant_served if input.subject.properties.tenant in input.resource.properties.tenants

# Models and hosts that belong to no tenant say so themselves.
tenant_served if {
	is_string(input.subject.properties.tenant)
	"*" in input.resource.properties.tenants
}

# -- grants ---------------------------------------------------------------------------------------

grant contains "identity.scope" if {
	points.asks
	scope_held
	tenant_served
	well_formed
}

grant contains "identity.reply" if {
	points.replies
	upstream_held
	tenant_served
	well_formed
}

grant contains "identity.reply_scope" if {
	points.replies
	scope_held
	tenant_served
	well_formed
}

# A card says only what any member of the tenant may know.
grant contains "identity.card" if {
	input.point == "a2a.card.serve"
	tenant_served
	well_formed
}

# A local program's egress: the proxy knows which child is asking; the address is judged by tools.
grant contains "identity.egress" if {
	input.point == "egress.connect"
	tenant_served
	well_formed
}

# A client that describes itself: nobody vouches for it yet; which hosts are good is said by tools.
grant contains "identity.client" if {
	input.point == "identity.client"
	tenant_served
	well_formed
}

# A person who runs the house, known by the admin room; which acts there are is said by admin.
grant contains "identity.act" if {
	input.point == "admin.act"
	tenant_served
	well_formed
}

# What the rules below and those of the other packages rely on. The encoder guarantees it; were it
# ever to fail, a fact of another type must not un-fire a rule.
well_formed if {
	is_object(input.action.properties.arguments)
	is_array(input.subject.properties.scopes)
	is_array(input.context.labels)
	every label in input.context.labels {
		is_string(label)
	}
	is_array(input.context.findings)
	every f in input.context.findings {
		is_string(f.rule)
		is_string(f.category)
		is_number(f.severity)
		is_string(f.pointer)
		is_string(f.item)
	}
}

# -- findings -------------------------------------------------------------------------------------

# METADATA
# title: A scope is missing
# description: The token does not carry the scope that this resource needs; asking for it would cure the refusal.
# custom:
#   owasp: [ASI03, "MCP02:2025"]
#   severity: 40
#   message_user: More permission is needed for this operation.
finding contains {
	"rule": "identity.scope_missing", "effect": "deny", "code": "scope_missing",
	"owasp": ["ASI03", "MCP02:2025"], "severity": 40,
	"obligations": [{"type": "step_up", "scope": input.resource.properties.scope}],
} if {
	points.asks
	is_string(input.resource.properties.scope)
	not scope_held
}

# METADATA
# title: The resource does not serve this tenant
# description: Tenants never reach each other's upstreams, whatever scopes a token carries.
# custom:
#   owasp: [ASI03, "MCP10:2025"]
#   severity: 90
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "identity.tenant_mismatch", "effect": "deny", "code": "tenant_mismatch",
	"owasp": ["ASI03", "MCP10:2025"], "severity": 90, "obligations": [],
} if not tenant_served

audience_fits if input.subject.properties.kind == "local"

audience_fits if {
	points.mcp
	is_string(input.context.audience)
	is_string(input.resource.properties.server)
	endswith(input.context.audience, concat("/", ["/mcp", input.resource.properties.server]))
}

audience_fits if {
	points.mcp
	is_string(input.context.audience)
	endswith(input.context.audience, "/mcp")
}

audience_fits if {
	points.a2a
	is_string(input.context.audience)
	is_string(input.resource.properties.server)
	endswith(input.context.audience, concat("/", ["/a2a", input.resource.properties.server]))
}

audience_fits if {
	points.llm
	is_string(input.context.audience)
	endswith(input.context.audience, "/v1")
}

audience_fits if input.point == "egress.connect"

audience_fits if input.point == "identity.client"

audience_fits if input.point == "admin.act"

# METADATA
# title: The token was issued for another resource
# description: Audiences do not blend; a token for one endpoint says nothing at another.
# custom:
#   owasp: [ASI03, "MCP07:2025"]
#   severity: 90
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "identity.audience", "effect": "deny", "code": "audience_mismatch",
	"owasp": ["ASI03", "MCP07:2025"], "severity": 90, "obligations": [],
} if not audience_fits

chain_short if {
	is_array(input.context.actor_chain)
	count(input.context.actor_chain) <= data.config.max_chain
}

# METADATA
# title: The actor chain is too long
# description: More agents stand between the user and this action than the platform accepts.
# custom:
#   owasp: [ASI03, ASI08]
#   severity: 70
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "identity.chain_too_deep", "effect": "deny", "code": "chain_too_deep",
	"owasp": ["ASI03", "ASI08"], "severity": 70, "obligations": [],
} if not chain_short

chain_short_for_write if {
	is_array(input.context.actor_chain)
	count(input.context.actor_chain) <= data.config.max_write_chain
}

# METADATA
# title: A delegated caller changes something
# description: The chain is short enough to read, but too long for an action that has an effect.
# custom:
#   owasp: [ASI03, ASI02]
#   severity: 65
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "identity.delegated_write", "effect": "deny", "code": "delegated_write",
	"owasp": ["ASI03", "ASI02"], "severity": 65, "obligations": [],
} if {
	input.point == "mcp.tool.call"
	not input.resource.properties.effect_class == "read"
	not chain_short_for_write
}

sender_constrained if input.subject.properties.auth.dpop == true

sender_constrained if input.subject.properties.kind == "local"

# METADATA
# title: The token is not bound to its sender
# description: This class of action needs a DPoP-bound token, which a thief cannot use.
# custom:
#   owasp: [ASI03, "MCP01:2025"]
#   severity: 60
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "identity.bearer_token", "effect": "deny", "code": "sender_constraint",
	"owasp": ["ASI03", "MCP01:2025"], "severity": 60, "obligations": [],
} if {
	input.point == "mcp.tool.call"
	input.resource.properties.effect_class in data.config.dpop_classes
	not sender_constrained
}
