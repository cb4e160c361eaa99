"""
The files of generations: those of an input and of a result become artifacts of the slot's session, and the log refers
to them. Nothing in the log is base64.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from durable_chat.generations.adapters import parse_input
from durable_chat.generations.inputs import Input
from durable_chat.generations.media import File, Media
from durable_chat.generations.results import Result, SpeechResult, VideoResult
from durable_chat.models.base import ProviderError, Turn
from durable_chat.store.clocks import unix_ms
from durable_chat.transcripts.attachments import Artifact, encode_base64, hash_of
from durable_chat.transcripts.chunks import iso_time
from durable_chat.transcripts.runs.generations import ACTIVITY_NAMES

ARTIFACT_ROUTE = "/api/generate/artifact"

RESULT_FILE_BYTES_MAX = 256 * 1024 * 1024
"""
Limit of one file of a result. It is held in memory while it is stored. A video of twelve seconds has about 30 MiB.
"""

SPEECH_INLINE_BYTES_MAX = 16 * 1024 * 1024
"""
Longer audio is not put into the result of a client as base64. It has the audio's address. The longest speech of the
default limits takes about 14 MiB as WAV.
"""

SPEECH_KEPT_BYTES_MAX = 64 * 1024 * 1024
"""The memory for the base64 of recent speech, which is being sent to clients."""

_REFERENCE = "artifact:"


@dataclass(frozen=True, slots=True)
class Stored:
    """An input as it is logged, and the files that it refers to."""

    logged: dict[str, Any]
    files: tuple[Artifact, ...]


async def store_input(given: Input) -> Stored:
    """Return an input with references in place of its files. Long files are hashed in a thread."""
    files = given.files()
    if not files:
        return Stored(given.as_json(), ())
    hashes = await asyncio.to_thread(lambda: [hash_of(file.media.data) for file in files])
    artifacts = [
        Artifact(digest, file.media.media_type, file.media.data) for file, digest in zip(files, hashes, strict=True)
    ]
    places = {
        file.path: f"{_REFERENCE}{artifact.id};{artifact.media_type}"
        for file, artifact in zip(files, artifacts, strict=True)
    }
    return Stored(given.as_json(places), tuple(artifacts))


async def load_input(turn: Turn) -> Input:
    """Return the input of a turn with its files. Raises ProviderError if one of them is gone."""
    activity: Any = turn.activity
    return parse_input(activity, await _with_files(turn, dict(turn.input)))


async def _with_files(turn: Turn, value: Any) -> Any:
    """Replace the references in a logged input by the files."""
    if isinstance(value, str) and value.startswith(_REFERENCE):
        digest, _, media_type = value.removeprefix(_REFERENCE).partition(";")
        if turn.load is None:
            raise ProviderError("The input's file is not available.", "no_artifact")
        return Media(await turn.load(digest), media_type)
    if isinstance(value, Mapping):
        if value.get("type") == "text":  # a person may write what looks like a reference
            return dict(value)
        files = ("audio", "prompt", "source", "value")
        return {key: await _with_files(turn, each) if key in files else each for key, each in value.items()}
    if isinstance(value, list):
        return [await _with_files(turn, each) for each in value]
    return value


class Speech:
    """
    The base64 of recent speech, for the clients that are shown it. Mutable state: `_kept`, by artifact, oldest first,
    and `_bytes`.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0

    async def keep(self, artifact_id: str, data: bytes) -> None:
        """Keep the audio, unless it is too long."""
        if artifact_id in self._kept or len(data) > SPEECH_INLINE_BYTES_MAX:
            return
        self._kept[artifact_id] = await asyncio.to_thread(encode_base64, data)
        self._bytes += len(self._kept[artifact_id])
        while self._bytes > SPEECH_KEPT_BYTES_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)

    def fill(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return a result with its audio, if that is kept."""
        artifact_id = speech_artifact(result)
        audio = None if artifact_id is None else self._kept.get(artifact_id)
        return dict(result) if audio is None else {**result, "audio": audio}

    def __contains__(self, artifact_id: str) -> bool:
        return artifact_id in self._kept


def speech_artifact(result: Mapping[str, Any]) -> str | None:
    """Return the artifact of a speech result, or None for another one."""
    if result.get("audio") != "":
        return None
    found = [ref for ref in result.get("artifacts") or () if isinstance(ref, Mapping) and ref.get("role") == "output"]
    return str(found[0]["artifactId"]) if found else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a result comes from: its slot, and the names of the provider and the model."""

    slot: str
    provider: str
    model: str


async def keep_result(turn: Turn, result: Result, origin: Origin, speech: Speech) -> dict[str, Any]:
    """
    Make the files of a result durable, and return the result as it is logged: with addresses of this server, and with
    `artifacts`.
    """
    urls: dict[str, str] = {}
    refs: list[dict[str, Any]] = []
    for at, file in enumerate(result.files()):
        if len(file.media.data) > RESULT_FILE_BYTES_MAX:
            raise ProviderError(
                f"The result has a file of more than {RESULT_FILE_BYTES_MAX} bytes.", "artifact_too_large"
            )
        artifact_id = await turn.keep(file.media.data, file.media.media_type)
        if isinstance(result, SpeechResult):
            await speech.keep(artifact_id, file.media.data)
        ref = _ref(turn, file, artifact_id, at, origin, result)
        urls[file.path] = ref["url"]
        refs.append(ref)
    return result.as_json(urls) | ({"artifacts": refs} if refs else {})


def _ref(turn: Turn, file: File, artifact_id: str, at: int, origin: Origin, result: Result) -> dict[str, Any]:
    """Return TanStack AI's `PersistedArtifactRef`."""
    media_type = file.media.media_type
    kind = media_type.partition("/")[0]
    name = f"{turn.activity}-{at + 1}.{file.media.extension}"
    source = {
        "activity": ACTIVITY_NAMES[turn.activity or ""],
        "path": file.path,
        "provider": origin.provider,
        "model": result.model or origin.model,
        "mediaType": kind if kind in ("image", "audio", "video") else "document",
    }
    if isinstance(result, VideoResult):
        source["jobId"] = result.job_id
    return {
        "role": "output",
        "artifactId": artifact_id,
        "threadId": origin.slot,
        "runId": turn.run_id,
        "name": name,
        "mimeType": media_type,
        "size": len(file.media.data),
        "createdAt": iso_time(unix_ms()),
        "url": f"{ARTIFACT_ROUTE}?threadId={quote(origin.slot, safe='')}&artifact={artifact_id}&name={quote(name)}",
        "source": source,
    }


def shown(value: Any, root_path: str) -> Any:
    """Return a logged value with the addresses of files as the client needs them, below the path of the mount."""
    if not root_path:
        return value
    if isinstance(value, str):
        return root_path + value if value.startswith(ARTIFACT_ROUTE + "?") else value
    if isinstance(value, Mapping):
        return {key: shown(each, root_path) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [shown(each, root_path) for each in value]
    return value
