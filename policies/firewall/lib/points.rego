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
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"llm.request",
}

# Parts of a conversation that is already open: any scope of the upstream will do.
replies if input.point in {
	"mcp.notify.client", "mcp.pong", "mcp.session.opened", "mcp.tool.listed", "mcp.tool.result", "mcp.notify.server", "mcp.error",
	"a2a.message.receive", "a2a.task.update", "a2a.error",
	"llm.response", "llm.tool_call", "llm.models", "llm.error",
}

mcp if input.point in {
	"mcp.session.open", "mcp.notify.client", "mcp.tool.list", "mcp.tool.call",
	"mcp.pong", "mcp.session.opened", "mcp.tool.listed", "mcp.tool.result", "mcp.notify.server", "mcp.error",
}

a2a if input.point in {
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"a2a.message.receive", "a2a.task.update", "a2a.card.serve", "a2a.error",
}

llm if input.point in {"llm.request", "llm.response", "llm.tool_call", "llm.models", "llm.error"}

# Text that stands in a tool's, agent's or server's definition and is read before any call.
definitions if input.point in {"mcp.session.opened", "mcp.tool.listed", "a2a.card.serve"}

# What a caller sends on: a stop here means that it never leaves.
sends if input.point in {
	"mcp.session.open", "mcp.notify.client", "mcp.tool.list", "mcp.tool.call",
	"a2a.message.send", "a2a.task.get", "a2a.task.cancel",
	"llm.request", "llm.tool_call", "egress.connect",
}

# What comes back as content: it can be changed before anyone reads it.
brings if input.point in {
	"mcp.pong", "mcp.tool.result", "mcp.notify.server", "mcp.error",
	"a2a.message.receive", "a2a.task.update", "a2a.error",
	"llm.response", "llm.models", "llm.error",
}
