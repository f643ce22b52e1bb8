"""NATS, RabbitMQ and Kafka behind one protocol: publish, consume one message at a time per slot, bury, count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from client.errors import ConfigurationError, ConnectionFailed

if TYPE_CHECKING:
    from faststream.message import StreamMessage

NAME = "homescope"
WORK, DEAD = f"{NAME}.work", f"{NAME}.dead"

Handling: TypeAlias = Callable[["StreamMessage[Any]"], Awaitable[None]]
"""Returns when the message may be forgotten, raises when it has to come again."""

_LOG = logging.getLogger("homescope.pipeline.broker")
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False  # it would tell of every message that goes back, with a traceback; the handler says what matters
_QUIET: dict[str, Any] = {"apply_types": False, "logger": _LOG, "log_level": logging.DEBUG}
STOP_AFTER = 600.0
"""Seconds that a stop waits for what is being worked on."""


class Queue(Protocol):
    """A broker with a queue of work and one for what was given up."""

    async def start(self, handle: Handling | None = None, slots: int = 0) -> None:
        """Connects, makes the queues where there are none, and consumes with so many slots."""

    async def publish(self, body: bytes) -> None:
        """Returns when the broker has it on its disk."""

    async def bury(self, body: bytes, reason: str) -> None:
        """Puts a message where nobody works on it."""

    async def depth(self) -> tuple[int, int] | None:
        """Messages not acknowledged yet, and buried ones; None where the broker does not say.

        Raises:
            Exception: the broker does not answer; each has errors of its own for it.
        """

    async def stop(self) -> None:
        """Takes no more messages, waits for those being worked on, disconnects."""


def queue(url: str, *, patience: float) -> Queue:
    """The queue of a broker by its URL. `patience`: seconds after which a silent consumer's message comes again (NATS).

    Raises:
        ConfigurationError: no such broker, or the extra is missing.
    """
    scheme = url.partition("://")[0]
    makers: dict[str, Callable[[], Queue]] = {
        "nats": lambda: Nats(url, patience),
        "amqp": lambda: Rabbit(url),
        "amqps": lambda: Rabbit(url),
        "kafka": lambda: Kafka(url.removeprefix("kafka://")),
    }
    if scheme not in makers:
        raise ConfigurationError(f"no broker is known for {scheme[:40]!r}: nats://, amqp://, amqps:// or kafka://")
    try:
        return makers[scheme]()
    except ImportError as error:
        raise ConfigurationError("the pipeline needs pip install 'homescope[pipeline]'") from error


async def whole(message: StreamMessage[Any]) -> StreamMessage[Any]:
    """A FastStream decoder that decodes nothing: the handler needs the message, and judges its body itself."""
    return message


class Nats:
    """JetStream: a work-queue stream, one durable consumer that all workers share."""

    def __init__(self, url: str, patience: float) -> None:
        from faststream.nats import JStream, NatsBroker
        from nats.js.api import RetentionPolicy, StorageType

        self._url, self._patience = url, patience
        self._broker = NatsBroker(
            url, max_reconnect_attempts=-1, reconnect_time_wait=1, graceful_timeout=STOP_AFTER,
            error_cb=_ignore, disconnected_cb=_silent, reconnected_cb=_silent, closed_cb=_silent, **_QUIET,
        )  # fmt: skip
        disk = StorageType.FILE
        self._work = JStream(NAME, subjects=[WORK], retention=RetentionPolicy.WORK_QUEUE, storage=disk)
        self._dead = JStream(f"{NAME}-dead", subjects=[DEAD], storage=disk)

    async def start(self, handle: Handling | None = None, slots: int = 0) -> None:
        from faststream import AckPolicy
        from faststream.nats import PullSub
        from nats.js.api import ConsumerConfig

        self._publishers = [
            self._broker.publisher(WORK, stream=self._work), self._broker.publisher(DEAD, stream=self._dead)
        ]  # fmt: skip
        config = ConsumerConfig(ack_wait=self._patience, max_deliver=-1, max_ack_pending=10_000)
        for _ in range(slots):
            assert handle is not None
            self._broker.subscriber(
                WORK, stream=self._work, durable=NAME, config=config, pull_sub=PullSub(batch_size=1, timeout=2.0),
                decoder=whole, ack_policy=AckPolicy.NACK_ON_ERROR,
            )(_slot(handle))  # fmt: skip
        await _reached(self._broker.start())

    async def publish(self, body: bytes) -> None:
        await self._broker.publish(body, WORK, stream=NAME, timeout=10)

    async def bury(self, body: bytes, reason: str) -> None:
        await self._broker.publish(body, DEAD, stream=f"{NAME}-dead", headers={"reason": reason}, timeout=10)

    async def depth(self) -> tuple[int, int] | None:
        import nats

        if (connection := self._broker._connection) is not None:
            return await self._depth(connection)
        client = await nats.connect(self._url, allow_reconnect=False, error_cb=_ignore)
        try:
            return await self._depth(client)
        finally:
            await client.close()

    @staticmethod
    async def _depth(client: Any) -> tuple[int, int]:
        streams = [await client.jetstream().stream_info(name) for name in (NAME, f"{NAME}-dead")]
        return streams[0].state.messages, streams[1].state.messages

    async def stop(self) -> None:
        from nats.errors import ConnectionClosedError, ConnectionReconnectingError

        connection = self._broker._connection
        try:
            await self._broker.stop()
        except (ConnectionClosedError, ConnectionReconnectingError):
            # The worker that kept the server was done first: nothing can be drained, and nothing is left to tell it.
            if connection is not None:
                await connection.close()


class Rabbit:
    """RabbitMQ 3.10 and later: durable quorum queues, persistent messages, publisher confirms, a channel per slot."""

    def __init__(self, url: str) -> None:
        from faststream.rabbit import QueueType, RabbitBroker, RabbitQueue

        self._broker = RabbitBroker(url, graceful_timeout=STOP_AFTER, reconnect_interval=1.0, **_QUIET)
        self._work = RabbitQueue(WORK, queue_type=QueueType.QUORUM, durable=True)
        self._dead = RabbitQueue(DEAD, queue_type=QueueType.QUORUM, durable=True)

    async def start(self, handle: Handling | None = None, slots: int = 0) -> None:
        from faststream import AckPolicy
        from faststream.rabbit import Channel

        for number in range(slots):
            assert handle is not None
            channel = Channel(prefetch_count=1, channel_number=number + 2)
            self._broker.subscriber(
                self._work, channel=channel, decoder=whole, ack_policy=AckPolicy.NACK_ON_ERROR
            )(_slot(handle))  # fmt: skip
        await _reached(self._broker.connect())
        for each in (self._work, self._dead):
            await self._broker.declare_queue(each)
        await self._broker.start()

    async def publish(self, body: bytes) -> None:
        await self._broker.publish(body, self._work, persist=True, mandatory=True, timeout=10)

    async def bury(self, body: bytes, reason: str) -> None:
        await self._broker.publish(
            body, self._dead, persist=True, mandatory=True, timeout=10, headers={"reason": reason}
        )  # fmt: skip

    async def depth(self) -> tuple[int, int] | None:
        counts = []
        for each in (self._work, self._dead):
            declared = await self._broker.declare_queue(each)
            counts.append((await declared.declare()).message_count or 0)
        return counts[0], counts[1]

    async def stop(self) -> None:
        await self._broker.stop()


class Kafka:
    """Kafka by librdkafka: a consumer of the group for every slot, as offsets are committed in order.

    More slots than partitions stay idle. Brokers that make no topics by themselves need `homescope.work` and
    `homescope.dead`.
    """

    def __init__(self, servers: str) -> None:
        from faststream.confluent import KafkaBroker

        self._servers = servers
        self._broker = KafkaBroker(
            servers, acks="all", allow_auto_create_topics=False, graceful_timeout=STOP_AFTER, **_QUIET
        )

    async def start(self, handle: Handling | None = None, slots: int = 0) -> None:
        from faststream import AckPolicy

        await asyncio.to_thread(self._touch)
        for _ in range(slots):
            assert handle is not None
            self._broker.subscriber(
                WORK, group_id=NAME, auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR, decoder=whole,
                max_poll_interval_ms=3_600_000,
            )(_slot(handle))  # fmt: skip
        await _reached(self._broker.start())

    def _touch(self) -> None:
        """Asks about the topics, which makes them where the broker is set to; and says if there is no broker."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # librdkafka would write to standard error by itself that nobody listens.
        client = AdminClient({"bootstrap.servers": self._servers, "log_level": 0})
        try:
            for topic in (WORK, DEAD):
                client.list_topics(topic, timeout=10)
        except KafkaException as error:
            raise ConfigurationError(f"the broker cannot be reached: {error.args[0].str()}") from error

    async def publish(self, body: bytes) -> None:
        await self._broker.publish(body, WORK)

    async def bury(self, body: bytes, reason: str) -> None:
        await self._broker.publish(body, DEAD, headers={"reason": reason})

    async def depth(self) -> tuple[int, int] | None:
        if not await self._broker.ping(timeout=5):
            raise ConnectionFailed("the broker does not answer")
        return None  # what a group has not committed yet is not how much is left where messages end out of order

    async def stop(self) -> None:
        await self._broker.stop()


def _slot(handle: Handling) -> Handling:
    """FastStream keeps one subscriber for each function: every slot needs its own."""

    async def slot(message: StreamMessage[Any]) -> None:
        await handle(message)

    return slot


async def _reached(connecting: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(20):
            await connecting
    except TimeoutError:
        raise ConfigurationError("the broker cannot be reached: no connection in 20 s") from None
    except OSError as error:
        raise ConfigurationError(f"the broker cannot be reached: {error}") from error


async def _ignore(error: Exception) -> None:
    _LOG.debug("broker: %s", type(error).__name__)


async def _silent() -> None:
    """Reconnecting is the library's work; what it means for an item shows in the item."""


async def beat(message: StreamMessage[Any]) -> None:
    """Tells a broker that has patience (NATS) that the message is being worked on."""
    progress = getattr(message, "in_progress", None)
    if progress is not None:
        with suppress(Exception):  # while the broker is away there is nobody to tell
            await progress()
