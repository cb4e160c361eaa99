"""The OpenAPI description matches the routes' requests and responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from durable_chat.api.openapi.document import description
from tests.routing import served
from tests.servers import Server
from tests.sessions.serving import ended, script, serve_chat, user

METHODS = ("get", "post", "put", "patch", "delete")


def operations() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in description()["paths"].items():
        for method in METHODS:
            if method in methods:
                yield method, path, methods[method]


def test_every_route_is_described() -> None:
    """The description has exactly the served routes under /api."""
    described = {(method.upper(), path) for method, path, _ in operations()}
    assert described == {(method, path) for method, path in served() if path.startswith("/api/")}


def test_every_reference_leads_somewhere() -> None:
    """Every reference has a schema, and every schema has a reference."""
    document = description()

    def named(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key == "$ref":
                    yield str(inner).removeprefix("#/components/schemas/")
                yield from named(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                yield from named(inner)

    assert set(named(document)) == set(document["components"]["schemas"])


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Validate the part of JSON Schema that the description uses."""
    if "$ref" in schema:
        return fits(value, description()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds: dict[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return False
    if isinstance(value, dict):
        told = schema.get("properties", {})
        strict = "properties" in schema and not schema.get("additionalProperties", False)
        known = not strict or value.keys() <= told.keys()
        return (
            known
            and set(schema.get("required", ())) <= value.keys()
            and all(fits(value[key], told[key]) for key in value.keys() & told.keys())
        )
    return not isinstance(value, list) or all(fits(one, schema.get("items", {})) for one in value)


def answer_schema(path: str, method: str, status: int) -> Mapping[str, Any]:
    response: Mapping[str, Any] = description()["paths"][path][method]["responses"][str(status)]
    schema: Mapping[str, Any] = response["content"]["application/json"]["schema"]
    return schema


async def test_answers_are_as_described() -> None:
    """
    Responses of the routes, from a session with an answer and for an invalid request, fit their schemas without extra
    fields.
    """
    async with serve_chat(script()) as chat:
        posted = await chat.post("s", user("hi"))
        await chat.until("s", ended())
        described = description()["paths"]["/api/chat"]["post"]["responses"]["202"]["headers"]
        assert all(name in posted.headers for name in described)
        for method, path in (
            ("get", "/api/chat"),
            ("get", "/api/chat-snapshot"),
            ("get", "/api/chat-stream"),
            ("post", "/api/chat-stop"),
        ):
            answer = await chat.client.request(method, path, params={"id": "s"})
            assert fits(answer.json(), answer_schema(path, method, 200)), answer.text
            refused = await chat.client.request(method, path)
            assert refused.status_code == 400
            assert fits(refused.json(), answer_schema(path, method, 400)), refused.text


def test_it_is_served(server: Server) -> None:
    """Everybody may read the description, also from other origins."""
    answer = httpx.get(f"{server.url}/openapi.json")
    assert answer.json()["openapi"].startswith("3.1")
    assert answer.json()["info"]["version"]
    assert answer.headers["access-control-allow-origin"] == "*"
