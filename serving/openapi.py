from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def routes() -> list[Route]:
    """The OpenAPI document of what the server serves, for generators of clients and for people; no key needed."""
    document = resources.files("serving").joinpath("openapi.json").read_bytes()

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    return [Route("/openapi.json", openapi)]
