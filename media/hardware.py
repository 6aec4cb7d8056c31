"""Decoders in hardware, where they are asked for. Written against PyAV's documentation: a machine
that has one was not at hand. What such a decoder cannot open or decode is decoded in software.
"""

from __future__ import annotations

import logging
from pathlib import Path

from av.codec.hwaccel import HWAccel, hwdevices_available

from .errors import Damaged, NotMedia

OFF = "off"
AUTO = "auto"
DEVICES = ("cuda", "vaapi", "videotoolbox")  # of two that could be used, the first is
CHOICES = (OFF, AUTO, *DEVICES)
HELP = (
    "decode pictures in hardware: off, auto (whatever FFmpeg has), cuda, vaapi or videotoolbox;"
    " what it cannot decode is decoded in software"
)
LOG = logging.getLogger("tercet.decode")

_wanted = OFF


def use_hardware(wanted: str) -> None:
    """Have this process decode pictures by one of CHOICES."""
    global _wanted
    _wanted = wanted


def find_device() -> str | None:
    """The kind of device that pictures are decoded by; None for software."""
    if _wanted == OFF:
        return None
    if _wanted != AUTO:
        return _wanted
    there = hwdevices_available()
    return next((device for device in DEVICES if device in there), None)


def make_accelerator(device: str | None) -> HWAccel | None:
    """What `av.open` takes. It raises where the device cannot decode the file: software that takes
    over unseen would not be told from hardware.
    """
    return None if device is None else HWAccel(device, allow_software_fallback=False)


def note_fault(path: Path, device: str, fault: Damaged | NotMedia) -> None:
    """Log that a file is decoded in software."""
    LOG.warning(
        "%s: %s does not decode it (%s); in software instead", path.name, device, fault.reason
    )
