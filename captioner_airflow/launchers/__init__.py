"""Where a training runs: one file for each place, all with the face of ``base.Launcher``."""

from __future__ import annotations

from captioner_airflow import settings
from captioner_airflow.launchers.base import Launcher
from captioner_core.errors import CaptionerError

__all__ = ["LAUNCHERS", "Launcher", "load_launcher"]

LAUNCHERS = ("local", "kubernetes")


def load_launcher(name: str) -> Launcher:
    """A launcher by its name, as this place sets it up.

    Raises:
      CaptionerError: it is not known, or its settings are not there or bad.
    """
    if name == "kubernetes":
        from captioner_airflow.launchers.kubernetes import KubernetesLauncher

        try:
            return KubernetesLauncher(**settings.variable(settings.KUBERNETES))
        except (TypeError, ValueError) as error:
            raise CaptionerError(
                f"Airflow Variable {settings.KUBERNETES}: {error}; docs/kubernetes.md lists the settings"
            ) from error
    if name == "local":
        from captioner_airflow.launchers.local import LocalLauncher

        return LocalLauncher()
    raise CaptionerError(f"launcher {name!r} is not known; choose one of {', '.join(LAUNCHERS)}")
