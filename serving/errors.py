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
429     more requests at once than the service answers          (serving.front)
500     the service itself has failed; its log says why         (serving.front)
503     no champion yet, or features older than the use case allows
504     no answer within the time of a request                  (serving.front)
"""

from __future__ import annotations

from starlette.responses import JSONResponse


class RefusalError(Exception):
    """A request that is refused, with the status of the answer.

    BentoML would hide the words of an error of 5xx and log a traceback for any: the service answers with `response` itself.
    """

    def __init__(self, status: int, cause: str, cure: str) -> None:
        super().__init__(f"{cause} {cure}")
        self.status, self.cause, self.cure = status, cause, cure

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse({"error": self.cause, "cure": self.cure}, self.status)
