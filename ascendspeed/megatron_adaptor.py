"""One line for a script of megatron-core or Megatron-LM: ``import ascendspeed.megatron_adaptor``.

Importing this module, and no other of the package, changes something outside: it selects the device (npu, cuda or cpu,
unless ascendspeed.device.select() has), makes what says "cuda" mean it, and gives Megatron our attention. What it
replaces stands in three tables: ``python -m ascendspeed.megatron_adaptor --list``, or docs/megatron.md. It does not
matter whether Megatron is imported before it or after it. restore() puts everything back, install() what is missing.
"""

from __future__ import annotations

import argparse

from packaging.specifiers import SpecifierSet

from ascendspeed import device as devices
from ascendspeed.device import cuda_shim
from ascendspeed.device.cuda_scripts import SCRIPT_ROWS
from ascendspeed.device.replace import Replacements
from ascendspeed.integrations.megatron.patch import check_copies, megatron_version
from ascendspeed.integrations.megatron.patches import PATCHES, TESTED

__all__ = ["install", "restore"]

_patched = Replacements()
_shimmed: tuple[str, ...] | None = None  # the rows of the shim that install() has replaced; None: it has not run


def install() -> None:
    """Do what importing does. Again it replaces what is not in place, such as a patch that restore() took back.

    Raises:
        RuntimeError: this megatron-core was never tested; or parts of two copies of Megatron would be mixed.
        AttributeError: Megatron has moved a target, which the message names. Nothing is replaced then.
    """
    global _shimmed
    if _shimmed is None:
        check_copies()
    version = megatron_version()
    if not SpecifierSet(TESTED).contains(version, prereleases=True):
        raise RuntimeError(
            f"megatron-core {version} is not supported: ascendspeed.megatron_adaptor works with {TESTED}"
        )
    patches = [patch for patch in PATCHES if patch.applies_to(version) and patch.target not in _patched]
    for patch in patches:  # all of them before the first is applied
        patch.check()
    _shimmed = (*(_shimmed or ()), *cuda_shim.install(devices.current(), SCRIPT_ROWS))
    for patch in patches:
        _patched.replace(patch.target, patch.make)


def restore(*targets: str) -> None:
    """Put back everything that install() replaced. Does nothing when nothing is replaced.

    A shim that the script had installed before install() stays.

    Args:
        targets: put back these patches only, e.g. to compare with Megatron's own attention; "module:attribute" of the
            patches that are listed. One that is not in place is left alone.

    Raises:
        ValueError: a target is not that of a patch. Nothing is put back then.
    """
    global _shimmed
    known = {patch.target: None for patch in PATCHES}
    for target in targets:
        if target not in known:
            raise ValueError(f"{target!r} is not a patch; restore() takes {', '.join(known)}")
    _patched.restore(*targets)
    if not targets and _shimmed is not None:
        cuda_shim.uninstall(_shimmed)
        _shimmed = None


def listing() -> str:
    """What install() would replace here, a line each, and what it leaves out."""
    device, version = devices.current(), megatron_version()
    lines = [f"device {device.name}, megatron-core {version} (tested: {TESTED})"]
    for patch in PATCHES:
        sign = "replaces" if patch.applies_to(version) else "leaves  "
        lines.append(f"{sign} {patch.target}: {patch.reason}")
    rows = (*cuda_shim.ROWS, *SCRIPT_ROWS)
    replaced = cuda_shim.rows_of(device, rows)
    for row in rows:
        lines.append(f"{'replaces' if row in replaced else 'leaves  '} {row.target}: {row.reason}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ascendspeed.megatron_adaptor", description=__doc__)
    parser.add_argument("--list", action="store_true", required=True, help="what importing it replaces here, and why")
    parser.parse_args()
    print(listing())


if __name__ == "__main__":
    main()
else:
    install()
