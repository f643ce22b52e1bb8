from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Date, Float, Index, Integer, String, Table, Text

from serving.storage.database import metadata

records = Table(
    "records",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("request_id", String(200), nullable=False, index=True),
    Column("received_at", BigInteger, nullable=False),
    Column("day", Date, nullable=False, index=True),
    Column("key_id", String(36), nullable=False),
    Column("key_name", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("priority", String(16), nullable=False),
    Column("streamed", Boolean, nullable=False),
    Column("outcome", String(100), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("image_tokens", Integer, nullable=True),
    Column("cached_tokens", Integer, nullable=True),
    Column("images", Integer, nullable=False),
    Column("queued_ms", Float, nullable=True),
    Column("first_chunk_ms", Float, nullable=True),
    Column("total_ms", Float, nullable=False),
    Column("question", Text, nullable=True),
    Column("answer", Text, nullable=True),
)
Index("records_of_key", records.c.key_id, records.c.received_at)

pictures = Table(
    "record_images",
    metadata,
    Column("record_id", String(36), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("day", Date, nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("format", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("object", String(200), nullable=True),
)
