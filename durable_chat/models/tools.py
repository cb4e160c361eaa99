"""
Tools a model may call: functions of the application, which run here, and tools of the client, which run there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import re
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.timeouts import AwakeTimeout
from durable_chat.transcripts.chunks import InvalidChunk, decode_json, encode_json

TOOLS_MAX = 128
"""Of one turn: what providers take, and more than any model chooses well from."""

TIMEOUT_S = 60.0
"""How long a call may take where its tool does not say: longer than most requests, shorter than people wait."""

RESULT_BYTES_MAX = 1024 * 1024
"""Of what a call gives: it is kept in the log, and the model has to read it."""

ERROR_CHARS_MAX = 1000
"""Of the error a call gives: the model and people read it."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

log = logging.getLogger(__name__)


class ToolError(Exception):
    """What a tool raises to tell the model, and whoever reads along, why it failed. Other exceptions stay here."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave: text, or JSON in a string."""

    content: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """
    A tool; without a function it is the client's. `read` makes the function's arguments of what the model gave; the
    parameter that is annotated as a Turn is given the turn.
    """

    spec: ToolSpec
    function: Callable[..., Any] | None = None
    needs_approval: bool = False
    timeout_s: float = TIMEOUT_S
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    turn_parameter: str | None = None

    def check(self, arguments: str) -> Result | None:
        """What is wrong with the arguments a model gave, in words for the model."""
        try:
            self._read(arguments)
        except ToolError as error:
            return failure(str(error))
        return None

    async def call(self, arguments: str, turn: Turn) -> Result:
        """What the call gives. Everything that goes wrong is a result, too; only a cancellation is raised."""
        assert self.function is not None
        try:
            given = self._read(arguments)
            if self.turn_parameter is not None:
                given[self.turn_parameter] = turn
            async with AwakeTimeout(self.timeout_s):
                return _result_of(await self._invoke(given))
        except ToolError as error:
            return failure(str(error) or "The tool failed.")
        except TimeoutError:
            return failure("The tool did not finish in time.")
        except Exception:
            where = (self.spec.name, turn.run_id, turn.session_id)
            log.warning("the tool %s failed in run %s of session %s", *where, exc_info=True)
            return failure("The tool failed.")

    def _read(self, arguments: str) -> dict[str, Any]:
        """Raises ToolError."""
        try:
            value = decode_json(arguments or "{}")
        except InvalidChunk as error:
            raise ToolError("The arguments are not JSON.") from error
        if not isinstance(value, dict):
            raise ToolError("The arguments must be an object.")
        return self.read(value)

    async def _invoke(self, given: dict[str, Any]) -> Any:
        assert self.function is not None
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__):
            return await self.function(**given)
        made = await _in_thread(self.function, given)
        return await made if inspect.isawaitable(made) else made


class Tools:
    """The tools of an application, by name. Mutable state: them."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.add(tool)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def add(self, tool: Tool) -> None:
        """Raises ValueError for a name that is taken, or is none."""
        if not _NAME.fullmatch(tool.spec.name):
            raise ValueError(f"A tool's name is of 1 to 64 letters, digits, _ or -, not {tool.spec.name!r}.")
        if tool.spec.name in self._tools:
            raise ValueError(f"There is a tool {tool.spec.name} already.")
        if len(self._tools) >= TOOLS_MAX:
            raise ValueError(f"There are at most {TOOLS_MAX} tools.")
        self._tools[tool.spec.name] = tool

    @property
    def server_names(self) -> frozenset[str]:
        """Those whose results are not a client's to say."""
        return frozenset(tool.spec.name for tool in self if tool.function is not None)


def make_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    needs_approval: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Tool:
    """
    A tool of a function. Without `parameters` (a JSON schema) the schema is that of its type hints, and what the model
    gives is checked against them. Raises TypeError for a function whose parameters cannot be told from its hints.
    """
    named = name or str(getattr(function, "__name__", ""))
    told = description if description is not None else inspect.getdoc(function) or ""
    hidden = _turn_parameter(function)
    if parameters is not None:
        schema, read = dict(parameters), _reader_by_signature(function, hidden)
    else:
        schema, read = _schema_of(function, named, hidden)
    return Tool(ToolSpec(named, told, schema), function, needs_approval, timeout_s, read, hidden)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The type hints of a function, or of an object that can be called."""
    plain = inspect.isroutine(function) or inspect.isclass(function)
    return typing.get_type_hints(function if plain else type(function).__call__, include_extras=True)


def _turn_parameter(function: Callable[..., Any]) -> str | None:
    """Which parameter is given the turn, and is not the model's to fill."""
    try:
        hints = _hints(function)
    except NameError:  # of a type that is not there at run time; with a schema of its own nobody needs it
        return None
    return next((name for name, hint in hints.items() if hint is Turn and name != "return"), None)


def failure(message: str) -> Result:
    """An error as a result, as TanStack's servers write one."""
    return Result(encode_json({"error": message[:ERROR_CHARS_MAX]}).decode(), failed=True)


def posted_spec(value: Any) -> ToolSpec | None:
    """A tool that a client posted with its messages (name, description, parameters), when it is one."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not _NAME.fullmatch(value["name"]):
        return None
    description, parameters = value.get("description"), value.get("parameters")
    told = description if isinstance(description, str) else ""
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        return ToolSpec(value["name"], told)
    return ToolSpec(value["name"], told, parameters)


def _schema_of(
    function: Callable[..., Any], name: str, hidden: str | None
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """The schema of a function's parameters, and what makes arguments of what a model gave."""
    hints = _hints(function)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == hidden:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"The tool {name} has the parameter {parameter.name}, which has no name of its own.")
        hint = hints.get(parameter.name, Any)
        given = () if parameter.default is parameter.empty else (msgspec.field(default_factory=_giver(parameter)),)
        fields.append((parameter.name, hint, *given))
    struct = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)
    try:
        schema = _flat(msgspec.json.schema(struct))
    except TypeError as error:
        raise TypeError(f"The tool {name} has a parameter whose type has no JSON schema.") from error

    def read(value: Mapping[str, Any]) -> dict[str, Any]:
        try:
            made = msgspec.convert(value, struct)
        except msgspec.ValidationError as error:
            # It tells of types and places alone, and the model can only do better when it is told.
            raise ToolError(f"The arguments are wrong: {error}.") from error
        return {key: getattr(made, key) for key in struct.__struct_fields__}

    return schema, read


def _giver(parameter: inspect.Parameter) -> Callable[[], Any]:
    return lambda: parameter.default


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the arguments' own at its top, as providers want it; those it refers to stay beside it."""
    definitions = dict(schema.get("$defs", {}))
    top = dict(definitions.pop("Arguments"))
    top.pop("title", None)
    return {**top, **({"$defs": definitions} if definitions else {})}


def _reader_by_signature(
    function: Callable[..., Any], hidden: str | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """With a schema of the application's own, only that the function can be called so is checked."""
    signature = inspect.signature(function)
    taken = [parameter for parameter in signature.parameters.values() if parameter.name != hidden]
    bound = signature.replace(parameters=taken)

    def read(value: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(value)
        try:
            bound.bind(**given)
        except TypeError as error:
            raise ToolError(f"The arguments are wrong: {error}.") from error
        return given

    return read


def _result_of(value: Any) -> Result:
    try:
        content = value if isinstance(value, str) else encode_json(value).decode()
    except InvalidChunk:
        return failure("The tool gave something that cannot be written as JSON.")
    if len(content.encode("utf-8", "replace")) > RESULT_BYTES_MAX:
        return failure("The tool gave more than can be kept.")
    return Result(content)


async def _in_thread(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """
    In a thread of its own, which is left alone when nobody waits for it any longer: a function that hangs must keep
    neither the server's own threads nor its end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result(value) if error is None else done.set_exception(error)

    def work() -> None:
        value: Any = None
        failed: Exception | None = None
        try:
            value = context.run(function, **given)
        except StopIteration:  # which no future takes
            failed = RuntimeError("The tool raised StopIteration.")
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            failed = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, value, failed)

    threading.Thread(target=work, name="tool", daemon=True).start()
    return await done
