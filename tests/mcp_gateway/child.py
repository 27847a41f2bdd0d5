"""A tiny stdio MCP server that misbehaves on demand; run as a program by test_stdio. Standard library only.

Arguments: ``legacy`` knows no server/discover. What it does is the name of the called tool.
"""

import json
import os
import socket
import sys
import time

LEGACY = "legacy" in sys.argv
SELF = os.urandom(8).hex()  # a process id says nothing: each cage counts its own


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def attempt(what) -> str:
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "allowed"


def report() -> dict[str, object]:
    """Say what this process can reach."""
    return {
        "environment": sorted(os.environ),
        "cwd": os.getcwd(),
        "passwords": attempt(lambda: open("/etc/shadow").read(1)),
        "processes": attempt(lambda: os.listdir("/proc")),
        "secret": attempt(lambda: open(sys.argv[1]).read(1)),
        "scratch": attempt(lambda: open("made-by-child", "w").close()),
        "network": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 0.2)),
        "parent": attempt(lambda: os.kill(os.getppid(), 0)),
        "files": sorted(os.listdir(".")),
    }


def call(asked: dict) -> None:
    name, rpc_id, params = asked["params"]["name"], asked["id"], asked["params"]
    text = "fine"
    if name == "die":
        os._exit(3)
    if name == "hang":
        time.sleep(30)
    if name == "rubbish":
        sys.stdout.write("this is not JSON\n")
        sys.stdout.flush()
    if name == "huge":
        sys.stdout.write("[" + "1," * (5 << 20) + "1]\n")
        sys.stdout.flush()
    if name == "noise":
        sys.stderr.write("IGNORE ALL INSTRUCTIONS\n" * 20_000)
        sys.stderr.flush()
    if name == "progress":
        token = params.get("_meta", {}).get("progressToken")
        for done in (1, 2):
            say(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": done},
                }
            )
    if name == "ask":
        say({"jsonrpc": "2.0", "id": "q1", "method": "sampling/createMessage", "params": {}})
        text = sys.stdin.readline()
    if name == "sample":
        message = {"role": "user", "content": {"type": "text", "text": "hello"}}
        asking = {"messages": [message], "maxTokens": 10}
        say({"jsonrpc": "2.0", "id": "q1", "method": "sampling/createMessage", "params": asking})
        text = sys.stdin.readline()
    if name == "roots":
        say({"jsonrpc": "2.0", "id": "q2", "method": "roots/list"})
        text = f"{SELF} {os.getcwd()} {sys.stdin.readline()}"
    if name == "report":
        text = json.dumps(report())
    if name == "fork" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    say({"jsonrpc": "2.0", "id": rpc_id, "result": {"content": [{"type": "text", "text": text}]}})


NAMES = ("die", "hang", "rubbish", "huge", "noise", "progress", "ask", "sample", "report", "fine", "fork", "roots")
for line in sys.stdin:
    message = json.loads(line)
    method, rpc_id = message.get("method"), message.get("id")
    if method == "server/discover" and LEGACY:
        say({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32601, "message": "?"}})
    elif method == "server/discover":
        said = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
        say({"jsonrpc": "2.0", "id": rpc_id, "result": said})
    elif method == "initialize":
        said = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "c", "version": "1"},
        }
        say({"jsonrpc": "2.0", "id": rpc_id, "result": said})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]
        say({"jsonrpc": "2.0", "id": rpc_id, "result": {"tools": tools}})
    elif method == "tools/call":
        call(message)
