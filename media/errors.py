"""What can be wrong with an input, and with a configuration (BadConfig).

BadMedia
├── NotMedia          no container that is read here
├── Damaged           a known container, but nothing in it decodes
├── MissingModality   decodable, but without the modality asked for
├── BeyondBudget      more frames, samples or streams than the budget allows
│   └── TooLong       more seconds than the budget allows
├── BadStretch        no such stretch of the item
├── DecoderFailed     the decoder process died or took too long
│   └── DecodersClosed    the decoder processes were stopped
└── BadText           a text that is empty, too long, or of which no word is known
"""

from __future__ import annotations

import os


def describe_error(error: Exception) -> str:
    """An error in a line, for whoever has typed a command. Of a file its name and what is wrong.

    >>> describe_error(FileNotFoundError(2, "No such file or directory", "a.wav"))
    'a.wav: No such file or directory'
    >>> describe_error(OSError("a.wav does not exist"))
    'a.wav does not exist'
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


class BadMedia(Exception):
    """An input that cannot be encoded. `detail_fields` names the attributes that clients see."""

    code = "bad_media"
    detail_fields: tuple[str, ...] = ()


class NotMedia(BadMedia):
    code = "not_media"
    detail_fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"not a media file that can be read here: {self.reason}"


class Damaged(BadMedia):
    code = "damaged"
    detail_fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"nothing in this file could be decoded: {self.reason}"


class MissingModality(BadMedia):
    code = "missing_modality"
    detail_fields = ("modality",)

    def __init__(self, modality: str) -> None:
        super().__init__(modality)
        self.modality = modality

    def __str__(self) -> str:
        return f"this file has no {self.modality}"


class BeyondBudget(BadMedia):
    code = "too_large"
    detail_fields: tuple[str, ...] = ("what", "amount", "limit")

    def __init__(self, what: str, amount: float, limit: float) -> None:
        super().__init__(what, amount, limit)
        self.what = what
        self.amount = amount
        self.limit = limit

    def __str__(self) -> str:
        return f"too many {self.what}: {self.amount:g}, the limit is {self.limit:g}"


class TooLong(BeyondBudget):
    code = "too_long"
    detail_fields = ("limit", "seconds")

    def __init__(self, seconds: float, limit: float) -> None:
        super().__init__("seconds", seconds, limit)
        self.seconds = seconds
        self.args = (seconds, limit)  # what pickle hands back to __init__


class BadStretch(BadMedia):
    code = "bad_stretch"
    detail_fields = ("start_s", "end_s", "duration_s")

    def __init__(self, start_s: float, end_s: float, duration_s: float) -> None:
        super().__init__(start_s, end_s, duration_s)
        self.start_s = start_s
        self.end_s = end_s
        self.duration_s = duration_s

    def __str__(self) -> str:
        return (
            f"no stretch from {self.start_s:g} s to {self.end_s:g} s can be cut from an item of"
            f" {self.duration_s:g} s"
        )


class DecoderFailed(BadMedia):
    code = "decoder_failed"
    detail_fields = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the decoder gave up on this file: {self.reason}"


class DecodersClosed(DecoderFailed):
    code = "decoders_closed"

    def __init__(self, reason: str = "the decoders are closed") -> None:
        super().__init__(reason)


class BadText(BadMedia):
    """A text that cannot be encoded. `index` says which of several, counted from 0."""

    code = "bad_text"
    detail_fields = ("reason", "index")

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason, index)
        self.reason = reason
        self.index = index

    def __str__(self) -> str:
        which = "this text" if self.index is None else f"the text of index {self.index}"
        return f"{which} cannot be encoded: {self.reason}"


class BadConfig(Exception):
    """A configuration with an unknown or missing key, or numbers that do not fit together."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
