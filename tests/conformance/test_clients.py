"""Unmodified clients against the server, flow by flow; only their URL and key are set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.flows import FLOWS
from tests.conformance.matrix import CELLS, CLIENTS, CLOUD_ELSEWHERE, COLUMNS
from tests.conformance.process import Driver
from tests.conformance.target import CLOUD_KEY, Target

FIRST_USE_S = 300
"""The first flow of a client may wait for its environment."""


def cell(client: str, flow: str) -> object:
    own = CLIENTS[client].environment is not None
    marks = [pytest.mark.conformance, pytest.mark.timeout(FIRST_USE_S)] if own else [pytest.mark.timeout(90)]
    return pytest.param(client, flow, marks=marks, id=f"{client}-{flow}".replace(" ", "-"))


@pytest.mark.parametrize(("client", "flow"), [cell(*each) for each in CELLS])
def test_client(client: str, flow: str, driver: Callable[[str], Driver], request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--target") == "cloud":
        if not CLOUD_KEY:
            pytest.skip("the cloud needs DASHSCOPE_API_KEY")
        if flow in CLOUD_ELSEWHERE:
            pytest.skip(CLOUD_ELSEWHERE[flow])
    process = driver(client)
    target: Target = request.getfixturevalue("target")
    target.prepare(FLOWS[flow])
    FLOWS[flow].check(target.outcome(process.run(flow, target.asks)))


def test_every_column_has_a_flow_and_a_client() -> None:
    assert set(COLUMNS) == set(FLOWS)
    assert {flow for _, flow in CELLS} == set(COLUMNS)


@pytest.mark.parametrize("client", ["dashscope-v2"])
@pytest.mark.timeout(90)
def test_the_second_client_in_the_other_protocol(client: str, driver: Callable[[str], Driver], target: Target) -> None:
    """`Client(protocol="openai")`: a switch of the same client, so no row of the table."""
    target.prepare(FLOWS["chat"])
    FLOWS["chat"].check(target.outcome(driver(client).run("compatible", target.asks)))
