import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serving.media.addresses import Guard
from serving.media.policy import processor_of
from serving.storage import database

PREFIX = "HOMESCOPE_"
PRICE = re.compile(r"(?P<model>[^=]+)=(?P<input>\d+(\.\d+)?)/(?P<output>\d+(\.\d+)?)")
MODEL_NAMES = ("qwen3-vl-30b", "qwen3-vl-30b-a3b-instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct")


class SettingsError(Exception):
    """Raised when the environment cannot be read as settings; the message is one line for the person who set it."""


def _split(value: object) -> object:
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    Guard.allowing(entries)
    return entries


def _processing(folder: Path) -> Path:
    try:
        processor_of(folder)
    except OSError as error:
        raise ValueError(str(error)) from None
    return folder


def _database(url: SecretStr) -> SecretStr:
    database.parsed(url.get_secret_value())
    return url


def _redis(url: SecretStr) -> SecretStr:
    if not re.match(r"(redis|rediss|unix)://.", url.get_secret_value()):
        raise ValueError("it is no URL of a Redis; write redis://host:6379/0")
    return url


def _networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        ipaddress.ip_network(entry)
    return entries


def _prices(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        if not PRICE.fullmatch(entry):
            raise ValueError(f"{entry!r} is not of the form model=input/output, like qwen3-vl-30b=0.75/3")
    return entries


Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Database = Annotated[SecretStr, AfterValidator(_database)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[Names, AfterValidator(_hosts)]
Processing = Annotated[Folder, AfterValidator(_processing)]


Prices = Annotated[Names, AfterValidator(_prices)]
Networks = Annotated[Names, AfterValidator(_networks)]


class Settings(BaseSettings):
    """Every knob of the server, read once at start from `HOMESCOPE_<NAME>`; lists are separated by commas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    data: Folder = Field(
        default=Path("~/.homescope"), validate_default=True, description="the one folder that holds state"
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(default=1, ge=1, le=64, description="processes that serve together, of one core each")
    admin_host: str = Field(default="127.0.0.1", min_length=1, description="address of the port for operators")
    admin_port: int | None = Field(
        default=None, ge=0, le=65535, description="port for operators, with /metrics and the probes; none: neither"
    )
    prices: Prices = Field(
        default=(), description="model=input/output, what a million tokens cost, for the metric of the cost"
    )
    engine_urls: Names = Field(
        default=(), description="running vLLMs to share the work; none starts the embedded engine"
    )
    engine_key: SecretStr | None = Field(default=None, description="API key that the engine asks for, if it does")
    reuse_images: bool = Field(
        default=False, description="send each image to an engine once; always so where there are several"
    )
    model: str | None = Field(
        default=None, description="folder or hub name for the embedded engine; default: what fits"
    )
    model_aliases: Names = Field(default=(), description="further model names to answer to")
    max_output_tokens: int = Field(default=32_768, ge=1, description="largest max_tokens accepted")
    thinking: Literal["never", "hybrid", "always"] | None = Field(
        default=None, description="whether the model thinks before it answers; default: what its name says"
    )
    max_thinking_tokens: int = Field(default=81_920, ge=1, description="largest thinking_budget accepted")
    max_in_flight: int = Field(default=256, ge=1, description="generations given to the engine at a time")
    max_pixels_in_flight: int = Field(
        default=536_870_912, ge=1024, description="pixels, as the model sees them, given to the engine at a time"
    )
    max_queued: int = Field(
        default=512, ge=0, description="generations that wait for a place; more are refused with 429"
    )
    queue_timeout: float = Field(
        default=60,
        gt=0,
        description="seconds that a generation waits for a place at most; who would wait longer is refused at once",
    )
    request_timeout: float = Field(
        default=300, gt=0, description="seconds that a request may take; then the answer is cut"
    )
    stop_delay: float = Field(
        default=0, ge=0, description="seconds after SIGTERM that requests are still taken, while /readyz says 503"
    )
    drain_timeout: int = Field(default=30, ge=0, description="seconds that running requests get to finish at a stop")
    cache: str = Field(
        default="memory",
        pattern=r"^(off|memory|(redis|rediss|unix|memcached)://.+)$",
        description="where answers are kept: off, memory, redis://host:port/0 or memcached://host:port",
    )
    cache_bytes: int = Field(default=134_217_728, ge=1024, description="bytes of answers kept in memory")
    cache_seconds: int = Field(default=3600, ge=1, description="seconds for which an answer is kept")
    cache_all: bool = Field(
        default=False, description="keep answers without temperature 0 or a seed, too, though they would vary"
    )
    cache_shared: bool = Field(
        default=False, description="answer a key with what another key was answered; engines share prompts, too"
    )
    cache_revision: str | None = Field(
        default=None, description="change it with the model, where a cache outlives the server"
    )
    max_body_bytes: int = Field(default=67_108_864, ge=1024, description="largest request body")
    max_bodies_bytes: int = Field(
        default=1_073_741_824,
        ge=1024,
        description="bytes of request bodies held at a time, of which a key has a share; more is refused with 429",
    )
    max_connections: int = Field(default=4096, ge=1, description="connections of clients at a time")
    header_timeout: float = Field(default=10, gt=0, description="seconds in which the headers of a request come")
    body_timeout: float = Field(default=30, gt=0, description="seconds for which nothing may come of a request body")
    write_timeout: float = Field(
        default=60, gt=0, description="seconds for which a client may leave unread what it is sent"
    )
    tls_cert: Folder | None = Field(
        default=None, description="PEM file with the certificate chain, to serve HTTPS; read again on SIGHUP"
    )
    tls_key: Folder | None = Field(default=None, description="PEM file with the certificate's private key")
    trusted_proxies: Networks = Field(
        default=(), description="addresses and networks of proxies whose X-Forwarded-For and -Proto are believed"
    )
    objects: str | None = Field(
        default=None,
        pattern=r"^(s3://[^/]+|/|~|\.)",
        description="where uploads and files are kept, a folder or s3://bucket/prefix; none: in the data folder",
    )
    max_upload_bytes: int = Field(default=1_073_741_824, ge=1_048_576, description="largest uploaded file")
    max_uploads_bytes: int = Field(
        default=107_374_182_400, ge=1_048_576, description="bytes of all uploads behind oss:// URLs; a key gets half"
    )
    max_files_bytes: int = Field(
        default=214_748_364_800, ge=1_048_576, description="bytes of all files that are kept; a key gets half"
    )
    upload_hours: int = Field(default=48, ge=1, description="hours for which an oss:// URL can be used")
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="the server's URL in links to itself; none: as the request has it",
    )
    max_images: int = Field(default=250, ge=0, description="images in one request")
    max_image_bytes: int = Field(
        default=20_971_520,
        ge=1024,
        description="largest data URI, in characters, and largest image behind a URL, in bytes",
    )
    max_image_pixels: int = Field(default=89_478_485, ge=100, description="largest image, width times height")
    max_videos: int = Field(default=64, ge=0, description="videos in one request")
    max_video_bytes: int = Field(default=2_147_483_648, ge=1024, description="largest video file behind a URL")
    max_video_seconds: float = Field(default=1200, ge=2, description="longest video file, in seconds")
    max_media_bytes: int = Field(
        default=1_073_741_824, ge=67_108_864, description="bytes that the images of all running requests may hold"
    )
    max_scratch_bytes: int = Field(
        default=8_589_934_592,
        ge=1_048_576,
        description="bytes of disk for the videos of all running requests; more are refused with 429",
    )
    decode_images: bool = Field(default=False, description="decode each image to find damage; 10 ms of CPU a page")
    decode_workers: int = Field(default=2, ge=1, description="processes that decode images and videos")
    image_min_pixels: int = Field(default=65_536, ge=1024, description="least pixels at which an image is seen")
    image_max_pixels: int = Field(default=2_621_440, ge=1024, description="most pixels at which an image is seen")
    image_high_pixels: int = Field(
        default=16_777_216, ge=1024, description="most pixels with vl_high_resolution_images, or asked for"
    )
    video_min_pixels: int = Field(default=65_536, ge=1024, description="least pixels at which a frame is seen")
    video_max_pixels: int = Field(default=655_360, ge=1024, description="most pixels at which a frame is seen")
    video_high_pixels: int = Field(default=786_432, ge=1024, description="most pixels of a frame that can be asked for")
    video_total_pixels: int = Field(
        default=67_108_864, ge=4096, description="most pixels of all frames of a video, of which two count as one"
    )
    video_fps: float = Field(default=2.0, ge=0.1, le=10, description="frames a second that are taken from a video file")
    video_max_frames: int = Field(default=512, ge=4, description="most frames of a video")
    engine_processor: Processing | None = Field(
        default=None,
        description="folder with the engine's preprocessor_config.json; default: the embedded model's, else Qwen3-VL's",
    )
    fetch: bool = Field(default=True, description="fetch images and videos that clients send as http(s) URLs")
    fetch_allow: Hosts = Field(
        default=(), description="hosts, addresses and networks (10.1.0.0/16) to fetch from though they are not public"
    )
    fetch_timeout: float = Field(
        default=30, gt=0, description="seconds to fetch an image in; a video gets ten times it"
    )
    fetch_strict: bool = Field(
        default=False, description="refuse sources without Content-Length or a fitting Content-Type, as the cloud does"
    )
    fetch_cache_bytes: int = Field(
        default=67_108_864, ge=0, description="fetched images kept for as long as HTTP allows"
    )
    async_tasks: bool = Field(default=False, description="accept asynchronous tasks, which the cloud refuses for chat")
    idempotency_hours: int = Field(
        default=24, ge=1, description="hours for which an Idempotency-Key stands for its request and its answer"
    )
    webhooks: bool = Field(
        default=True, description="call the URLs that requests name once their task or batch has ended"
    )
    webhook_url: str | None = Field(
        default=None, pattern=r"^https?://[^\s#]+$", description="URL that is told of every task and batch that ends"
    )
    webhook_allow: Hosts = Field(
        default=(), description="hosts, addresses and networks that webhooks are sent to though they are not public"
    )
    webhook_timeout: float = Field(default=15, gt=0, description="seconds in which a webhook is to be taken")
    max_waiting_tasks: int = Field(
        default=10_000, ge=1, description="waiting tasks of one key; more are refused with 429"
    )
    max_waiting_bytes: int = Field(
        default=1_073_741_824, ge=1024, description="bytes of the waiting tasks of one key; more are refused with 429"
    )
    max_batches: int = Field(
        default=100, ge=1, description="batches of one key that have not ended; more are refused with 429"
    )
    task_retention: int = Field(default=86_400, ge=1, description="seconds that a task is kept after its end")
    background_concurrency: int = Field(
        default=8, ge=1, description="generations of tasks and batches that run at a time"
    )
    output_text: bool = Field(default=True, description="non-streaming multimodal answers also carry output.text")
    strict_paths: bool = Field(
        default=False, description="answer the text-generation path with `url error`, as the cloud does"
    )
    auth: bool = Field(default=True, description="whether callers need an API key; false only on a loopback address")
    limit_rpm: int | None = Field(default=None, ge=1, description="requests per minute of all keys together")
    limit_tpm: int | None = Field(default=None, ge=1, description="tokens per minute of all keys together")
    limit_ipm: int | None = Field(default=None, ge=1, description="images per minute of all keys together")
    limit_concurrency: int | None = Field(default=None, ge=1, description="requests at a time of all keys together")
    database: Database | None = Field(
        default=None, description="postgresql://user:password@host/name; none: SQLite in the data folder"
    )
    records: Literal["off", "metadata", "content", "originals"] = Field(
        default="metadata",
        description="what is kept of requests; each keeps what the ones before it keep, too",
    )
    records_days: int = Field(default=30, ge=1, description="days for which records are kept")
    records_required: bool = Field(
        default=False, description="end an answer with 503 whose record cannot be kept; false: log the loss"
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis)] | None = Field(
        default=None, description="Redis in which several servers count limits together; none: each for itself"
    )
    limits_without_redis: Literal["local", "refuse"] = Field(
        default="local", description="while Redis is away: each server counts for itself, or answers 503"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("HOMESCOPE_TLS_CERT and HOMESCOPE_TLS_KEY are given together or not at all")
        return self

    @property
    def database_url(self) -> str | None:
        return None if self.database is None else self.database.get_secret_value()

    @property
    def served_models(self) -> tuple[str, ...]:
        return (*MODEL_NAMES, *self.model_aliases)


def load(**overrides: Any) -> Settings:
    """The settings of this process: `overrides` (from the command line) before the environment."""
    _refuse_unknown_names()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(dict(item)) for item in error.errors())) from None


def _refuse_unknown_names() -> None:
    valid = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in valid:
            nearest = difflib.get_close_matches(name.upper(), valid, n=1, cutoff=0)[0]
            raise SettingsError(f"{name} is not a setting of homescope-server; the nearest one is {nearest}")


def _explain(item: dict[str, Any]) -> str:
    if not item["loc"]:  # about several of them
        return str(item["msg"]).removeprefix("Value error, ")
    name = PREFIX + str(item["loc"][0]).upper()
    shown = "..." if "SecretStr" in str(Settings.model_fields[str(item["loc"][0])].annotation) else item["input"]
    return f"{name}={shown}: {item['msg'][0].lower()}{item['msg'][1:]}"
