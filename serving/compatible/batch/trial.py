"""The batch that tests a program and asks no model: its own endpoint and model, as the cloud has them."""

from __future__ import annotations

from collections.abc import Callable

from serving.compatible.batch import results
from serving.compatible.rendering import Rendering
from serving.errors import ServingError
from serving.generation import Answer, Chunk, Usage
from serving.jobs.job import Failure, Job

ENDPOINT = "/v1/chat/ds-test"
MODEL = "batch-test-model"
KIND = "batch-test"
MAX_LINES = 100
MAX_BYTES = 1 << 20
TEXT = "This is a test result."


class TrialWork:
    """Answers each line with the same text."""

    keep_ms = None

    def __init__(self, on_end: Callable[[str], None]) -> None:
        """As for `LineWork`."""
        self._on_end = on_end

    async def run(self, job: Job) -> bytes:
        answer = Answer()
        answer.add(Chunk(TEXT, Usage(), "stop"))
        return results.answered(job, Rendering(job.id, MODEL).whole(answer))

    def failure(self, error: ServingError) -> Failure:
        return results.failure(error)

    async def group_ended(self, group: str) -> None:
        self._on_end(group)
