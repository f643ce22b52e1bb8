from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.engine.base import Engine


def routes(engine: Engine) -> list[Route]:
    """Probes for people and orchestrators; no key needed, nothing told but yes or no."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        if await engine.ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "the engine is not ready"}, status_code=503, headers={"retry-after": "2"})

    return [Route("/livez", livez), Route("/readyz", readyz)]
