"""
Durable, resumable, multi-device AI chat.

Public names are imported on first use, because a command or a module needs only a few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable_chat.api.doors.ai_sdk.messages import from_ai_sdk_messages as from_ai_sdk_messages
    from durable_chat.api.doors.ai_sdk.messages import to_ai_sdk_messages as to_ai_sdk_messages
    from durable_chat.api.generations.responses import GenerationSlot as GenerationSlot
    from durable_chat.api.generations.responses import to_generation_response as to_generation_response
    from durable_chat.api.responses import drain as drain
    from durable_chat.api.responses import durable_stream_proxy as durable_stream_proxy
    from durable_chat.api.responses import ensure_durable_chat_session_stream as ensure_durable_chat_session_stream
    from durable_chat.api.responses import (
        materialize_snapshot_from_durable_stream as materialize_snapshot_from_durable_stream,
    )
    from durable_chat.api.responses import to_durable_chat_session_response as to_durable_chat_session_response
    from durable_chat.api.responses import to_durable_stream_response as to_durable_stream_response
    from durable_chat.api.targets import ChatSession as ChatSession
    from durable_chat.api.targets import DurableStreamTarget as DurableStreamTarget
    from durable_chat.api.wire_responses import to_http_response as to_http_response
    from durable_chat.api.wire_responses import to_server_sent_events_response as to_server_sent_events_response
    from durable_chat.api.wire_responses import to_ui_message_stream_response as to_ui_message_stream_response
    from durable_chat.app import DurableChat as DurableChat
    from durable_chat.config.settings import Settings as Settings
    from durable_chat.errors import DurableChatError as DurableChatError
    from durable_chat.errors import StartError as StartError
    from durable_chat.generations.activities import generate_image as generate_image
    from durable_chat.generations.activities import generate_speech as generate_speech
    from durable_chat.generations.activities import generate_transcription as generate_transcription
    from durable_chat.generations.activities import generate_video as generate_video
    from durable_chat.generations.activities import get_video_job_status as get_video_job_status
    from durable_chat.generations.activities import summarize as summarize
    from durable_chat.generations.adapters import ImageAdapter as ImageAdapter
    from durable_chat.generations.adapters import RefusedError as RefusedError
    from durable_chat.generations.adapters import SpeechAdapter as SpeechAdapter
    from durable_chat.generations.adapters import SummaryAdapter as SummaryAdapter
    from durable_chat.generations.adapters import TranscriptionAdapter as TranscriptionAdapter
    from durable_chat.generations.adapters import TransientError as TransientError
    from durable_chat.generations.adapters import VideoAdapter as VideoAdapter
    from durable_chat.generations.demo.images import DemoImages as DemoImages
    from durable_chat.generations.demo.speech import DemoSpeech as DemoSpeech
    from durable_chat.generations.demo.texts import DemoSummary as DemoSummary
    from durable_chat.generations.demo.texts import DemoTranscription as DemoTranscription
    from durable_chat.generations.demo.videos import DemoVideo as DemoVideo
    from durable_chat.generations.inputs import ImageInput as ImageInput
    from durable_chat.generations.inputs import SpeechInput as SpeechInput
    from durable_chat.generations.inputs import SpeechTurn as SpeechTurn
    from durable_chat.generations.inputs import SummaryInput as SummaryInput
    from durable_chat.generations.inputs import TranscriptionInput as TranscriptionInput
    from durable_chat.generations.inputs import VideoInput as VideoInput
    from durable_chat.generations.limits import ImageLimits as ImageLimits
    from durable_chat.generations.limits import SpeechLimits as SpeechLimits
    from durable_chat.generations.limits import SummaryLimits as SummaryLimits
    from durable_chat.generations.limits import TranscriptionLimits as TranscriptionLimits
    from durable_chat.generations.limits import VideoLimits as VideoLimits
    from durable_chat.generations.media import Media as Media
    from durable_chat.generations.openai.audio import OpenAISpeech as OpenAISpeech
    from durable_chat.generations.openai.audio import OpenAITranscription as OpenAITranscription
    from durable_chat.generations.openai.images import OpenAIImages as OpenAIImages
    from durable_chat.generations.openai.videos import OpenAIVideo as OpenAIVideo
    from durable_chat.generations.results import GeneratedImage as GeneratedImage
    from durable_chat.generations.results import ImageResult as ImageResult
    from durable_chat.generations.results import Progress as Progress
    from durable_chat.generations.results import SpeechResult as SpeechResult
    from durable_chat.generations.results import SummaryResult as SummaryResult
    from durable_chat.generations.results import TranscriptionResult as TranscriptionResult
    from durable_chat.generations.results import Usage as Usage
    from durable_chat.generations.results import VideoJob as VideoJob
    from durable_chat.generations.results import VideoStatus as VideoStatus
    from durable_chat.generations.summarizing import ModelSummarizer as ModelSummarizer
    from durable_chat.http.errors import answer_error as answer_error
    from durable_chat.models.anthropic.client import AnthropicModel as AnthropicModel
    from durable_chat.models.base import ProviderError as ProviderError
    from durable_chat.models.base import Turn as Turn
    from durable_chat.models.context.limits import ContextLimit as ContextLimit
    from durable_chat.models.frameworks.claude_agent import from_claude_agent as from_claude_agent
    from durable_chat.models.frameworks.langgraph import from_langgraph as from_langgraph
    from durable_chat.models.frameworks.openai_agents import from_openai_agents as from_openai_agents
    from durable_chat.models.openai.client import OpenAIModel as OpenAIModel
    from durable_chat.models.tools import IdempotencyKey as IdempotencyKey
    from durable_chat.models.tools import ToolError as ToolError
    from durable_chat.transcripts.chunks import sanitize_chunk_for_storage as sanitize_chunk_for_storage
    from durable_chat.transcripts.chunks import to_message_echo_chunks as to_message_echo_chunks
    from durable_chat.transcripts.transcript import Snapshot as Snapshot
    from durable_chat.web.templates import Page as Page

__version__ = "0.1.0"

# Maps each public name to the module that defines it.
PUBLIC = {
    "AnthropicModel": "durable_chat.models.anthropic.client",
    "ChatSession": "durable_chat.api.targets",
    "ContextLimit": "durable_chat.models.context.limits",
    "DemoImages": "durable_chat.generations.demo.images",
    "DemoSpeech": "durable_chat.generations.demo.speech",
    "DemoSummary": "durable_chat.generations.demo.texts",
    "DemoTranscription": "durable_chat.generations.demo.texts",
    "DemoVideo": "durable_chat.generations.demo.videos",
    "DurableChat": "durable_chat.app",
    "DurableChatError": "durable_chat.errors",
    "DurableStreamTarget": "durable_chat.api.targets",
    "GeneratedImage": "durable_chat.generations.results",
    "IdempotencyKey": "durable_chat.models.tools",
    "GenerationSlot": "durable_chat.api.generations.responses",
    "ImageAdapter": "durable_chat.generations.adapters",
    "ImageInput": "durable_chat.generations.inputs",
    "ImageLimits": "durable_chat.generations.limits",
    "ImageResult": "durable_chat.generations.results",
    "Media": "durable_chat.generations.media",
    "ModelSummarizer": "durable_chat.generations.summarizing",
    "OpenAIImages": "durable_chat.generations.openai.images",
    "OpenAIModel": "durable_chat.models.openai.client",
    "OpenAISpeech": "durable_chat.generations.openai.audio",
    "OpenAITranscription": "durable_chat.generations.openai.audio",
    "OpenAIVideo": "durable_chat.generations.openai.videos",
    "Page": "durable_chat.web.templates",
    "Progress": "durable_chat.generations.results",
    "ProviderError": "durable_chat.models.base",
    "RefusedError": "durable_chat.generations.adapters",
    "Settings": "durable_chat.config.settings",
    "Snapshot": "durable_chat.transcripts.transcript",
    "SpeechAdapter": "durable_chat.generations.adapters",
    "SpeechInput": "durable_chat.generations.inputs",
    "SpeechLimits": "durable_chat.generations.limits",
    "SpeechResult": "durable_chat.generations.results",
    "SpeechTurn": "durable_chat.generations.inputs",
    "StartError": "durable_chat.errors",
    "SummaryAdapter": "durable_chat.generations.adapters",
    "SummaryInput": "durable_chat.generations.inputs",
    "SummaryLimits": "durable_chat.generations.limits",
    "SummaryResult": "durable_chat.generations.results",
    "ToolError": "durable_chat.models.tools",
    "TranscriptionAdapter": "durable_chat.generations.adapters",
    "TranscriptionInput": "durable_chat.generations.inputs",
    "TranscriptionLimits": "durable_chat.generations.limits",
    "TranscriptionResult": "durable_chat.generations.results",
    "TransientError": "durable_chat.generations.adapters",
    "Turn": "durable_chat.models.base",
    "Usage": "durable_chat.generations.results",
    "VideoAdapter": "durable_chat.generations.adapters",
    "VideoInput": "durable_chat.generations.inputs",
    "VideoJob": "durable_chat.generations.results",
    "VideoLimits": "durable_chat.generations.limits",
    "VideoStatus": "durable_chat.generations.results",
    "answer_error": "durable_chat.http.errors",
    "drain": "durable_chat.api.responses",
    "durable_stream_proxy": "durable_chat.api.responses",
    "ensure_durable_chat_session_stream": "durable_chat.api.responses",
    "from_ai_sdk_messages": "durable_chat.api.doors.ai_sdk.messages",
    "from_claude_agent": "durable_chat.models.frameworks.claude_agent",
    "from_langgraph": "durable_chat.models.frameworks.langgraph",
    "from_openai_agents": "durable_chat.models.frameworks.openai_agents",
    "generate_image": "durable_chat.generations.activities",
    "generate_speech": "durable_chat.generations.activities",
    "generate_transcription": "durable_chat.generations.activities",
    "generate_video": "durable_chat.generations.activities",
    "get_video_job_status": "durable_chat.generations.activities",
    "materialize_snapshot_from_durable_stream": "durable_chat.api.responses",
    "sanitize_chunk_for_storage": "durable_chat.transcripts.chunks",
    "summarize": "durable_chat.generations.activities",
    "to_ai_sdk_messages": "durable_chat.api.doors.ai_sdk.messages",
    "to_durable_chat_session_response": "durable_chat.api.responses",
    "to_durable_stream_response": "durable_chat.api.responses",
    "to_generation_response": "durable_chat.api.generations.responses",
    "to_http_response": "durable_chat.api.wire_responses",
    "to_message_echo_chunks": "durable_chat.transcripts.chunks",
    "to_server_sent_events_response": "durable_chat.api.wire_responses",
    "to_ui_message_stream_response": "durable_chat.api.wire_responses",
}

__all__ = [*PUBLIC, "__version__"]


if not TYPE_CHECKING:  # hidden from type checkers, so that they report unknown names

    def __getattr__(name: str) -> Any:
        if name not in PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(PUBLIC[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
