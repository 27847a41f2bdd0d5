"""Reads ``bartizan.yaml`` and the environment's overrides; every problem is told with its place.

Only this file of the house reads configuration from disk or the environment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import yaml
from pydantic import ValidationError

from firewall.config.model import Config
from firewall.config.places import Places
from firewall.core.errors import ConfigFault

DEPTH = 64  # nested brackets in one file; the schema needs four
ENVIRONMENT: Mapping[str, str] = {
    "BARTIZAN_PUBLIC_URL": "public_url",
    "BARTIZAN_STATE_DIR": "state_dir",
    "BARTIZAN_WORKERS": "workers",
}


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of a file (None: defaults), with the environment's overrides.

    Raises ConfigFault: config_missing, config_unreadable, config_invalid. Each problem is one
    line of ``detail``: where it stands and what is wrong.
    """
    raw: dict[str, Any] = {}
    at: Callable[[], Places] = Places
    if path is not None:
        text = _read(path)
        raw, at = parse(text, str(path)), partial(Places.of, text, str(path))
        if isinstance(raw.get("lock"), str):
            # Beside the file that names it, wherever the command is run.
            raw["lock"] = str(path.resolve().parent / Path(raw["lock"]).expanduser())
    for variable, key in ENVIRONMENT.items():
        if variable in environ:
            raw[key] = environ[variable]
    return build(raw, at)


def fingerprints(config: Config) -> dict[str, str]:
    """Return 16 hexadecimal digits of SHA-256 for each top-level setting: whether two configurations differ, and where.

    Without ``state_dir`` and ``workers``, which the command line may set for one start.
    """
    values = config.model_dump(mode="json", exclude={"state_dir", "workers"})
    return {
        name: hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        for name, value in values.items()
    }


def places(path: Path) -> Places:
    """Return where each setting of a file stands. Raises ConfigFault: config_missing, config_unreadable."""
    return Places.of(_read(path), str(path))


def build(raw: dict[str, Any], at: Callable[[], Places] = Places) -> Config:
    """Return the configuration of an already parsed document. Raises ConfigFault("config_invalid").

    at: finds where its settings stand, once something is told of wrong ones.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines, known = [], at()
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(p) for p in problem["loc"]) or "(top)"
            told = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
            lines.append(f"{known.told(problem['loc'])}{where}: {told}")
        raise ConfigFault(
            "config_invalid", "\n".join(lines), fix="see docs/configuration.md, or run: bartizan config schema"
        ) from None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``bartizan.yaml``."""
    made = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bartizan.yaml", **made}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigFault("config_missing", f"there is no file {path}", fix="run: bartizan init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFault("config_unreadable", f"{path}: {type(error).__name__}") from None


def parse(text: str, name: str) -> dict[str, Any]:
    """Return the document of a file's text; name: how to call the file. Raises ConfigFault("config_invalid")."""
    if _depth(text) > DEPTH:
        # PyYAML takes quadratic time for it: seconds for a few kilobytes.
        raise ConfigFault("config_invalid", f"{name}: nested too deeply")
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader that also refuses repeated keys
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigFault("config_invalid", f"{where}: {getattr(error, 'problem', 'not YAML')}") from None
    except RecursionError:
        raise ConfigFault("config_invalid", f"{name}: nested too deeply") from None
    except ValueError:  # a number of thousands of digits, a day that no month has
        raise ConfigFault("config_invalid", f"{name}: a number or a date cannot be read") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigFault("config_invalid", f"{name}: a mapping is expected at the top")
    return raw


def _depth(text: str) -> int:
    """Return how many brackets at most stand open at once; quotes and comments are not looked at."""
    depth = most = 0
    for char in text:
        if char in "[{":
            depth += 1
            most = max(most, depth)
        elif char in "]}" and depth:
            depth -= 1
    return most


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises ConstructorError on a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
