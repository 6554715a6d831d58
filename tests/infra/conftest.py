"""Homes of tests claim ports among themselves, so that they leave the well-known ones to the user's own."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _port_claims(tmp_path_factory):
    before = os.environ.get("BRAID_PORT_CLAIMS")
    os.environ["BRAID_PORT_CLAIMS"] = str(tmp_path_factory.mktemp("ports"))
    yield
    if before is None:
        del os.environ["BRAID_PORT_CLAIMS"]
    else:
        os.environ["BRAID_PORT_CLAIMS"] = before
