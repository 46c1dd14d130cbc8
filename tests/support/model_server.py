"""Model servers for agents: the protocols of three vendors, and one model that follows a script.

The model answers with the next command of the script for as long as there is one, as a call of the agent's
shell tool, and then with a text. Which one is next it sees from the conversation, as a real one does.

Sources: the vendors' API references, "Messages" and "Streaming" (Anthropic), "Responses" (OpenAI),
"streamGenerateContent" (Google).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

TOKENS = "platform.claude.com"  # which gives tokens for refresh tokens
HOSTS = ("api.anthropic.com", "api.openai.com", "generativelanguage.googleapis.com", TOKENS)
LAST = "The test passes now."
COMMANDS = (
    "cat calc.py test_calc.py; python3 test_calc.py",
    "sed -i 's/a - b/a + b/' calc.py && python3 test_calc.py",
    "git add -A && git commit -qm 'calc: add instead of subtracting'",
)
"""What an agent does in the repository of `broken_repository`."""

Events = Iterator[tuple[str, dict[str, Any]]]

_ERRORS = {
    "401": "authentication_error",
    "429": "rate_limit_error",
    "529": "overloaded_error",
}
_PAUSE = 0.3  # seconds between the events of a slow answer


def broken_repository(folder: Path, dockerfile: str) -> None:
    """Write the files of a repository whose test fails."""
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "test_calc.py").write_text("from calc import add\n\nassert add(2, 3) == 5\nprint('passed')\n")


class Faults:
    """What goes wrong with the next requests to Anthropic's model, in turn: words in a file, each once.

    A word is the status of an error; `slow`; `cut`, for an answer that is broken off; `hold`, for one that
    waits until the file is gone; or `-` for nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def next(self) -> str:
        """Return what goes wrong with this request."""
        words = self._path.read_text().split() if self._path.exists() else []
        if not words:
            return "-"
        self._path.write_text(" ".join(words[1:]))
        return words[0]

    async def over(self) -> None:
        """Wait until the file is gone."""
        while self._path.exists():
            await asyncio.sleep(0.05)


class TokenServer:
    """Gives a new access token and a new refresh token for each refresh token, which is valid once."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._given = 0

    def answer(self, asked: dict[str, Any]) -> web.Response:
        token = str(asked.get("refresh_token"))
        if asked.get("grant_type") != "refresh_token" or token in self._used:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self._used.add(token)
        self._given += 1
        kind = token.rpartition("-")[0]
        return web.json_response({
            "access_token": f"{kind}-access-{self._given}", "refresh_token": f"{kind}-refresh-{self._given}",
            "expires_in": 3600, "token_type": "Bearer",
        })  # fmt: skip


async def answer(request: web.Request, faults: Faults, tokens: TokenServer) -> web.StreamResponse:
    """Answer a request of an agent."""
    try:
        asked = json.loads(await request.read() or b"{}")
    except ValueError:
        return web.json_response({"error": {"message": "not JSON"}}, status=400)
    path = request.path
    if path.endswith("/oauth/token"):
        return tokens.answer(asked)
    if path.endswith("/messages"):
        fault = faults.next()
        if fault in _ERRORS:
            error = {"type": _ERRORS[fault], "message": f"a fault: {fault}"}
            return web.json_response(
                {"type": "error", "error": error}, status=int(fault), headers={"Retry-After": "1"}
            )
        if fault == "hold":
            await faults.over()
        return await _anthropic(request, asked, fault)
    if path.endswith(("/count_tokens", ":countTokens")):
        return web.json_response({"input_tokens": 10, "totalTokens": 10})
    if path.endswith("/responses") and request.method == "POST":
        return await _sent(request, _openai(asked))
    if path.endswith("enerateContent"):
        return await _gemini(request, asked)
    return web.json_response({"error": {"type": "not_found_error", "message": path}}, status=404)


async def _sent(request: web.Request, events: Events, fault: str = "-") -> web.StreamResponse:
    """Send server-sent events, each as a piece of its own."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for kind, data in events:
        head = f"event: {kind}\n" if kind else ""
        await response.write(f"{head}data: {json.dumps(data)}\n\n".encode())
        if fault == "slow":
            await asyncio.sleep(_PAUSE)
        if fault == "cut" and kind == "content_block_start" and request.transport is not None:
            request.transport.abort()
            return response
    await response.write_eof()
    return response


def _next(done: int) -> str | None:
    return COMMANDS[done] if done < len(COMMANDS) else None


# --- Anthropic


async def _anthropic(request: web.Request, asked: dict[str, Any], fault: str) -> web.StreamResponse:
    tools = [tool.get("name", "") for tool in asked.get("tools") or []]
    shell = next((name for name in tools if name.lower() == "bash"), None)
    blocks = [
        block
        for message in asked.get("messages", [])
        if isinstance(message.get("content"), list)
        for block in message["content"]
    ]
    done = sum(block.get("type") == "tool_result" for block in blocks)
    command = _next(done) if shell else None
    block: dict[str, Any] = {"type": "text", "text": LAST if shell else "ok"}
    if command:
        arguments = {"command": command, "description": "the next step"}
        block = {"type": "tool_use", "id": f"toolu_{done:04}", "name": shell, "input": arguments}
    message = {
        "id": f"msg_{done:04}", "type": "message", "role": "assistant", "model": asked.get("model", "m"),
        "content": [block], "stop_reason": "tool_use" if command else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 100 + done, "output_tokens": 20},
    }  # fmt: skip
    if not asked.get("stream"):
        return web.json_response(message)
    return await _sent(request, _message_events(message, block), fault)


def _message_events(message: dict[str, Any], block: dict[str, Any]) -> Events:
    begun = {**message, "content": [], "stop_reason": None, "usage": {**message["usage"], "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": begun}
    if block["type"] == "text":
        empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        empty = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": empty}
    yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "content_block_stop", {"type": "content_block_stop", "index": 0}
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    yield "message_delta", {"type": "message_delta", "delta": end, "usage": usage}
    yield "message_stop", {"type": "message_stop"}


# --- OpenAI


def _openai(asked: dict[str, Any]) -> Events:
    items = asked.get("input") if isinstance(asked.get("input"), list) else []
    done = sum(str(item.get("type", "")).endswith("_call_output") for item in items or [])
    command = _next(done)
    item: dict[str, Any] = {
        "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": LAST, "annotations": []}],
    }  # fmt: skip
    if command:
        item = {"id": f"fc_{done}", "call_id": f"call_{done}", "status": "completed"}
        offered = [tool for item in items or [] for tool in item.get("tools") or []]
        item |= _shell_call([*(asked.get("tools") or []), *offered], command)
    usage = {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 20,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 120}  # fmt: skip
    response = {"id": f"resp_{done}", "object": "response", "status": "in_progress", "output": []}
    yield "response.created", {"type": "response.created", "response": response}
    added = {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield "response.output_item.added", added
    yield "response.output_item.done", {**added, "type": "response.output_item.done"}
    ended = {**response, "status": "completed", "output": [item], "usage": usage}
    yield "response.completed", {"type": "response.completed", "response": ended}


def _shell_call(tools: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    """Return a call of the shell tool that the agent has: a function, or from a script that calls it."""
    names = [str(tool.get("name", "")) for tool in tools]
    spaces = {str(inner.get("name")): tool.get("name") for tool in tools for inner in tool.get("tools") or []}
    if "exec" in (*names, *spaces):
        script = (
            f"const found = await tools.exec_command({json.dumps({'cmd': command})});\ntext(found.output);"
        )
        space = {"namespace": spaces["exec"]} if "exec" in spaces else {}
        return {"type": "custom_tool_call", "name": "exec", "input": script, **space}
    name, key = ("exec_command", "cmd") if "exec_command" in names else ("shell_command", "command")
    return {"type": "function_call", "name": name, "arguments": json.dumps({key: command})}


# --- Google


async def _gemini(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    names = [
        each.get("name", "")
        for tool in asked.get("tools") or []
        for each in tool.get("functionDeclarations") or []
    ]
    parts = [part for content in asked.get("contents", []) for part in content.get("parts") or []]
    done = sum("functionResponse" in part for part in parts)
    command = _next(done) if "run_shell_command" in names else None
    part: dict[str, Any] = {"text": LAST}
    if command:
        arguments = {"command": command, "description": "the next step"}
        part = {"functionCall": {"name": "run_shell_command", "args": arguments}}
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
    content = {"role": "model", "parts": [part]}
    document = {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage, "modelVersion": "m", "responseId": f"r{done}",
    }  # fmt: skip
    if "stream" not in request.path:
        return web.json_response(document)
    return await _sent(request, iter([("", document)]))
