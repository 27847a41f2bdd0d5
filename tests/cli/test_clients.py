"""`bartizan clients`: what it prints, what it sends, and what becomes of it in the front door."""

from pathlib import Path

import orjson

from tests.cli.test_commands import Node, node  # noqa: F401 - the fixture
from tests.support.door import CLIENT_KEY, public_jwks


def test_a_client_is_added_listed_turned_and_removed(node: Node) -> None:  # noqa: F811
    code, out, err = node.run("clients", "add", "svc", "--secret", "--scope", "time:* git:read", "--name", "Service")
    assert code == 0, err
    secret = out.strip()
    assert secret.startswith("bzs_")  # nothing else stands on stdout
    assert "svc is registered" in err
    found = {client["client_id"]: client for client in node.json("clients", "list")["clients"]}
    assert found["svc"]["method"] == "client_secret_basic"
    assert found["svc"]["grants"] == ["client_credentials"]
    assert found["svc"]["scopes"] == ["time:*", "git:read"]
    assert found["tool"]["from"] == "file"
    assert not any("secret" in client for client in found.values())
    table = node.run("clients", "list")[1]
    assert table.splitlines()[0].split() == ["CLIENT", "METHOD", "SCOPES", "FROM", "NAME"]
    turned = node.json("clients", "rotate-secret", "svc")
    assert turned["secret"] not in ("", secret)
    assert node.run("clients", "remove", "svc")[:2] == (0, "Removed.\n")
    assert node.run("clients", "remove", "svc")[0] == 1


def test_clients_of_every_method_are_added(node: Node, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "jwks.json"
    file.write_bytes(orjson.dumps(public_jwks(CLIENT_KEY)))
    assert node.json("clients", "add", "app", "--redirect-uri", "http://127.0.0.1/cb")["method"] == "none"
    assert node.json("clients", "add", "keyed", "--jwks", str(file))["method"] == "private_key_jwt"
    by_url = node.json("clients", "add", "byurl", "--jwks-uri", "https://svc.example/jwks.json")
    assert by_url["method"] == "private_key_jwt"
    assert node.json("clients", "add", "pod", "--workload")["method"] == "workload"
    device = node.json("clients", "add", "tv", "--grant", "device_code", "--grant", "refresh_token")
    assert device["grants"] == ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"]


def test_what_cannot_be_registered_is_said_with_its_mend(node: Node, tmp_path: Path) -> None:  # noqa: F811
    code, _, err = node.run("clients", "add", "https://app.example/c", "--secret")
    assert (code, "client_id" in err) == (1, True)
    assert "client_exists" in node.run("clients", "add", "tool", "--secret")[2]
    assert "client_settings" in node.run("clients", "add", "svc")[2]  # no method for tokens of its own
    told = node.run("clients", "add", "x", "--redirect-uri", "javascript:alert(1)")[2]
    assert "client_redirect" in told
    assert "http on loopback" in told
    assert node.run("clients", "rotate-secret", "nobody")[0] == 1
    assert node.run("clients", "add", "x", "--jwks", str(tmp_path / "missing"))[0] == 2
    (tmp_path / "bad").write_bytes(b"{")
    assert "jwks_invalid" in node.run("clients", "add", "x", "--jwks", str(tmp_path / "bad"))[2]
