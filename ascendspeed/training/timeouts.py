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
_EVENT, _SYNCHRONIZE, _TORCH = 20, 40, 60  # seconds after the collective
_SYNCHRONIZE_MAX = 2147483  # seconds


def hccl_limits(seconds: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that give HCCL, torch_npu and CANN the limit of `seconds`; what `environment` sets stays.

    HCCL_EXEC_TIMEOUT=0 waits for ever, and so do then the event and the device. Raises ValueError when the
    environment has a limit that is no whole number, or an event that gives up before the collective does.
    """
    limits = {"HCCL_CONNECT_TIMEOUT": str(min(max(seconds, _CONNECT[0]), _CONNECT[1]))}
    execute = _seconds("HCCL_EXEC_TIMEOUT", environment, seconds)
    limits["HCCL_EXEC_TIMEOUT"] = str(execute)
    limits["HCCL_EVENT_TIMEOUT"] = str(execute + _EVENT if execute else 0)
    if execute:  # without the variable a synchronize waits for ever
        limits["ACL_DEVICE_SYNC_TIMEOUT"] = str(min(execute + _SYNCHRONIZE, _SYNCHRONIZE_MAX))
    event = _seconds("HCCL_EVENT_TIMEOUT", environment, int(limits["HCCL_EVENT_TIMEOUT"]))
    if event and (event <= execute or not execute):
        raise ValueError(
            f"HCCL_EVENT_TIMEOUT={event} must be above HCCL_EXEC_TIMEOUT={execute}{'' if execute else ' (for ever)'}: "
            f"leave it unset, or set it to {execute + _EVENT if execute else 0}"
        )
    return limits | {name: environment[name] for name in limits if environment.get(name)}


def torch_limit(seconds: int, environment: Mapping[str, str]) -> int:
    """Seconds after which torch ends a collective on NPUs: later than HCCL, which knows more about the reason."""
    limit = _seconds("HCCL_EXEC_TIMEOUT", environment, seconds) or _FOR_EVER
    return max(limit, seconds) + _TORCH


def _seconds(name: str, environment: Mapping[str, str], default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name}={text} is not a whole number of seconds")
    return int(text)
