"""Agent frameworks as models: the transcript of their runs, tested with the frameworks and their own test models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import RunAgentInput
from agents import Agent, RunConfig, Runner, function_tool
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from claude_agent_sdk import ClaudeAgentOptions, Transport, query
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from openai.types.responses.response_reasoning_item import ResponseReasoningItem, Summary
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import DeferredToolRequests
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui.ag_ui import AGUIAdapter

from durable_chat.api.doors.agui.wire import AguiEvents, Client
from durable_chat.models.agents import Agent as ToolAgent
from durable_chat.models.base import ProviderError, Turn
from durable_chat.models.frameworks.claude_agent import from_claude_agent
from durable_chat.models.frameworks.langgraph import from_langgraph
from durable_chat.models.frameworks.openai_agents import from_openai_agents
from durable_chat.models.tools import Tools, make_tool
from durable_chat.transcripts.answers.normalization import RunChunks
from durable_chat.transcripts.answers.subagents import subagent_event
from durable_chat.transcripts.chunks import Chunk
from durable_chat.transcripts.transcript import Transcript
from tests.api.doors.agui_rules import check_rules
from tests.sessions.serving import serve_chat, user

UNTRACED = RunConfig(tracing_disabled=True)
RECORDED = Path(__file__).with_name("claude_subagent.jsonl")
ASKED: list[Any] = [{"role": "user", "content": "hi"}]


async def written(items: AsyncIterator[Any]) -> list[Chunk]:
    """Return the chunks in the log, and check that AG-UI's clients, new and old, accept them."""
    numbers = iter(range(1000))
    run = RunChunks("run-1", "session-1", lambda: f"m{next(numbers)}", lambda: 1)
    made = [chunk async for item in items for chunk in run.accept(item)]
    made += run.finish()
    for modern in (True, False):
        events = AguiEvents(Client("t", "r", is_modern=modern))
        check_rules([event for chunk in made for event in events.of(chunk)], modern=modern)
    return made


def shown(made: list[Chunk]) -> list[str]:
    """Return the parts of the answer in short form, as every tab folds them."""
    transcript = Transcript()
    transcript.fold_all(made)
    parts = [part for message in transcript.messages() for part in message["parts"]]
    return [
        " ".join([part["type"], str(part.get("arguments") or part.get("content")), part.get("state", "")]).strip()
        for part in parts
    ]


def events_of_subagents(made: list[Chunk]) -> list[Chunk]:
    events = [chunk if chunk["type"].startswith("SUBAGENT_") else subagent_event(chunk) for chunk in made]
    return [event for event in events if event is not None]


# The OpenAI Agents SDK.


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


@function_tool(needs_approval=True)
def send_mail(to: str) -> str:
    """Send a mail."""
    raise AssertionError(to)


def run_agent(*steps: Any, **options: Any) -> Any:
    agent = Agent(name="a", model=ScriptedModel(list(steps)), tools=[weather, send_mail], **options)
    return Runner.run_streamed(agent, ASKED, run_config=UNTRACED)


async def test_openai_agents() -> None:
    """The log has thinking, a call with its result, and the text after it. Each call of the model is counted."""
    thought = ResponseReasoningItem(id="r1", type="reasoning", summary=[Summary(type="summary_text", text="Hm, Rome.")])
    call = function_call("weather", {"city": "Rome"}, call_id="c1")
    usage = Usage(requests=1, input_tokens=3, output_tokens=5, total_tokens=8)
    steps = ModelStep(output=[thought, call], usage=usage), ModelStep(output=[assistant_message("Sunny.")], usage=usage)
    made = await written(from_openai_agents(run_agent(*steps)))
    assert shown(made) == [
        "thinking Hm, Rome.",
        'tool-call {"city":"Rome"} complete',
        "tool-result It is sunny in Rome. complete",
        "text Sunny.",
    ]
    counts = [(each["inputTokens"], each["outputTokens"], each["totalTokens"]) for each in made[-1]["usage"]]
    assert counts == [(3, 5, 8)] * 2


async def test_openai_agents_ask_for_approval() -> None:
    """A tool that needs approval is not executed, and the run ends with the question."""
    made = await written(from_openai_agents(run_agent([function_call("send_mail", {"to": "ada"}, call_id="c1")])))
    assert shown(made) == ['tool-call {"to":"ada"} approval-requested']
    assert made[-1]["type"] == "RUN_FINISHED"


async def test_openai_agents_hand_over() -> None:
    """A handoff is a call, and the other agent's text is the answer."""
    other = Agent(name="other", model=ScriptedModel([[assistant_message("I am the other.")]]))
    call = function_call("transfer_to_other", {}, call_id="c1")
    made = await written(from_openai_agents(run_agent([call], handoffs=[other])))
    assert shown(made) == [
        "tool-call {} complete",
        'tool-result {"assistant": "other"} complete',
        "text I am the other.",
    ]


async def test_openai_agents_fail() -> None:
    """An agent in a loop fails with our error message. Any other failure has the model's own."""
    calls = [[function_call("weather", {"city": str(at)}, call_id=f"c{at}")] for at in range(3)]
    agent = Agent(name="a", model=ScriptedModel(calls), tools=[weather])
    result = Runner.run_streamed(agent, ASKED, max_turns=2, run_config=UNTRACED)
    with pytest.raises(ProviderError) as found:
        await written(from_openai_agents(result))
    assert found.value.code == "max_turns"
    with pytest.raises(ValueError, match="no net"):
        await written(from_openai_agents(run_agent(ModelStep.raise_error(ValueError("no net")))))


async def test_openai_agents_are_cancelled() -> None:
    """A stop closes the generator, and the agent's run ends with it."""
    result = run_agent([assistant_message("Hello.")])
    items = from_openai_agents(result)
    await anext(items)
    await items.aclose()
    assert result.is_complete


# LangGraph.


class Scripted(BaseChatModel):
    """A model that yields its scripted outputs in order."""

    answers: list[list[AIMessageChunk]]
    _llm_type = "scripted"

    def _stream(self, messages: Any, *args: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in self.answers.pop(0):
            yield ChatGenerationChunk(message=chunk)

    def _generate(self, messages: Any, *args: Any, **options: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages))


def look(city: str) -> str:
    """Look at the weather of a city."""
    if city == "nowhere":
        raise ValueError("no such city")
    return f"It is sunny in {city}."


CALL = AIMessageChunk(content="", tool_calls=[{"id": "c1", "name": "look", "args": {"city": "Rome"}}])


def build(model: Scripted, **options: Any) -> Any:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def next_node(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    graph = StateGraph(MessagesState)
    graph.add_node("model", ask)
    graph.add_node("tools", ToolNode([look], handle_tool_errors=True))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", next_node)
    graph.add_edge("tools", "model")
    return graph.compile(**options)


def run_graph(graph: Any, **options: Any) -> AsyncIterator[Any]:
    return from_langgraph(graph.astream({"messages": ASKED}, stream_mode=["messages", "updates"], **options))


async def test_langgraph() -> None:
    """The log has thinking, text in pieces, a call with its result, and usage."""
    usage: Any = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
    thought = AIMessageChunk(content=[{"type": "reasoning", "reasoning": "Hm."}])
    said = [AIMessageChunk(content=word) for word in ("It is ", "sunny.")]
    answers = [[thought, CALL], [*said, AIMessageChunk(content="", usage_metadata=usage)]]
    made = await written(run_graph(build(Scripted(answers=answers))))
    assert shown(made) == [
        "thinking Hm.",
        'tool-call {"city":"Rome"} complete',
        "tool-result It is sunny in Rome. complete",
        "text It is sunny.",
    ]
    assert [chunk["delta"] for chunk in made if chunk["type"] == "TEXT_MESSAGE_CONTENT"] == ["It is ", "sunny."]
    assert made[-1]["usage"] == [{"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}]


async def test_langgraph_with_a_tool_that_fails() -> None:
    """The result of a tool that failed is an error."""
    call = AIMessageChunk(content="", tool_calls=[{"id": "c1", "name": "look", "args": {"city": "nowhere"}}])
    made = await written(run_graph(build(Scripted(answers=[[call], [AIMessageChunk(content="Sorry.")]]))))
    assert shown(made)[0] == 'tool-call {"city":"nowhere"} error'
    assert shown(made)[-1] == "text Sorry."


async def test_langgraph_asks_for_approval() -> None:
    """A graph that stops before its tools ends the run with the question."""
    from langgraph.checkpoint.memory import InMemorySaver

    graph = build(Scripted(answers=[[CALL]]), interrupt_before=["tools"], checkpointer=InMemorySaver())
    made = await written(run_graph(graph, config={"configurable": {"thread_id": "1"}}))
    assert shown(made) == ['tool-call {"city":"Rome"} approval-requested']


async def test_subgraphs_of_langgraph_are_subagents() -> None:
    """A subgraph's text, calls and results are separate from the answer."""
    inner = build(Scripted(answers=[[CALL], [AIMessageChunk(content="Inner words.")]]))

    async def delegate(state: MessagesState) -> dict[str, Any]:
        await inner.ainvoke({"messages": ASKED})
        return {"messages": [AIMessage(content="Outer words.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("helper", delegate)
    graph.add_edge(START, "helper")
    made = await written(run_graph(graph.compile(), subgraphs=True))
    assert shown(made) == ["text Outer words."]
    events = events_of_subagents(made)
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("SUBAGENT_STARTED", "SUBAGENT_FINISHED")
    assert events[0]["name"] == "helper"
    assert len({event["subagentRunId"] for event in events}) == 1
    assert [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"] == ["Inner words."]
    assert [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"] == ["It is sunny in Rome."]


# pydantic-ai.


async def test_pydantic_ai_asks_for_approval() -> None:
    """The adapter's interrupt is a question in every tab, and the tool is not executed."""
    agent = PydanticAgent(TestModel(), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def send(to: str) -> str:
        raise AssertionError(to)

    run = RunAgentInput(thread_id="s", run_id="r", messages=[], tools=[], context=[], state={}, forwarded_props={})
    asked = [ModelRequest(parts=[UserPromptPart(content="hi")])]
    made = await written(AGUIAdapter(agent, run).run_stream(message_history=asked))
    assert shown(made) == ['tool-call {"to":"a"} approval-requested']


# Approvals, from the question to the agent's text about the result.


async def langgraph_answer(turn: Turn) -> AsyncIterator[Any]:
    answers = [[CALL], [AIMessageChunk(content="Done.")]]
    graph = build(Scripted(answers=answers[len(turn.messages) > 1 :]), interrupt_before=["tools"])
    asked = {"messages": await turn.langchain_messages()}
    return from_langgraph(graph.astream(asked, stream_mode=["messages", "updates"]))


async def pydantic_answer(turn: Turn) -> AsyncIterator[Any]:
    agent = PydanticAgent(TestModel(custom_output_text="Done."), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True, name="look")
    def never(city: str) -> str:
        raise AssertionError(city)

    run = RunAgentInput(thread_id="s", run_id="r", messages=[], tools=[], context=[], state={}, forwarded_props={})
    return AGUIAdapter(agent, run).run_stream(message_history=await turn.pydantic_ai_messages())


@pytest.mark.parametrize("answer", [langgraph_answer, pydantic_answer])
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "denied"])
async def test_an_approval_is_carried_out(answer: Any, approved: bool) -> None:
    """The chat asks, executes the framework's call when it is approved, and runs the agent again with the result."""
    tools = Tools([make_tool(look, needs_approval=True)])
    async with serve_chat(ToolAgent(answer, tools)) as chat:
        sent = await chat.post("s", user("go"), mode="await")
        assert sent.status_code == 200, sent.text
        snapshot = await chat.snapshot("s")
        (call,) = [part for message in snapshot["messages"] for part in message["parts"] if part["type"] == "tool-call"]
        assert call["state"] == "approval-requested"
        call.update(state="approval-responded", approval=call["approval"] | {"approved": approved})
        sent = await chat.post("s", *snapshot["messages"], mode="await")
        assert sent.status_code == 200, sent.text
        after = (await chat.snapshot("s"))["messages"]
    parts = [part for message in after for part in message["parts"]]
    (call,) = [part for part in parts if part["type"] == "tool-call"]
    assert call["state"] == ("complete" if approved else "error")
    assert not approved or call["output"].startswith("It is sunny in ")
    assert parts[-1]["content"] == "Done."


# The Claude Agent SDK.


class Recorded(Transport):
    """A replay of the recorded output of the SDK's own program."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._messages = messages
        self._initialize: str | None = None

    async def connect(self) -> None:
        pass

    async def write(self, data: str) -> None:
        said = json.loads(data)
        if said["type"] == "control_request":
            self._initialize = said["request_id"]

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        import anyio

        while self._initialize is None:
            await anyio.lowlevel.checkpoint()
        response = {"subtype": "success", "request_id": self._initialize, "response": {}}
        yield {"type": "control_response", "response": response}
        for message in self._messages:
            yield message

    async def close(self) -> None:
        pass

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None:
        pass


def play(messages: list[dict[str, Any]]) -> AsyncIterator[Any]:
    return from_claude_agent(query(prompt="hi", options=ClaudeAgentOptions(), transport=Recorded(messages)))


async def test_subagents_of_the_claude_agent_sdk() -> None:
    """A background subagent's text is separate, between two answers of its parent. Both are counted."""
    made = await written(play([json.loads(line) for line in RECORDED.read_text().splitlines()]))
    assert shown(made)[0] == "text I ask."
    assert shown(made)[1].startswith('tool-call {"description": "look"')
    assert shown(made)[2] == "tool-result The agent works in the background. complete"
    said = [part.removeprefix("text ") for part in shown(made)[3:]]
    assert " ".join(said) == "The helper says: sunny. The helper says: sunny."
    events = events_of_subagents(made)
    assert {event["subagentRunId"] for event in events} == {"toolu_4_1"}
    assert (events[0]["type"], events[0]["name"], events[0]["parentToolCallId"]) == (
        "SUBAGENT_STARTED",
        "helper",
        "toolu_4_1",
    )
    assert events[-1]["type"] == "SUBAGENT_FINISHED"
    said = [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert said == ["Let me look.  ", "The tool says: it is sunny. "]
    assert [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"] == ["It is sunny in Rome."]
    assert [count["totalTokens"] for count in made[-1]["usage"]] == [60, 30]


async def test_whole_messages_of_the_claude_agent_sdk() -> None:
    """Without partial messages, the whole messages give the same result."""
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    pieces = shown(await written(play(lines)))
    whole = shown(await written(play([line for line in lines if line["type"] != "stream_event"])))
    assert [part.replace(" ", "") for part in whole] == [part.replace(" ", "") for part in pieces]


async def test_failures_of_the_claude_agent_sdk() -> None:
    """A limit of the SDK gives our error message."""
    counts = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 2, "session_id": "s"}
    with pytest.raises(ProviderError) as found:
        await written(play([{"type": "result", "subtype": "error_max_turns", "is_error": False, **counts}]))
    assert found.value.code == "error_max_turns"
