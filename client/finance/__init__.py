"""Annual reports in, series of figures, alerts and a page out: the worked example over `client.documents`."""

from client.finance.reading import PROMPT_VERSION, Reading
from client.finance.rules import Alert, Rule, alerts_of, read_rules
from client.finance.series import Flag, Point, Series, series_of, words_flags
from client.finance.units import Unit, parse_unit

__all__ = [
    "PROMPT_VERSION",
    "Alert",
    "Flag",
    "Point",
    "Reading",
    "Rule",
    "Series",
    "Unit",
    "alerts_of",
    "parse_unit",
    "read_rules",
    "series_of",
    "words_flags",
]
