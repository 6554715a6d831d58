"""The code location of Dagster: the definitions of the project that the environment names."""

from infra import gateway
from infra.project import load_project
from infra.settings import Settings
from orchestration.definitions import definitions

gateway.allow()  # each run that Dagster launches is a process of its own
_settings = Settings.load()
defs = definitions(load_project(_settings), _settings)
