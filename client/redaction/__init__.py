"""Personal data is masked in the pixels before an image leaves the machine.

`python -c 'import client.redaction'` costs nothing: models are loaded in the worker processes alone.
"""

from client.redaction.errors import Unchecked
from client.redaction.models import Finding, Redacted
from client.redaction.redactor import PREPARED, Redactor

__all__ = ["PREPARED", "Finding", "Redacted", "Redactor", "Unchecked"]
