"""Where tests keep the compiled pattern database: compiled once per machine, opened in milliseconds after that."""

import os
from pathlib import Path

PATTERNS = Path(__file__).resolve().parents[2] / "build" / "patterns"
PATTERNS.parent.mkdir(exist_ok=True)
PATTERNS.mkdir(mode=0o700, exist_ok=True)
os.chmod(PATTERNS, 0o700)
