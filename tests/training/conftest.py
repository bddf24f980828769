"""Collects the errors of the ways to cut a model and prints them as one table at the end of a test run."""

import pytest

_TABLE = pytest.StashKey[list]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = []


@pytest.fixture
def parallel_table(pytestconfig: pytest.Config) -> list:
    """Append (model, how it is cut, error of the losses, of the first gradients, of the weights' changes or None)."""
    return pytestconfig.stash[_TABLE]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, [])
    if not table:
        return
    terminalreporter.section("parallel against one rank: relative errors, of the tensor with the largest")
    terminalreporter.line("| model | cut | losses | first gradients | change of the weights |")
    terminalreporter.line("|---|---|---|---|---|")
    for model, cut, *errors in table:
        cells = ("-" if error is None else f"{error:.1e}" for error in errors)
        terminalreporter.line(f"| {model} | {cut} | " + " | ".join(cells) + " |")
