"""Collects the agreement errors of a test run and prints them as one table at its end."""

import pytest

_TABLE = pytest.StashKey[list]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = []


@pytest.fixture
def agreement_table(pytestconfig: pytest.Config) -> list:
    """Append (model, {pair: loss error}, {pair: gradient error}); a pair that a model lacks is an empty cell."""
    return pytestconfig.stash[_TABLE]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, [])
    if not table:
        return
    terminalreporter.section("agreement: loss error, largest gradient error max|a-b| / max|b| of any tensor")
    pairs = list(dict.fromkeys(pair for _, losses, _ in table for pair in losses))
    terminalreporter.line("| model | " + " | ".join(pairs) + " |")
    terminalreporter.line("|---" * (len(pairs) + 1) + "|")
    for model, losses, gradients in table:
        cells = (f"{losses[pair]:.1e}, {gradients[pair]:.1e}" if pair in losses else "" for pair in pairs)
        terminalreporter.line(f"| {model} | " + " | ".join(cells) + " |")
