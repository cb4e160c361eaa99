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
    from durable_chat.config import Settings as Settings
    from durable_chat.errors import DurableChatError as DurableChatError
    from durable_chat.errors import StartError as StartError
    from durable_chat.http.errors import answer_error as answer_error
    from durable_chat.models.base import ProviderError as ProviderError
    from durable_chat.models.base import Turn as Turn
    from durable_chat.models.frameworks.claude_agent import from_claude_agent as from_claude_agent
    from durable_chat.models.frameworks.langgraph import from_langgraph as from_langgraph
    from durable_chat.models.frameworks.openai_agents import from_openai_agents as from_openai_agents
    from durable_chat.models.tools import ToolError as ToolError
    from durable_chat.transcripts.chunks import sanitize_chunk_for_storage as sanitize_chunk_for_storage
    from durable_chat.transcripts.chunks import to_message_echo_chunks as to_message_echo_chunks
    from durable_chat.transcripts.transcript import Snapshot as Snapshot
    from durable_chat.web.templates import Page as Page

__version__ = "0.1.0"

# Maps each public name to the module that defines it.
PUBLIC = {
    "ChatSession": "durable_chat.api.targets",
    "DurableChat": "durable_chat.app",
    "DurableChatError": "durable_chat.errors",
    "DurableStreamTarget": "durable_chat.api.targets",
    "Page": "durable_chat.web.templates",
    "ProviderError": "durable_chat.models.base",
    "Settings": "durable_chat.config",
    "Snapshot": "durable_chat.transcripts.transcript",
    "StartError": "durable_chat.errors",
    "ToolError": "durable_chat.models.tools",
    "Turn": "durable_chat.models.base",
    "answer_error": "durable_chat.http.errors",
    "drain": "durable_chat.api.responses",
    "durable_stream_proxy": "durable_chat.api.responses",
    "ensure_durable_chat_session_stream": "durable_chat.api.responses",
    "from_ai_sdk_messages": "durable_chat.api.doors.ai_sdk.messages",
    "from_claude_agent": "durable_chat.models.frameworks.claude_agent",
    "from_langgraph": "durable_chat.models.frameworks.langgraph",
    "from_openai_agents": "durable_chat.models.frameworks.openai_agents",
    "materialize_snapshot_from_durable_stream": "durable_chat.api.responses",
    "sanitize_chunk_for_storage": "durable_chat.transcripts.chunks",
    "to_ai_sdk_messages": "durable_chat.api.doors.ai_sdk.messages",
    "to_durable_chat_session_response": "durable_chat.api.responses",
    "to_durable_stream_response": "durable_chat.api.responses",
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
