"""The model of the agent: a real one, or a fake one that needs no key."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage, ToolCall
from langchain_core.outputs import ChatGenerationChunk, ChatResult


def load_model(name: str) -> BaseChatModel:
    """The model of that name, such as `openai:gpt-5-mini`. Any model but `test` needs the package `langchain`."""
    if name == "test":
        return TestModel()
    from langchain.chat_models import init_chat_model

    model: BaseChatModel = init_chat_model(name)
    return model


class TestModel(BaseChatModel):
    """Calls the weather tool for Rome, then says what the tool returned, word by word."""

    _llm_type = "test"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self

    def _stream(self, messages: list[BaseMessage], *args: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        if messages[-1].type != "tool":
            call = ToolCall(id=str(uuid4()), name="weather", args={"city": "Rome"})
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=[call]))
            return
        for word in f"The tool says: {messages[-1].text}".split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages))
