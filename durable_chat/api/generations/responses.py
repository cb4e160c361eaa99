"""
Generations for an application's own routes and server functions: start one in a slot, and answer with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from durable_chat.api.doors.run_responses import Followed, RunResponse
from durable_chat.api.doors.wires import RunPart
from durable_chat.api.generations.files import store_input
from durable_chat.api.generations.models import GenerationModel
from durable_chat.api.generations.wire import GenerationWire, plain_wire
from durable_chat.api.targets import ChatSession
from durable_chat.errors import DurableChatError, InvalidRequest, NotFound
from durable_chat.generations.adapters import INPUTS, Activity, check_input, parse_input
from durable_chat.generations.inputs import Input
from durable_chat.http.errors import error_response
from durable_chat.http.reads import read_typed
from durable_chat.protocol.messages import JSON
from durable_chat.protocol.offsets import BEGINNING
from durable_chat.sessions.running.idempotency import check_key
from durable_chat.sessions.running.run import Job
from durable_chat.sessions.running.turns import GenerationAsk


@dataclass(frozen=True, slots=True)
class GenerationSlot:
    """A slot of an application's own chat, from `DurableChat.generation(name)`."""

    name: str
    session: ChatSession = field(repr=False)
    model: GenerationModel = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A generation that was asked for, by a checked input."""

    session_id: str
    activity: Activity
    input: Input
    api_key: str | None = field(default=None, repr=False)
    key: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


async def prepare(model: GenerationModel, asked: Asked) -> tuple[Job, GenerationAsk]:
    """
    Check that the adapter takes the input and has a key, and return what starts the run. Nothing is written. Raises
    InvalidRequest, TooLarge, Unauthorized and NotFound.
    """
    adapter = model.adapters.get(asked.activity)
    if adapter is None:
        raise NotFound(
            f"This server has no adapter for {asked.activity}. Pass one in `generations`.", code="no_adapter"
        )
    check_input(adapter, asked.input)
    check = getattr(adapter, "check", None)
    if check is not None:
        check(asked.api_key)
    stored = await store_input(asked.input)
    job = Job(
        asked.session_id,
        model,
        asked.data,
        asked.api_key,
        asked.key,
        activity=asked.activity,
        input=stored.logged,
    )
    return job, GenerationAsk(stored.files)


async def to_generation_response(
    slot: GenerationSlot,
    activity: Activity,
    input: Mapping[str, Any],  # noqa: A002 - the name of the hooks
    *,
    api_key: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """
    Generate in a slot and answer with the run as server-sent events, for a route or server function of an application.
    A hook's `fetcher` may return this response.

    `activity` is image, speech, transcription, summary or video, and `input` what the hook was given. Requests with the
    same `key` are one generation. It goes on if the client leaves. The caller checks who may do this.
    """
    place = slot.session
    try:
        if activity not in INPUTS:
            raise InvalidRequest(f'Unknown activity "{activity}". Use {", ".join(INPUTS)}.', code="unknown_activity")
        asked = Asked(place.session_id, activity, parse_input(activity, dict(input)), api_key, check_key(key))
        path = place.runs.sessions.path_of(place.session_id)
        place.live.check(path)
        run = await place.runs.start(*await prepare(slot.model, asked))
        wire = GenerationWire(plain_wire(None), place.root_path.rstrip("/"), slot.model.speech)
        reader = await read_typed(place.store.log, path, run.offset or BEGINNING, JSON)
        response = RunResponse(Followed(RunPart(place.session_id, run.id, wire), reader, run, path), place)
    except DurableChatError as error:
        return error_response(error)
    response.headers.update(headers or {})
    return response
