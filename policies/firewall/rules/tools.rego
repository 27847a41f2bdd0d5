# METADATA
# scope: package
# title: Tools, resources, prompts, agents, models and hosts
# description: |
#   What may be reached at all: registered, approved, unchanged since its approval, called as its
#   schema says. Facts come from the registry, the pins and the configuration, never from a message.
# schemas:
#   - input: schema.input
package firewall.rules.tools

import data.firewall.lib.points

import future.keywords.not
import rego.v1

facts := input.resource.properties

# -- grants ---------------------------------------------------------------------------------------

registered if facts.state == "approved"

# A changed definition passes where the operator wrote `on_change: warn`; a rule below says so each time.
pinned if facts.pin in {"approved", "warned"}

# What a template or another reply named, and no list showed, has no definition that could be pinned.
pinned_or_unlisted if facts.pin in {"approved", "warned", "none"}

classes := {"read", "write", "destroy", "send", "pay", "exec", "admin"}

grant contains "tools.call" if {
	input.point == "mcp.tool.call"
	input.resource.type == "mcp_tool"
	registered
	pinned
	facts.effect_class in classes
	facts.schema in {"ok", "none"}
}

grant contains "tools.server" if {
	input.point in {
		"mcp.session.open", "mcp.notify.client", "mcp.tool.list",
		"mcp.resource.list", "mcp.resource.watch", "mcp.prompt.list",
		"mcp.pong", "mcp.session.opened", "mcp.notify.server", "mcp.error",
	}
	registered
}

grant contains "tools.read" if {
	input.point in {"mcp.resource.read", "mcp.completion.ask"}
	input.resource.type == "mcp_resource"
	registered
	pinned_or_unlisted
}

grant contains "tools.prompt" if {
	input.point in {"mcp.prompt.get", "mcp.completion.ask"}
	input.resource.type == "mcp_prompt"
	registered
	pinned
}

grant contains "tools.result" if {
	input.point in {
		"mcp.tool.result", "mcp.resource.result", "mcp.prompt.result", "mcp.completion.result",
		"mcp.task.get", "mcp.task.cancel", "mcp.task.status",
	}
	registered
}

grant contains "tools.listed" if {
	points.lists
	registered
	list_readable
}

# A server asks its client only for what its operator named; an answer follows the same word.
grant contains "tools.sampling" if {
	points.sampling
	registered
	asks_for("sampling")
}

grant contains "tools.elicitation" if {
	points.elicitation
	registered
	asks_for("elicitation")
}

grant contains "tools.roots" if {
	points.roots
	registered
	asks_for("roots")
}

asks_for(what) if {
	is_array(facts.asks)
	what in facts.asks
}

grant contains "tools.agent" if {
	input.point in {"a2a.message.send", "a2a.card.serve"}
	registered
	pinned
	facts.signed in {"verified", "none"}
}

grant contains "tools.agent_task" if {
	input.point in {"a2a.task.get", "a2a.task.cancel", "a2a.message.receive", "a2a.task.update", "a2a.error"}
	registered
}

grant contains "tools.model" if {
	points.llm
	registered
}

grant contains "tools.host" if {
	input.point == "egress.connect"
	input.resource.type == "host"
	address_public
	facts.port in data.config.egress_ports
}

# An upstream that was configured for a private or loopback network may use that network only.
grant contains "tools.own_network" if {
	input.point == "egress.connect"
	input.resource.type == "host"
	address_own
}

# A client's metadata document (identity.cimd.policy: policy): asked before its host is reached, and again
# about what the document says. The host is what a person will be shown as the client.
grant contains "tools.client" if {
	input.point == "identity.client"
	input.resource.type == "host"
	client_known
}

client_known if registered

client_known if {
	is_string(facts.host)
	facts.host in data.config.client_hosts
}

client_known if {
	is_string(facts.host)
	some domain in data.config.client_domains
	is_string(domain)
	endswith(facts.host, concat("", [".", domain]))
}

address_public if facts.address_class == "public"

address_own if {
	facts.network in {"private", "loopback"}
	facts.address_class == facts.network
}

# -- findings: registry and pins ------------------------------------------------------------------

# METADATA
# title: Not approved, suspended or revoked
# description: Only upstreams and agents that an operator approved may be used; a suspension counts at once.
# custom:
#   owasp: [ASI04, ASI10, "MCP09:2025"]
#   severity: 80
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "tools.not_approved", "effect": "deny", "code": "not_approved",
	"owasp": ["ASI04", "ASI10", "MCP09:2025"], "severity": 80, "obligations": [],
} if {
	input.point != "egress.connect"
	input.point != "identity.client"
	input.point != "admin.act"
	not registered
}

# METADATA
# title: The definition changed after approval
# description: The canonical hash differs from the approved pin (rug pull).
# custom:
#   owasp: [ASI04, "MCP03:2025"]
#   severity: 90
#   message_user: This definition changed since it was approved.
finding contains {
	"rule": "tools.pin_changed", "effect": "deny", "code": "quarantined",
	"owasp": ["ASI04", "MCP03:2025"], "severity": 90, "obligations": [],
} if facts.pin == "changed"

# METADATA
# title: The definition changed, and its operator lets it through
# description: The upstream is set to warn on change. The call goes on and the record says what it went on with.
# custom:
#   owasp: [ASI04, "MCP03:2025"]
#   severity: 60
#   message_user: ""
finding contains {
	"rule": "tools.pin_warned", "effect": "allow", "code": "definition_changed",
	"owasp": ["ASI04", "MCP03:2025"], "severity": 60,
	"obligations": [{"type": "notify", "channel": "audit"}],
} if changed_and_warned

changed_and_warned if facts.pin == "warned"

changed_and_warned if {
	points.lists
	some item in items
	item.pin == "warned"
	usable(item)
}

# METADATA
# title: The definition was never approved
# description: A tool, prompt, resource or agent that appeared after the first contact waits for an operator.
# custom:
#   owasp: [ASI04, "MCP03:2025"]
#   severity: 70
#   message_user: This definition changed since it was approved.
finding contains {
	"rule": "tools.pin_new", "effect": "deny", "code": "quarantined",
	"owasp": ["ASI04", "MCP03:2025"], "severity": 70, "obligations": [],
} if facts.pin == "new"

# METADATA
# title: Arguments do not fit the pinned schema
# description: Checked natively against the approved schema before policy; extra members count as well.
# custom:
#   owasp: [ASI02, "LLM03:2026"]
#   severity: 60
#   message_user: The parameters are not valid.
finding contains {
	"rule": "tools.schema_mismatch", "effect": "deny", "code": "schema_mismatch",
	"owasp": ["ASI02", "LLM03:2026"], "severity": 60, "obligations": [],
} if facts.schema == "mismatch"

# METADATA
# title: The agent's card is not signed as required
# description: A failed signature is always refused; a missing one where the platform asks for signatures.
# custom:
#   owasp: [ASI07, ASI04]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "tools.card_signature", "effect": "deny", "code": "card_signature",
	"owasp": ["ASI07", "ASI04"], "severity": 85, "obligations": [],
} if card_unacceptable

card_unacceptable if facts.signed == "failed"

card_unacceptable if {
	input.resource.type in {"a2a_agent", "a2a_card"}
	data.config.require_signed_cards == true
	not facts.signed == "verified"
}

# METADATA
# title: The model has no known price
# description: Without a price a budget means nothing.
# custom:
#   owasp: [ASI08, "LLM06:2026"]
#   severity: 40
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "tools.model_unpriced", "effect": "deny", "code": "model_unpriced",
	"owasp": ["ASI08", "LLM06:2026"], "severity": 40, "obligations": [],
} if {
	input.point == "llm.request"
	data.config.require_priced_models == true
	not facts.priced == true
}

# -- findings: lists ------------------------------------------------------------------------------

items := input.action.properties.arguments.items

list_readable if {
	is_array(items)
	every item in items {
		is_string(item.id)
		item.id != ""
	}
}

usable(item) if {
	item.state == "approved"
	item.pin in {"approved", "warned"}
	item.scope in input.subject.properties.scopes
}

# Its person could add the scope (mcp.NAME.lists: grantable): a call of it is answered with the challenge.
usable(item) if {
	item.state == "approved"
	item.pin in {"approved", "warned"}
	item.step_up == true
}

# METADATA
# title: Entries that the caller may not use
# description: Hidden from the list, so that a model never reads a definition that it could not call.
# custom:
#   owasp: [ASI02, ASI04, "LLM08:2026"]
#   severity: 10
#   message_user: Some entries are not available.
finding contains {
	"rule": "tools.visibility", "effect": "transform", "code": "items_hidden",
	"owasp": ["ASI02", "ASI04", "LLM08:2026"], "severity": 10, "obligations": hidden,
} if {
	points.lists
	count(hidden) > 0
}

hidden := [{"type": "drop_item", "id": item.id} |
	some item in items
	not usable(item)
]

# -- findings: calls ------------------------------------------------------------------------------

# METADATA
# title: This class of action asks a person
# description: Code execution, administration and payments wait for an approval of the exact arguments.
# custom:
#   owasp: [ASI02, ASI09, "LLM03:2026"]
#   severity: 50
#   message_user: This action waits for a person's approval.
finding contains {
	"rule": "tools.approval_required", "effect": "approve", "code": "approval_required",
	"owasp": ["ASI02", "ASI09", "LLM03:2026"], "severity": 50, "obligations": [],
} if {
	input.point in {"mcp.tool.call", "llm.tool_call"}
	facts.effect_class in data.config.approval_classes
}

# Inspection finds the built-in list at any depth; `paths_inspected` is set by the loader where this bundle's
# lists are the built-in ones, and rules then leave the arguments unread.
path_values contains value if {
	not data.config.paths_inspected == true
	some name, value in input.action.properties.arguments
	is_string(name)
	lower(name) in data.config.path_arguments
}

# Paths stand deeper as well: in an options object, in a list of edits.
path_values contains value if {
	not data.config.paths_inspected == true
	some outer in input.action.properties.arguments
	is_object(outer)
	some name, value in outer
	is_string(name)
	lower(name) in data.config.path_arguments
}

path_values contains value if {
	not data.config.paths_inspected == true
	some outer in input.action.properties.arguments
	is_array(outer)
	some inner in outer
	is_object(inner)
	some name, value in inner
	is_string(name)
	lower(name) in data.config.path_arguments
}

# A completion has its value beside its name. A template's variable is part of an address, whatever it is called.
path_values contains value if {
	input.point == "mcp.completion.ask"
	is_string(input.action.properties.arguments.argument.name)
	lower(input.action.properties.arguments.argument.name) in data.config.path_arguments
	value := input.action.properties.arguments.argument.value
}

path_values contains value if {
	input.point == "mcp.completion.ask"
	input.resource.type == "mcp_resource"
	value := input.action.properties.arguments.argument.value
}

path_values contains value if {
	input.point == "mcp.completion.ask"
	input.resource.type == "mcp_resource"
	some value in input.action.properties.arguments.context
}

names_protected(value) if {
	is_string(value)
	astray(value)
}

names_protected(value) if {
	is_array(value)
	some part in value
	is_string(part)
	astray(part)
}

astray(text) if {
	is_string(text)
	strings.any_prefix_match(lower(text), data.config.protected_prefixes)
}

# Every protected name begins with a dot: a path without such a part needs no loop.
astray(text) if {
	is_string(text)
	whole := concat("", ["/", replace(lower(text), "\\", "/"), "/"])
	is_string(whole)
	contains(whole, "/.")
	some name in data.config.protected_names
	is_string(name)
	contains(whole, name)
}

# METADATA
# title: A path leads to keys or start-up files
# description: Credentials of the account, hooks, editor and CI settings that execute, kernel interfaces.
# custom:
#   owasp: [ASI05, ASI02, "MCP05:2025"]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "tools.protected_path", "effect": "deny", "code": "protected_path",
	"owasp": ["ASI05", "ASI02", "MCP05:2025"], "severity": 85, "obligations": [],
} if {
	input.point in {"mcp.tool.call", "mcp.resource.read", "mcp.resource.watch", "mcp.completion.ask"}
	leads_astray
}

leads_astray if {
	some value in path_values
	names_protected(value)
}

# Deeper than rules can walk on every engine, inspection sees it.
leads_astray if {
	some f in input.context.findings
	f.rule == "path.protected"
	not f.pointer == "/params/requestState" # the server's own, on its way back to it (see content.returned)
}

# METADATA
# title: The address of a resource is of a kind that carries its own content
# description: Schemes that no server needs to be asked for, and that clients run or show as their own.
# custom:
#   owasp: [ASI05, ASI02, "MCP05:2025"]
#   severity: 70
#   message_user: The parameters are not valid.
finding contains {
	"rule": "tools.resource_scheme", "effect": "deny", "code": "resource_scheme",
	"owasp": ["ASI05", "ASI02", "MCP05:2025"], "severity": 70, "obligations": [],
} if {
	input.point in {"mcp.resource.read", "mcp.resource.watch"}
	some scheme in data.config.refused_uri_schemes
	input.action.properties.arguments.uri_scheme == scheme
}

# -- findings: egress of local programs -------------------------------------------------------------

# METADATA
# title: A local program reaches for an address that is not public
# description: Private, loopback, link-local and metadata addresses are refused unless the upstream was given that network.
# custom:
#   owasp: [ASI02, ASI05, "MCP05:2025"]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "tools.egress_address", "effect": "deny", "code": "egress_address",
	"owasp": ["ASI02", "ASI05", "MCP05:2025"], "severity": 85, "obligations": [],
} if {
	input.point == "egress.connect"
	not address_public
	not address_own
}
