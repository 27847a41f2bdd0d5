"""The files under deploy/ do what they say: a real nginx carries traffic, and the unit keeps what cages need."""

from __future__ import annotations

import configparser
import json
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest
import yaml

from firewall.config import build
from firewall.state.unlock import CREDENTIAL
from tests.net.certificates import authority
from tests.support.composed import composed, free_port, modern, settings
from tests.support.world import world

DEPLOY = Path(__file__).parents[2] / "deploy"
NGINX = shutil.which("nginx")


def nginx_conf(directory: Path, listen: int, behind: int) -> Path:
    """Return the shipped file inside a whole configuration, with this test's ports and certificate."""
    shipped = (DEPLOY / "nginx" / "bartizan.conf").read_text()
    made = (
        shipped.replace("127.0.0.1:8700", f"127.0.0.1:{behind}")
        .replace("listen 443 ssl", f"listen 127.0.0.1:{listen} ssl")
        .replace("agents.example.com", "localhost")
        .replace("/etc/bartizan/tls/fullchain.pem", str(directory / "cert.pem"))
        .replace("/etc/bartizan/tls/key.pem", str(directory / "key.pem"))
    )
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = directory / "nginx.conf"
    whole.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{made}\n}}\n"
    )
    return whole


@pytest.mark.flow
@pytest.mark.skipif(NGINX is None, reason="no nginx here: apt-get install nginx")
async def test_a_call_and_a_foreign_address_go_through_the_shipped_nginx(tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")
    front = free_port()
    async with world() as upstreams:
        leaf = {"url": upstreams.add_mcp("demo"), "network": "loopback", "tools": {"echo": "read"}}
        config = settings(tmp_path / "state", mcp={"demo": leaf}, trusted_proxies=["127.0.0.1"])
        config["public_url"] = f"https://localhost:{front}"
        async with composed(config) as wall:
            running = subprocess.Popen([str(NGINX), "-c", str(nginx_conf(tmp_path, front, wall.port))])
            try:
                token = wall.mint("/mcp/demo", "demo:read")
                trust = ssl.create_default_context(cafile=str(files.ca))
                transport = httpx2.AsyncHTTPTransport(verify=trust, retries=5)
                async with httpx2.AsyncClient(transport=transport, timeout=20) as http:
                    body, headers = modern("tools/call", {"name": "echo", "arguments": {"text": "through"}})
                    sent = {**headers, "authorization": f"Bearer {token}", "x-forwarded-for": "203.0.113.9"}
                    answer = await http.post(f"https://localhost:{front}/mcp/demo", json=body, headers=sent)
                    assert answer.status_code == 200, answer.text
                    assert "result" in answer.json()
                    stranger = await http.post(
                        f"https://localhost:{front}/mcp/demo", json=body, headers={**sent, "host": "evil.example"}
                    )
                    assert stranger.status_code == 421
                    spelled = await http.post(f"https://localhost:{front}//mcp//demo", json=body, headers=sent)
                    assert spelled.status_code in (400, 404)
            finally:
                running.terminate()
                running.wait(10)
            told = json.dumps(wall.records())
    assert "203.0.113.9" not in told  # what a client wrote of its own address counts for nothing


def test_the_unit_keeps_what_local_programs_and_the_exit_code_need() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "bartizan.service")
    service = unit["Service"]
    assert service["RestartPreventExitStatus"] == "4"
    assert service["ExecStart"].endswith(" up")
    assert "RestrictNamespaces" not in service
    assert "User" in service
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "bartizan.service").read_text()
    copy = tmp_path / "bartizan.service"
    copy.write_text(text.replace("/opt/bartizan/.venv/bin/bartizan", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr
    assert "Failed to parse" not in done.stderr


def test_the_units_node_has_its_secret_from_outside_its_state_directory() -> None:
    text = (DEPLOY / "systemd" / "bartizan.service").read_text()
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    name, _, file = unit["Service"]["LoadCredential"].partition(":")
    assert name == CREDENTIAL
    assert file.startswith("/etc/")
    assert f"install -m 0400 /dev/stdin {file}" in text


def test_the_settings_of_the_readme_are_a_configuration() -> None:
    lines = (DEPLOY / "README.md").read_text().splitlines()
    document = yaml.safe_load("\n".join(line[4:] for line in lines if line.startswith("    ")))
    made = build({"version": 1, **document})
    assert made.trusted_proxies == ("127.0.0.1",)
    assert made.listeners.data.port == 8700
