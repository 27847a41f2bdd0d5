"""The one file that touches the Rego library: strict interpreter, compiler and compiled machine.

Hazards held off here (policy reference §2): Python objects are never handed over, only JSON text,
since a lone surrogate or deep nesting would kill the process (H5); a panic is a BaseException (H8);
an undefined result is the string ``"<undefined>"`` (H9). Everything here belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import regorus

from firewall.core.decision import CONTRACT
from firewall.core.errors import PolicyFault
from firewall.core.points import Point

VERSION: Final = version("gordon-to-regorus")
ENTRYPOINT: Final = "data.firewall.decision"

_PREFIX: Final = {
    point: b'{"contract":"' + CONTRACT.encode() + b'","point":"' + point.value.encode() + b'",' for point in Point
}
_UNDEFINED: Final = '"<undefined>"'
# What must never be taken for an engine's failure.
_NOT_OURS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Strict:
    """The interpreter over whole modules: a built-in error raises. The reference for `Compiled`."""

    name = f"regorus/{VERSION}"

    def __init__(self, modules: Mapping[str, str], data_json: str) -> None:
        self._engine = regorus.Engine()
        for path, source in modules.items():
            self._engine.add_policy(path, source)
        self._engine.add_data_json(data_json)

    def decide(self, point: Point, input_json: bytes) -> bytes:
        """Return the decision document as JSON. Raises PolicyFault("engine_error")."""
        _check_point(point, input_json)
        try:
            self._engine.set_input_json(input_json.decode())
            answer = self._engine.eval_rule_as_json(ENTRYPOINT)
        except _NOT_OURS:
            raise
        except BaseException:  # noqa: BLE001  a panic of the engine is a BaseException (H8)
            raise PolicyFault("engine_error", f"{self.name}: the evaluation failed") from None
        return _checked(answer)

    def value(self, rule: str) -> str:
        """Return the value of any rule as JSON text, ``"<undefined>"`` included. Raises PolicyFault."""
        try:
            return str(self._engine.eval_rule_as_json(rule))
        except _NOT_OURS:
            raise
        except BaseException:  # noqa: BLE001
            raise PolicyFault("engine_error", f"{self.name}: {rule} failed") from None


class Compiled:
    """One point's program on the compiled machine. Not strict: only behind profile and self-test."""

    name = f"regorus-rvm/{VERSION}"

    def __init__(self, point: Point, program: bytes, data_json: str) -> None:
        try:
            loaded, partial = regorus.Program.deserialize_binary(program)
        except _NOT_OURS:
            raise
        except BaseException:  # noqa: BLE001
            raise PolicyFault("policy_unavailable", "a compiled program is damaged") from None
        if partial:
            raise PolicyFault("policy_unavailable", "a compiled program is of another version")
        self._prefix = _PREFIX[point]
        self._machine: Any = regorus.Rvm()
        self._machine.load_program(loaded)
        self._machine.set_data_json(data_json)

    def decide(self, input_json: bytes) -> bytes:
        """Return the decision document as JSON. Raises PolicyFault("engine_error")."""
        if not input_json.startswith(self._prefix):
            raise PolicyFault("engine_error", "the input is not for this point")
        try:
            self._machine.set_input_json(input_json.decode())
            answer = self._machine.execute()
        except _NOT_OURS:
            raise
        except BaseException:  # noqa: BLE001
            raise PolicyFault("engine_error", f"{self.name}: the evaluation failed") from None
        return _checked(answer)


def compile_program(modules: Mapping[str, str], data_json: str) -> bytes:
    """Return the serialised program of one point's modules. Raises PolicyFault("policy_unavailable")."""
    try:
        program = regorus.Program.compile_from_modules(data_json, list(modules.items()), [ENTRYPOINT])
        return bytes(program.serialize_binary())
    except _NOT_OURS:
        raise
    except BaseException as error:  # noqa: BLE001
        raise PolicyFault("policy_unavailable", str(error).partition("\n\nStack")[0]) from None


def _check_point(point: Point, input_json: bytes) -> None:
    # INVARIANT: a program is folded for its point, so an input for another point must not reach it.
    if not input_json.startswith(_PREFIX[point]):
        raise PolicyFault("engine_error", "the input is not for this point")


def _checked(answer: object) -> bytes:
    if not isinstance(answer, str) or answer == _UNDEFINED:
        raise PolicyFault("engine_error", "the decision is undefined")
    return answer.encode()
