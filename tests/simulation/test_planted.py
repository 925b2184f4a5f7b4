"""Tests of the tests: faults planted in the product, each of which the seeds must find."""

import pytest

from tests.simulation.planted import MUTATIONS, Finding, findings


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    """What became of each fault, and under "" of a seed that is broken by itself."""
    return {finding.name: finding for finding in findings()}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_found(name: str, found: dict[str, Finding]) -> None:
    finding = found[name]
    assert finding.found, finding.line


def test_nothing_is_found_where_nothing_is_planted(found: dict[str, Finding]) -> None:
    assert "" not in found, found[""].line


def test_every_fault_says_what_is_wrong() -> None:
    assert len(MUTATIONS) >= 16
    assert all(mutation.__doc__ for mutation in MUTATIONS.values())
