"""The model of the agent: a real one, or the SDK's scripted model, which needs no key."""

import json
from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelResponse
from agents.testing import ScriptedModel, assistant_message, function_call


def load_model(name: str) -> Model | str:
    """The model of that name, such as `gpt-5-mini`."""
    return TestModel() if name == "test" else name


class TestModel(Model):
    """Calls the weather tool for Rome, or `send_mail` for a message with "mail". Then it says what the tool returned."""

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **options: Any) -> ModelResponse:  # noqa: A002
        return await _scripted(input).get_response(system_instructions, input, *args, **options)

    def stream_response(self, system_instructions: Any, input: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:  # noqa: A002
        return _scripted(input).stream_response(system_instructions, input, *args, **options)


def _scripted(said: Any) -> ScriptedModel:
    last = said[-1]
    if last.get("type") == "function_call_output":
        return ScriptedModel([{"output": [assistant_message(f"The tool says: {last['output']}")]}])
    asked = json.dumps(last["content"])
    name, given = ("send_mail", {"to": "ada", "text": "hi"}) if "mail" in asked else ("weather", {"city": "Rome"})
    call = function_call(name, given, call_id=f"call-{len(said)}")
    return ScriptedModel([{"output": [assistant_message("Let me see. "), call]}])
