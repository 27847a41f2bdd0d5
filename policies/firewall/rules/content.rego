# METADATA
# scope: package
# title: Content, flow and egress
# description: |
#   What inspection saw in a message, and where the caller's data has been before. A stop on the way
#   out, a repair on the way in. This package grants nothing; it only restricts.
# schemas:
#   - input: schema.input
package firewall.rules.content

import data.firewall.lib.points

import future.keywords.not
import rego.v1

seen := [f |
	some f in input.context.findings
	not returned(f)
]

# What a server gave its client to keep (MCP, multi round-trip requests) was sealed here on its way out and goes
# back to that server alone, byte by byte: it tells it nothing, nobody reads it, and no repair would be understood.
returned(f) if {
	input.point in {"mcp.tool.call", "mcp.resource.read", "mcp.prompt.get"}
	is_string(f.pointer)
	f.pointer == "/params/requestState"
}

marks := input.context.labels

# A finding below its category's threshold is noise; one without a readable severity is not below.
below(f, category) if {
	is_number(f.severity)
	f.severity < data.config.min_severity[category]
}

# -- secrets --------------------------------------------------------------------------------------

# METADATA
# title: A secret is about to leave
# description: Keys and tokens in arguments, prompts or messages are stopped before they reach anyone.
# custom:
#   owasp: [ASI02, "LLM02:2026", "MCP01:2025"]
#   severity: 90
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.secret_in_request", "effect": "deny", "code": "secret_in_request",
	"owasp": ["ASI02", "LLM02:2026", "MCP01:2025"], "severity": 90, "obligations": [],
} if {
	points.sends
	some f in seen
	f.category == "secret"
	not below(f, "secret")
}

# METADATA
# title: A secret came back
# description: The value is replaced before anyone reads it.
# custom:
#   owasp: [ASI03, "LLM02:2026", "MCP01:2025"]
#   severity: 70
#   message_user: Parts of the content were removed.
finding contains {
	"rule": "content.secret_in_result", "effect": "transform", "code": "secret_removed",
	"owasp": ["ASI03", "LLM02:2026", "MCP01:2025"], "severity": 70,
	"obligations": [{"type": "redact", "pointer": f.pointer}],
} if {
	points.brings
	some f in seen
	f.category == "secret"
}

# METADATA
# title: The caller has seen a secret
# description: Replaced or not, what came with it is confidential; the caller's context sends nothing outward from now on.
# custom:
#   owasp: [ASI03, "LLM02:2026"]
#   severity: 10
#   message_user: ""
finding contains {
	"rule": "content.secret_seen", "effect": "allow", "code": "secret_seen",
	"owasp": ["ASI03", "LLM02:2026"], "severity": 10,
	"obligations": [{"type": "taint", "label": "secret"}],
} if {
	points.brings
	some f in seen
	f.category == "secret"
	not below(f, "secret")
	not "secret" in marks
}

# -- personal data --------------------------------------------------------------------------------

# METADATA
# title: Personal data is replaced
# description: At the points that the configuration names.
# custom:
#   owasp: [ASI03, "LLM02:2026", "MCP10:2025"]
#   severity: 40
#   message_user: Parts of the content were removed.
finding contains {
	"rule": "content.personal_data", "effect": "transform", "code": "personal_data_removed",
	"owasp": ["ASI03", "LLM02:2026", "MCP10:2025"], "severity": 40,
	"obligations": [{"type": "redact", "pointer": f.pointer}],
} if {
	input.point in data.config.pii_redact_points
	some f in seen
	f.category == "pii"
}

# METADATA
# title: The caller has seen personal data
# description: A mark for rules and records; the default rules refuse nothing for it.
# custom:
#   owasp: [ASI03, "LLM02:2026", "MCP10:2025"]
#   severity: 5
#   message_user: ""
finding contains {
	"rule": "content.personal_data_seen", "effect": "allow", "code": "personal_data_seen",
	"owasp": ["ASI03", "LLM02:2026", "MCP10:2025"], "severity": 5,
	"obligations": [{"type": "taint", "label": "pii"}],
} if {
	points.brings
	some f in seen
	f.category == "pii"
	not "pii" in marks
}

# -- hidden text ----------------------------------------------------------------------------------

# METADATA
# title: Hidden characters in a request
# description: Invisible, control or look-alike characters that people cannot see and models read.
# custom:
#   owasp: [ASI01, "LLM01:2026"]
#   severity: 75
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.hidden_in_request", "effect": "deny", "code": "hidden_text",
	"owasp": ["ASI01", "LLM01:2026"], "severity": 75, "obligations": [],
} if {
	points.sends
	some f in seen
	f.category == "hygiene"
	not below(f, "hygiene")
}

# METADATA
# title: Hidden instructions in a result
# description: The characters are stripped and the caller's context is marked.
# custom:
#   owasp: [ASI01, ASI06, "LLM01:2026", "MCP06:2025"]
#   severity: 75
#   message_user: Hidden characters were removed.
finding contains {
	"rule": "content.hidden_in_result", "effect": "transform", "code": "hidden_text_removed",
	"owasp": ["ASI01", "ASI06", "LLM01:2026", "MCP06:2025"], "severity": 75,
	"obligations": [
		{"type": "clean", "pointer": f.pointer},
		{"type": "taint", "label": "hidden_instructions"},
	],
} if {
	points.brings
	some f in seen
	f.category == "hygiene"
	not below(f, "hygiene")
}

# METADATA
# title: Control characters
# description: Colours of a terminal, a stray zero-width space; stripped without further consequence.
# custom:
#   owasp: [ASI01, "LLM01:2026"]
#   severity: 20
#   message_user: Hidden characters were removed.
finding contains {
	"rule": "content.control_characters", "effect": "transform", "code": "control_characters_removed",
	"owasp": ["ASI01", "LLM01:2026"], "severity": 20,
	"obligations": [{"type": "clean", "pointer": f.pointer}],
} if {
	not points.definitions
	some f in seen
	f.category == "hygiene"
	below(f, "hygiene")
}

# -- instructions ---------------------------------------------------------------------------------

# METADATA
# title: Content reads like an instruction to the model
# description: A signature is advice, never the barrier; it marks the context, and the sink rules hold.
# custom:
#   owasp: [ASI01, ASI06, "LLM01:2026", "MCP06:2025"]
#   severity: 50
#   message_user: ""
finding contains {
	"rule": "content.injection_suspected", "effect": "allow", "code": "injection_suspected",
	"owasp": ["ASI01", "ASI06", "LLM01:2026", "MCP06:2025"], "severity": 50,
	"obligations": [{"type": "taint", "label": "injection_suspected"}],
} if {
	not points.definitions
	some f in seen
	f.category == "injection"
	not below(f, "injection")
}

# -- definitions ----------------------------------------------------------------------------------

suspect_categories := {"secret", "hygiene", "injection", "markup", "review"}

suspect contains f if {
	points.definitions
	some f in seen
	f.category in suspect_categories
	not below(f, f.category)
}

# METADATA
# title: A definition in a list is poisoned
# description: The entry is left out of the list; the rest of the list goes on.
# custom:
#   owasp: [ASI01, ASI04, "MCP03:2025"]
#   severity: 85
#   message_user: Some entries are not available.
finding contains {
	"rule": "content.poisoned_entry", "effect": "transform", "code": "entry_quarantined",
	"owasp": ["ASI01", "ASI04", "MCP03:2025"], "severity": 85,
	"obligations": [{"type": "drop_item", "id": f.item}],
} if {
	some f in suspect
	in_entry(f)
}

# METADATA
# title: A definition is poisoned
# description: Instructions of a server, a card, or list text outside any entry cannot be dropped in part.
# custom:
#   owasp: [ASI01, ASI04, "MCP03:2025"]
#   severity: 85
#   message_user: This definition is not available.
finding contains {
	"rule": "content.poisoned_definition", "effect": "deny", "code": "quarantined",
	"owasp": ["ASI01", "ASI04", "MCP03:2025"], "severity": 85, "obligations": [],
} if {
	some f in suspect
	not in_entry(f)
}

in_entry(f) if {
	is_string(f.item)
	f.item != ""
}

# METADATA
# title: A client offers a poisoned tool to the model
# description: Tool definitions inside a model request are read as instructions too.
# custom:
#   owasp: [ASI01, ASI04, "LLM01:2026", "MCP03:2025"]
#   severity: 80
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.poisoned_tool_offer", "effect": "deny", "code": "poisoned_definition",
	"owasp": ["ASI01", "ASI04", "LLM01:2026", "MCP03:2025"], "severity": 80, "obligations": [],
} if {
	input.point == "llm.request"
	some f in seen
	f.category == "injection"
	not below(f, "injection")
	is_string(f.pointer)
	startswith(f.pointer, "/tools/")
}

# -- markup and addresses ---------------------------------------------------------------------------

# METADATA
# title: Markup would send data out
# description: Images, links and references to foreign hosts that carry data when they are shown.
# custom:
#   owasp: [ASI09, "LLM02:2026", "LLM10:2026"]
#   severity: 65
#   message_user: Parts of the content were removed.
finding contains {
	"rule": "content.markup_egress", "effect": "transform", "code": "markup_removed",
	"owasp": ["ASI09", "LLM02:2026", "LLM10:2026"], "severity": 65,
	"obligations": [{"type": "redact", "pointer": f.pointer}],
} if {
	points.brings
	some f in seen
	f.category == "markup"
	not below(f, "markup")
}

private_allowed if input.resource.properties.server in data.config.private_url_upstreams

# METADATA
# title: An argument names a private or metadata address
# description: A URL that leads inside the house or to a cloud's metadata service.
# custom:
#   owasp: [ASI02, ASI05, "MCP05:2025"]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.private_address", "effect": "deny", "code": "private_address",
	"owasp": ["ASI02", "ASI05", "MCP05:2025"], "severity": 85, "obligations": [],
} if {
	input.point in {
		"mcp.tool.call", "mcp.resource.read", "mcp.resource.watch", "mcp.prompt.get",
		"mcp.elicitation.answer", "mcp.sampling.answer",
		"a2a.message.send", "llm.tool_call",
	}
	some f in seen
	f.category == "egress"
	not below(f, "egress")
	not own_file(f)
	not private_allowed
}

# A resource may be a file of its server: which ones there are is listed and pinned.
own_file(f) if {
	input.point in {"mcp.resource.read", "mcp.resource.watch"}
	f.rule == "egress.local_scheme"
	f.pointer == "/params/uri"
}

# A root is a file of the client: its answer was decided at a point of its own.
own_file(f) if {
	f.rule == "egress.local_scheme"
	is_string(f.pointer)
	startswith(f.pointer, "/params/inputResponses/")
}

# METADATA
# title: An argument is not in its normal form
# description: Paths, URLs, hosts and statements that mean one thing to us and another to the tool.
# custom:
#   owasp: [ASI02, ASI05, "MCP05:2025"]
#   severity: 75
#   message_user: The parameters are not valid.
finding contains {
	"rule": "content.not_normal", "effect": "deny", "code": "not_normal_form",
	"owasp": ["ASI02", "ASI05", "MCP05:2025"], "severity": 75, "obligations": [],
} if {
	points.sends
	some f in seen
	f.category in {"normal_form", "schema"}
	not below(f, f.category)
}

# -- flow -----------------------------------------------------------------------------------------

trusted if input.resource.properties.trust == "trusted"

# METADATA
# title: Text of a source that nobody vouches for
# description: The caller's context loses integrity; what it may still do is decided at each sink. Definitions do not count, they are reviewed and pinned.
# custom:
#   owasp: [ASI01, ASI06, "MCP10:2025"]
#   severity: 10
#   message_user: ""
finding contains {
	"rule": "content.untrusted_source", "effect": "allow", "code": "untrusted_source",
	"owasp": ["ASI01", "ASI06", "MCP10:2025"], "severity": 10,
	"obligations": [{"type": "taint", "label": "untrusted"}],
} if {
	input.point in {
		"mcp.tool.result", "mcp.notify.server", "mcp.error",
		"mcp.resource.result", "mcp.prompt.result", "mcp.completion.result", "mcp.task.status",
		"mcp.sampling.ask", "mcp.elicitation.ask",
		"a2a.message.receive", "a2a.task.update", "a2a.error",
	}
	not trusted
	not "untrusted" in marks
}

# METADATA
# title: A model's answer, or tool outputs in its input, that nobody vouches for
# description: A provider marked untrusted, and what a client says its own tools returned; history can only add labels.
# custom:
#   owasp: [ASI01, ASI06, "LLM01:2026"]
#   severity: 10
#   message_user: ""
finding contains {
	"rule": "content.untrusted_turn", "effect": "allow", "code": "untrusted_source",
	"owasp": ["ASI01", "ASI06", "LLM01:2026"], "severity": 10,
	"obligations": [{"type": "taint", "label": "untrusted"}],
} if {
	untrusted_turn
	not "untrusted" in marks
}

untrusted_turn if {
	input.point in {"llm.response", "llm.tool_call"}
	input.resource.properties.trust == "untrusted"
}

untrusted_turn if {
	input.point == "llm.request"
	is_number(input.action.properties.arguments.tool_outputs)
	input.action.properties.arguments.tool_outputs > 0
}

consequential if {
	input.point == "mcp.tool.call"
	not input.resource.properties.effect_class in {"read", "write"}
}

outward if {
	input.point == "mcp.tool.call"
	input.resource.properties.effect_class in {"send", "pay"}
}

outward if input.point == "a2a.message.send"

# What a person or a model answers to a server that nobody vouches for has left the house.
outward if {
	input.point in {"mcp.sampling.answer", "mcp.elicitation.answer"}
	not trusted
}

# METADATA
# title: Untrusted data before a consequential action
# description: The rule of two; a person decides over the exact arguments.
# custom:
#   owasp: [ASI01, ASI02, "LLM01:2026", "MCP06:2025"]
#   severity: 60
#   message_user: This action waits for a person's approval.
finding contains {
	"rule": "content.untrusted_to_sink", "effect": "approve", "code": "untrusted_flow",
	"owasp": ["ASI01", "ASI02", "LLM01:2026", "MCP06:2025"], "severity": 60, "obligations": [],
} if {
	consequential
	"untrusted" in marks
}

# METADATA
# title: Suspected instructions before a consequential action
# description: A signature matched earlier in this caller's context; a person decides.
# custom:
#   owasp: [ASI01, ASI02, "LLM01:2026", "MCP06:2025"]
#   severity: 75
#   message_user: This action waits for a person's approval.
finding contains {
	"rule": "content.suspected_to_sink", "effect": "approve", "code": "suspected_flow",
	"owasp": ["ASI01", "ASI02", "LLM01:2026", "MCP06:2025"], "severity": 75, "obligations": [],
} if {
	consequential
	"injection_suspected" in marks
}

# METADATA
# title: Hidden instructions before a consequential action
# description: Somebody hid text in this caller's context; nothing of consequence follows from it.
# custom:
#   owasp: [ASI01, ASI02, "LLM01:2026", "MCP06:2025"]
#   severity: 90
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.hidden_to_sink", "effect": "deny", "code": "hidden_flow",
	"owasp": ["ASI01", "ASI02", "LLM01:2026", "MCP06:2025"], "severity": 90, "obligations": [],
} if {
	consequential
	"hidden_instructions" in marks
}

# METADATA
# title: Secret data before an outward action
# description: A context that has seen secrets sends nothing out.
# custom:
#   owasp: [ASI03, ASI02, "LLM02:2026"]
#   severity: 90
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "content.secret_to_sink", "effect": "deny", "code": "secret_flow",
	"owasp": ["ASI03", "ASI02", "LLM02:2026"], "severity": 90, "obligations": [],
} if {
	outward
	"secret" in marks
}
