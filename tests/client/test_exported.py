from __future__ import annotations

import inspect

import pytest

import client
from client import errors


def test_all_is_sorted_and_complete() -> None:
    public = {name for name, value in vars(client).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert client.__all__ == sorted(client.__all__)
    assert set(client.__all__) == public


@pytest.mark.parametrize("name", [name for name in client.__all__ if name != "Record"])
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(client, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}("), "a dataclass's made-up docstring"
    assert value.__module__.startswith("client.")


@pytest.mark.parametrize("method", ["ask", "stream", "aclose"])
def test_sessions_methods_are_documented(method: str) -> None:
    assert inspect.getdoc(getattr(client.Session, method))


def test_every_error_is_public_and_in_the_drawn_tree() -> None:
    tree = errors.__doc__ or ""
    kinds = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    for kind in kinds:
        assert kind.__name__ in client.__all__
        assert kind.__name__ in tree


@pytest.mark.parametrize("mark", ["retryable", "fatal"])
def test_the_drawn_tree_tells_the_truth(mark: str) -> None:
    drawn, inherited = set(), False
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip("│├└─ ").split(" ")[0]
        inherited = inherited and line.startswith("│   ")
        if mark in line or inherited:
            drawn.add(name)
        if mark in line and not line.startswith("│   "):
            inherited = True
    assert drawn == {
        name for name, kind in vars(errors).items() if inspect.isclass(kind) and getattr(kind, mark, False)
    }
