# METADATA
# scope: package
# title: Acts of the people who run the house
# description: |
#   What people do with care in the console, by API or at the operator's socket: releasing a stop,
#   approving a definition, a server or an agent, giving rights. Roles were checked before; here
#   policy says whether one person is enough (allow), a second one must agree (approve), or it is
#   not done at all (deny). The acts of `admin.four_eyes` come as `second: asked`, and no rule takes
#   that back. What is agreed to is asked about again, with the rules that the second person was shown.
# schemas:
#   - input: schema.input
package firewall.rules.admin

import future.keywords.not
import rego.v1

facts := input.resource.properties

# -- grants ---------------------------------------------------------------------------------------

grant contains "admin.act" if {
	input.point == "admin.act"
	input.resource.type == "admin_act"
	input.subject.properties.auth.method in {"session", "bearer", "socket"}
}

# -- findings -------------------------------------------------------------------------------------

one_is_enough if facts.second == "free"

# METADATA
# title: A second person must agree
# description: Configuration names this act under admin.four_eyes.
# custom:
#   owasp: [ASI03, ASI09]
#   severity: 50
#   message_user: Another person must agree to this.
finding contains {
	"rule": "admin.second_person", "effect": "approve", "code": "second_person",
	"owasp": ["ASI03", "ASI09"], "severity": 50, "obligations": [],
} if {
	input.point == "admin.act"
	not one_is_enough
}
