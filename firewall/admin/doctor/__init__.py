"""Doctor: looks at the machine and the node, says what is wrong and how to mend it.

`machine` needs no configuration, `node` and `oauth` do. Every check ends in one `Check`; a check that itself fails is
a finding as well, never a traceback.
"""

from firewall.admin.doctor.check import Check, as_json, examine

__all__ = ["Check", "as_json", "examine"]
