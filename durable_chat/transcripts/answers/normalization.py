"""
Normalize a model's output to an order of chunks that every client folds to the same messages.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from durable_chat.transcripts import chunks
from durable_chat.transcripts.answers.call_names import NAMED, CallNames
from durable_chat.transcripts.answers.items import WORKING, as_chunk, delta_of, text_field, unknown_type
from durable_chat.transcripts.answers.layout import Layout
from durable_chat.transcripts.answers.shorthands import Shorthands
from durable_chat.transcripts.answers.subagents import for_log
from durable_chat.transcripts.chunks import Chunk, merged_metadata
from durable_chat.transcripts.interrupts import split_interrupts
from durable_chat.transcripts.redaction import conceal
from durable_chat.transcripts.surrogates import Halves
from durable_chat.transcripts.usage import SO_FAR, Usage

Outcome = Literal["finished", "failed", "stopped"]

STOPPED_RESULT = '{"error":"Stopped before the tool was done."}'
FAILED_RESULT = '{"error":"The run ended before the tool was done."}'

_PASSED = frozenset(["STATE_SNAPSHOT", "STATE_DELTA", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA"])
_PASSED |= frozenset(["SUBAGENT_STARTED", "SUBAGENT_FINISHED", "SUBAGENT_ERROR"])


@dataclass(slots=True)
class _Call:
    """A tool call: its message (None: of an earlier run), whether its input is complete and whether it has a result."""

    home: str | None
    ended: bool = False
    answered: bool = False


class RunChunks:
    """
    The chunks of one run. `accept` takes an item that the model yields and returns any number of chunks. RUN_STARTED
    comes first, and every message starts before its content. A RUN_FINISHED for tool calls in the middle of a run is
    dropped. Exactly one terminal chunk ends the run.

    State: the layout of the messages; those with open structured output; the tool calls, and those without a result;
    the last step's signature; usage; an open short form; half a character.
    """

    def __init__(
        self,
        run_id: str,
        thread_id: str,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        *,
        known_ids: Container[str] = (),
        known_calls: Container[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        """
        `known_ids` (of messages) and `known_calls` are never reused. Errors and tool results contain no `secrets`.
        """
        self.run_id = run_id
        self.thread_id = thread_id
        self.outcome: Outcome | None = None
        self._now_ms = now_ms
        self.secrets = tuple(secrets)
        self._started = self._speaks = False
        self._layout = Layout(new_id, now_ms, known_ids)
        self._calls: dict[str, _Call] = {}
        self._names = CallNames(known_calls, run_id)
        self._unanswered: set[str] = set()
        self._signed: Any = None
        self._structured: set[str] = set()
        self._usage = Usage()
        self._shorthands = Shorthands()
        self._halves = Halves()

    @property
    def ended(self) -> bool:
        return self.outcome is not None

    def start(self, metadata: Mapping[str, Any] | None = None, parent_run_id: str | None = None) -> list[Chunk]:
        """Return RUN_STARTED on the first call. `parent_run_id` is the client's id of the run that this continues."""
        if self._started:
            return []
        self._started = True
        started = chunks.run_started(self.run_id, self.thread_id, timestamp=self._now_ms(), metadata=metadata)
        return [started | ({"parentRunId": parent_run_id} if parent_run_id else {})]

    def resume(self, call_ids: Iterable[str], *, speaks: bool) -> None:
        """
        Register calls of an earlier run that this run executes, so that none stays open. With `speaks`, the run always
        writes a message, even an empty one. Otherwise clients do not see that the turn is over; after results alone,
        they would request the answer again.
        """
        self._calls |= {call_id: _Call(None, ended=True) for call_id in call_ids}
        self._names.carry(self._calls)
        self._unanswered |= self._calls.keys()
        self._speaks = speaks

    @property
    def steps_usage(self) -> list[dict[str, Any]]:
        """What the finished steps of the answer have used."""
        return self._usage.ended

    def carry_usage(self, usage: list[dict[str, Any]]) -> None:
        """Count what the finished steps have used before the process died."""
        self._usage.add(usage)

    def abandon(self) -> list[Chunk]:
        """Return the ends of all open items, before they are replaced by a snapshot."""
        return self._close(FAILED_RESULT)

    def join(self) -> list[Chunk]:
        """
        Prepare the run for a model that goes on where another call of it was cut off. Its first text belongs to the
        current message, whatever the model names it. Calls without a result end as interrupted.
        """
        made: list[Chunk] = []
        for call_id in [call_id for call_id in self._calls if call_id in self._unanswered]:
            result = chunks.tool_result(f"tool-{call_id}", call_id, FAILED_RESULT, timestamp=self._now_ms(), error=True)
            made += self._call_result(result)
        self._layout.join()
        return made

    def accept(self, item: object) -> list[Chunk]:
        """Return the chunks for one item of the model. Raises InvalidChunk, and then leaves the run unchanged."""
        if self.outcome is not None:
            return []
        if (more := self._one_more(item)) is not None:
            return [more]
        if (said := as_chunk(item)) is None:
            return []
        taken = (whole for chunk in self._shorthands.expand(said) for whole in self._halves.take(chunk))
        return [made for whole in taken for made in self._accept(whole)]

    def _one_more(self, item: object) -> Chunk | None:
        """Handle the most common case in one step: one more delta of the open text. Return None for anything else."""
        if type(item) is not dict or item.get("type") != "TEXT_MESSAGE_CONTENT" or "subagentRunId" in item:
            return None
        name, delta = item.get("messageId"), item.get("delta")
        if type(name) is not str or type(delta) is not str or not delta or not self._halves.passes(delta):
            return None
        home = self._layout.going_on(name)
        if home is None:
            return None
        chunk = chunks.sanitize_chunk_for_storage(item)
        chunk["messageId"] = home
        return chunk

    def _accept(self, chunk: Chunk) -> list[Chunk]:
        chunk = self._names.rename(chunk) if chunk["type"] in NAMED else chunk
        handle = self._HANDLERS.get(chunk["type"])
        if handle is None and chunk["type"] not in _PASSED:
            raise unknown_type(chunk["type"])
        made = [for_log(chunk, self.run_id, self.secrets)] if handle is None else handle(self, chunk)
        return made if self._started or not made else self.start() + made

    def finish(self, metadata: Mapping[str, Any] | None = None) -> list[Chunk]:
        """Return the end of the run, unless the model has already written it. `metadata` goes into that end."""
        if self.ended:
            return []
        rest = [*self._halves.rest(), *self._shorthands.rest()]
        return [made for chunk in rest for made in self._accept(chunk)] + self._finish(
            "stop", {"metadata": metadata} if metadata else {}
        )

    def fail(self, message: str, code: str) -> list[Chunk]:
        """Return the end of a failed run. `message` is shown to people: see `models.base.shown_error`."""
        if self.ended:
            return []
        made = self.start()
        if not self._layout.shapes:  # without its own message, clients attach an error to the previous answer
            made += self._layout.begin_new()
        made += self._close(FAILED_RESULT)
        self.outcome = "failed"
        error = chunks.run_error(self.run_id, self.thread_id, timestamp=self._now_ms(), message=message, code=code)
        counts = self._usage.counts
        return [*made, error | ({"usage": counts} if counts else {})]

    def restate(self) -> list[Chunk]:
        """
        Return the start of the last message again. Clients that lost their state would otherwise show an error in a
        separate message; for others, nothing changes.
        """
        return self._layout.restart_last()

    def stop(self) -> list[Chunk]:
        """Return the end of a run that was stopped: without an error, and with every tool call closed."""
        if self.ended:
            return []
        made = self.start() + self._close(STOPPED_RESULT) + self._speak()
        self.outcome = "stopped"
        end = self._terminal("stop", stopped=True)
        if "usage" in end:
            end["metadata"]["tanstack"]["usage"] = end["usage"]
        return [*made, end]

    # Handlers validate first and change state afterwards, so that an invalid chunk changes nothing.

    def _text_start(self, chunk: Chunk) -> list[Chunk]:
        return self._layout.enter(text_field(chunk, "messageId"), chunk)[1]

    def _text_content(self, chunk: Chunk) -> list[Chunk]:
        message_id = text_field(chunk, "messageId", optional=True)
        delta = delta_of(chunk)
        if not delta:
            return []
        if (home := self._layout.going_on(message_id)) is not None:
            chunk["messageId"] = home
            return [chunk]
        home, made = self._layout.enter(message_id)
        if home in self._structured:
            self._layout.shapes[home].other = True
            made += self._layout.reopen(home)
        else:
            home, more, delta = self._layout.add_text(home, delta)
            made += more
        return [*made, chunk | {"messageId": home, "delta": delta}] if delta else made

    def _text_end(self, chunk: Chunk) -> list[Chunk]:
        name = text_field(chunk, "messageId", optional=True)
        home = self._layout.end_text(name)
        return [] if home is None else [chunk | {"messageId": home}]

    def _reasoning(self, chunk: Chunk) -> list[Chunk]:
        if chunk["type"] == "REASONING_MESSAGE_CONTENT" and delta_of(chunk) is None:
            return []
        home, made = self._layout.enter(None)
        self._layout.shapes[home].text_last = False
        if chunk["type"] == "REASONING_MESSAGE_CONTENT":
            self._layout.shapes[home].thought = self._layout.shapes[home].stepped = True
        return [*made, chunks.with_default(chunk, "messageId", f"{home}-reasoning")]

    def _encrypted(self, chunk: Chunk) -> list[Chunk]:
        text_field(chunk, "encryptedValue")
        if chunk.get("subtype") == "tool-call":
            return [chunk]
        home, made = self._layout.enter(None)
        shape = self._layout.shapes[home]
        stepped, shape.stepped, shape.text_last = shape.stepped, True, False
        step, signature = chunk.get("entityId") or f"{home}-reasoning", chunk["encryptedValue"]
        if signature in (self._signed, ""):
            return [*made, chunk]
        # Older clients read a signature only from the end of a step.
        told = {"type": "STEP_FINISHED", "stepName": step, "stepId": step, "signature": signature}
        begun = {"type": "STEP_STARTED", "stepName": step, "stepId": step}
        return [*made, *([] if stepped else [begun]), chunk, told]

    def _step_started(self, chunk: Chunk) -> list[Chunk]:
        """
        Hold a step until its message starts; otherwise clients attach it to the previous answer. Older clients identify
        a step by `stepId`, current ones by its name. Without `stepId`, each older tab would invent its own id.
        """
        name = chunk.get("stepName")
        if isinstance(name, str) and name:
            chunk = chunk | {"stepId": name}
        if (shape := self._layout.current_shape) is None:
            self._layout.hold_step(chunk)
            return []
        shape.stepped = True
        return [chunk]

    def _step_finished(self, chunk: Chunk) -> list[Chunk]:
        """Drop the end of a step without thinking, because older clients would show an empty thought."""
        signature = chunk.get("signature")
        if (shape := self._layout.current_shape) is None:
            self._layout.drop_step(chunk)
            return []
        if not shape.thought and not (signature and shape.stepped):
            return []
        self._signed = signature
        return [chunk]

    def _call_start(self, chunk: Chunk) -> list[Chunk]:
        call_id, parent = text_field(chunk, "toolCallId"), text_field(chunk, "parentMessageId", optional=True)
        text_field(chunk, "toolCallName")
        if call_id in self._calls:
            return []
        home, made = self._layout.enter(parent)
        self._calls[call_id] = _Call(home)
        self._unanswered.add(call_id)
        self._layout.shapes[home].after_call, self._layout.shapes[home].text_last = True, False
        return [*made, chunk | {"parentMessageId": home}]

    def _call_args(self, chunk: Chunk) -> list[Chunk]:
        call = self._calls.get(text_field(chunk, "toolCallId"))
        return [chunk] if delta_of(chunk) and call and not call.ended else []

    def _call_end(self, chunk: Chunk) -> list[Chunk]:
        call = self._calls.get(text_field(chunk, "toolCallId"))
        if call is None or call.ended:
            return []
        call.ended = True
        return [chunk]

    def _call_result(self, chunk: Chunk) -> list[Chunk]:
        """Handle a result. Once every call has one, the next chunk starts a new message, as in a tool loop."""
        call_id = text_field(chunk, "toolCallId")
        content = chunk.get("content", "")
        if not isinstance(content, str):
            content = chunks.encode_json(content).decode()
        call = self._calls.get(call_id)
        end = [] if call is None or call.ended else [self._ended_call(call_id)]
        if call is not None:
            call.ended = call.answered = True
            if call.home is not None:
                self._layout.shapes[call.home].text_last = False
            self._unanswered.discard(call_id)
        if not self._unanswered:
            self._layout.leave()
        said = {"content": conceal(content, self.secrets)}
        result = chunks.with_default(chunk, "messageId", f"tool-{call_id}") | said
        # As in `_close`, no client parses the arguments of a call that was cut off.
        return [result, *end] if chunk.get("state") == "output-error" else [*end, result]

    def _custom(self, chunk: Chunk) -> list[Chunk]:
        name, value = text_field(chunk, "name"), chunk.get("value")
        if name in ("approval-requested", "tool-input-available"):
            self._speaks = False  # a client answers only calls in the last message
        if name == "ui-resource" and isinstance(value, Mapping):
            call = self._calls.get(str(value.get("toolCallId")))
            home, made = self._layout.enter(None) if call is None else (call.home, [])
            if home is not None:
                self._layout.shapes[home].text_last, self._layout.shapes[home].other = False, True
            return [*made, chunk]
        if not name.startswith("structured-output.") or not isinstance(value, Mapping):
            return [for_log(chunk, self.run_id, self.secrets)]
        home, made = self._layout.enter(text_field(value, "messageId", optional=True))
        (self._structured.add if name == "structured-output.start" else self._structured.discard)(home)
        self._layout.shapes[home].text_last = False
        self._layout.shapes[home].other |= name == "structured-output.complete"
        return [*made, chunk | {"value": {**value, "messageId": home}}]

    def _run_finished(self, chunk: Chunk) -> list[Chunk]:
        reason = chunk.get("finishReason", chunks.tanstack_metadata(chunk).get("finishReason", "stop"))
        asked, chunk = split_interrupts(chunk)
        outcome = chunk.get("outcome")
        interrupted = isinstance(outcome, Mapping) and outcome.get("type") == "interrupt"
        self._usage.add(chunk.get("usage"))
        if asked:
            made = self.start() + [each for custom in asked for each in self._custom(custom)]
            return made + self._finish("tool_calls" if interrupted else "stop", chunk)
        if reason == "tool_calls" and not interrupted:  # the model's tool loop continues
            self._layout.leave()
            return []
        return self._finish(reason if isinstance(reason, str) else None, chunk)

    def _run_error(self, chunk: Chunk) -> list[Chunk]:
        legacy = chunk.get("error")
        source = legacy if "message" not in chunk and isinstance(legacy, Mapping) else chunk
        self._usage.add(chunk.get("usage"))
        return self.fail(chunks.safe_message(source.get("message"), self.secrets), chunks.safe_code(source.get("code")))

    def _finish(self, reason: str | None, chunk: Mapping[str, Any]) -> list[Chunk]:
        made = self.start() + [self._ended_call(call_id) for call_id, call in self._calls.items() if not call.ended]
        made += self._speak() + self._layout.end_texts()
        self.outcome = "finished"
        end = self._terminal(reason)
        extra = {key: chunk[key] for key in ("outcome", "result") if key in chunk}
        end["metadata"] = merged_metadata(chunk.get("metadata") or {}, end["metadata"])
        return [*made, end | extra]

    def _close(self, result: str) -> list[Chunk]:
        """
        End all open items. Calls without a result get `result` as an error. The result comes before the end of a call
        that was cut off, so that no client parses incomplete arguments as input.
        """
        made: list[Chunk] = []
        for call_id, call in self._calls.items():
            if call.answered:
                continue
            made.append(chunks.tool_result(f"tool-{call_id}", call_id, result, timestamp=self._now_ms(), error=True))
            if not call.ended:
                made.append(self._ended_call(call_id))
        return made + self._layout.end_texts()

    def _speak(self) -> list[Chunk]:
        return self._layout.begin_new() + self._layout.end_texts() if self._speaks and not self._layout.shapes else []

    def _terminal(self, reason: str | None, *, stopped: bool = False) -> Chunk:
        return chunks.run_finished(
            self.run_id,
            self.thread_id,
            timestamp=self._now_ms(),
            finish_reason=reason,
            stopped=stopped,
            usage=self._usage.counts,
        )

    def _ended_call(self, call_id: str) -> Chunk:
        return {"type": "TOOL_CALL_END", "toolCallId": call_id, "timestamp": self._now_ms()}

    def _used(self, chunk: Chunk) -> list[Chunk]:
        """Record the usage so far, in case the answer is cut off."""
        self._usage.note(chunk.get("usage"))
        return []

    def _nothing(self, chunk: Chunk) -> list[Chunk]:
        """Ignore the run's start and transcripts, which the server writes, and raw events, which may hold anything."""
        return []

    _HANDLERS: ClassVar[dict[str, Callable[[RunChunks, Chunk], list[Chunk]]]] = {
        "TEXT_MESSAGE_START": _text_start,
        "TEXT_MESSAGE_CONTENT": _text_content,
        "TEXT_MESSAGE_END": _text_end,
        "REASONING_START": _reasoning,
        "REASONING_MESSAGE_START": _reasoning,
        "REASONING_MESSAGE_CONTENT": _reasoning,
        "REASONING_MESSAGE_END": _reasoning,
        "REASONING_END": _reasoning,
        "REASONING_ENCRYPTED_VALUE": _encrypted,
        "STEP_STARTED": _step_started,
        "STEP_FINISHED": _step_finished,
        "TOOL_CALL_START": _call_start,
        "TOOL_CALL_ARGS": _call_args,
        "TOOL_CALL_END": _call_end,
        "TOOL_CALL_RESULT": _call_result,
        "CUSTOM": _custom,
        "RUN_STARTED": _nothing,
        "RUN_FINISHED": _run_finished,
        "RUN_ERROR": _run_error,
        "MESSAGES_SNAPSHOT": _nothing,
        "RAW": _nothing,
        WORKING: _nothing,
        SO_FAR: _used,
    }
