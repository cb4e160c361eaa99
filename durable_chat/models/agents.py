"""
Run a model with tools: ask it, execute its calls, and ask it again with the results, in one run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from durable_chat.models.base import CannotResume, Model, Output, ToolSpec, Turn
from durable_chat.models.outputs import close_output, items_of, open_output
from durable_chat.models.steps import Call, LoggedSteps, Step, read_steps
from durable_chat.models.tools import Result, Tool, Tools, failure
from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.call_names import NAMED, CallNames
from durable_chat.transcripts.answers.items import WORKING, as_chunk
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.answers.shorthands import Shorthands
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.tool_answers import call_of, with_results
from durable_chat.transcripts.transcript import Transcript

STEPS_MAX = 16
"""Default number of times a model is asked in one run. A loop that continues for longer is stuck."""

CALLS_AT_ONCE = 8
"""Maximum calls of one answer that run concurrently. The others wait."""

WORKING_S = 0.5
"""
How often a run reports that its tools are running, so that it does not count as stalled. Each tool has its own time
limit.
"""

CANCEL_WAIT_S = 5.0
"""How long cancelled tools have to clean up."""

_WORKING: Chunk = {"type": WORKING}

_INTERRUPTED = "The server restarted during this call. It is unknown whether the call was carried out."
_NO_STEPS_LEFT = "The limit of steps for one answer has been reached."


class Agent:
    """
    A model with the application's tools and with tools of the model's `own`, which the model already knows.

    The model is asked again as long as it calls tools, at most `max_steps` times. Calls that need a person or the
    client end the run; the answer to them starts the next run.
    """

    def __init__(self, model: Model, tools: Tools, *, own: Iterable[Tool] = (), max_steps: int = STEPS_MAX) -> None:
        self.model = model
        self.tools = tools
        self.own = {tool.spec.name: tool for tool in own}
        self.max_steps = max_steps

    @property
    def server_tools(self) -> frozenset[str]:
        """The tools whose results a client must not set."""
        return self.tools.server_names | frozenset(self.own)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The model's secrets."""
        return tuple(getattr(self.model, "secrets", ()))

    def check(self, api_key: str | None) -> None:
        """See `models.choosing.check_key`."""
        check = getattr(self.model, "check", None)
        if check is not None:
            check(api_key)

    def find(self, name: str, turn: Turn) -> Tool | None:
        """Find a tool by name: the application's, the model's own, or one that the client posted."""
        posted = (Tool(spec) for spec in turn.tools if spec.name == name)
        return self.tools.get(name) or self.own.get(name) or next(posted, None)

    def specs(self, turn: Turn) -> tuple[ToolSpec, ...]:
        """Return the tools that the model receives. A client's tool does not replace one of the application."""
        specs = {spec.name: spec for spec in turn.tools}
        return tuple((specs | {tool.spec.name: tool.spec for tool in self.tools}).values())

    def __call__(self, turn: Turn, /) -> AsyncIterator[Any]:
        return _Loop(self, turn).chunks()

    def resume(self, turn: Turn, said: Sequence[Chunk], /) -> AsyncIterator[Any] | None:
        """
        Go on with an answer from the last step in the log. Finished calls are not executed again. A call that was under
        way ends as interrupted, unless its tool is idempotent. A step that was cut off in its text goes on only if the
        model itself can resume it. See `base.Resumable`.
        """
        loop = _Loop(self, turn)
        logged = read_steps(said, lambda name: self.find(name, turn) is not None)
        loop.recall(logged)
        output: Output | None = None
        if logged.is_cut:
            resume = getattr(self.model, "resume", None)
            goes_on = replace(loop.next_turn(), heard=partial(loop.hear_within, logged.step))
            output = None if resume is None else resume(goes_on, tuple(logged.rest))
            if output is None and not loop.ours(logged.step) and not logged.asks:
                return None
        elif not logged.finished and not turn.approved:  # it has not said anything
            return None
        return loop.resumed(logged, output)

    def finished(self, turn: Turn, said: Sequence[Chunk], /) -> int:
        """Return how many of the chunks in the log belong to finished steps. An answer anew begins after them."""
        return read_steps(said, lambda name: self.find(name, turn) is not None).finished


class _Loop:
    """
    One run. State: the turn for the next request to the model, the model's output so far, the names of its calls, and
    whether a call waits for a person or the client.
    """

    def __init__(self, agent: Agent, turn: Turn) -> None:
        self.agent = agent
        self.asked = turn
        self.turn = replace(turn, tools=agent.specs(turn))
        self.said: list[Chunk] = []
        self.names = CallNames(_calls_in(turn.messages), turn.run_id)
        self.names.carry(turn.approved)
        self.waits = turn.waits
        self.at_once = asyncio.Semaphore(CALLS_AT_ONCE)

    async def chunks(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self._approved()) as made:
            async for chunk in made:
                yield chunk
        async with aclosing(self._loop(self.agent.max_steps)) as made:
            async for chunk in made:
                yield chunk

    async def _loop(self, steps: int) -> AsyncGenerator[Any, None]:
        for left in reversed(range(steps)):
            if self.waits:
                break
            if self.said or self.asked.approved:  # the first step answers the turn's own message
                await self._hear()
            step = Step()
            turn = replace(self.next_turn(), heard=partial(self.hear_within, step))
            source = await open_output(self.agent.model, turn)
            async with aclosing(self._take(source, step)) as made:
                async for chunk in made:
                    yield chunk
            calls = self.ours(step)
            if not calls:
                if step.end is not None:
                    yield step.end
                return
            yield self._keep(_goes_on(step.end))
            async with aclosing(self._carry(calls, last=not left)) as made:
                async for chunk in made:
                    yield self._keep(chunk)
            await self.turn.saved()  # the model must not see a result that a crash could take back
        yield self._finished("stop" if self.waits else "length")

    async def _hear(self) -> bool:
        """
        Go on with the messages that were sent since. Return whether there were any. What was said so far is among those
        of the turn then.
        """
        heard = await self.asked.heard()
        if heard is None:
            return False
        self.asked = heard
        self.turn = replace(heard, tools=self.agent.specs(heard))
        self.said = []
        self.names = CallNames(_calls_in(heard.messages), heard.run_id)
        return True

    async def hear_within(self, step: Step) -> Turn | None:
        """Hear what was sent, for a model that asks in the middle of its step. Its calls have no results yet."""
        if step.open or not await self._hear():
            return None
        return replace(self.turn, heard=partial(self.hear_within, step))

    # After a crash.

    def recall(self, logged: LoggedSteps) -> None:
        """Take over what the run has said before its process died."""
        self.said = list(logged.said[: logged.finished])
        for chunk in logged.said:
            if chunk["type"] == "TOOL_CALL_START":
                self.names.carry([str(chunk.get("toolCallId"))])
            elif chunk["type"] == "TOOL_CALL_RESULT":
                self.names.answer(str(chunk.get("toolCallId")))

    async def resumed(self, logged: LoggedSteps, output: Output | None) -> AsyncGenerator[Any, None]:
        """Go on with a run. `output` is the rest of the step that was cut off, if the model can resume that."""
        async with aclosing(self._approved(logged.results)) as made:
            async for chunk in made:
                yield chunk
        self.said += logged.rest
        step = logged.step
        if output is not None:
            try:
                async with aclosing(self._take(items_of(output), step)) as made:
                    async for chunk in made:
                        yield chunk
            except CannotResume:
                if not self.ours(step) and not logged.asks:
                    raise
                output = None  # the calls so far go on as if the model could not resume
        calls = self.ours(step)
        if output is not None and not calls:
            if step.end is not None:
                yield step.end
            return
        yield self._keep(_goes_on(step.end))
        self.waits = self.waits or logged.asks
        async with aclosing(self._settle(calls, logged, is_whole=output is not None)) as made:
            async for chunk in made:
                yield self._keep(chunk)
        async with aclosing(self._loop(max(1, self.agent.max_steps - logged.count - bool(calls)))) as made:
            async for chunk in made:
                yield chunk

    async def _settle(
        self, calls: Mapping[str, Call], logged: LoggedSteps, *, is_whole: bool
    ) -> AsyncGenerator[Chunk, None]:
        """
        Yield the results of the calls of a step that was cut off. With `is_whole`, the model has completed the step
        since, so that only the calls that were complete before can have been under way.
        """
        left = {}
        for call_id, call in calls.items():
            if self._is_safe(call) if call_id in logged.complete else is_whole:
                left[call_id] = call
            else:
                yield _result(call_id, failure(_INTERRUPTED))
        async with aclosing(self._carry(left)) as made:
            async for chunk in made:
                yield chunk

    def _is_safe(self, call: Call, *, approved: bool = False) -> bool:
        """Whether a call can be carried out although it may have been under way when the process died."""
        tool = self._find(call.name)
        return tool is None or tool.function is None or tool.idempotent or (tool.needs_approval and not approved)

    async def _approved(self, known: Sequence[Chunk] | None = None) -> AsyncGenerator[Chunk, None]:
        """
        Execute the approved calls and put the results beside the calls. `known` are the results in the log after a
        crash; the other calls may have been under way then.
        """
        calls: dict[str, Call] = {}
        results = [chunk for chunk in known or () if chunk.get("toolCallId") in self.turn.approved]
        answered = {str(chunk.get("toolCallId")) for chunk in results}
        for call_id in self.turn.approved:
            found = next((call for message in self.turn.messages if (call := call_of(message, call_id))), None)
            if found is None or call_id in answered:
                continue
            approved = Call(str(found.get("name")), str(found.get("arguments") or ""))
            if known is None or self._is_safe(approved, approved=True):
                calls[call_id] = approved
            else:
                results.append(_result(call_id, failure(_INTERRUPTED)))
                yield results[-1]
        async with aclosing(self._carry(calls, approved=True)) as made:
            async for chunk in made:
                results.append(chunk)
                yield chunk
        if results:
            await self.turn.saved()
        self.turn = replace(
            self.turn, messages=_with_all_results(self.turn.messages, results), approved=(), waits=False
        )

    async def _take(self, source: AsyncIterator[Any], step: Step) -> AsyncGenerator[Any, None]:
        """Yield the model's output up to its end, which is held back."""
        shorthands = Shorthands()
        try:
            async for item in source:
                said = as_chunk(item)
                for told in [] if said is None else shorthands.expand(said):
                    chunk = self.names.rename(told) if told["type"] in NAMED else told
                    step.see(chunk)
                    if chunk["type"] == "RUN_FINISHED":
                        step.end = chunk
                        return
                    yield self._keep(chunk)
            for told in shorthands.rest():
                chunk = self.names.rename(told) if told["type"] in NAMED else told
                step.see(chunk)
                yield self._keep(chunk)
        finally:
            await close_output(source)

    def next_turn(self) -> Turn:
        """Return the turn with the output of this run so far."""
        if not self.said:
            return self.turn
        numbers = iter(range(len(self.said) + 1))
        run = RunChunks(self.turn.run_id, self.turn.session_id, lambda: f"step-{next(numbers)}", _now_ms)
        said = Transcript()
        for chunk in self.said:
            said.fold_all(run.accept(chunk))
        context = self.turn.context if said.context.summary is None else said.context
        return replace(self.turn, messages=(*self.turn.messages, *said.messages()), context=context)

    def ours(self, step: Step) -> dict[str, Call]:
        """
        Return the calls to handle. A call to an unknown tool is included only if the model waits for its result: an
        application's own model may leave a call open for its own client.
        """
        if step.end is not None and step.end.get("outcome"):
            return {}
        waits = step.end is not None and _reason(step.end) == "tool_calls"
        return {call_id: call for call_id, call in step.open.items() if waits or self._find(call.name) is not None}

    def _find(self, name: str) -> Tool | None:
        return self.agent.find(name, self.asked)

    async def _carry(
        self, calls: Mapping[str, Call], *, approved: bool = False, last: bool = False
    ) -> AsyncGenerator[Chunk, None]:
        """
        Yield the results of calls as they arrive, then the questions that others must answer. In the `last` step no
        call is executed, because the model would not receive the result.
        """
        runs: dict[str, tuple[Tool, Call]] = {}
        asks: list[Chunk] = []
        for call_id, call in calls.items():
            tool = self._find(call.name)
            wrong = failure(_NO_STEPS_LEFT) if last else _refused(tool, call)
            if wrong is not None or tool is None:
                yield _result(call_id, wrong or failure("This tool does not exist."))
            elif tool.needs_approval and not approved:
                asks.append(
                    _asking("approval-requested", call_id, call, {"id": f"approval_{call_id}", "needsApproval": True})
                )
            elif tool.function is None:
                asks.append(_asking("tool-input-available", call_id, call))
            else:
                runs[call_id] = tool, call
        tasks: dict[asyncio.Task[Result], str] = {}
        try:
            if runs:
                if not approved:
                    for call_id in runs:  # its arguments are complete: after a crash, the log must show that
                        yield _call_end(call_id)
                await self.turn.saved()
            for call_id, (tool, call) in runs.items():
                tasks[asyncio.create_task(self._invoke(tool, call_id, call), name=f"tool {call.name}")] = call_id
            while tasks:
                done, _ = await asyncio.wait(tasks, timeout=WORKING_S, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield _WORKING
                for task in done:
                    yield _result(tasks.pop(task), task.result())
        finally:
            await _cancel(tasks)
        self.waits = self.waits or bool(asks)
        for chunk in asks:
            yield chunk

    async def _invoke(self, tool: Tool, call_id: str, call: Call) -> Result:
        async with self.at_once:
            return await tool.call(call.arguments, self.asked, f"{self.asked.run_id}:{call_id}")

    def _keep(self, chunk: Chunk) -> Chunk:
        if chunk["type"] == "TOOL_CALL_RESULT":
            self.names.answer(str(chunk.get("toolCallId")))
        if chunk is not _WORKING:
            self.said.append(chunk)
        return chunk

    def _finished(self, reason: str) -> Chunk:
        return chunks.run_finished(self.turn.run_id, self.turn.session_id, timestamp=_now_ms(), finish_reason=reason)


def _calls_in(messages: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    parts = (part for message in messages for part in message.get("parts") or ())
    return frozenset(str(part.get("id")) for part in parts if part.get("type") == "tool-call")


def _refused(tool: Tool | None, call: Call) -> Result | None:
    """Return why a call cannot be executed, or None. Approval is requested only for calls that can be executed."""
    if tool is None:
        return failure(f"There is no tool named {call.name}.")
    return tool.check(call.arguments)


def _asking(name: str, call_id: str, call: Call, approval: Mapping[str, Any] | None = None) -> Chunk:
    """Return the CUSTOM chunk that makes clients ask a person or run a client tool."""
    value: dict[str, Any] = {"toolCallId": call_id, "toolName": call.name}
    value["input"] = chunks.decode_json(call.arguments or "{}")
    if approval is not None:
        value["approval"] = dict(approval)
    return {"type": "CUSTOM", "name": name, "value": value, "timestamp": _now_ms()}


def _call_end(call_id: str) -> Chunk:
    return {"type": "TOOL_CALL_END", "toolCallId": call_id, "timestamp": _now_ms()}


def _result(call_id: str, result: Result) -> Chunk:
    return chunks.tool_result(f"tool-{call_id}", call_id, result.content, timestamp=_now_ms(), error=result.failed)


def _goes_on(end: Chunk | None) -> Chunk:
    """
    Return the end of an answer that another one follows in the same run. Only its usage counts; the end itself is
    dropped later.
    """
    kept = {key: value for key, value in (end or {}).items() if key in ("usage", "timestamp")}
    return {"type": "RUN_FINISHED", **kept, "metadata": {"tanstack": {"finishReason": "tool_calls"}}}


def _reason(end: Chunk) -> Any:
    return end.get("finishReason", chunks.tanstack_metadata(end).get("finishReason"))


def _with_all_results(messages: Iterable[Mapping[str, Any]], results: list[Chunk]) -> tuple[Mapping[str, Any], ...]:
    answered = {chunk.get("toolCallId"): chunk for chunk in results if chunk["type"] == "TOOL_CALL_RESULT"}
    made = []
    for message in messages:
        own = [chunk for call_id, chunk in answered.items() if call_of(message, str(call_id))]
        made.append(with_results(dict(message), own) if own else message)
    return tuple(made)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks that nobody waits for any more."""
    left = list(tasks)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=CANCEL_WAIT_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
