"""The answers that are no answers: one sentence of cause, one of cure, and the status that says whose turn it is.

404     a group that is not declared
409     a time before batch_end: the online store knows only from there on
413     a body that is too large
415     anything but JSON; nothing of it was read
422     an id or a value that does not fit
503     no champion yet, or too many requests at once
"""

from __future__ import annotations

from http import HTTPStatus

from bentoml.exceptions import BentoMLException


class UnknownGroup(BentoMLException):
    """A group that is not declared."""

    error_code = HTTPStatus.NOT_FOUND


class BeforeBatchEnd(BentoMLException):
    """A time that the batch view has already passed."""

    error_code = HTTPStatus.CONFLICT


class Unfit(BentoMLException):
    """An id or a value that does not fit."""

    error_code = HTTPStatus.UNPROCESSABLE_ENTITY


class NoChampion(BentoMLException):
    """The registry has no champion that can be used."""

    error_code = HTTPStatus.SERVICE_UNAVAILABLE
