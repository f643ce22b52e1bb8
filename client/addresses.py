"""Where a server is and with which key, from arguments or the environment."""

from __future__ import annotations

import ipaddress

import httpx

from client.errors import ConfigurationError

BASE_URL_NAME = "DASHSCOPE_HTTP_BASE_URL"
API_KEY_NAME = "DASHSCOPE_API_KEY"


def checked_url(given: str) -> str:
    """`http://host:port` gets its `/api/v1`; the path of the other protocol is a mistake worth naming.

    Raises:
        ConfigurationError: it is no address of a server.
    """
    if not given.strip():
        raise ConfigurationError(
            f"no server address: pass --base-url or set {BASE_URL_NAME}, for example http://127.0.0.1:8000/api/v1"
        )
    try:
        url = httpx.URL(given.strip().rstrip("/"))
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"the server address {given!r} is not a URL: {error}") from error
    if url.userinfo:
        raise ConfigurationError("the server address holds a user name or password: leave it out, the key is enough")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"the server address {given!r} is not a URL; it begins with http:// or https://")
    if "compatible-mode" in url.path:
        raise ConfigurationError(f"{given} is the OpenAI-compatible address; this client needs the one with /api/v1")
    return str(url) if url.path.strip("/") else f"{url.scheme}://{url.netloc.decode()}/api/v1"


def checked_key(given: str) -> str:
    """The key without the space around it.

    Raises:
        ConfigurationError: there is none, or it cannot be one.
    """
    key = given.strip()
    if not key:
        raise ConfigurationError(f"no API key: pass --api-key or set {API_KEY_NAME}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("the API key holds characters that no key has; was something else pasted with it?")
    return key


def is_here(host: str) -> bool:
    """Whether the host is this machine."""
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == "localhost"
