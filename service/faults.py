"""What the service refuses, and what it fails at. `service/errors.py` has the status of each.

ServiceError
├── BadRequest       a request that makes no sense
├── UnknownModel     embeddings of a model that this service has not
├── BadKey           no key, or none we know
│   └── BadLink      a link that has ended, or is of something else
├── BadHost          a service without keys, asked by a name that is not its own
├── CrossOrigin      a page of another origin wants to change something
├── BadRange         ranges of bytes that are none
├── PackedBody       a body in a coding that is not undone here
├── BodyTooLarge     more bytes than a request may have
├── SlowBody         bytes that trickle in
├── Overloaded       a queue is full
├── OverQuota        a key has had its share
├── CannotReload     not now, or not this process
├── DiskFull         nothing can be added
├── TimedOut         it was not encoded in time
└── ShuttingDown     the service is going away

A class names in `detail_fields` the attributes that clients get as the error's detail.
"""

from __future__ import annotations


class ServiceError(Exception):
    """A request the service turns down."""


class BadRequest(ServiceError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class UnknownModel(ServiceError):
    detail_fields = ("model", "known")

    def __init__(self, model: str, known: str) -> None:
        super().__init__(f"no model {model!r}; this service has {known!r}")
        self.model, self.known = model, known


class BadKey(ServiceError):
    def __init__(
        self, problem: str = "this service wants a key it knows, as 'Authorization: Bearer KEY'"
    ) -> None:
        super().__init__(problem)


class BadLink(BadKey):
    def __init__(self) -> None:
        super().__init__("this link has ended, or is not for this: ask for another, with the key")


class BadHost(ServiceError):
    detail_fields = ("host",)

    def __init__(self, host: str) -> None:
        super().__init__(
            f"without keys this service goes by localhost, not {host!r} (TERCET_HOSTS)"
        )
        self.host = host


class CrossOrigin(ServiceError):
    detail_fields = ("origin",)

    def __init__(self, origin: str) -> None:
        super().__init__(f"a page of {origin!r} may not change anything here")
        self.origin = origin


class BadRange(ServiceError):
    detail_fields = ("range",)

    def __init__(self, range: str) -> None:
        super().__init__(f"{range[:80]!r} is no range of bytes; as in bytes=0-99")
        self.range = range[:80]


class PackedBody(ServiceError):
    detail_fields = ("coding",)

    def __init__(self, coding: str) -> None:
        super().__init__(f"send the body as it is: the coding {coding[:80]!r} is not undone here")
        self.coding = coding[:80]


class BodyTooLarge(ServiceError):
    detail_fields = ("limit_mb",)

    def __init__(self, limit_mb: int) -> None:
        super().__init__(f"a request may have at most {limit_mb} MB")
        self.limit_mb = limit_mb


class Overloaded(ServiceError):
    detail_fields = ("queue", "retry_s")

    def __init__(self, queue: str, retry_s: int = 1) -> None:
        super().__init__(f"the {queue} queue is full")
        self.queue, self.retry_s = queue, retry_s


class OverQuota(ServiceError):
    detail_fields = ("what", "allowed", "retry_s")

    def __init__(self, what: str, allowed: str, retry_s: int) -> None:
        super().__init__(f"this key has had its {what}: {allowed}")
        self.what, self.allowed, self.retry_s = what, allowed, retry_s


class SlowBody(ServiceError):
    detail_fields = ("limit_s",)

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request's body took longer than {limit_s:g} s to arrive")
        self.limit_s = limit_s


class CannotReload(ServiceError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class DiskFull(ServiceError):
    detail_fields = ("limit_mb",)

    def __init__(self, limit_mb: int) -> None:
        super().__init__(
            f"the disk is full: less than {limit_mb} MB are free; items can be found and deleted"
        )
        self.limit_mb = limit_mb


class TimedOut(ServiceError):
    detail_fields = ("limit_s", "retry_s")

    def __init__(self, limit_s: float, retry_s: int = 1) -> None:
        super().__init__(f"it was not encoded within {limit_s:g} s")
        self.limit_s, self.retry_s = limit_s, retry_s


class ShuttingDown(ServiceError):
    def __init__(self) -> None:
        super().__init__("the service is shutting down")
