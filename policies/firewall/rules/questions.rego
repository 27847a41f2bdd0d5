# METADATA
# scope: package
# title: What a server asks of its client
# description: |
#   Sampling, elicitation and roots, and the answers to them. Whether a server may ask at all is its
#   upstream's `asks` (tools grants it); here is what the questions may hold. Each finding is the
#   negation of a named positive rule, or stands beside `questions.unreadable`, so that a fact that
#   is missing or of another type denies. This package grants nothing.
# schemas:
#   - input: schema.input
package firewall.rules.questions

import data.firewall.lib.points

import future.keywords.not
import rego.v1

said := input.action.properties.arguments

trusted if input.resource.properties.trust == "trusted"

# -- whether it may ask, and whether we can read it -------------------------------------------------

offered if {
	points.sampling
	asks_for("sampling")
}

offered if {
	points.elicitation
	asks_for("elicitation")
}

offered if {
	points.roots
	asks_for("roots")
}

asks_for(what) if {
	is_array(input.resource.properties.asks)
	what in input.resource.properties.asks
}

# METADATA
# title: A server asks for what its operator did not name
# description: Sampling, elicitation and roots are off unless an upstream's `asks` names them; the answer follows the question.
# custom:
#   owasp: [ASI01, ASI09, "LLM06:2026", "MCP06:2025"]
#   severity: 70
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.not_offered", "effect": "deny", "code": "question_refused",
	"owasp": ["ASI01", "ASI09", "LLM06:2026", "MCP06:2025"], "severity": 70, "obligations": [],
} if {
	points.questions
	not offered
}

readable if {
	input.point == "mcp.sampling.ask"
	is_number(said.max_tokens)
	is_number(said.tools)
	is_string(said.include_context)
}

readable if {
	input.point == "mcp.elicitation.ask"
	said.mode == "form"
	names(said.fields)
}

readable if {
	input.point == "mcp.elicitation.ask"
	said.mode == "url"
	is_string(said.scheme)
	is_string(said.host)
}

readable if {
	input.point == "mcp.elicitation.answer"
	said.action in {"accept", "decline", "cancel"}
	names(said.fields)
}

readable if input.point in {"mcp.sampling.answer", "mcp.roots.ask", "mcp.roots.answer"}

names(fields) if {
	is_array(fields)
	every name in fields {
		is_string(name)
	}
}

# METADATA
# title: A question that cannot be read
# description: An unknown mode of elicitation, or a part that no rule could judge.
# custom:
#   owasp: [ASI09, "MCP06:2025"]
#   severity: 60
#   message_user: The parameters are not valid.
finding contains {
	"rule": "questions.unreadable", "effect": "deny", "code": "question_unreadable",
	"owasp": ["ASI09", "MCP06:2025"], "severity": 60, "obligations": [],
} if {
	points.questions
	not readable
}

# -- elicitation: forms -----------------------------------------------------------------------------

# One text of all names: each rule then reads it once, however long the form is.
secret_words(texts) if {
	is_array(texts)
	every text in texts {
		is_string(text)
	}
	whole := lower(concat("\n", texts))
	is_string(whole)
	some part in data.config.secret_field_parts
	is_string(part)
	contains(whole, part)
}

secret_words(texts) if {
	is_array(texts)
	every text in texts {
		is_string(text)
	}
	plain := replace(replace(replace(lower(concat("_\n_", texts)), "-", "_"), " ", "_"), ".", "_")
	is_string(plain)
	whole := concat("", ["_", plain, "_"])
	is_string(whole)
	some word in data.config.secret_field_words
	is_string(word)
	contains(whole, word)
}

# Inspection reads the form's titles, descriptions and formats as well, look-alike letters folded.
secret_asked if {
	some f in input.context.findings
	f.rule == "review.secret_field"
}

secret_asked if secret_words(said.fields)

secret_asked if secret_words(said.titles)

secret_asked if secret_words(said.formats)

# METADATA
# title: A form asks for a secret
# description: Passwords, tokens, keys and card numbers are never typed into a form that a server made; an address of the server itself is the way.
# custom:
#   owasp: [ASI09, ASI03, "LLM02:2026", "MCP01:2025"]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.secret_form", "effect": "deny", "code": "secret_asked",
	"owasp": ["ASI09", "ASI03", "LLM02:2026", "MCP01:2025"], "severity": 85, "obligations": [],
} if {
	input.point == "mcp.elicitation.ask"
	secret_asked
}

# METADATA
# title: An answer carries a field that is named as a secret
# description: Whatever the form said, a password or token does not leave through an elicitation.
# custom:
#   owasp: [ASI09, ASI03, "LLM02:2026", "MCP01:2025"]
#   severity: 85
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.secret_answer", "effect": "deny", "code": "secret_answered",
	"owasp": ["ASI09", "ASI03", "LLM02:2026", "MCP01:2025"], "severity": 85, "obligations": [],
} if {
	input.point == "mcp.elicitation.answer"
	secret_asked
}

# -- elicitation: addresses ---------------------------------------------------------------------------

url_safe if {
	said.scheme == "https"
	said.host_class == "public"
	said.userinfo == false
	said.idn == false
	is_string(said.host)
	said.host != ""
	not literal
}

# A name of the house, where its operator wrote it down for this server.
url_safe if {
	said.scheme == "https"
	said.host_class == "private"
	said.userinfo == false
	said.idn == false
	some hosts in [data.config.elicitation_hosts[input.resource.properties.server]]
	own_host(hosts)
	not literal
}

# No name of the public tree ends with a digit; an address does, or holds a colon. (WHATWG URL, "ends in a number".)
literal if {
	is_string(said.host)
	strings.any_suffix_match(said.host, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "]"])
}

literal if {
	is_string(said.host)
	contains(said.host, ":")
}

# METADATA
# title: A server sends a person to an address that nobody should follow
# description: Only https to a public name, without a user part, in plain letters. Look-alike names and addresses of the house are how people are phished.
# custom:
#   owasp: [ASI09, ASI02, "MCP06:2025"]
#   severity: 80
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.unsafe_address", "effect": "deny", "code": "unsafe_address",
	"owasp": ["ASI09", "ASI02", "MCP06:2025"], "severity": 80, "obligations": [],
} if {
	input.point == "mcp.elicitation.ask"
	not said.mode == "form"
	not url_safe
}

# METADATA
# title: A server sends a person to a host that is not among its own
# description: Where the configuration names an upstream's hosts, an address leads to one of them or below one.
# custom:
#   owasp: [ASI09, "MCP06:2025"]
#   severity: 80
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.foreign_host", "effect": "deny", "code": "foreign_host",
	"owasp": ["ASI09", "MCP06:2025"], "severity": 80, "obligations": [],
} if {
	input.point == "mcp.elicitation.ask"
	not said.mode == "form"
	some hosts in [data.config.elicitation_hosts[input.resource.properties.server]]
	not own_host(hosts)
}

own_host(hosts) if {
	some host in hosts
	said.host == host
}

own_host(hosts) if {
	is_string(said.host)
	some host in hosts
	is_string(host)
	endswith(said.host, concat("", [".", host]))
}

# -- sampling -----------------------------------------------------------------------------------------

tokens_bounded if {
	is_number(said.max_tokens)
	said.max_tokens >= 0
	said.max_tokens <= data.config.sampling_max_tokens
}

# METADATA
# title: A server asks for more tokens than it may
# description: Sampling is paid by the client; without a bound a server burns its budget.
# custom:
#   owasp: [ASI08, "LLM06:2026"]
#   severity: 50
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.sampling_tokens", "effect": "deny", "code": "sampling_tokens",
	"owasp": ["ASI08", "LLM06:2026"], "severity": 50, "obligations": [],
} if {
	input.point == "mcp.sampling.ask"
	not tokens_bounded
}

# METADATA
# title: A server asks for the conversation of others
# description: includeContext hands a server what its client said to it or to other servers; nothing but "none" passes.
# custom:
#   owasp: [ASI01, ASI06, "LLM02:2026", "MCP10:2025"]
#   severity: 75
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.sampling_context", "effect": "deny", "code": "sampling_context",
	"owasp": ["ASI01", "ASI06", "LLM02:2026", "MCP10:2025"], "severity": 75, "obligations": [],
} if {
	input.point == "mcp.sampling.ask"
	not said.include_context == "none"
}

tools_fit if said.tools == 0

tools_fit if {
	is_number(said.tools)
	trusted
}

# METADATA
# title: A server that nobody vouches for brings tools into sampling
# description: A model that runs a stranger's prompt with tools is the stranger's model.
# custom:
#   owasp: [ASI01, ASI02, "LLM03:2026", "MCP06:2025"]
#   severity: 75
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.sampling_tools", "effect": "deny", "code": "sampling_tools",
	"owasp": ["ASI01", "ASI02", "LLM03:2026", "MCP06:2025"], "severity": 75, "obligations": [],
} if {
	input.point == "mcp.sampling.ask"
	not tools_fit
}

# -- roots --------------------------------------------------------------------------------------------

roots_told if trusted

roots_told if input.resource.properties.server in data.config.roots_to_untrusted

# METADATA
# title: A server that nobody vouches for asks where the client's files are
# description: Roots name directories of somebody's machine; trusted upstreams learn them, and those that the configuration names.
# custom:
#   owasp: [ASI03, "LLM02:2026", "MCP10:2025"]
#   severity: 50
#   message_user: This action is not allowed by policy.
finding contains {
	"rule": "questions.roots_untrusted", "effect": "deny", "code": "roots_refused",
	"owasp": ["ASI03", "LLM02:2026", "MCP10:2025"], "severity": 50, "obligations": [],
} if {
	points.roots
	not roots_told
}
