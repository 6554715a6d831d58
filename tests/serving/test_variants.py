"""Who gets which variant: always the same one, in the declared shares, whatever other experiments do."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from infra.errors import SettingsError
from infra.experiments import experiment_model
from infra.policies import Experiment
from infra.settings import Settings
from serving.variants import assigned, known_variants, place
from tests.declarations import repurchase
from tests.payments import fraud, project, relay

USERS = 20_000
THREE = Experiment(name="three", shares={"champion": 0.5, "challenger": 0.3, "batch_only": 0.2})


def test_the_shares_are_kept() -> None:
    counts = Counter(assigned(THREE, user) for user in range(USERS))
    for name, share in THREE.shares.items():
        assert abs(counts[name] / USERS - share) < 4 * (share * (1 - share) / USERS) ** 0.5
    assert {assigned(Experiment(name="x", shares={"batch_only": 0.0, "champion": 1.0}), user) for user in range(USERS)} == {
        "champion"
    }


def test_a_user_always_gets_the_same_variant_in_every_process() -> None:
    program = """
from infra.policies import Experiment
from serving.variants import assigned
e = Experiment(name="three", shares={"champion": 0.5, "challenger": 0.3, "batch_only": 0.2})
print([assigned(e, user) for user in [*range(50), "a text", -1]])
"""
    said = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said[0] == said[1] == f"{[assigned(THREE, user) for user in [*range(50), 'a text', -1]]}\n"
    assert assigned(THREE, 17) == assigned(THREE, "17"), "an id is the same as a number and as a text"


def test_another_experiment_draws_the_users_anew() -> None:
    other = THREE.model_copy(update={"name": "another"})
    both = Counter((assigned(THREE, user), assigned(other, user)) for user in range(USERS))
    assert abs(both["champion", "champion"] / USERS - 0.25) < 0.02
    assert (
        abs(sum(place("served", user) < 0.1 and assigned(THREE, user) == "champion" for user in range(USERS)) / USERS - 0.05) < 0.01
    )


@pytest.mark.parametrize(
    "declared",
    [
        '{"name": "x", "shares": {"champion": 0.5, "unknown": 0.5}}', '{"name": "x", "shares": {"champion": 0.5}}',
        '{"name": "x", "shares": {}}', '{"name": "x", "shares": {"champion": 1.5, "challenger": -0.5}}', '{"shares": {"champion": 1}}',
    ],
)  # fmt: skip
def test_an_experiment_that_cannot_be_is_told_when_the_settings_are_read(
    declared: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAID_EXPERIMENT", declared)
    with pytest.raises(SettingsError, match="BRAID_EXPERIMENT"):
        Settings.load(tmp_path)


def test_a_running_experiment_reaches_a_child_process_by_its_environment(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load(tmp_path).model_copy(update={"experiment": THREE})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load().experiment == THREE
    assert set(known_variants(repurchase)) == set(THREE.shares)


def test_an_experiment_is_about_the_model_that_it_names_or_the_first() -> None:
    assert experiment_model(None, project) is None
    assert experiment_model(THREE, project) == fraud
    assert experiment_model(THREE.model_copy(update={"model": "relay"}), project) == relay
    with pytest.raises(SettingsError, match=r"The experiment three cannot run: .*nothing"):
        experiment_model(THREE.model_copy(update={"model": "nothing"}), project)
