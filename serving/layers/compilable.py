from __future__ import annotations

from collections.abc import AsyncGenerator

from serving import schemas
from serving.generation import Chunk, Generation
from serving.layers.layer import Layer


class Compilable(Layer):
    """Refuses JSON schemas that would keep an engine from its other requests while it makes grammars of them. Raises on
    the call, so that an answer passes at no cost."""

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        wanted, tools = generation.response_format, generation.tools
        if wanted is not None and wanted.schema is not None:
            schemas.check(wanted.schema, "response_format")
        for tool in tools.offered if tools is not None else ():
            if tool.parameters is not None:
                schemas.check(tool.parameters, f"the tool {tool.name[:80]!r}")
        return self._engine.generate(generation)
