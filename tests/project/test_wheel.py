"""What the wheel holds: the four packages and the policies, and nothing that collides with others."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.mark.slow
def test_wheel_holds_our_packages_and_the_policies_and_no_tests(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("bartizan-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "firewall",
        "mcp_gateway",
        "a2a_gateway",
        "llm_router",
    }
    shipped = {name.removeprefix("firewall/_policies/") for name in names if name.startswith("firewall/_policies/")}
    ours = {str(path.relative_to(root / "policies")) for path in (root / "policies").rglob("*") if path.is_file()}
    assert {name for name in ours if name.endswith(".rego")} <= shipped <= ours
    assert "config/data.yaml" in shipped
