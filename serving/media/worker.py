"""A process that decodes what clients send: `python -m serving.media.worker`.

Decoders of images and videos are large C libraries; a file made to break one breaks this process and nothing else.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import BinaryIO

from serving.engine.orphans import die_with_parent
from serving.media import pictures
from serving.media.work import (
    LENGTH,
    Check,
    Convert,
    Failure,
    Film,
    Frames,
    Job,
    Look,
    Picture,
    Probe,
    Result,
    decode_job,
    encode,
)

PARENT = "HOMESCOPE_WORKER_PARENT"
MEMORY = 6 << 30
"""Bytes of address space. An image of the largest size takes a tenth of it; what asks for more ends here."""


def done(job: Job) -> Result:
    match job:
        case Look(data, form):
            return Picture(b"", *pictures.look(data, form))
        case Check(data, form):
            pictures.check(data, form)
            return Picture(b"", 0, 0)
        case Convert(data, form, size, target):
            return Picture(*pictures.convert(data, form, size, target))
    from serving.media import films  # 60 ms of CPU that a process for images alone does not need

    if isinstance(job, Probe):
        return Film(*films.probe(job.path))
    return Frames(films.sample(job.path, job.times, job.size))


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the other side closes the pipe."""
    while len(head := questions.read(LENGTH.size)) == LENGTH.size:
        try:
            result = done(decode_job(questions.read(*LENGTH.unpack(head))))
        except Exception as error:  # whatever a library raises about a file
            result = Failure(str(error)[:300] or type(error).__name__)
        body = encode(result)
        answers.write(LENGTH.pack(len(body)))
        answers.write(body)
        answers.flush()


def main() -> None:
    die_with_parent(int(os.environ[PARENT]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
