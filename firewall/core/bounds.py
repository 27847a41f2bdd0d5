"""Every size, depth and count limit of the product, with its unit.

A limit is inclusive: a value equal to it passes. Each is tested at limit-1, limit, limit+1
by the room that applies it (operations reference §5.2).
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- bodies (bytes) ---------------------------------------------------------------------------
BODY_BYTES: Final = 4 * MIB
LLM_BODY_BYTES: Final = 32 * MIB
FORM_BODY_BYTES: Final = 64 * KIB
UPSTREAM_BODY_BYTES: Final = 8 * MIB
SSE_EVENT_BYTES: Final = 1 * MIB
METADATA_BYTES: Final = 5 * KIB  # CIMD draft -02
CARD_BYTES: Final = 256 * KIB

# -- JSON shape ---------------------------------------------------------------------------------
JSON_DEPTH: Final = 64
JSON_INTEGER: Final = 2**53 - 1  # RFC 7493 2.2; larger integers are refused, not rounded
RPC_ID_CHARS: Final = 256

# -- headers --------------------------------------------------------------------------------------
HEADER_COUNT: Final = 100
HEADER_BYTES: Final = 32 * KIB
TARGET_BYTES: Final = 8 * KIB

# -- policy input (DESIGN §6b-5: beyond a bound means deny, never a cut) ------------------------------
POLICY_INPUT_BYTES: Final = 256 * KIB
POLICY_STRING_CHARS: Final = 64 * KIB
POLICY_ARRAY_ITEMS: Final = 1024
POLICY_OBJECT_KEYS: Final = 512
POLICY_FINDINGS: Final = 200
LIST_CHUNK: Final = 200

# -- inspection ----------------------------------------------------------------------------------------
STREAM_HOLD_CHARS: Final = 256  # text kept back so that a match cannot straddle a release
SCAN_WINDOW_CHARS: Final = 2048

# -- identity --------------------------------------------------------------------------------------------
TOKEN_BYTES: Final = 16 * KIB
ACTOR_CHAIN: Final = 8
TOKEN_CACHE_ENTRIES: Final = 20_000
TOKEN_LIFETIME_S: Final = 300
REFRESH_LIFETIME_S: Final = 30 * 24 * 3600
REFRESH_IDLE_S: Final = 14 * 24 * 3600
REFRESH_LONGEST_S: Final = 90 * 24 * 3600  # whatever is configured: what has ended is remembered for longer than this
CODE_LIFETIME_S: Final = 60
RUN_LIFETIME_S: Final = 8 * 3600
FIRST_CONTACT_LIFETIME_S: Final = 15 * 60

# -- time (seconds) ----------------------------------------------------------------------------------------
REQUEST_READ_S: Final = 30.0
UPSTREAM_CONNECT_S: Final = 5.0
UPSTREAM_TOTAL_S: Final = 60.0
UPSTREAM_IDLE_S: Final = 30.0
STREAM_TOTAL_S: Final = 600.0
SHUTDOWN_S: Final = 0.7

# -- catalogues ------------------------------------------------------------------------------------------------
TOOLS_PER_UPSTREAM: Final = 2_000
PAGES_PER_LIST: Final = 100
AUDIT_RECORD_BYTES: Final = 65_535  # C2SP tlog-tiles: 16-bit entry length
