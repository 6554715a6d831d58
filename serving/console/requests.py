"""The requests of the console's page. Each is a POST with JSON, so `serving.guard` asks for the key and checks the body."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.contract import EntityId, Instant


class ConsoleRequest(BaseModel):
    """A request without fields: for the project and for its state."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class EntityRequest(ConsoleRequest):
    """Asks how the features of an entity come about."""

    group: str = Field(min_length=1, max_length=128)
    id: EntityId
    at: Instant | None = None


class HistoryRequest(EntityRequest):
    """Asks for the values of a feature from `since` to `at`, as `/features` gives them for these times."""

    feature: str = Field(min_length=1, max_length=128)
    since: Instant


#: Path → the contract of its request body.
CONSOLE_REQUESTS: dict[str, type[ConsoleRequest]] = {
    "/console/api/project": ConsoleRequest,
    "/console/api/status": ConsoleRequest,
    "/console/api/entity": EntityRequest,
    "/console/api/history": HistoryRequest,
}
