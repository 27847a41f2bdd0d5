# METADATA
# scope: package
# title: Groups of points
# description: Which points ask for something, which bring a reply, and which carry definitions.
# schemas:
#   - input: schema.input
package firewall.lib.points

import rego.v1

# Answered by a scope of their own.
asks if input.point in {
	"mcp.session.open", "mcp.tool.list", "mcp.tool.call",
	"mcp.resource.list", "mcp.resource.read", "mcp.resource.watch",
	"mcp.prompt.list", "mcp.prompt.get", "mcp.completion.ask",
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"llm.request",
}

# Parts of a conversation that is already open: any scope of the upstream will do.
replies if input.point in {
	"mcp.notify.client", "mcp.pong", "mcp.session.opened", "mcp.tool.listed", "mcp.tool.result", "mcp.notify.server", "mcp.error",
	"mcp.resource.listed", "mcp.resource.result", "mcp.prompt.listed", "mcp.prompt.result", "mcp.completion.result",
	"mcp.task.get", "mcp.task.cancel", "mcp.task.status",
	"mcp.sampling.ask", "mcp.elicitation.ask", "mcp.roots.ask",
	"mcp.sampling.answer", "mcp.elicitation.answer", "mcp.roots.answer",
	"a2a.message.receive", "a2a.task.update", "a2a.error",
	"llm.response", "llm.tool_call", "llm.models", "llm.error",
}

mcp if input.point in {
	"mcp.session.open", "mcp.notify.client", "mcp.tool.list", "mcp.tool.call",
	"mcp.resource.list", "mcp.resource.read", "mcp.resource.watch",
	"mcp.prompt.list", "mcp.prompt.get", "mcp.completion.ask", "mcp.task.get", "mcp.task.cancel",
	"mcp.sampling.answer", "mcp.elicitation.answer", "mcp.roots.answer",
	"mcp.pong", "mcp.session.opened", "mcp.tool.listed", "mcp.tool.result", "mcp.notify.server", "mcp.error",
	"mcp.resource.listed", "mcp.resource.result", "mcp.prompt.listed", "mcp.prompt.result",
	"mcp.completion.result", "mcp.task.status",
	"mcp.sampling.ask", "mcp.elicitation.ask", "mcp.roots.ask",
}

a2a if input.point in {
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"a2a.message.receive", "a2a.task.update", "a2a.card.serve", "a2a.error",
}

llm if input.point in {"llm.request", "llm.response", "llm.tool_call", "llm.models", "llm.error"}

# Text that stands in a tool's, prompt's, agent's or server's definition and is read before any call.
definitions if input.point in {
	"mcp.session.opened", "mcp.tool.listed", "mcp.prompt.listed", "mcp.resource.listed",
	"a2a.card.serve",
}

# Replies with entries, each of which the caller may use or never sees.
lists if input.point in {"mcp.tool.listed", "mcp.prompt.listed", "mcp.resource.listed"}

# A server asks its client for something, and the client's answer.
sampling if input.point in {"mcp.sampling.ask", "mcp.sampling.answer"}

elicitation if input.point in {"mcp.elicitation.ask", "mcp.elicitation.answer"}

roots if input.point in {"mcp.roots.ask", "mcp.roots.answer"}

questions if input.point in {
	"mcp.sampling.ask", "mcp.elicitation.ask", "mcp.roots.ask",
	"mcp.sampling.answer", "mcp.elicitation.answer", "mcp.roots.answer",
}

# What a caller sends on: a stop here means that it never leaves.
sends if input.point in {
	"mcp.session.open", "mcp.notify.client", "mcp.tool.list", "mcp.tool.call",
	"mcp.resource.list", "mcp.resource.read", "mcp.resource.watch",
	"mcp.prompt.list", "mcp.prompt.get", "mcp.completion.ask", "mcp.task.get", "mcp.task.cancel",
	"mcp.sampling.answer", "mcp.elicitation.answer", "mcp.roots.answer",
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"llm.request", "llm.tool_call", "egress.connect",
}

# What comes back as content: it can be changed before anyone reads it.
brings if input.point in {
	"mcp.pong", "mcp.tool.result", "mcp.notify.server", "mcp.error",
	"mcp.resource.result", "mcp.prompt.result", "mcp.completion.result", "mcp.task.status",
	"mcp.sampling.ask", "mcp.elicitation.ask", "mcp.roots.ask",
	"a2a.message.receive", "a2a.task.update", "a2a.error",
	"llm.response", "llm.models", "llm.error",
}
