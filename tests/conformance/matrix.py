"""Which client does what: the rows, columns and cells of the compatibility table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

COLUMNS = {
    "chat": "answer",
    "stream": "stream",
    "cumulative": "cumulative stream",
    "async": "async",
    "async stream": "async stream",
    "text path": "text alone",
    "image URL": "image by URL",
    "local file": "local file",
    "two images": "two images",
    "frames": "video frames",
    "video": "video by URL",
    "tools": "tools",
    "tools stream": "tools, stream",
    "thinking": "thinking",
    "JSON": "JSON",
    "JSON schema": "JSON schema",
    "wrong key": "wrong key",
    "wrong parameter": "refusal",
    "broken stream": "error in mid-stream",
    "models": "models",
    "files": "files",
    "tokens": "token count",
    "task": "tasks",
    "async task": "async tasks",
    "batch": "batches",
}
"""Flow by flow, as the drivers name them and as the table does."""

CLOUD_ELSEWHERE = {
    "broken stream": "the cloud does not break on demand",
    "batch": "a batch of the cloud takes minutes to hours",
    "tokens": "the cloud counts tokens for text models only",
    "async task": "the cloud refuses chat as a task; the flow `task` checks that",
}
"""Flows that only a server of one's own can run, and why."""

CHAT = ("chat", "stream", "wrong key")
NATIVE = (
    *CHAT,
    *("cumulative", "text path", "image URL", "local file", "two images", "frames", "video", "tools", "tools stream"),
    *("thinking", "JSON", "wrong parameter", "broken stream", "task", "models", "files", "tokens"),
)
AIO = ("async", "async stream")


@dataclass(frozen=True)
class Client:
    """One row: a driver program, and the folder of `environments` that it runs in, none for the project's own."""

    title: str
    program: str
    environment: str | None
    flows: tuple[str, ...]

    @property
    def node(self) -> bool:
        return self.program.endswith(".mjs")


CLIENTS = {
    "requests": Client(
        "plain HTTP (`requests`)",
        "plain_requests",
        None,
        (
            *CHAT,
            "cumulative",
            "text path",
            "image URL",
            "two images",
            "JSON schema",
            "wrong parameter",
            "broken stream",
        ),
    ),
    "dashscope-1.20": Client("dashscope 1.20.14", "dashscope_sdk", "dashscope-1.20", NATIVE),
    "dashscope-1.24": Client("dashscope 1.24.6", "dashscope_sdk", "dashscope-1.24", (*NATIVE, *AIO, "async task")),
    "dashscope-2.0": Client("dashscope 2.0.2", "dashscope_sdk", None, (*NATIVE, *AIO, "async task")),
    "dashscope-v2": Client(
        "dashscope 2.0.2, `Client`",
        "dashscope_v2",
        None,
        (*(flow for flow in NATIVE if flow != "task"), *AIO, "JSON schema"),
    ),
    "openai": Client(
        "openai 3.54.0",
        "openai_sdk",
        None,
        (
            *(*CHAT, *AIO, "text path", "image URL", "two images", "frames", "video", "tools", "tools stream"),
            *("thinking", "JSON", "JSON schema", "wrong parameter", "broken stream", "models", "files", "batch"),
        ),
    ),
    "langchain": Client(
        "langchain-community 0.4.2, `ChatTongyi`",
        "langchain_tongyi",
        "langchain",
        (*CHAT, *AIO, "image URL", "local file", "frames", "tools", "tools stream"),
    ),
    "llama-index": Client(
        "llama-index-multi-modal-llms-dashscope 0.2.1",
        "llama_index_dashscope",
        "llama-index",
        (*CHAT, "async", "image URL"),
    ),
    "qwen-agent": Client(
        "qwen-agent 0.0.34, `qwenvl_dashscope`",
        "qwen_agent_vl",
        "qwen-agent",
        (*CHAT, "image URL", "local file", "tools"),
    ),
    "litellm": Client(
        "LiteLLM 1.106.2, `dashscope/`",
        "litellm_dashscope",
        "litellm",
        (*CHAT, *AIO, "image URL", "tools", "tools stream", "JSON", "wrong parameter"),
    ),
    "ai-sdk": Client(
        "@ai-sdk/alibaba 1.0.61 with ai 6.0.326",
        "ai_sdk.mjs",
        "ai-sdk",
        (
            *(*CHAT, "image URL", "local file", "tools", "tools stream", "thinking", "JSON"),
            "wrong parameter",
        ),
    ),
}

CELLS = [(name, flow) for name, client in CLIENTS.items() for flow in COLUMNS if flow in client.flows]
