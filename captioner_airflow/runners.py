"""The Beam runners that a form offers, and the Beam arguments that select and configure each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from captioner_airflow.settings import RUNNERS_VARIABLE
from captioner_core.errors import CaptionerError


@dataclass(frozen=True)
class Runner:
    """A runner of Beam.

    Args:
      options: the Beam options that it always gets.
      required: the Beam options that the Airflow Variable ``captioner_runners`` has to set for it.
    """

    options: Mapping[str, str]
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


RUNNERS: Mapping[str, Runner] = {
    # Beam's DirectRunner tries another engine first and then falls back to FnApiRunner. Naming
    # FnApiRunner skips that.
    "DirectRunner": Runner({"runner": "FnApiRunner"}),
    # environment_type is required because Beam's default, Docker, rarely fits a cluster.
    "FlinkRunner": Runner({"runner": "FlinkRunner"}, required=("flink_master", "environment_type")),
    "SparkRunner": Runner(
        {"runner": "SparkRunner"}, required=("spark_master_url", "environment_type")
    ),
    "DataflowRunner": Runner(
        {"runner": "DataflowRunner"},
        required=("project", "region", "temp_location", "sdk_container_image"),
    ),
}
DEFAULT_RUNNER = "DirectRunner"


@dataclass(frozen=True)
class RunnerSettings:
    """The content of the Airflow Variable ``captioner_runners``.

    Args:
      by_runner: Beam options by runner name; they override the options in RUNNERS.

    Raises:
      CaptionerError: if a runner is unknown, or its options are not an object.
    """

    by_runner: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, options in self.by_runner.items():
            if name not in RUNNERS:
                raise CaptionerError(
                    f"Airflow Variable {RUNNERS_VARIABLE}: runner {name!r} is unknown; "
                    f"name one of {', '.join(RUNNERS)}"
                )
            if not isinstance(options, Mapping):
                raise CaptionerError(
                    f"Airflow Variable {RUNNERS_VARIABLE}: {name} is {options!r}, not an object of "
                    'options; write it as {"flink_master": "host:8081"}'
                )


def make_beam_arguments(name: str, settings: RunnerSettings) -> list[str]:
    """Returns the command-line arguments that select and configure a Beam runner.

    Args:
      name: a key of RUNNERS.
      settings: the options of this installation.

    Raises:
      CaptionerError: if the runner is unknown, or a required option is not set.
    """
    if name not in RUNNERS:
        raise CaptionerError(f"runner {name!r} is unknown; choose one of {', '.join(RUNNERS)}")
    runner = RUNNERS[name]
    configured = settings.by_runner.get(name, {})
    missing = [option for option in runner.required if not configured.get(option)]
    if missing:
        raise CaptionerError(
            f"runner {name!r} needs {missing[0]!r}; set it in the Airflow Variable "
            f'{RUNNERS_VARIABLE}, such as {{"{name}": {{"{missing[0]}": "..."}}}}'
        )
    return [
        argument
        for option, value in {**runner.options, **configured}.items()
        for argument in _format_option(option, value)
    ]


def _format_option(option: str, value: object) -> list[str]:
    """Returns a repeated option for a list, a bare option for True, and nothing for False."""
    if isinstance(value, bool):
        return [f"--{option}"] if value else []
    return [f"--{option}={item}" for item in (value if isinstance(value, list) else [value])]
