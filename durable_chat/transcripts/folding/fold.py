"""
Apply each chunk to the messages in constant time, with the same result as TanStack AI's own client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from durable_chat.transcripts import javascript
from durable_chat.transcripts.chunks import string_at as _string
from durable_chat.transcripts.context_summaries import Context, after_snapshot, count_in, summary_in
from durable_chat.transcripts.conversions import restored, snapshot_messages
from durable_chat.transcripts.folding import part_updates as updates
from durable_chat.transcripts.folding.containments import contain
from durable_chat.transcripts.parts import Call, Message, Messages, Rope, Streaming, last_of
from durable_chat.transcripts.runs.ends import UNKNOWN_ERROR, RunEnd, run_end

_UNFINISHED = "Stream ended without structured-output.complete"


class Fold:
    """
    A client's state, and how chunks change it.

    State, named as in the client: the messages; what is being streamed into each message; the active messages; the
    message of each tool call; the message that waits for its id; a step that waits for its message; the messages whose
    text is structured output; the runs the client waits for (cleared by a snapshot) and the open runs; whether an error
    occurred since the last snapshot; the last message before the last run, and how that run ended; the number of
    messages created without an id; what is known about the model's context, which clients do not keep.
    """

    def __init__(self) -> None:
        self._messages = Messages()
        self._open_runs: dict[str, None] = {}
        self._generated = 0
        self._before: str | None = None
        self.last_end: RunEnd | None = None
        self.context = Context()
        self._reset()

    def _reset(self) -> None:
        """Reset what a MESSAGES_SNAPSHOT clears besides the messages."""
        self._streaming: dict[str, Streaming] = {}
        self._active: dict[str, None] = {}
        self._routes: dict[str, str] = {}
        self._open_calls: dict[tuple[str, str], Call] = {}
        self._waiting_id: str | None = None
        self._waiting_step: str | None = None
        self._structured: dict[str, None] = {}
        self._runs: dict[Any, None] = {}
        self._failed = False

    def fold_all(self, chunks: Iterable[Mapping[str, Any]]) -> None:
        for chunk in chunks:
            self.fold(chunk)

    def fold(self, chunk: Mapping[str, Any]) -> None:
        """Apply the next chunk. Anything that is not a chunk of a known type changes nothing."""
        kind = chunk.get("type") if isinstance(chunk, Mapping) else None
        handle = self._HANDLERS.get(kind) if isinstance(kind, str) else None
        if handle is not None and isinstance(kind, str):
            try:
                handle(self, restored(chunk))
            except Exception as error:  # noqa: BLE001 - the session must stay readable after any error
                contain(error, kind)

    # Text

    def _text_start(self, chunk: Mapping[str, Any]) -> None:
        message_id, role = _string(chunk, "messageId"), chunk.get("role")
        role = role if role in ("user", "system") else "assistant"
        if message_id is None:
            return
        if self._waiting_id is not None:
            self._name_waiting(message_id, role)
        elif message_id in self._messages:
            self._active[message_id] = None
            streaming = self._streaming.setdefault(message_id, Streaming(role))
            if streaming.after_call:
                streaming.new_segment()
        else:
            self._messages.append(Message({"id": message_id, "role": role}, []))
            self._streaming[message_id] = Streaming(role)
            self._active[message_id] = None
        self._messages.merge_metadata(message_id, chunk.get("metadata"))

    def _name_waiting(self, message_id: str, role: str) -> None:
        """Give this id to the message that was created without one."""
        waiting, self._waiting_id = self._waiting_id, None
        if waiting is not None and waiting != message_id:
            self._messages.rename(waiting, message_id)
            moved = self._streaming.pop(waiting, None)
            if moved is not None:
                self._streaming[message_id] = moved
                self._routes.update({call: message_id for call in moved.calls if self._routes.get(call) == waiting})
                opened = {call: self._open_calls.pop((waiting, call), None) for call in moved.calls}
                self._open_calls |= {(message_id, call): state for call, state in opened.items() if state is not None}
            self._active.pop(waiting, None)
            self._active[message_id] = None
        streaming = self._streaming.get(message_id)
        if streaming is None:
            self._streaming[message_id] = Streaming(role)
        elif streaming.after_call:
            streaming.new_segment()

    def _text_content(self, chunk: Mapping[str, Any]) -> None:
        message_id, streaming = self._ensure(_string(chunk, "messageId"))
        self._messages.merge_metadata(message_id, chunk.get("metadata"))
        delta = _string(chunk, "delta") or ""
        if message_id in self._structured:
            if delta:
                updates.grow_structured(self._messages, message_id, delta)
            return
        begins = streaming.after_call and streaming.segment.chars
        if begins or self._messages.would_repeat(message_id, streaming.segment):
            streaming.new_segment()
        streaming.after_call = False
        if delta:
            streaming.segment.append(delta)
            for message in self._messages.named(message_id):
                message.set_text(streaming.segment)

    def _text_end(self, chunk: Mapping[str, Any]) -> None:
        message_id = _string(chunk, "messageId")
        if message_id is not None:
            self._messages.merge_metadata(message_id, chunk.get("metadata"))

    # Thinking

    def _reasoning(self, chunk: Mapping[str, Any]) -> None:
        message_id, streaming = self._ensure(self._current())
        if self._waiting_step is not None:
            streaming.step = self._waiting_step
            streaming.steps.setdefault(self._waiting_step, Rope())
            self._waiting_step = None
        step = streaming.step or _string(chunk, "messageId") or ""
        if step not in streaming.steps:
            streaming.steps[step] = Rope()
            streaming.step = step
        streaming.steps[step].append(_string(chunk, "delta") or "")
        updates.show_thinking(self._messages, message_id, streaming, step)

    def _encrypted(self, chunk: Mapping[str, Any]) -> None:
        signature, entity = _string(chunk, "encryptedValue"), _string(chunk, "entityId") or ""
        if not signature:
            return
        if chunk.get("subtype") == "tool-call":
            self._sign_call(entity, signature)
            return
        message_id, streaming = self._ensure(self._current())
        step = streaming.step or entity
        streaming.steps.setdefault(step, Rope())
        streaming.signatures[step] = signature
        updates.show_thinking(self._messages, message_id, streaming, step)

    def _step_started(self, chunk: Mapping[str, Any]) -> None:
        step = _string(chunk, "stepName") or self._new_id()
        current = self._current()
        if current is None:
            self._waiting_step = step
            return
        streaming = self._streaming[current]
        streaming.step = step
        streaming.steps.setdefault(step, Rope())
        self._waiting_step = None

    def _step_finished(self, chunk: Mapping[str, Any]) -> None:
        signature = _string(chunk, "signature")
        if not signature:
            return
        message_id, streaming = self._ensure(self._current())
        step = streaming.step or _string(chunk, "stepId")
        if step and step in streaming.steps:
            streaming.signatures[step] = signature
            updates.show_thinking(self._messages, message_id, streaming, step)

    # Tool calls

    def _call_start(self, chunk: Mapping[str, Any]) -> None:
        call_id = _string(chunk, "toolCallId")
        if call_id is None:
            return
        message_id, streaming = self._ensure(_string(chunk, "parentMessageId") or self._current())
        streaming.after_call = True
        if call_id in streaming.calls:
            return
        metadata = chunk.get("metadata")
        call = Call(_string(chunk, "toolCallName") or "", metadata=metadata if isinstance(metadata, Mapping) else None)
        streaming.calls[call_id] = call
        self._routes[call_id] = message_id
        self._open_calls[message_id, call_id] = call
        updates.show_call(self._messages, message_id, call_id, call, call.metadata)

    def _call_args(self, chunk: Mapping[str, Any]) -> None:
        message_id, call_id, call = self._routed(chunk)
        if call is None:
            return
        delta = _string(chunk, "delta") or ""
        call.arguments.append(delta)
        if delta and call.state == "awaiting-input":
            call.state = "input-streaming"
        updates.show_call(self._messages, message_id, call_id, call, None)

    def _call_end(self, chunk: Mapping[str, Any]) -> None:
        message_id, call_id, call = self._routed(chunk)
        if call is None or call.state == "input-complete":
            return
        if "input" in chunk and not call.arguments.chars:
            call.arguments = Rope(javascript.stringify(chunk["input"]))
        self._complete_call(message_id, call_id, call)
        if "input" in chunk:
            updates.show_call(self._messages, message_id, call_id, call, call.metadata, chunk["input"])

    def _call_result(self, chunk: Mapping[str, Any]) -> None:
        call_id = _string(chunk, "toolCallId") or ""
        owners = self._messages.calling(call_id)
        message_id = self._routes.get(call_id) or next((message.id for message in owners), None)
        if message_id is None:
            return
        failed = chunk.get("state") == "output-error"
        updates.show_result(self._messages, message_id, call_id, chunk.get("content"), failed=failed)

    def _routed(self, chunk: Mapping[str, Any]) -> tuple[str, str, Call | None]:
        """Return the message id, call id and state of the call that a chunk refers to."""
        call_id = _string(chunk, "toolCallId") or ""
        message_id = self._routes.get(call_id, "")
        streaming = self._streaming.get(message_id)
        return message_id, call_id, None if streaming is None else streaming.calls.get(call_id)

    def _complete_call(self, message_id: str, call_id: str, call: Call) -> None:
        """Mark the input of a call as complete. A part that failed or waits for a person stays unchanged."""
        call.state = "input-complete"
        self._open_calls.pop((message_id, call_id), None)
        states = {message.calls[call_id].get("state") for message in self._messages.calling(call_id)}
        if states & {"error", "approval-requested", "approval-responded"}:
            return
        _, value = javascript.parse(call.arguments.text())
        updates.show_call(self._messages, message_id, call_id, call, call.metadata, value)

    def _sign_call(self, call_id: str, signature: str) -> None:
        for message in self._messages.calling(call_id):
            part = message.calls[call_id]
            part["metadata"] = {**(part.get("metadata") or {}), "thoughtSignature": signature}
            message.shown = None
            streaming = self._streaming.get(message.id)
            call = None if streaming is None else streaming.calls.get(call_id)
            if call is not None:
                call.metadata = {**(call.metadata or {}), "thoughtSignature": signature}

    # Runs

    def _run_started(self, chunk: Mapping[str, Any]) -> None:
        run_id = _string(chunk, "runId")
        self._runs[run_id] = None
        if run_id:
            self._open_runs[run_id] = None
        self._before = self._messages.last_id
        self._messages.forget_end()

    def _run_finished(self, chunk: Mapping[str, Any]) -> None:
        reason, run_id = _string(chunk, "finishReason"), _string(chunk, "runId")
        counts = self._counts(run_id)
        self._runs.pop(run_id, None)
        self._open_runs.pop(run_id or "", None)
        outcome = chunk.get("outcome")
        interrupted = isinstance(outcome, Mapping) and outcome.get("type") == "interrupt"
        if interrupted:
            self._interrupt(outcome)
        intermediate = reason == "tool_calls" and not interrupted
        if not self._runs:
            self._complete_calls()
            if not intermediate:
                self._finish()
        if counts and not intermediate:
            self._end(chunk)

    def _counts(self, run_id: str | None) -> bool:
        """Whether the end of this run counts as the session's. It does not if only other runs are open."""
        return not self._open_runs or run_id is None or run_id in self._open_runs

    def _end(self, chunk: Mapping[str, Any]) -> None:
        """Record the end of a run on the last message. TanStack's clients do not record it; they see it live."""
        if (end := run_end(chunk)) is not None:
            self.last_end = end
            self._messages.note_end(end, self._before)
            counted = count_in(end.usage, self._messages.last_id) if end.status == "finished" else None
            if counted is not None:
                self.context = Context(self.context.summary, counted)

    def _interrupt(self, outcome: Any) -> None:
        interrupts = outcome.get("interrupts")
        for interrupt in interrupts if isinstance(interrupts, list) else []:
            call_id = _string(interrupt, "toolCallId") if isinstance(interrupt, Mapping) else None
            metadata = interrupt.get("metadata") if call_id else None
            kind = metadata.get("kind") if isinstance(metadata, Mapping) else None
            if not call_id or not (kind == "approval" or interrupt.get("reason") == "approval_required"):
                continue
            owners = (m.id for m in self._messages.calling(call_id) if m.fields.get("role") == "assistant")
            message_id = self._current() or self._routes.get(call_id) or next(owners, None)
            updates.request_approval(self._messages, message_id, call_id, _string(interrupt, "id"))

    def _run_error(self, chunk: Mapping[str, Any]) -> None:
        self._failed = True
        run_id, error = _string(chunk, "runId"), _string(chunk, "message") or UNKNOWN_ERROR
        counts = self._counts(run_id)
        if run_id:
            self._runs.pop(run_id, None)
            self._open_runs.pop(run_id, None)
        else:
            self._runs.clear()
            self._open_runs.clear()
        message_id, _ = self._ensure(None)
        if message_id in self._structured:
            updates.fail_structured(self._messages, message_id, error)
            del self._structured[message_id]
        if counts:
            self._end(chunk)

    def _complete_calls(self) -> None:
        for (message_id, call_id), call in list(self._open_calls.items()):
            self._complete_call(message_id, call_id, call)

    def _finish(self) -> None:
        """Complete the active messages when no run is open, and remove an answer that contains only white space."""
        blank: str | None = None
        for message_id in self._active:
            streaming = self._streaming.get(message_id)
            if streaming is None:
                continue
            streaming.segment.text()
            message = self._messages.first(message_id)
            if message is not None and message.fields.get("role") == "assistant":
                blank = message_id if message.is_blank() else None
        for message_id in self._structured:
            updates.fail_structured(self._messages, message_id, _UNFINISHED)
        self._structured.clear()
        self._active.clear()
        if blank is not None and not self._failed:
            self._messages.remove(blank)

    # Everything else

    def _snapshot(self, chunk: Mapping[str, Any]) -> None:
        messages = chunk.get("messages")
        if isinstance(messages, list):
            self.replace(*self.shape(messages))

    def shape(self, messages: Iterable[Any]) -> tuple[Messages, Context]:
        """
        Return the messages that a snapshot's messages become, and the model's context after it. Changes nothing except
        the counter of generated ids.
        """
        before = [message.show() for message in self._messages]
        made = Messages.of(snapshot_messages(messages, before, self._new_id))
        return made, after_snapshot(self.context, self._messages, made)

    def replace(self, messages: Messages, context: Context) -> None:
        """Replace all messages and reset the state."""
        self._reset()
        self._messages, self.context = messages, context

    def _custom(self, chunk: Mapping[str, Any]) -> None:
        name, value = chunk.get("name"), chunk.get("value")
        if not isinstance(value, Mapping):
            return
        if (summary := summary_in(chunk)) is not None:
            self.context = Context(summary)  # counts of the longer context do not hold any more
            return
        current = self._current()
        call_id = _string(value, "toolCallId") or ""
        if name == "structured-output.start":
            message_id, _ = self._ensure(_string(value, "messageId") or current)
            self._structured[message_id] = None
        elif name == "structured-output.complete":
            message_id, _ = self._ensure(_string(value, "messageId") or current)
            self._structured.pop(message_id, None)
            updates.complete_structured(self._messages, message_id, value)
        elif name == "approval-requested" and isinstance(value.get("approval"), Mapping):
            approval_id = _string(value["approval"], "id")
            updates.request_approval(self._messages, current or self._routes.get(call_id), call_id, approval_id)
        elif name == "ui-resource":
            updates.add_resource(self._messages, self._routes.get(call_id) or current, value)

    def _current(self) -> str | None:
        """Return the answer for chunks without a message id: the last active one, otherwise the last one streamed."""
        for known in (self._active, self._streaming):
            for message_id in last_of(known):
                streaming = self._streaming.get(message_id)
                if streaming is not None and streaming.role == "assistant":
                    return message_id
        return None

    def _ensure(self, wanted: str | None) -> tuple[str, Streaming]:
        """
        Return the message to append to: the wanted one if it is being streamed, otherwise the current one. If there is
        neither, continue the existing wanted message or create one.
        """
        for message_id in (wanted, self._current()):
            streaming = self._streaming.get(message_id) if message_id else None
            if message_id and streaming is not None:
                self._active[message_id] = None
                return message_id, streaming
        existing = self._messages.first(wanted) if wanted else None
        if wanted and existing is not None:
            streaming = Streaming(str(existing.fields.get("role")), Rope(existing.last_text()))
        else:
            wanted = wanted or self._new_id()
            self._messages.append(Message({"id": wanted, "role": "assistant"}, []))
            self._waiting_id = wanted
            streaming = Streaming("assistant")
        self._streaming[wanted] = streaming
        self._active[wanted] = None
        return wanted, streaming

    def _new_id(self) -> str:
        """Return an unused id for a message without one. It is the same wherever the log is folded."""
        self._generated += 1
        made = f"unnamed-{self._generated}"
        return self._new_id() if made in self._messages else made

    _HANDLERS: ClassVar[dict[str, Callable[[Fold, Mapping[str, Any]], None]]] = {
        "TEXT_MESSAGE_START": _text_start,
        "TEXT_MESSAGE_CONTENT": _text_content,
        "TEXT_MESSAGE_END": _text_end,
        "REASONING_MESSAGE_CONTENT": _reasoning,
        "REASONING_ENCRYPTED_VALUE": _encrypted,
        "STEP_STARTED": _step_started,
        "STEP_FINISHED": _step_finished,
        "TOOL_CALL_START": _call_start,
        "TOOL_CALL_ARGS": _call_args,
        "TOOL_CALL_END": _call_end,
        "TOOL_CALL_RESULT": _call_result,
        "RUN_STARTED": _run_started,
        "RUN_FINISHED": _run_finished,
        "RUN_ERROR": _run_error,
        "MESSAGES_SNAPSHOT": _snapshot,
        "CUSTOM": _custom,
    }
