"""
Tools that a model may call: functions of the application, which run here, and tools of the client, which run there.
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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from durable_chat.models.base import ToolSpec, Turn
from durable_chat.models.timeouts import AwakeTimeout
from durable_chat.transcripts.chunks import InvalidChunk, decode_json, encode_json

TOOLS_MAX = 128
"""Maximum tools of one turn: what providers accept, and more than any model can choose from well."""

TIMEOUT_S = 60.0
"""Default time limit of a call: longer than most requests, shorter than people wait."""

RESULT_BYTES_MAX = 1024 * 1024
"""Maximum size of a result: it is stored in the log, and the model must read it."""

ERROR_CHARS_MAX = 1000
"""Maximum length of an error, which the model and people read."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

log = logging.getLogger(__name__)


class IdempotencyKey(str):
    """
    The key of a tool call: the same if the call is repeated after a crash. Pass it to an API that accepts one, or store
    it with the result.
    """

    __slots__ = ()


class ToolError(Exception):
    """Raised by a tool to tell the model and the users why it failed. The text of other exceptions is not shown."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a call: text, or JSON in a string."""

    content: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """
    A tool. Without a function it is the client's. `read` converts the model's arguments to the function's arguments.
    The parameter annotated as a Turn receives the turn, and the one annotated as an IdempotencyKey the call's key. An
    `idempotent` tool is called again with the same key if the process died during the call.
    """

    spec: ToolSpec
    function: Callable[..., Any] | None = None
    needs_approval: bool = False
    timeout_s: float = TIMEOUT_S
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    turn_parameter: str | None = None
    key_parameter: str | None = None
    idempotent: bool = False

    def check(self, arguments: str) -> Result | None:
        """Return an error for the model if its arguments are invalid, otherwise None."""
        try:
            self._read(arguments)
        except ToolError as error:
            return failure(str(error))
        return None

    async def call(self, arguments: str, turn: Turn, key: str = "") -> Result:
        """
        Call the function and return its result. `key` is the same if the call is repeated after a crash. Failures are
        results, too; only a cancellation is raised.
        """
        assert self.function is not None
        try:
            given = self._read(arguments)
            if self.turn_parameter is not None:
                given[self.turn_parameter] = turn
            if self.key_parameter is not None:
                given[self.key_parameter] = IdempotencyKey(key)
            async with AwakeTimeout(self.timeout_s):
                return _result_of(await self._invoke(given))
        except ToolError as error:
            return failure(str(error) or "The tool failed.")
        except TimeoutError:
            return failure("The tool did not finish in time.")
        except Exception:
            where = (self.spec.name, turn.run_id, turn.session_id)
            log.warning("tool %s failed in run %s of session %s", *where, exc_info=True)
            return failure("The tool failed.")

    def _read(self, arguments: str) -> dict[str, Any]:
        """Decode and convert the arguments. Raises ToolError."""
        try:
            value = decode_json(arguments or "{}")
        except InvalidChunk as error:
            raise ToolError("The arguments are not valid JSON.") from error
        if not isinstance(value, dict):
            raise ToolError("The arguments must be a JSON object.")
        return self.read(value)

    async def _invoke(self, given: dict[str, Any]) -> Any:
        assert self.function is not None
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__):
            return await self.function(**given)
        made = await _in_thread(self.function, given)
        return await made if inspect.isawaitable(made) else made


class Tools:
    """The tools of an application, by name. Mutable state: the tools."""

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
        """
        Add a tool. Raises ValueError when its name is invalid or taken, or when there are already TOOLS_MAX tools.
        """
        if not _NAME.fullmatch(tool.spec.name):
            raise ValueError(f"A tool's name must consist of 1 to 64 letters, digits, _ or -, not {tool.spec.name!r}.")
        if tool.spec.name in self._tools:
            raise ValueError(f"A tool named {tool.spec.name} already exists.")
        if len(self._tools) >= TOOLS_MAX:
            raise ValueError(f"An application may have at most {TOOLS_MAX} tools.")
        self._tools[tool.spec.name] = tool

    @property
    def server_names(self) -> frozenset[str]:
        """The tools whose results a client must not set."""
        return frozenset(tool.spec.name for tool in self if tool.function is not None)


def make_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    needs_approval: bool = False,
    timeout_s: float = TIMEOUT_S,
    idempotent: bool = False,
) -> Tool:
    """
    Make a tool from a function. Without `parameters` (a JSON schema), the schema is derived from its type hints, and
    the model's arguments are checked against them. Raises TypeError when the hints do not determine a schema.
    """
    named = name or str(getattr(function, "__name__", ""))
    told = description if description is not None else inspect.getdoc(function) or ""
    turn, key = _parameter_of(function, Turn), _parameter_of(function, IdempotencyKey)
    hidden = {turn, key} - {None}
    if parameters is not None:
        schema, read = dict(parameters), _reader_by_signature(function, hidden)
    else:
        schema, read = _schema_of(function, named, hidden)
    return Tool(ToolSpec(named, told, schema), function, needs_approval, timeout_s, read, turn, key, idempotent)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the type hints of a function or of a callable object."""
    plain = inspect.isroutine(function) or inspect.isclass(function)
    return typing.get_type_hints(function if plain else type(function).__call__, include_extras=True)


def _parameter_of(function: Callable[..., Any], kind: type) -> str | None:
    """Return the name of the parameter of this type, which the loop passes and which is hidden from the model."""
    try:
        hints = _hints(function)
    except NameError:  # a type that is missing at run time; with its own schema the tool needs no hints
        return None
    return next((name for name, hint in hints.items() if hint is kind and name != "return"), None)


def failure(message: str) -> Result:
    """Return an error as a result, in the format of TanStack's servers."""
    return Result(encode_json({"error": message[:ERROR_CHARS_MAX]}).decode(), failed=True)


def posted_specs(values: Iterable[Any]) -> tuple[ToolSpec, ...]:
    """Return the tools that a client posted with its messages. Skip invalid ones."""
    return tuple(spec for spec in map(posted_spec, values) if spec is not None)


def posted_spec(value: Any) -> ToolSpec | None:
    """
    Return a tool that a client posted with its messages (name, description, parameters), or None if it is invalid.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not _NAME.fullmatch(value["name"]):
        return None
    description, parameters = value.get("description"), value.get("parameters")
    told = description if isinstance(description, str) else ""
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        return ToolSpec(value["name"], told)
    return ToolSpec(value["name"], told, parameters)


def _schema_of(
    function: Callable[..., Any], name: str, hidden: Container[str | None]
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """Return the schema of a function's parameters, and a function that converts the model's arguments."""
    hints = _hints(function)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in hidden:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"The tool {name} has the parameter {parameter.name}, which cannot be passed by name.")
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
            # The error names only types and paths. The model needs it to correct the call.
            raise ToolError(f"The arguments are wrong: {error}.") from error
        return {key: getattr(made, key) for key in struct.__struct_fields__}

    return schema, read


def _giver(parameter: inspect.Parameter) -> Callable[[], Any]:
    return lambda: parameter.default


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    """
    Return the schema with the arguments at its top level, as providers expect it. Referenced definitions stay in
    `$defs`.
    """
    definitions = dict(schema.get("$defs", {}))
    top = dict(definitions.pop("Arguments"))
    top.pop("title", None)
    return {**top, **({"$defs": definitions} if definitions else {})}


def _reader_by_signature(
    function: Callable[..., Any], hidden: Container[str | None]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Check only that the function accepts the arguments, because the application supplied its own schema."""
    signature = inspect.signature(function)
    taken = [parameter for parameter in signature.parameters.values() if parameter.name not in hidden]
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
        return failure("The tool returned a value that cannot be written as JSON.")
    if len(content.encode("utf-8", "replace")) > RESULT_BYTES_MAX:
        return failure("The tool returned more than can be stored.")
    return Result(content)


async def _in_thread(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """
    Run the function in its own thread, which is abandoned when nobody waits for it. A function that hangs must not
    occupy the server's own threads or prevent a shutdown.
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
        except StopIteration:  # a future rejects StopIteration
            failed = RuntimeError("The tool raised StopIteration.")
        except BaseException as error:  # noqa: BLE001 - it is raised again in the waiting task
            failed = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, value, failed)

    threading.Thread(target=work, name="tool", daemon=True).start()
    return await done
