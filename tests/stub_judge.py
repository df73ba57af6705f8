"""A judge on this machine: an HTTP server that answers chat completions by a function of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SECRET = "sk-a-secret-that-must-not-show"

Reply = str | tuple[int, str]  # what the judge says, or (HTTP status, message of an error)


class StubJudge:
    """`requests`: the bodies that came, in order; `keys`: the keys they came with. Set `reply` at any time."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]) -> None:
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.served_as: str | None = None
        self.url = ""
        self.lock = threading.Lock()

    def prompts(self) -> list[str]:
        """The user's words of every request."""
        return [body["messages"][-1]["content"] for body in self.requests]

    def answer(self, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        """Called by the server for every request; the number of a request begins at 1."""
        with self.lock:
            self.requests.append(body)
            self.keys.append(key)
            number = len(self.requests)
        said = self.reply(body, number)
        if isinstance(said, tuple):
            return said[0], {"error": {"message": said[1], "type": "stub", "code": None}}
        message = {"role": "assistant", "content": said}
        return 200, {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": self.served_as or body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }


@contextmanager
def serve(judge: StubJudge) -> Iterator[StubJudge]:
    """Run the server; `judge.url` is what OPENAI_BASE_URL must say."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions", self.path
            status, content = judge.answer(body, self.headers["Authorization"])
            data = json.dumps(content).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("retry-after-ms", "1")  # clients that retry need not wait in tests
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client was killed

        def log_message(self, *words: object) -> None:
            """Nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()


def point_to(judge: StubJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user whose judge this is."""
    monkeypatch.setenv("OPENAI_BASE_URL", judge.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
