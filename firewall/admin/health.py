"""Alive, ready, and why not."""

from __future__ import annotations

from firewall.admin.parts import AdminParts
from firewall.core.errors import BartizanError
from firewall.core.jsonvalue import JSONObject


def readiness(parts: AdminParts) -> JSONObject:
    """Return whether this worker can decide and record: ``ready`` and, by name, what each part says.

    A part that does not answer makes the node not ready: then the data path refuses as well.
    """
    said: dict[str, str] = {}
    try:
        parts.store.collection("registry").get(parts.config.tenant, "mcp/none")
        said["store"] = "ok"
    except BartizanError as error:
        said["store"] = error.code
    try:
        parts.marks.epoch()
        said["shared_memory"] = "ok"
    except BartizanError as error:
        said["shared_memory"] = error.code
    stats = parts.audit_stats()
    said["audit"] = "ok" if stats.get("writable", 1) else "audit_unavailable"
    ready = all(answer == "ok" for answer in said.values())
    if stats.get("spooling"):
        said["audit"] = "spooling"  # still recorded, on the second volume: ready, and worth a look
    return {"ready": ready, "parts": {**said}, "policy": parts.policy.revision, "mode": parts.policy.mode}
