"""Loads the project of a deployment: imports the module that the setting `project` names. Every process begins with this."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from features.errors import DeclarationError
from features.project import Project
from infra.errors import SettingsError
from infra.settings import Settings

#: The cure in errors about the setting.
_FORM = "Write module:attribute, such as shop.definitions:project, or path/to/definitions.py:project."


def load_project(settings: Settings) -> Project:
    """The project that `settings.project` names.

    Raises:
        SettingsError: The module cannot be found or imported, or its attribute is missing or is not a Project.
        DeclarationError: The project contains an invalid declaration.
    """
    module_name, separator, attribute = settings.project.rpartition(":")
    if not separator or not module_name or not attribute.isidentifier():
        raise SettingsError(f"The project {settings.project!r} cannot be read.", _FORM)
    is_file = module_name.endswith(".py")
    module = _module_of_file(settings, Path(module_name)) if is_file else _module_of_name(settings, module_name)
    project = getattr(module, attribute, None)
    if not isinstance(project, Project):
        what = f"has no {attribute!r}" if project is None else f"has a {type(project).__name__} under {attribute!r}, not a Project"
        raise SettingsError(f"The module {module_name} {what}.", _FORM)
    return project


def _module_of_name(settings: Settings, name: str) -> object:
    folder = str(settings.project_folder)
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
            raise SettingsError(
                f"The project {settings.project} needs a module that is not installed: {error.name}.",
                "Install the module into braid's environment.",
            ) from None
        raise SettingsError(
            f"The project {settings.project} was not found: there is no module {error.name} in {folder}.",
            f"{_FORM} A package with the name of one of braid's packages, such as `features` or `models`, is named by its path.",
        ) from None
    except Exception as error:
        raise _broken(settings, error) from error


def _module_of_file(settings: Settings, path: Path) -> object:
    path = path if path.is_absolute() else settings.project_folder / path
    if not path.is_file():
        raise SettingsError(f"The project's file {path} does not exist.", _FORM)
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
        raise _broken(settings, error) from error
    return module


def _broken(settings: Settings, error: Exception) -> SettingsError:
    first = str(error).strip().split("\n", 1)[0]
    return SettingsError(
        f"The project {settings.project} cannot be loaded: {type(error).__name__}: {first}.", "Correct its module."
    )
