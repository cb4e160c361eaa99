"""OpenAI's adapters behind the routes: the real package asks npm's aimock and a provider of videos, over the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.generations.apps import JSON, WAIT_MAX_S, chunks_in
from tests.generations.sora import CLIP, SoraProcess
from tests.generations.test_inputs import wav
from tests.generations.test_openai import FIXTURES, PNG, SOUND
from tests.models.aimock import KEY, Aimock
from tests.servers import Process, Server

SETTINGS = {"DURABLE_CHAT_MODEL": "demo", "DURABLE_CHAT_STORE": "memory://", "OPENAI_API_KEY": KEY}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose pictures, speech and transcripts come from aimock."""
    folder = tmp_path_factory.mktemp("openai")
    mock = Aimock(folder / "aimock", FIXTURES)
    made = Server(folder / "server", {**SETTINGS, "OPENAI_BASE_URL": f"{mock.url}/v1"})
    yield from _started(mock, made)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoraProcess]:
    made = SoraProcess(tmp_path_factory.mktemp("sora"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def films(provider: SoraProcess, tmp_path: Path) -> Iterator[Server]:
    """A server whose videos come from the provider."""
    address = {"OPENAI_BASE_URL": f"{provider.url}/v1", "DURABLE_CHAT_VIDEO_POLL_S": "0.2"}
    made = Server(tmp_path, SETTINGS | address)
    yield from _started(made)


def _started(*processes: Process) -> Iterator[Server]:
    for process in processes:
        process.start()
    last = processes[-1]
    assert isinstance(last, Server)
    yield last
    for process in processes:
        process.kill()


def post(server: Server, activity: str, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/api/generate/{activity}", json=body, headers=headers, timeout=WAIT_MAX_S)


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.url + path, timeout=WAIT_MAX_S)


def test_an_image(server: Server) -> None:
    """The picture is a file of the slot, and is still there for a page that loads later."""
    body = {"prompt": "a fox", "threadId": "fox", "size": "1024x1536", "modelOptions": {"quality": "low"}}
    result = post(server, "image", body, **JSON).json()
    (image,) = result["images"]
    assert image["revisedPrompt"] == "A red fox"
    assert get(server, image["url"]).content == PNG
    assert result["artifacts"][0]["source"]["provider"] == "openai"
    shown = get(server, "/api/generate?threadId=fox").json()["resumeSnapshot"]
    assert shown["status"] == "complete"


def test_an_edit(server: Server) -> None:
    """A prompt with a picture is sent as files."""
    source = {"type": "data", "value": base64.b64encode(PNG).decode(), "mimeType": "image/png"}
    prompt = [{"type": "text", "content": "a fox"}, {"type": "image", "source": source}]
    result = post(server, "image", {"prompt": prompt, "threadId": "edit"}, **JSON).json()
    assert get(server, result["images"][0]["url"]).content == PNG


def test_speech(server: Server) -> None:
    """The audio is shown live as base64, and kept as a file."""
    chunks = chunks_in(post(server, "speech", {"text": "hello", "voice": "verse", "threadId": "voice"}).text)
    (result,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    assert base64.b64decode(result["audio"]) == SOUND
    assert (result["format"], result["contentType"]) == ("mp3", "audio/mpeg")
    assert get(server, result["artifacts"][0]["url"]).content == SOUND


def test_a_transcription(server: Server) -> None:
    """A recording is uploaded, and its text comes back."""
    audio = f"data:audio/wav;base64,{base64.b64encode(wav()).decode()}"
    result = post(server, "transcription", {"audio": audio, "threadId": "ear"}, **JSON).json()
    assert result["text"] == "Hello there."


@pytest.mark.parametrize(("prompt", "shown"), [("bad thing", "refused"), ("no credit", "credit"), ("broken", "failed")])
def test_a_refusal(server: Server, prompt: str, shown: str) -> None:
    """A failure of the provider is the run's error, in words that do not contain the key."""
    answer = post(server, "image", {"prompt": prompt, "threadId": prompt}, **JSON)
    assert (answer.status_code, shown in answer.json()["error"]) == (502, True), answer.text
    state = get(server, f"/api/generate?threadId={prompt}").text
    assert json.loads(state)["resumeSnapshot"]["status"] == "error"
    assert KEY not in answer.text + state + server.output


def test_a_users_own_key(server: Server) -> None:
    """The request's key is used, and a wrong one is told."""
    answer = post(server, "image", {"prompt": "a fox", "threadId": "own"}, **JSON, **{"X-Api-Key": "wrong"})
    assert (answer.status_code, "key" in answer.json()["error"]) == (502, True)


def test_a_video(films: Server, provider: SoraProcess) -> None:
    """A job is ordered once with what was asked, its progress is shown, and its film is a file of the slot."""
    before = len(provider.orders)
    body = {"threadId": "film", "runId": "r1", "data": {"prompt": "a fox", "size": "720x1280", "duration": 12}}
    chunks = chunks_in(post(films, "video", body, **{"X-Run-Id": "r1"}).text)
    (created,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "video:job:created"]
    states = [chunk["value"]["status"] for chunk in chunks if chunk.get("name") == "video:status"]
    assert states == ["pending", "processing", "completed"]
    (result,) = [chunk["value"] for chunk in chunks if chunk.get("name") == "generation:result"]
    assert get(films, result["url"]).content == CLIP
    told = get(films, f"/api/generate/video/{created['jobId']}?threadId=film").json()
    assert (told["status"], told["url"]) == ("completed", result["url"])
    (order,) = provider.orders[before:]
    assert all(words in order for words in ("a fox", "720x1280", "12", "sora-2"))
