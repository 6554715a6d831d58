"""The distribution of Flink: an environment of its own, with the connector of Kafka."""

from __future__ import annotations

import shutil
from pathlib import Path

from infra.environments import PYTHON, environment
from infra.jars import FLINK, jars
from infra.settings import Settings

_LOCK = Path(__file__).with_name("requirements.lock")


def distribution(settings: Settings) -> Path:
    """Returns the folder of the distribution, with `lib` and `opt`. If the distribution is missing, it is installed first.

    Raises:
        SetupError: The packages or the connector cannot be installed.
    """

    def add_connector(folder: Path) -> None:
        for jar in jars(FLINK, settings.cache_dir):
            # The JAR for the SQL client is kept out of `lib`, because the cluster does not need it.
            shutil.copyfile(jar, _packages(folder) / ("opt" if "gateway" in jar.name else "lib") / jar.name)

    return _packages(environment(settings, "flink", _LOCK, FLINK.coordinates, add_connector))


def _packages(folder: Path) -> Path:
    return folder / "lib" / f"python{PYTHON}" / "site-packages" / "pyflink"
