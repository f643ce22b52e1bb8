from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from serving.errors import MalformedBody


@contextmanager
def refusing() -> Generator[None, None, None]:
    """What decoding a body raises, as `MalformedBody`. Also for NaN, invalid UTF-8 and unpaired surrogates, which JSON
    does not have."""
    try:
        yield
    except RecursionError:
        raise MalformedBody("It is nested too deeply.") from None
    except UnicodeDecodeError:
        raise MalformedBody("It is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"{error}.") from None
