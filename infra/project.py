"""Loads the project of a deployment: imports the module that the setting `project` names. Every process begins with this.

For the processes of Dagster, it also imports the function that makes the project's own assets.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import BraidError, DeclarationError
from features.project import ASSETS_FORM, Project
from infra.errors import SettingsError
from infra.settings import Settings

#: The cure in errors about the setting.
_FORM = "Write module:attribute, such as shop.definitions:project, or path/to/definitions.py:project."


def load_project(settings: Settings) -> Project:
    """Returns the project that `settings.project` names.

    Raises:
        SettingsError: The module cannot be found or imported, or its attribute is missing or is not a Project.
        DeclarationError: The project contains an invalid declaration.
    """
    reference = _Reference("project", settings.project, settings.project_folder, SettingsError, _FORM)
    project = reference.load()
    if not isinstance(project, Project):
        raise reference.wrong(project, "a Project")
    return project


def check_bounds(settings: Settings, project: Project) -> None:
    """Returns if each group that the bounds of the settings name is declared.

    Raises:
        SettingsError: A group is not declared, such as after it was renamed; the default bounds would count instead.
    """
    names = [group.name for group in project.groups]
    if unknown := sorted(settings.group_bounds.keys() - set(names)):
        raise SettingsError(
            f"BRAID_GROUP_BOUNDS names the group {unknown[0]!r}, which is not declared.", f"Declared are: {', '.join(names)}."
        )


def load_assets(settings: Settings, project: Project) -> Callable[[Settings], Iterable[Any]] | None:
    """Returns the function for Dagster assets that `project.assets` names; None if the project has no assets of its own.

    Raises:
        DeclarationError: The module cannot be found or imported, or its attribute is missing or is not a function.
    """
    if project.assets is None:
        return None
    reference = _Reference("asset function", project.assets, settings.project_folder, DeclarationError, ASSETS_FORM)
    function = reference.load()
    if not callable(function):
        raise reference.wrong(function, "a function")
    return function


@dataclass(frozen=True)
class _Reference:
    """A text that names an attribute of a module of the project's owner.

    Attributes:
        what: The kind of the attribute, for error messages.
        text: The text, as `module:attribute` or `path/to/module.py:attribute`.
        folder: The folder of the project, in which modules and relative paths are looked up.
        error: The type of the errors to raise.
        form: The cure in errors about the text.
    """

    what: str
    text: str
    folder: Path
    error: type[BraidError]
    form: str

    def load(self) -> object:
        """Returns the attribute; None if the module does not have it."""
        module_name, separator, attribute = self.text.rpartition(":")
        if not separator or not module_name or not attribute.isidentifier():
            raise self.error(f"The {self.what} {self.text!r} cannot be read.", self.form)
        module = self._of_file(Path(module_name)) if module_name.endswith(".py") else self._of_name(module_name)
        return getattr(module, attribute, None)

    def wrong(self, value: object, wanted: str) -> BraidError:
        """Returns the error for an attribute that is missing or is of another type than `wanted`."""
        module_name, _, attribute = self.text.rpartition(":")
        what = f"has no {attribute!r}" if value is None else f"has a {type(value).__name__} under {attribute!r}, not {wanted}"
        return self.error(f"The module {module_name} {what}.", self.form)

    def _of_name(self, name: str) -> object:
        folder = str(self.folder)
        # At the end of the path, so that a folder of the project never hides a package of braid or of a library.
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except DeclarationError:
            raise
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise self.error(
                    f"The {self.what} {self.text} needs a module that is not installed: {error.name}.",
                    "Install the module into braid's environment.",
                ) from None
            raise self.error(
                f"The {self.what} {self.text} was not found: there is no module {error.name} in {folder}.",
                f"{self.form} A package with the name of one of braid's packages, such as `features` or `models`, is named by its path.",
            ) from None
        except Exception as error:
            raise self._broken(error) from error

    def _of_file(self, path: Path) -> object:
        path = path if path.is_absolute() else self.folder / path
        if not path.is_file():
            raise self.error(f"The {self.what}'s file {path} does not exist.", self.form)
        name = f"braid_project_{abs(hash(path))}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except DeclarationError:
            raise
        except Exception as error:
            raise self._broken(error) from error
        return module

    def _broken(self, error: Exception) -> BraidError:
        first = str(error).strip().split("\n", 1)[0]
        return self.error(f"The {self.what} {self.text} cannot be loaded: {type(error).__name__}: {first}.", "Correct its module.")
