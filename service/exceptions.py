"""What the service refuses, and what it fails at. `error_responses` has the status of each.

ServiceError
├── BadRequest       a malformed request
├── UnknownModel     embeddings by a model that is not served here
├── BadKey           a missing or invalid key
│   └── BadLink      an expired link, or one for something else
├── Forbidden        a key that may not do this
│   └── LimitedKey   a key for some collections only
├── BadHost          without keys: a request under a foreign host name
├── CrossOrigin      without keys: a page of another origin wants to change something
├── BadRange         a malformed range of bytes
├── PackedBody       a compressed body
├── BodyTooLarge     more bytes than a request may have
├── SlowBody         a body that took too long to arrive
├── Overloaded       a queue is full
├── OverQuota        a client's rate limit is exceeded
├── CannotReload     a reload that is refused: not now, not here, or not with these settings
├── DiskFull         nothing can be added
├── TimedOut         encoding took too long
└── ShuttingDown     the service is shutting down

A class names in `detail_fields` the attributes that clients get as the error's detail.
"""

from __future__ import annotations


class ServiceError(Exception):
    """A request that the service refuses, or fails at."""


class BadRequest(ServiceError):
    detail_fields = ("problem",)

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class UnknownModel(ServiceError):
    detail_fields = ("model", "known")

    def __init__(self, model: str, known: str) -> None:
        super().__init__(f"Unknown model {model!r}. This service has {known!r}.")
        self.model = model
        self.known = known


class BadKey(ServiceError):
    def __init__(
        self, problem: str = "Missing or invalid API key. Send 'Authorization: Bearer KEY'."
    ) -> None:
        super().__init__(problem)


class BadLink(BadKey):
    def __init__(self) -> None:
        super().__init__(
            "This link has expired or is for something else. Request a new one with the key."
        )


class Forbidden(ServiceError):
    detail_fields: tuple[str, ...] = ("role", "needs")

    def __init__(self, role: str, needs: str) -> None:
        super().__init__(f"This key's role is {role!r}. This needs {needs!r}.")
        self.role = role
        self.needs = needs


class LimitedKey(Forbidden):
    detail_fields = ()

    def __init__(self) -> None:
        ServiceError.__init__(
            self, "This key is for some collections only. This needs one for all of them."
        )


class BadHost(ServiceError):
    detail_fields = ("host",)

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Without keys this service answers to localhost, not to {host!r}. Add other names to"
            " TERCET_HOSTS."
        )
        self.host = host


class CrossOrigin(ServiceError):
    detail_fields = ("origin",)

    def __init__(self, origin: str) -> None:
        super().__init__(f"A page of {origin!r} may not change anything here.")
        self.origin = origin


class BadRange(ServiceError):
    detail_fields = ("range",)

    def __init__(self, range: str) -> None:
        super().__init__(f"{range[:80]!r} is not a range of bytes. Example: bytes=0-99.")
        self.range = range[:80]


class PackedBody(ServiceError):
    detail_fields = ("coding",)

    def __init__(self, coding: str) -> None:
        super().__init__(
            f"Content-Encoding {coding[:80]!r} is not supported. Send the body uncompressed."
        )
        self.coding = coding[:80]


class BodyTooLarge(ServiceError):
    detail_fields = ("limit_mb",)

    def __init__(self, limit_mb: int) -> None:
        super().__init__(f"The request is larger than {limit_mb} MB.")
        self.limit_mb = limit_mb


class Overloaded(ServiceError):
    detail_fields = ("queue", "retry_s")

    def __init__(self, queue: str, retry_s: int = 1) -> None:
        super().__init__(f"The {queue} queue is full. Try again later.")
        self.queue = queue
        self.retry_s = retry_s


class OverQuota(ServiceError):
    detail_fields = ("what", "allowed", "retry_s")

    def __init__(self, what: str, allowed: str, retry_s: int) -> None:
        super().__init__(f"Rate limit of {what} exceeded: {allowed}.")
        self.what = what
        self.allowed = allowed
        self.retry_s = retry_s


class SlowBody(ServiceError):
    detail_fields = ("limit_s",)

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"The request's body took longer than {limit_s:g} s to arrive.")
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
            f"The disk is full: less than {limit_mb} MB are free. Nothing can be added. "
            "Still, items can be found and deleted."
        )
        self.limit_mb = limit_mb


class TimedOut(ServiceError):
    detail_fields = ("limit_s", "retry_s")

    def __init__(self, limit_s: float, retry_s: int = 1) -> None:
        super().__init__(f"Not encoded within {limit_s:g} s. Try again later.")
        self.limit_s = limit_s
        self.retry_s = retry_s


class ShuttingDown(ServiceError):
    def __init__(self) -> None:
        super().__init__("The service is shutting down.")
