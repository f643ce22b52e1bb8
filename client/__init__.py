from client.batch import Batch
from client.errors import (
    AccountBlocked,
    BadResponse,
    BeingAnswered,
    ConfigurationError,
    ConnectionFailed,
    ConnectionLost,
    DiskFull,
    Forbidden,
    HomescopeError,
    InvalidAnswer,
    InvalidRequest,
    LedgerBusy,
    LedgerError,
    NotFound,
    ServerError,
    ServiceError,
    Throttled,
    TimedOut,
    TransportError,
    Unauthorized,
    UnusableImage,
)
from client.ledger import Ledger
from client.limits import Limits, Quota
from client.models import Answer, Done, Failed, Job, Piece, Record, Skipped, Totals, Usage
from client.pace import Pace
from client.questions import Item, Question
from client.report import Summary, write_page
from client.retry import Policy
from client.scoring import Expected, Score
from client.session import Session
from client.sources import questions, walk

__all__ = [
    "AccountBlocked",
    "Answer",
    "BadResponse",
    "Batch",
    "BeingAnswered",
    "ConfigurationError",
    "ConnectionFailed",
    "ConnectionLost",
    "DiskFull",
    "Done",
    "Expected",
    "Failed",
    "Forbidden",
    "HomescopeError",
    "InvalidAnswer",
    "InvalidRequest",
    "Item",
    "Job",
    "Ledger",
    "LedgerBusy",
    "LedgerError",
    "Limits",
    "NotFound",
    "Pace",
    "Piece",
    "Policy",
    "Question",
    "Quota",
    "Record",
    "Score",
    "ServerError",
    "ServiceError",
    "Session",
    "Skipped",
    "Summary",
    "Throttled",
    "TimedOut",
    "Totals",
    "TransportError",
    "Unauthorized",
    "UnusableImage",
    "Usage",
    "questions",
    "walk",
    "write_page",
]
