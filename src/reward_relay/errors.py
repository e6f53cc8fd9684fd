"""Every error of ours, drawn as a tree.

RelayError
├── ConfigurationError          the settings are wrong: nothing starts
├── DatabaseUnavailable         PostgreSQL cannot be reached or started
├── SpoolUnusable               the spool's disk refuses; the message is for the log
│   └── SpoolFull               it has as much as it may
├── TablesOutdated              its tables are of another version: run the migrations first
├── RequestError                answered to a caller over HTTP; carries its status and code
│   ├── UnknownSource, UnknownToken, NotFound           404
│   ├── Unauthenticated, Forbidden                      401, 403
│   ├── NotAllowed                                      409
│   │   └── KeyMissing              a stored body cannot be opened
│   ├── TooLarge                                        413
│   ├── EncodedBody                                     415
│   ├── Invalid                                         422
│   ├── TooManyRejections                               429
│   └── Unavailable                                     503
├── Unreadable                  an authenticated payload that we cannot understand: it is quarantined
└── CallFailed                  an outbound call that did not work; the class is the verdict
    ├── NotSent                 it never left, or the party said "later" (429): repeat freely
    ├── Rejected                a definite no to this request: a person must look
    │   └── PartyRefusesUs      a definite no to *us* (key, account, funds): every order of the party waits
    └── Unknown                 it may have worked: ask before repeating
"""


class RelayError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(RelayError):
    """One or more mistakes in the settings; `problems` holds one readable line for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DatabaseUnavailable(RelayError):
    """PostgreSQL cannot be started or reached; the message says what to do."""


class SpoolUnusable(RelayError):
    """The spool's file cannot be made, written or read; the message names it and says why."""


class SpoolFull(SpoolUnusable):
    """The spool holds as much as `spool_mb` allows."""


class TablesOutdated(RelayError):
    """The database's tables are not this version's."""


class RequestError(RelayError):
    """An answer to a caller: HTTP status, a short code, and a sentence naming the thing and its likely cause."""

    status = 500
    code = "error"

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


class UnknownSource(RequestError):
    """A webhook for a source that the configuration does not have."""

    status = 404
    code = "unknown_source"


class UnknownToken(RequestError):
    """A vendor callback whose token belongs to no order."""

    status = 404
    code = "unknown_token"


class NotFound(RequestError):
    """The thing asked for does not exist."""

    status = 404
    code = "not_found"


class Unauthenticated(RequestError):
    """Missing or wrong signature, secret or key."""

    status = 401
    code = "unauthenticated"


class Forbidden(RequestError):
    """The key is known, its role does not allow this."""

    status = 403
    code = "forbidden"


class NotAllowed(RequestError):
    """The order's state does not allow the action."""

    status = 409
    code = "not_allowed"


class KeyMissing(NotAllowed):
    """A stored body cannot be opened: the key that sealed it is not configured, or it was changed."""


class TooLarge(RequestError):
    """The body is over the limit."""

    status = 413
    code = "too_large"


class EncodedBody(RequestError):
    """The body is compressed, and what is signed are the bytes as they are sent."""

    status = 415
    code = "encoded_body"


class TooManyRejections(RequestError):
    """So many calls of this address were rejected that it has to wait `retry_after_s` seconds."""

    status = 429
    code = "too_many_rejections"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(detail)


class Invalid(RequestError):
    """The request itself is malformed."""

    status = 422
    code = "invalid"


class Unavailable(RequestError):
    """We cannot take it just now; the caller should try again."""

    status = 503
    code = "unavailable"
    retry_after_s = 5


class Unreadable(RelayError):
    """An authenticated payload that does not say what an order needs; the message names what is missing."""


class CallFailed(RelayError):
    """An outbound call that did not work.

    Attributes:
        status: the HTTP status of the answer, None where there was none.
        retry_after_s: seconds the party asked us to wait, None where it did not say.
        answer: what of the answer may be kept: trimmed, without secrets or claim data.
    """

    verdict = "failed"

    def __init__(
        self, detail: str, *, status: int | None = None, retry_after_s: float | None = None, answer: str = ""
    ) -> None:
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
        self.answer = answer
        super().__init__(detail)


class NotSent(CallFailed):
    """The request never left this machine, or the party put it off (429): safe to repeat."""

    verdict = "not_sent"


class Rejected(CallFailed):
    """The party gave a definite no to this request: repeating it cannot help."""

    verdict = "rejected"


class PartyRefusesUs(Rejected):
    """The party gave a definite no to us, not to this order: key refused, access disabled, account empty."""

    verdict = "refuses_us"


class Unknown(CallFailed):
    """The request left and no definite answer came: it may or may not have worked."""

    verdict = "unknown"
