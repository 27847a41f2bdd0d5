"""What OPA's own tools say: format, strict compilation with schemas and capabilities, tests, and H15."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import orjson
import pytest

from firewall.decide import bundle as bundles
from firewall.decide.profile import ALLOWED
from tests.decide.test_regorus import H15, h15_module
from tests.support.opa import MISSING

POLICIES = bundles.default_path()


@pytest.fixture(scope="module")
def program() -> str:
    found = shutil.which("opa")
    if found is None:
        pytest.skip(MISSING)
    return found


def run(*command: str, cwd: Path = POLICIES) -> tuple[int, str]:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def check(program: str, path: Path) -> tuple[int, str]:
    schemas, capabilities = POLICIES / "schemas", POLICIES / "capabilities.json"
    return run(
        program, "check", "--strict", "--schema", str(schemas), "--capabilities", str(capabilities), "-b", str(path)
    )


def test_the_policies_are_formatted(program: str) -> None:
    assert run(program, "fmt", "--diff", "--fail", ".") == (0, "")


def test_the_policies_compile_strictly_with_schemas_in_the_portable_profile(program: str) -> None:
    assert check(program, POLICIES)[0] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('facts.pin == "changed"', 'facts.pinn == "changed"'),
        ('facts.pin == "changed"', "opa.runtime().env.PIN"),
        ('facts.pin == "changed"', 'http.send({"method": "get", "url": "http://a"}).status_code == 200'),
    ],
)
def test_the_check_would_notice(program: str, tmp_path: Path, old: str, new: str) -> None:
    """The twin: a misspelled fact and banned built-ins fail the same command."""
    shutil.copytree(POLICIES, tmp_path / "p")
    file = tmp_path / "p" / "firewall" / "rules" / "tools.rego"
    file.write_text(file.read_text().replace(old, new))
    assert check(program, tmp_path / "p")[0] != 0


def test_the_rego_tests_pass(program: str) -> None:
    code, output = run(program, "test", "--fail-on-empty", "-b", ".")
    assert code == 0, output
    assert "PASS" in output


def test_the_capabilities_are_the_profile_s(program: str) -> None:
    names = {
        b["name"] for b in orjson.loads((POLICIES / "capabilities.json").read_bytes())["builtins"] if not b.get("infix")
    }
    assert names - {"internal.member_2", "internal.member_3", "internal.print", "eq", "assign"} == set(ALLOWED)
    assert orjson.loads((POLICIES / "capabilities.json").read_bytes())["allow_net"] == []


@pytest.mark.parametrize("expression", list(H15.values()), ids=list(H15))
def test_a_negation_over_a_missing_field_holds_on_opa_as_well(program: str, tmp_path: Path, expression: str) -> None:
    source = h15_module(expression)
    assert _value(program, tmp_path, source) == "deny"


def test_without_the_import_opa_would_let_a_missing_field_through(program: str, tmp_path: Path) -> None:
    """The twin, and the reason for the import: H15."""
    source = h15_module("not startswith_(input.subject.missing)").replace("import future.keywords.not\n", "")
    assert _value(program, tmp_path, source) == "allow"


def _value(program: str, directory: Path, source: str) -> str:
    (directory / "m.rego").write_text(source)
    (directory / "input.json").write_text('{"subject": {"id": "a"}}')
    code, output = run(
        program, "eval", "-f", "json", "-d", "m.rego", "-i", "input.json", "--strict-builtin-errors", "data.firewall.decision",
        cwd=directory,
    )  # fmt: skip
    assert code == 0, output
    return str(orjson.loads(output)["result"][0]["expressions"][0]["value"])
