"""
CopilotKit's runtime (`runtimeUrl="/api/copilotkit"`): its React components without a server of their own in between.

    GET  /api/copilotkit/info                            the agents: one, named `default`
    POST /api/copilotkit/agent/default/run               an AG-UI `RunAgentInput`; the response is the run
    POST /api/copilotkit/agent/default/connect           the messages of a thread, then its running answer
    POST /api/copilotkit/agent/default/stop/{threadId}   stop a run, or all of the thread
    POST /api/copilotkit                                 the same as `{"method", "params", "body"}`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from durable_chat import __version__
from durable_chat.api.bodies import check_size, check_utf8, parse_body, read_parsed
from durable_chat.api.doors.run_responses import HEADERS, Doors
from durable_chat.errors import InvalidRequest, NotFound
from durable_chat.http.bodies import HeldBody
from durable_chat.protocol.messages import JSON
from durable_chat.sessions.posted import Posted, decoded
from durable_chat.sessions.sessions import check_session_id

PATH = "/api/copilotkit"
AGENT = "default"
"""The name of the only agent: the chat's model. It is the one that CopilotKit's components use by default."""

METHODS = ("info", "agent/run", "agent/connect", "agent/stop")
