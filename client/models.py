from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

from client.flaws import flaw

DEFAULT_MODEL = "qwen3-vl-30b-a3b-instruct"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, as the server counts them. `input_tokens` includes `image_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    image_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            self.image_tokens + other.image_tokens,
        )


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer.

    Attributes:
        text: the model's words.
        finish_reason: `stop`, `length` (cut at the token limit) or `tool_calls`.
        usage: tokens in and out.
        request_id: the server's id of the request.
        model: the model that was asked for.
        reasoning: what a thinking model thought, empty for the others.
        value: the JSON in the answer, validated; None when no schema was given.
        mended: it is the second one, the first could not be used; `usage` counts both.
    """

    text: str
    finish_reason: str
    usage: Usage
    request_id: str
    model: str
    reasoning: str = ""
    value: Any = None
    mended: bool = False

    @property
    def flaw(self) -> str:
        """`truncated` (cut off at the token limit), `repeats` (goes round in circles), or empty."""
        return flaw(self.text, self.finish_reason)


@dataclass(frozen=True, slots=True)
class Piece:
    """One increment of a streamed answer. `finish_reason` is None until the last one; `usage` is cumulative."""

    text: str
    finish_reason: str | None
    usage: Usage
    request_id: str
    reasoning: str = ""


@dataclass(frozen=True)
class Job:
    """What is asked about every image of a batch. Equal jobs share answers in a ledger, others never do."""

    prompt: str
    model: str = DEFAULT_MODEL
    schema: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prepared: str = ""
    """What was done to the images before they were sent, such as `redacted`; empty: nothing."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of prompt, model, schema, parameters and preparation, hexadecimal."""
        parts = [self.prompt, self.model, self.schema, dict(self.parameters)]
        if self.prepared:
            parts.append(self.prepared)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def key(self, digest: str, prompt: str | None = None) -> str:
        """The ledger's key of one question, hexadecimal: this job and the SHA-256 of the image's bytes.

        A `prompt` of its own stands for the job's: the same question, wherever its words came from, has one key.
        """
        job = self if prompt is None or prompt == self.prompt else replace(self, prompt=prompt)
        return hashlib.sha256(f"{job.fingerprint}:{digest}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """An image that was answered.

    Attributes:
        file: the image, as it was found.
        key: `Job.key` of its bytes.
        answer: the model's words.
        value: the validated JSON, None without a schema.
        seconds: from the last request to its answer.
        attempts: requests it took.
        duplicate_of: the file of the same bytes whose answer this is, None when it was asked itself.
        images: the names of the images, where `file` is not that of its only one: a row of a manifest.
        flaw: `truncated` or `repeats`, as in `Answer`.
        mended: as in `Answer`.
    """

    file: str
    key: str
    answer: str
    value: Any
    finish_reason: str
    usage: Usage
    request_id: str
    model: str
    seconds: float
    attempts: int
    duplicate_of: str | None = None
    images: tuple[str, ...] = ()
    flaw: str = ""
    mended: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """An image without a usable answer, and why.

    `answer` holds the words that did not fit the schema and is None when nothing came: only the former was paid for.
    `duplicate_of` and `images`: as in `Done`.
    """

    file: str
    key: str
    reason: str
    code: str = ""
    status: int | None = None
    request_id: str = ""
    attempts: int = 1
    answer: str | None = None
    usage: Usage = NO_USAGE
    duplicate_of: str | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was never sent, and why."""

    file: str
    reason: str
    key: str = ""
    images: tuple[str, ...] = ()


Record: TypeAlias = Done | Failed | Skipped

_STATES: dict[str, type[Done] | type[Failed] | type[Skipped]] = {"done": Done, "failed": Failed, "skipped": Skipped}

_FIELDS = {kind: tuple(each.name for each in fields(kind)) for kind in _STATES.values()}
_TOKENS = tuple(each.name for each in fields(Usage))
_LEFT_OUT_EMPTY = ("images", "flaw", "mended")


def state(record: Record) -> str:
    """`done`, `failed` or `skipped`."""
    return type(record).__name__.lower()


def is_copy(record: Record) -> bool:
    """Whether the record repeats what was asked and paid for another file of the same bytes."""
    return not isinstance(record, Skipped) and record.duplicate_of is not None


def to_json(record: Record) -> str:
    """One line of the results file: `file`, `state`, then the record's own fields."""
    # Not asdict: it would copy the validated value, however large, and takes longer than the writing.
    own = {name: getattr(record, name) for name in _FIELDS[type(record)]}
    for name in _LEFT_OUT_EMPTY:
        if not own.get(name, True):
            del own[name]
    if "usage" in own:
        usage = own["usage"]
        own["usage"] = {name: getattr(usage, name) for name in _TOKENS}
    return json.dumps({"file": record.file, "state": state(record)} | own, ensure_ascii=False)


def from_json(line: str) -> Record:
    """The record that `to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: it was written by something else.
    """
    own = json.loads(line)
    kind = _STATES[own.pop("state")]
    if "usage" in own:
        own["usage"] = Usage(**own["usage"])
    if "images" in own:
        own["images"] = tuple(own["images"])
    return kind(**own)


@dataclass(slots=True)
class Totals:
    """Counts of one run; `done + failed + skipped` is what has ended. The others are part of these."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    resumed: int = 0
    duplicates: int = 0
    flawed: int = 0
    usage: Usage = NO_USAGE

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.skipped

    @property
    def asked(self) -> int:
        """Images that ended in this run by a request of their own."""
        return self.done + self.failed - self.resumed - self.duplicates

    def count(self, record: Record, *, resumed: bool) -> None:
        """Adds one record. `resumed`: its answer is an earlier run's, so its tokens are not this run's."""
        name = state(record)
        setattr(self, name, getattr(self, name) + 1)
        if isinstance(record, Skipped):
            return
        self.resumed += resumed
        self.flawed += isinstance(record, Done) and bool(record.flaw)
        self.duplicates += is_copy(record) and not resumed
        if not (resumed or is_copy(record)):
            self.usage += record.usage
