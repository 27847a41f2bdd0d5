"""Which provider and model answer an alias. Pure.

One candidate per alias now; when there are more, policy filters before anything chooses, and a
fallback may only pick from what was filtered (llm-routing reference §8).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from firewall.core.action import Resource
from firewall.core.bounds import LIST_CHUNK
from firewall.core.errors import ConfigFault
from llm_router.meter import Price

UPSTREAM: Final = "llm"  # the router itself, as an upstream: lists of models, the kill switch of the whole room


@dataclass(frozen=True, slots=True)
class Provider:
    """Where models live. base_url: up to and with ``/v1``. tenants: who may use it, ``"*"`` is everybody.

    limit_member: how it spells the limit of output tokens where a caller names none.
    """

    name: str
    base_url: str
    protocol: Literal["openai", "anthropic"] = "openai"
    network: Literal["public", "private", "loopback"] = "public"
    trust: Literal["trusted", "untrusted"] = "untrusted"
    tenants: tuple[str, ...] = ("default",)
    limit_member: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class Model:
    """One alias: the provider's own name of the model, its price (None: unknown), most output tokens."""

    alias: str
    provider: Provider
    name: str
    price: Price | None
    max_output_tokens: int = 4096
    resource: Resource = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Made once and kept, so that its encoding for policy is paid once.
        object.__setattr__(self, "resource", _resource(self))


class Models:
    """The configured models by alias."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._by_alias: dict[str, Model] = {}
        for model in models:
            if model.alias in self._by_alias:
                raise ConfigFault("config_invalid", "an alias is given twice", fix="rename one of the models")
            self._by_alias[model.alias] = model
        if len(self._by_alias) > LIST_CHUNK:
            raise ConfigFault("config_invalid", f"more than {LIST_CHUNK} models", fix="remove models nobody uses")

    def find(self, alias: str, tenant: str) -> Model | None:
        """Return the model of an alias; None where it is unknown or not this tenant's (they look alike)."""
        model = self._by_alias.get(alias)
        return model if model is not None and _serves(model.provider, tenant) else None

    def listed(self, tenant: str) -> list[Model]:
        """Return the models that a tenant may name, by alias."""
        return [m for _, m in sorted(self._by_alias.items()) if _serves(m.provider, tenant)]


def _serves(provider: Provider, tenant: str) -> bool:
    return tenant in provider.tenants or "*" in provider.tenants


def _resource(model: Model) -> Resource:
    provider = model.provider
    return Resource(
        "llm_model",
        f"{provider.name}/{model.alias}",
        provider.name,
        {
            "server": provider.name,
            "provider": provider.name,
            "model": model.name,
            "trust": provider.trust,
            "network": provider.network,
            "tenants": [*provider.tenants],
            "state": "approved",
            "scope": "llm:invoke",
            "priced": model.price is not None and model.price.known,
        },
    )
