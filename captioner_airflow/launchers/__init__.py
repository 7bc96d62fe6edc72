"""Where a training runs: one file for each launcher, all with the interface ``base.Launcher``."""

from captioner_airflow import settings
from captioner_airflow.launchers.base import Event, Launcher
from captioner_airflow.launchers.kubernetes import KubernetesLauncher
from captioner_airflow.launchers.kubernetes_settings import KubernetesSettings
from captioner_airflow.launchers.local import LocalLauncher
from captioner_core.errors import CaptionerError

__all__ = ["LAUNCHERS", "Event", "Launcher", "load_launcher"]

LAUNCHERS = ("local", "kubernetes")


def load_launcher(name: str) -> Launcher:
    """Returns a launcher, configured for this installation.

    Args:
      name: one of LAUNCHERS.

    Raises:
      CaptionerError: if the name is unknown, or a setting is missing or invalid.
    """
    if name == "kubernetes":
        try:
            values = settings.read_variable(settings.KUBERNETES_VARIABLE)
            return KubernetesLauncher(KubernetesSettings(**values))
        except (TypeError, ValueError) as error:
            raise CaptionerError(
                f"Airflow Variable {settings.KUBERNETES_VARIABLE}: {error}; "
                "docs/kubernetes.md lists the settings"
            ) from error
    if name == "local":
        return LocalLauncher()
    raise CaptionerError(f"launcher {name!r} is unknown; choose one of {', '.join(LAUNCHERS)}")
