"""The answers that are no answers: one sentence of cause, one of cure, and the status that says whose turn it is.

400     a request outside the contract                          (serving.guard)
        a body that is not the gzip that it says                (serving.bodies)
401     no key, or a wrong one, where one is set                (serving.guard)
404     a group that is not declared
409     a time before batch_end: the online store knows only from there on
413     a body that is too large                                (serving.guard)
415     anything but JSON; nothing of it was read               (serving.guard)
        a content encoding other than gzip                      (serving.bodies)
422     an id of another type than the group's, or a use case that is not known
500     the service itself has failed; its log says why         (serving.front)
503     more requests at once than the service answers          (serving.front)
        no champion yet, or features older than the use case allows
504     no answer within the time of a request                  (serving.front)
"""

from __future__ import annotations

from math import ceil

from starlette.responses import JSONResponse


class RefusalError(Exception):
    """A request that is refused, with the status of the answer.

    A refusal of the status 503 passes by itself: its answer says by `Retry-After`, in whole seconds, when to send the request again.

    BentoML would hide the words of an error of 5xx and log a traceback for any: the service answers with `response` itself.
    """

    def __init__(self, status: int, cause: str, cure: str, retry_after_seconds: float = 1) -> None:
        super().__init__(f"{cause} {cure}")
        self.status, self.cause, self.cure = status, cause, cure
        self.retry_after_seconds = ceil(retry_after_seconds) if status == 503 else None

    def response(self) -> JSONResponse:
        """The answer."""
        headers = None if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}
        return JSONResponse({"error": self.cause, "cure": self.cure}, self.status, headers)
