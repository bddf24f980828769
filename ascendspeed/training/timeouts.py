"""How long a rank waits for the others, from one number: what HCCL, torch_npu, CANN and torch are each told.

The order is what matters: the collective that waits has to speak first, because it alone names the rank that is
missing; then the event behind it, then the synchronize of the device, torch last. Only the standard library is used,
so that a launcher can ask before anything is installed.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["hccl_limits", "torch_limit"]

_FOR_EVER = 10 * 365 * 86400  # seconds; torch has no other word for it
_CONNECT = (120, 7200)  # seconds that HCCL takes as the time to connect
_STEP = 20  # seconds that each waits longer than the one before
_SYNCHRONIZE_MAX = 2147483  # seconds


def hccl_limits(seconds: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that give HCCL, torch_npu and CANN the limit of `seconds`; what `environment` sets stays.

    HCCL_EXEC_TIMEOUT=0 waits for ever, and so do then the event and the device. Raises ValueError when the
    environment has a limit that is no whole number, a time to connect that HCCL does not take, or an event or a device
    that gives up before what it waits for does.
    """
    connect = _seconds("HCCL_CONNECT_TIMEOUT", environment, min(max(seconds, _CONNECT[0]), _CONNECT[1]))
    if not _CONNECT[0] <= connect <= _CONNECT[1]:
        raise ValueError(f"HCCL_CONNECT_TIMEOUT={connect} must be {_CONNECT[0]} to {_CONNECT[1]} s, which HCCL takes")
    execute = _seconds("HCCL_EXEC_TIMEOUT", environment, seconds)
    event = _seconds("HCCL_EVENT_TIMEOUT", environment, execute + _STEP if execute else 0)
    if event:
        _check_later("HCCL_EVENT_TIMEOUT", event, "HCCL_EXEC_TIMEOUT", execute)
    limits = {"HCCL_CONNECT_TIMEOUT": connect, "HCCL_EXEC_TIMEOUT": execute, "HCCL_EVENT_TIMEOUT": event}
    before = ("HCCL_EVENT_TIMEOUT", event) if event else ("HCCL_EXEC_TIMEOUT", execute)
    synchronize = max(event, execute + _STEP) + _STEP
    if environment.get("ACL_DEVICE_SYNC_TIMEOUT"):
        synchronize = _seconds("ACL_DEVICE_SYNC_TIMEOUT", environment, synchronize)
        _check_later("ACL_DEVICE_SYNC_TIMEOUT", synchronize, *before)
        limits["ACL_DEVICE_SYNC_TIMEOUT"] = synchronize
    elif execute and synchronize <= _SYNCHRONIZE_MAX:  # without the variable a synchronize waits for ever
        limits["ACL_DEVICE_SYNC_TIMEOUT"] = synchronize
    return {name: str(limit) for name, limit in limits.items()}


def torch_limit(seconds: int, environment: Mapping[str, str]) -> int:
    """Seconds after which torch ends a collective on NPUs: later than all others, which know more about the reason."""
    limits = hccl_limits(seconds, environment)
    last = max(seconds, *map(int, limits.values())) if limits["HCCL_EXEC_TIMEOUT"] != "0" else _FOR_EVER
    return last + _STEP


def _check_later(name: str, limit: int, before: str, earlier: int) -> None:
    if limit <= earlier or not earlier:
        raise ValueError(
            f"{name}={limit} must be above {before}={earlier}{'' if earlier else ' (for ever)'}: "
            f"leave it unset{f', or set it to {earlier + _STEP}' if earlier else ''}"
        )


def _seconds(name: str, environment: Mapping[str, str], default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name}={text} is not a whole number of seconds")
    return int(text)
