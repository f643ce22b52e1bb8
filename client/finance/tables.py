from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
)

from client.idempotency import Keys

metadata = MetaData()
keys = Keys(metadata, "report_")

documents = Table(
    "documents",
    metadata,
    Column("digest", String(64), primary_key=True, comment="SHA-256 of the file"),
    Column("path", Text, nullable=False, comment="where it was seen last"),
    Column("pages", Integer, nullable=False),
    Column("searched", Boolean, nullable=False, comment="every page was searched for figures"),
    Column("problems", Text, nullable=False, default="", comment="pages that could not be read, and why"),
    Column("seen_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
)

figures = Table(
    "figures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("document", ForeignKey("documents.digest"), nullable=False, index=True),
    Column("page", Integer, nullable=False, comment="from 1"),
    Column("x0", Float, nullable=False, comment="points from the page's upper left, as all of the box"),
    Column("y0", Float, nullable=False),
    Column("x1", Float, nullable=False),
    Column("y1", Float, nullable=False),
    Column("kind", String(16), nullable=False, comment="figure or table"),
    Column("caption", Text, nullable=False),
    Column("scanned", Boolean, nullable=False),
    Column("image", Text, nullable=False, comment="the PNG file"),
    Column("image_digest", String(64), nullable=False, comment="SHA-256 of the PNG file"),
    Column("nearby", Text, nullable=False, comment="text of the page, cut"),
    UniqueConstraint("document", "page", "x0", "y0", "x1", "y1"),
)

readings = Table(
    "readings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("figure", ForeignKey("figures.id"), nullable=False, index=True),
    Column("key", String(64), nullable=False, index=True, comment="SHA-256 of image, model and prompts"),
    Column("state", String(8), nullable=False, comment="done or failed"),
    Column("reason", Text, nullable=False, default="", comment="of a failure"),
    Column("model", Text, nullable=False),
    Column("prompt_version", String(16), nullable=False),
    Column("answer", Text, nullable=False, default="", comment="the figures in the model's words, JSON"),
    Column("words", Text, nullable=False, default="", comment="its analysis"),
    Column("request_id", Text, nullable=False, default=""),
    Column("input_tokens", Integer, nullable=False, default=0),
    Column("output_tokens", Integer, nullable=False, default=0),
    Column("measure", Text, nullable=False, default=""),
    Column("unit", Text, nullable=False, default=""),
    Column("currency", String(3), nullable=False, default=""),
    Column("read_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    UniqueConstraint("figure", "key"),
)

points = Table(
    "points",
    metadata,
    Column("reading", ForeignKey("readings.id"), primary_key=True),
    Column("year", Integer, primary_key=True),
    Column("value", Float, nullable=False, comment="as printed, in the reading's unit"),
    Column("amount", Float, comment="in single yuan, dollars, ...; null where the unit is unknown"),
    Column("growth_printed", Float, comment="percent"),
    Column("growth_computed", Float, comment="percent"),
)

flags = Table(
    "flags",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reading", ForeignKey("readings.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False, comment="growth, words or unit"),
    Column("year", Integer),
    Column("message", Text, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reading", ForeignKey("readings.id"), nullable=False, index=True),
    Column("rule", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("years", Text, nullable=False, comment="separated by spaces"),
    Column("certain", Boolean, nullable=False, comment="nothing about the series is flagged"),
)

_ORIGIN = (
    "d.path AS document, d.digest AS document_digest, f.page, f.x0, f.y0, f.x1, f.y1, f.caption, f.scanned, r.measure"
)
_READ = (
    "SELECT {} FROM readings r JOIN figures f ON f.id = r.figure JOIN documents d ON d.digest = f.document {} "
    "WHERE r.state = 'done' AND r.id = (SELECT max(x.id) FROM readings x WHERE x.figure = f.id AND x.state = 'done')"
)
_POINT = (
    "r.unit, r.currency, p.year, p.value, p.amount, p.growth_printed, p.growth_computed, "
    "coalesce(p.growth_printed, p.growth_computed) AS growth, "
    "(SELECT count(*) FROM flags g WHERE g.reading = r.id) AS flags, r.model, r.prompt_version, r.read_at"
)
VIEWS = {
    "series": _READ.format(f"{_ORIGIN}, {_POINT}", "JOIN points p ON p.reading = r.id"),
    "open_alerts": _READ.format(
        f"{_ORIGIN}, a.rule, a.label, a.message, a.years, a.certain", "JOIN alerts a ON a.reading = r.id"
    ),
    "disagreements": _READ.format(f"{_ORIGIN}, g.kind, g.year, g.message", "JOIN flags g ON g.reading = r.id"),
}
"""For BI: one row a year of every chart, the alerts, and what is in doubt; of each figure the latest answer alone."""
