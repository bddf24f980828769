"""One number for HCCL, torch_npu, CANN and torch, in the order in which they have to give up."""

import pytest

from ascendspeed.training.timeouts import hccl_limits, torch_limit


@pytest.mark.parametrize("seconds", [60, 600, 86400, 2147400])
def test_the_collective_speaks_first_and_torch_last(seconds):
    limits = {name: int(value) for name, value in hccl_limits(seconds, {}).items()}
    assert 120 <= limits["HCCL_CONNECT_TIMEOUT"] <= 7200
    assert limits["HCCL_EXEC_TIMEOUT"] == seconds
    assert seconds < limits["HCCL_EVENT_TIMEOUT"] < limits["ACL_DEVICE_SYNC_TIMEOUT"] < torch_limit(seconds, {})
    assert limits["HCCL_CONNECT_TIMEOUT"] < torch_limit(seconds, {})
    assert limits["ACL_DEVICE_SYNC_TIMEOUT"] <= 2147483


@pytest.mark.parametrize("own", [{"HCCL_CONNECT_TIMEOUT": "7200"}, {"HCCL_EVENT_TIMEOUT": "5000"}])
def test_what_waits_longer_by_the_environment_still_speaks_before_what_comes_after_it(own):
    limits = {name: int(value) for name, value in hccl_limits(600, own).items()}
    assert limits["HCCL_EXEC_TIMEOUT"] < limits["HCCL_EVENT_TIMEOUT"] < limits["ACL_DEVICE_SYNC_TIMEOUT"]
    assert max(limits.values()) < torch_limit(600, own)


def test_a_synchronize_that_cannot_wait_so_long_waits_for_ever():
    assert "ACL_DEVICE_SYNC_TIMEOUT" not in hccl_limits(2147483, {})


def test_what_the_environment_sets_stays_and_decides_the_rest():
    own = {"HCCL_EXEC_TIMEOUT": "1836", "HCCL_CONNECT_TIMEOUT": "300"}
    limits = hccl_limits(600, own)
    assert limits == own | {"HCCL_EVENT_TIMEOUT": "1856", "ACL_DEVICE_SYNC_TIMEOUT": "1876"}
    assert torch_limit(600, limits) == 1896


def test_a_collective_that_waits_for_ever_is_not_cut_short_behind_it():
    limits = hccl_limits(600, {"HCCL_EXEC_TIMEOUT": "0"})
    assert limits["HCCL_EVENT_TIMEOUT"] == "0"
    assert "ACL_DEVICE_SYNC_TIMEOUT" not in limits
    assert torch_limit(600, limits) > 10 * 365 * 86400


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"HCCL_EXEC_TIMEOUT": "5m"}, "HCCL_EXEC_TIMEOUT=5m is not a whole number"),
        ({"HCCL_EVENT_TIMEOUT": "600"}, "HCCL_EVENT_TIMEOUT=600 must be above HCCL_EXEC_TIMEOUT=600"),
        ({"HCCL_EXEC_TIMEOUT": "3600", "HCCL_EVENT_TIMEOUT": "1868"}, "HCCL_EVENT_TIMEOUT=1868 must be above"),
        ({"HCCL_EXEC_TIMEOUT": "0", "HCCL_EVENT_TIMEOUT": "1868"}, "for ever"),
        ({"HCCL_CONNECT_TIMEOUT": "abc"}, "HCCL_CONNECT_TIMEOUT=abc is not a whole number"),
        ({"HCCL_CONNECT_TIMEOUT": "60"}, "HCCL_CONNECT_TIMEOUT=60 must be 120 to 7200"),
        ({"ACL_DEVICE_SYNC_TIMEOUT": "30"}, "ACL_DEVICE_SYNC_TIMEOUT=30 must be above HCCL_EVENT_TIMEOUT=620"),
        (
            {"HCCL_EVENT_TIMEOUT": "5000", "ACL_DEVICE_SYNC_TIMEOUT": "640"},
            "=640 must be above HCCL_EVENT_TIMEOUT=5000",
        ),
        ({"HCCL_EXEC_TIMEOUT": "0", "ACL_DEVICE_SYNC_TIMEOUT": "640"}, "for ever"),
    ],
)
def test_limits_that_contradict_each_other_are_refused_by_name(own, message):
    with pytest.raises(ValueError, match=message):
        hccl_limits(600, own)
