"""The contracts of the console's requests. Each request is a POST with JSON, so `serving.guard` checks its key and its body."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.contract import EntityId, Instant


class ConsoleRequest(BaseModel):
    """A request without fields, for the description of the project or for the state of the deployment."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class EntityRequest(ConsoleRequest):
    """A request for the explanation of an entity's features."""

    group: str = Field(min_length=1, max_length=128)
    id: EntityId
    at: Instant | None = None


class HistoryRequest(EntityRequest):
    """A request for the values of a feature from `since` to `at`, which equal the answers of `/features` for these times."""

    feature: str = Field(min_length=1, max_length=128)
    since: Instant


#: Path → the contract of its request body.
CONSOLE_REQUESTS: dict[str, type[ConsoleRequest]] = {
    "/console/api/project": ConsoleRequest,
    "/console/api/status": ConsoleRequest,
    "/console/api/entity": EntityRequest,
    "/console/api/history": HistoryRequest,
}
