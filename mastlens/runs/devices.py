"""Where a computation runs: the device that was asked for, or the best that there is."""

from mastlens.errors import BadSetting, NotSupported

AUTO = "auto"
"""The best device that there is."""


def device_of(asked: str, *, float64: bool = False) -> str:
    """Return a device: with ``auto`` cuda where there is one, else mps, else cpu; else what was asked for.

    Args:
        asked: ``auto``, or a torch device.
        float64: Whether the work needs float64, which mps does not have.
    """
    if asked != AUTO:
        return asked
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not float64 else "cpu"


def check_device(device: str) -> None:
    """Raise unless torch knows the device and sees it here.

    Raises:
        MastlensError: If it does not.
    """
    if device in (AUTO, "cpu"):
        return
    import torch

    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise BadSetting(f"{device!r} is not a torch device. Use auto, cpu, cuda, cuda:0 or mps.") from error
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = there.get(asked.type)
    if count is not None and (asked.index or 0) >= count:
        seen = f"{count} {asked.type} devices" if count else f"no {asked.type} device"
        raise NotSupported(f"--device {device}: torch sees {seen} here. Use --device auto, which takes the best.")
