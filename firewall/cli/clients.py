"""The MCP clients that `bartizan connect` knows: where each keeps its servers, and how it writes one.

Facts of the clients' own documentation, read in November 2026. None of these programs runs in our tests; what is
tested is the edit of files of these shapes, and that the command which is written serves a client. A row that was
tried by hand says with which version, and what was seen; every other one says that it was not.

    Claude Code     code.claude.com/docs/en/mcp                    Claude Desktop  modelcontextprotocol.io, quickstart
    Cursor          docs.cursor.com, MCP                           VS Code         code.visualstudio.com, MCP configuration
    Windsurf        docs.windsurf.com, Cascade MCP                 Zed             zed.dev/docs/ai/mcp
    Gemini CLI      geminicli.com/docs/tools/mcp-server            LM Studio       lmstudio.ai/docs/app/mcp
    Copilot CLI     docs.github.com, Copilot CLI, MCP servers      Codex           developers.openai.com/codex/mcp
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

Entry = dict[str, Any]
Http = Callable[[str], Entry]


def _typed(url: str) -> Entry:
    return {"type": "http", "url": url}


def _plain(url: str) -> Entry:
    return {"url": url}


@dataclass(frozen=True, slots=True)
class Client:
    """One client.

    user: its file below the home directory, by ``sys.platform``. project: below a project, "" where it has none.
    key: the object that holds servers. stdio: members that an entry with a command has beside it. http: how it
    writes a URL, None where its file takes commands only. toml: we show what to paste, and write nothing.
    tried: the version that read what we write, and what it did; "" where nobody has seen one do it.
    """

    title: str
    user: Mapping[str, str]
    project: str = ""
    key: str = "mcpServers"
    stdio: Mapping[str, Any] = field(default_factory=dict)
    http: Http | None = _plain
    toml: bool = False
    note: str = ""
    tried: str = ""

    def file(self, scope: str, home: Path, project: Path) -> Path | None:
        """Return the file of a scope, None where the client has none."""
        if scope == "project":
            return project / self.project if self.project else None
        relative = self.user.get(sys.platform) or self.user.get("*", "")
        if not relative:
            return None
        base = os.environ.get("XDG_CONFIG_HOME", "")
        if relative.startswith(".config/") and os.path.isabs(base):
            return Path(base) / relative.removeprefix(".config/")
        return home / relative


def _application(name: str, file: str) -> dict[str, str]:
    """Return where a desktop application keeps a file, by platform."""
    return {
        "darwin": f"Library/Application Support/{name}/{file}",
        "win32": f"AppData/Roaming/{name}/{file}",
        "*": f".config/{name}/{file}",
    }


CLIENTS: Final[Mapping[str, Client]] = {
    "claude": Client(
        "Claude Code", {"*": ".claude.json"}, ".mcp.json", stdio={"type": "stdio"}, http=_typed,
        note="a project's file is approved by each user when Claude Code starts there",
        tried="2.1.330: writes both entries alike itself, and connected to a wrapped server",
    ),
    "claude-desktop": Client(
        "Claude Desktop", _application("Claude", "claude_desktop_config.json"), http=None,
        note="restart it; remote servers are added under Settings, Connectors, not in this file",
    ),
    "cursor": Client("Cursor", {"*": ".cursor/mcp.json"}, ".cursor/mcp.json"),
    "vscode": Client(
        "VS Code", _application("Code/User", "mcp.json"), ".vscode/mcp.json", key="servers",
        stdio={"type": "stdio"}, http=_typed, note="of the default profile",
    ),
    "windsurf": Client(
        "Windsurf", {"*": ".codeium/windsurf/mcp_config.json"}, http=lambda url: {"serverUrl": url},
        note="press Refresh in Cascade's MCP panel",
    ),
    "zed": Client("Zed", {"*": ".config/zed/settings.json"}, ".zed/settings.json", key="context_servers"),
    "gemini": Client(
        "Gemini CLI", {"*": ".gemini/settings.json"}, ".gemini/settings.json",
        http=lambda url: {"httpUrl": url},  # 0.61.0 itself writes url and type, and reads this, as older ones do
        note="it starts no server in a folder that was not trusted", tried="0.61.0: read both entries, and connected to a wrapped server",
    ),
    "lmstudio": Client("LM Studio", {"*": ".lmstudio/mcp.json"}),
    "copilot": Client(
        "GitHub Copilot CLI", {"*": ".copilot/mcp-config.json"}, stdio={"type": "local", "tools": ["*"]},
        http=lambda url: {"type": "http", "url": url, "tools": ["*"]},
    ),
    "codex": Client("Codex", {"*": ".codex/config.toml"}, ".codex/config.toml", key="mcp_servers", toml=True),
}  # fmt: skip
