"""
The generations in a slot's log: what each one was, how far it is, its result and its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from durable_chat.transcripts.chunks import OURS, Chunk, string_at
from durable_chat.transcripts.conversions import restored
from durable_chat.transcripts.runs.ends import ENDS, RunEnd, run_end

RESULT = "generation:result"
JOB_CREATED = "video:job:created"
JOB_STATUS = "video:status"

RUNS_KEPT_MAX = 64
"""
The newest generations of a slot that are kept. Clients restore the last one, and ask for the jobs of the last ones.
"""

STOPPED = "The generation was stopped."
STOPPED_CODE = "aborted"
"""The message and the code of a stopped generation, for all clients but the one that stopped it: TanStack AI's code."""


@dataclass(slots=True)
class GenerationRun:
    """One generation. `job` is the last `video:status` of its video job. `end` is None while it runs."""

    run_id: str
    activity: str
    job: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    end: RunEnd | None = None

    @property
    def error(self) -> tuple[str, str] | None:
        """The message and the code of a generation that ended without its result, or None."""
        end = self.end
        if end is None or (end.status == "finished" and self.result is not None):
            return None
        if end.status == "stopped":
            return STOPPED, STOPPED_CODE
        return end.error or "The generation ended without a result.", end.code or "no_result"


class GenerationRuns:
    """
    Folds the log of a slot. Mutable state: `runs`, the newest generations by their ids, oldest first; `_open`, the one
    that is being written.
    """

    def __init__(self) -> None:
        self.runs: OrderedDict[str, GenerationRun] = OrderedDict()
        self._open: GenerationRun | None = None

    def last(self, activity: str | None = None) -> GenerationRun | None:
        """Return the newest generation, of this activity if it is given."""
        return next((run for run in reversed(self.runs.values()) if activity in (None, run.activity)), None)

    def of_job(self, job_id: str) -> GenerationRun | None:
        """Return the generation that ordered a video job."""
        ordered = (run for run in reversed(self.runs.values()) if run.job is not None)
        return next((run for run in ordered if (run.job or {}).get("jobId") == job_id), None)

    def fold(self, chunk: Chunk) -> None:
        """Apply the next chunk of the log."""
        kind = chunk["type"]
        if kind == "RUN_STARTED":
            self._begin(chunk)
        elif kind == "CUSTOM":
            self._note(chunk)
        elif kind in ENDS:
            run = self.runs.get(string_at(chunk, "runId") or "")
            if run is not None and run.end is None:
                run.end = run_end(restored(chunk))
                self._open = None

    def _begin(self, chunk: Chunk) -> None:
        metadata = chunk.get("metadata")
        ours = metadata.get(OURS) if isinstance(metadata, Mapping) else None
        activity = ours.get("activity") if isinstance(ours, Mapping) else None
        run_id = string_at(chunk, "runId")
        if run_id is None or not isinstance(activity, str):
            self._open = None
            return
        self._open = self.runs[run_id] = GenerationRun(run_id, activity)
        if len(self.runs) > RUNS_KEPT_MAX:
            self.runs.popitem(last=False)

    def _note(self, chunk: Chunk) -> None:
        run, value = self._open, chunk.get("value")
        if run is None or not isinstance(value, Mapping):
            return
        name = chunk.get("name")
        if name == RESULT:
            run.result = value
        elif name == JOB_CREATED:
            run.job = {"jobId": value.get("jobId"), "status": "pending"}
        elif name == JOB_STATUS:
            run.job = value


def job_state(run: GenerationRun) -> dict[str, Any]:
    """Return the state of a run's video job: `{jobId, status, progress?, url?, expiresAt?, error?}`."""
    told = dict(run.job or {})
    if run.result is not None:
        known = {key: run.result[key] for key in ("url", "expiresAt") if run.result.get(key) is not None}
        return told | {"status": "completed", **known}
    if run.error is not None:
        return told | {"status": "failed", "error": run.error[0]}
    if told.get("status") == "completed":  # its file is being fetched
        return told | {"status": "processing"}
    return told


def resume_snapshot(run: GenerationRun | None, slot: str) -> dict[str, Any]:
    """
    Return what TanStack AI's clients restore when they mount: `{resumeSnapshot, activeRun}`. Without a generation both
    are null.
    """
    if run is None:
        return {"resumeSnapshot": None, "activeRun": None}
    snapshot: dict[str, Any] = {"schemaVersion": 1, "resumeState": None}
    if (activity := ACTIVITY_NAMES.get(run.activity)) is not None:
        snapshot["activity"] = activity
    if run.end is None:
        state = {"threadId": slot, "runId": run.run_id}
        return {
            "resumeSnapshot": snapshot | {"resumeState": state, "status": "running"},
            "activeRun": {"runId": run.run_id},
        }
    if run.error is not None:
        error = {"message": run.error[0], "code": run.error[1]}
        return {"resumeSnapshot": snapshot | {"status": "error", "error": error}, "activeRun": None}
    result = _restorable(run.result or {})
    return {"resumeSnapshot": snapshot | {"status": "complete", "result": result}, "activeRun": None}


ACTIVITY_NAMES: Mapping[str, str] = {
    "image": "image",
    "speech": "tts",
    "transcription": "transcription",
    "video": "video",
}
"""The activities as TanStack AI's records name them. Summaries have no name there."""

_RESTORED = ("id", "model", "status", "expiresAt", "usage", "artifacts")


def _restorable(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a result that clients restore. A transcript and a summary are its `text`."""
    told = {key: result[key] for key in _RESTORED if result.get(key) is not None}
    text, job_id = result.get("text", result.get("summary")), result.get("jobId")
    return told | ({} if text is None else {"text": text}) | ({} if job_id is None else {"providerJobId": job_id})
