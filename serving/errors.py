"""HTTP error responses: each has a status, one sentence of cause, and one sentence of cure.

400     a request outside the contract                                  (serving.decoding)
        a body that is not gzip, although its header says so            (serving.bodies)
401     no key or a wrong key, if the deployment has a key              (serving.guard)
404     a group or a feature that is not declared                       (serving.ids, serving.console)
        a prediction in a project without models                        (serving.service)
409     a time before batch_end, for which the store has no features    (serving.answer)
413     a body that is too large                                        (serving.guard, serving.bodies)
415     a body that is not JSON, and that was not read                  (serving.guard)
        a content encoding other than gzip                              (serving.bodies)
422     an id of another type than the entity's columns                 (serving.ids)
        a key or a required column that a candidate lacks               (serving.ids, serving.predicting)
        a wrong request column, in `context` or in a candidate          (serving.decoding)
        an unknown use case                                             (serving.freshness)
500     an error of the service itself, with its reason in the log      (serving.front)
503     more requests at once than the service answers                  (serving.front)
        no champion, or a late store for a model that refuses then      (serving.predicting)
        features older than the use case allows                         (serving.freshness)
504     no answer within the time of a request                          (serving.front)
"""

from __future__ import annotations

from math import ceil

from starlette.responses import JSONResponse


class RefusalError(Exception):
    """A refused request, with the status, the cause and the cure of the response.

    The cause of the status 503 is temporary, so its response has the header `Retry-After`: when to send the request again, in whole seconds.

    The service sends `response` itself, because BentoML would hide the texts of 5xx errors and would log a traceback for every error.
    """

    def __init__(self, status: int, cause: str, cure: str, retry_after_seconds: float = 1) -> None:
        super().__init__(f"{cause} {cure}")
        self.status, self.cause, self.cure = status, cause, cure
        self.retry_after_seconds = ceil(retry_after_seconds) if status == 503 else None

    def response(self) -> JSONResponse:
        """Returns the HTTP response: the cause and the cure as JSON."""
        headers = None if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}
        return JSONResponse({"error": self.cause, "cure": self.cure}, self.status, headers)
