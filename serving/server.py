"""The HTTP server: where it listens, and how it stops."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import time
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from serving.connections import connections
from serving.settings import Settings

log = logging.getLogger(__name__)


class CannotListen(Exception):
    """Raised for an address that cannot be listened on; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """Raises `CannotListen`. Port 0 takes a free one."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, UnicodeError) as error:  # a name that IDNA cannot write is a UnicodeError
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise CannotListen(f"cannot listen on {host}:{port}: {why}") from None
    return listener


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    address, port = listener.getsockname()[:2]
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


class BadCertificate(Exception):
    """Raised for a certificate that cannot be served; the message says why."""


class Certificate:
    """The certificate that HTTPS is served with, by its files."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises `BadCertificate`."""
        self._files = chain, key
        self.context = self._loaded()

    def reload(self) -> None:
        """Takes what the files hold now, for connections from now on. What cannot be used leaves things as they are:
        half a renewal, a new chain with the old key, must not end the service."""
        try:
            self._loaded()
            self.context.load_cert_chain(*self._files)
        except (BadCertificate, OSError) as error:
            log.error("the certificate is not renewed: %s", error)
        else:
            log.info("the certificate was read again")

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        chain, key = self._files
        try:
            context.load_cert_chain(chain, key, password=_no_password)
        except ssl.SSLError as error:
            why = error.reason or "it is no PEM file"
            raise BadCertificate(f"{chain} and {key} are no certificate and its key: {why}") from None
        except OSError as error:
            raise BadCertificate(f"{chain} or {key} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise BadCertificate(str(error)) from None
        return context


def _no_password() -> str:
    raise ValueError("the private key of the certificate is encrypted; give one that is not")


def certificate_of(settings: Settings) -> Certificate | None:
    """None where HTTP is served without TLS. Raises `BadCertificate`."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def config_of(app: ASGIApp, settings: Settings, certificate: Certificate | None = None) -> uvicorn.Config:
    """How the app is served. What proxies say of a client is believed of those in the settings only."""
    return uvicorn.Config(
        app,
        http=connections(settings),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
    )


class Server(uvicorn.Server):
    """Stops in steps: it says that it is stopping, takes requests for `linger` seconds more while those who spread them
    learn of it, then closes its port and lets the running ones end.

    Ctrl-C, and every signal after the first, close the port at once.
    """

    def __init__(self, config: uvicorn.Config, linger: float) -> None:
        super().__init__(config)
        self._linger = linger
        self._closes_at: float | None = None

    @property
    def stopping(self) -> bool:
        return self.should_exit or self._closes_at is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self._linger and not self.stopping:
            self._closes_at = time.monotonic() + self._linger
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)
