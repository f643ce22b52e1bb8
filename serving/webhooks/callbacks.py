from __future__ import annotations

from serving.errors import InvalidRequest
from serving.jobs.notices import Hook
from serving.media.addresses import Guard
from serving.settings import Settings
from serving.webhooks.secrets import SERVER


def guard_of(settings: Settings) -> Guard:
    """Where images may be fetched from is another matter: a POST to a host inside can change something there."""
    return Guard.allowing(settings.webhook_allow, setting="HOMESCOPE_WEBHOOK_ALLOW")


class Callbacks:
    """Who is told that a task or a batch has ended: the URL that its request names, and the operator's own."""

    def __init__(self, settings: Settings) -> None:
        self._enabled = settings.webhooks
        self._guard = guard_of(settings)
        self._own = () if settings.webhook_url is None else (Hook(settings.webhook_url, SERVER),)

    def check(self, url: str, param: str | None = None) -> None:
        """Raises `InvalidRequest` for what will not be called. What a name leads to is looked at when it is called."""
        if not self._enabled:
            raise InvalidRequest("This server calls no URLs back (HOMESCOPE_WEBHOOKS=false).", param=param)
        try:
            self._guard.url(url)
        except InvalidRequest as refused:
            raise InvalidRequest(f"The callback URL is refused: {refused.message}", param=param) from None

    def hooks(self, owner: str, url: str | None) -> tuple[Hook, ...]:
        """`owner` is the id of the API key that named the `url`, if it named one."""
        return (*((Hook(url, owner),) if url and self._enabled else ()), *self._own)
