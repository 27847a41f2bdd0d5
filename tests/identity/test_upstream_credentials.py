"""What an upstream is shown: our own secret or nothing, and never what the caller brought."""

from pathlib import Path

import pytest

from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.core.principal import Actor, Principal
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials

ADA = Principal("acme", "i", "ada", "c", frozenset(), "aud", (Actor("ada"),), 1, token_id="inbound-token-id")
BOB = Principal("other", "i", "bob", "c", frozenset(), "aud", (Actor("bob"),), 1)


async def test_nothing_is_sent_where_nothing_is_configured_on_purpose() -> None:
    credentials = StaticUpstreamCredentials({"time": CredentialSettings()}, {})
    assert await credentials.headers_for(ADA, "time") == ()


async def test_an_upstream_without_a_setting_fails_closed() -> None:
    credentials = StaticUpstreamCredentials({}, {})
    with pytest.raises(UpstreamFault, match="credentials"):
        await credentials.headers_for(ADA, "time")
    credentials.add("time", CredentialSettings())
    assert await credentials.headers_for(ADA, "time") == ()


async def test_a_secret_comes_from_the_environment() -> None:
    settings = {"git": CredentialSettings("env", "GIT_TOKEN"), "llm": CredentialSettings("env", "KEY", "X-Api-Key", "")}
    credentials = StaticUpstreamCredentials(settings, {"GIT_TOKEN": "s3cret", "KEY": "k"})
    assert await credentials.headers_for(ADA, "git") == ((b"authorization", b"Bearer s3cret"),)
    assert await credentials.headers_for(ADA, "llm") == ((b"x-api-key", b"k"),)


@pytest.mark.parametrize("value", ["", "a\nb", "é", "x" * 8193])
async def test_auth_02_a_missing_or_unusable_secret_fails_closed(value: str) -> None:
    credentials = StaticUpstreamCredentials({"git": CredentialSettings("env", "T")}, {"T": value} if value else {})
    with pytest.raises(UpstreamFault) as caught:
        await credentials.headers_for(ADA, "git")
    assert caught.value.code == "credentials"
    assert value == "" or value not in caught.value.detail


async def test_a_secret_file_is_its_owners_and_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    credentials = StaticUpstreamCredentials({"git": CredentialSettings("file", str(path))}, {})
    with pytest.raises(UpstreamFault):
        await credentials.headers_for(ADA, "git")
    path.write_text("one\n", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(UpstreamFault, match="credentials"):
        await credentials.headers_for(ADA, "git")
    path.chmod(0o600)
    assert await credentials.headers_for(ADA, "git") == ((b"authorization", b"Bearer one"),)
    path.write_text("two", encoding="utf-8")
    import os

    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert await credentials.headers_for(ADA, "git") == ((b"authorization", b"Bearer two"),)


def test_tenants_never_share_a_pooled_session() -> None:
    credentials = StaticUpstreamCredentials({"git": CredentialSettings("env", "T")}, {"T": "s"})
    assert credentials.key_for(ADA, "git") != credentials.key_for(BOB, "git")
    assert "s3cret" not in credentials.key_for(ADA, "git")


@pytest.mark.parametrize(
    "settings",
    [
        CredentialSettings("env"),
        CredentialSettings("env", "T", header="Host"),
        CredentialSettings("env", "T", header="Cookie"),
        CredentialSettings("env", "T", header="X-A\r\nB"),
        CredentialSettings("env", "T", header=""),
        CredentialSettings("env", "T", prefix="a\r\n"),
    ],
)
def test_a_setting_that_could_not_work_is_refused_at_start(settings: CredentialSettings) -> None:
    with pytest.raises(ConfigFault):
        StaticUpstreamCredentials({"git": settings}, {})


def test_auth_02_a_principal_carries_no_token_that_could_be_forwarded() -> None:
    assert "token" not in {name for name in Principal.__dataclass_fields__ if name != "token_id"}
