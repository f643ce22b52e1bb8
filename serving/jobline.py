"""The line in the log of a chat call that is answered in the background: a task, or a line of a batch."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving import logs
from serving.errors import ServingError
from serving.generation import Answer, Chunk, Timeline
from serving.jobs.job import Job


@dataclass(slots=True)
class Run:
    """One attempt at a job: what is known of it while it goes on. `outcome` may also be "partial"."""

    model: str
    images: int = 0
    outcome: str = "ok"
    timeline: Timeline = field(default_factory=Timeline)
    answer: Answer = field(default_factory=Answer)

    def add(self, chunk: Chunk) -> None:
        self.timeline.first_chunk = self.timeline.first_chunk or time.monotonic()
        self.answer.add(chunk)


@contextmanager
def logged(job: Job) -> Generator[Run, None, None]:
    """Logs the run when the block ends, however it ends: with the code of an error, or "cut_off" by a stop."""
    run = Run(job.model)
    try:
        yield run
    except ServingError as error:
        run.outcome = error.code
        raise
    except BaseException:
        run.outcome = "cut_off"
        raise
    finally:
        run.timeline.ended = time.monotonic()
        logs.finished(_line(job, run))


def _line(job: Job, run: Run) -> logs.RequestLine:
    times, usage = run.timeline, run.answer.usage
    return logs.RequestLine(
        request_id=job.id,
        key=job.caller.name,
        model=run.model,
        status=200,
        outcome=run.outcome,
        stream=False,
        images=run.images,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        queued_ms=logs.span_ms(times.received, times.admitted),
        first_chunk_ms=logs.span_ms(times.received, times.first_chunk),
        total_ms=logs.span_ms(times.received, times.ended),
    )
