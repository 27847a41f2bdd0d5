"""Where each setting stands in ``bartizan.yaml``: what is told of a wrong one names file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Lines of one file by the path of keys that leads there. name: what the file is called."""

    name: str = ""
    lines: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, name: str) -> Places:
        """Return the places of a file's text, none for a text that is not YAML. Lines count from 1."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError, ValueError):
            return cls(name)
        found: dict[Path, int] = {}
        open_: list[tuple[Path, yaml.Node]] = [((), root)] if root is not None else []
        aliased: set[int] = set()
        while open_:
            path, node = open_.pop()
            if id(node) in aliased:
                continue  # an alias may hold itself
            aliased.add(id(node))
            members = node.value if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) else ()
            for at, member in enumerate(members):
                key, value = member if isinstance(node, yaml.MappingNode) else (member, member)
                inner = (*path, str(key.value) if isinstance(node, yaml.MappingNode) else str(at))
                found[inner] = key.start_mark.line + 1
                open_.append((inner, value))
        return cls(name, found)

    def line(self, path: Sequence[object]) -> int:
        """Return the line of a setting, or of the nearest one around it that is written; 0 for none."""
        whole = tuple(str(part) for part in path)
        return next((self.lines[whole[:n]] for n in range(len(whole), 0, -1) if whole[:n] in self.lines), 0)

    def told(self, path: Sequence[object]) -> str:
        """Return ``file:line: `` for a setting, ``file: `` where no line is known, "" without a file."""
        line = self.line(path)
        return f"{self.name}:{line}: " if line and self.name else f"{self.name}: " if self.name else ""
