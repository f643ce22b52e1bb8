from __future__ import annotations

from typing import Any

from serving.errors import InvalidRequest
from serving.generation import Tool, Tools

UNKNOWN_CHOICE = 'tool_choice is one of the strings that should be ["none", "auto"]'
WORDS = ("auto", "none", "required")
RESERVED = ("search", *WORDS)
MAX_TOOLS = 512


def read(offered: object, choice: object, *, parallel: bool) -> Tools | None:
    """What `tools`, `tool_choice` and `parallel_tool_calls` say; None without tools. Raises `InvalidRequest`."""
    if offered is None or offered == []:
        return None
    if not isinstance(offered, list) or len(offered) > MAX_TOOLS:
        raise InvalidRequest(f"'tools' must be a list of at most {MAX_TOOLS} functions", param="tools")
    tools = tuple(_tool(each) for each in offered)
    return Tools(tools, _choice(choice, tools), parallel)


def _tool(wire: object) -> Tool:
    function = wire.get("function") if isinstance(wire, dict) and wire.get("type", "function") == "function" else None
    if not isinstance(function, dict):
        raise InvalidRequest("An item of 'tools' must be of type 'function' and have a 'function'", param="tools")
    name = _text(function, "name")
    if not name:
        raise InvalidRequest("The 'function' of a tool must have a 'name'", param="tools")
    if name in RESERVED:
        raise InvalidRequest(f"Tool names are not allowed to be [{name}]", param="tools")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        raise InvalidRequest(f"The 'parameters' of the tool {name[:80]!r} must be a JSON schema", param="tools")
    return Tool(name, _text(function, "description"), parameters)


def _text(function: dict[str, Any], key: str) -> str:
    value = function.get(key)
    if isinstance(value, str | None):
        return value or ""
    raise InvalidRequest(f"The '{key}' of a tool must be a string", param="tools")


def _choice(wire: object, tools: tuple[Tool, ...]) -> str:
    if wire is None:
        return "auto"
    if isinstance(wire, str) and wire in WORDS:
        return wire
    function = wire.get("function") if isinstance(wire, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest(UNKNOWN_CHOICE, param="tool_choice")
    if name not in (tool.name for tool in tools):
        raise InvalidRequest(f"The tool {name[:80]!r} of tool_choice is none of the tools", param="tool_choice")
    return name
