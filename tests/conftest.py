"""What every test gets: hypothesis profiles, threads that sleep, and uninitialised memory that shows.

HYPOTHESIS_PROFILE chooses: "default" for every day and CI, the same examples each time; "soak" for as many new ones as
HYPOTHESIS_EXAMPLES says.
"""

import os

# Read once, when torch loads OpenMP. Threads that spin while they wait make a run on a busy machine 20 times slower
# (measured: two cores, one of them taken by another process).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS

# Hypothesis' own generation at its own odds, but every example drawn anew: by default a third of 150 examples are the
# smallest ones and most others repeat the one before with one part changed, which left whole sparse modes undrawn.
AVAILABLE_PROVIDERS["independent"] = AVAILABLE_PROVIDERS["hypothesis"]
_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
settings.register_profile(
    "default",
    backend="independent",
    deadline=None,
    derandomize=True,
    max_examples=150,
    print_blob=True,
    suppress_health_check=_SLOW_IS_FINE,
)
settings.register_profile(
    "soak",
    settings.get_profile("default"),
    derandomize=False,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "20000")),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def no_process_group():
    """For a test that makes its own: the one that an earlier run in this process has joined is gone."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def _poisoned_empty():
    """torch.empty filled with NaN, so that an output nobody wrote cannot look right by luck."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic)
