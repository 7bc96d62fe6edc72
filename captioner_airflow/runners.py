"""Where Beam jobs run: one table, by name, of runners and the options that each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from captioner_airflow.settings import RUNNERS as SETTINGS
from captioner_core.errors import CaptionerError


@dataclass(frozen=True)
class Runner:
    """An engine of Beam's.

    Args:
      options: that it always gets.
      needs: names of options without which it can't run, which the Airflow Variable SETTINGS has to give.
    """

    options: Mapping[str, str]
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


RUNNERS: Mapping[str, Runner] = {
    # what DirectRunner comes down to on one machine, named outright: it looks for another engine first
    "DirectRunner": Runner({"runner": "FnApiRunner"}),
    # where workers come from is a matter of the cluster; Beam's own choice, Docker, is rarely the one
    "FlinkRunner": Runner({"runner": "FlinkRunner"}, needs=("flink_master", "environment_type")),
    "SparkRunner": Runner(
        {"runner": "SparkRunner"}, needs=("spark_master_url", "environment_type")
    ),
    "DataflowRunner": Runner(
        {"runner": "DataflowRunner"},
        needs=("project", "region", "temp_location", "sdk_container_image"),
    ),
}
DEFAULT_RUNNER = "DirectRunner"


@dataclass(frozen=True)
class RunnerSettings:
    """The options of this place, checked.

    Args:
      by_runner: options of each runner, by its name; they come after the table's own and replace them.
    """

    by_runner: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, options in self.by_runner.items():
            if name not in RUNNERS:
                raise CaptionerError(
                    f"Variable {SETTINGS}: runner {name!r} is not known; name one of {', '.join(RUNNERS)}"
                )
            if not isinstance(options, Mapping):
                raise CaptionerError(
                    f"Variable {SETTINGS}: {name} {options!r} is no object of options; write it as "
                    '{"flink_master": "host:8081"}'
                )


def runner_options(name: str, settings: RunnerSettings) -> list[str]:
    """Beam's command-line options for a runner.

    Raises:
      CaptionerError: the runner is not known, or an option that it needs is not set.
    """
    if name not in RUNNERS:
        raise CaptionerError(f"runner {name!r} is not known; choose one of {', '.join(RUNNERS)}")
    runner, own = RUNNERS[name], settings.by_runner.get(name, {})
    lacking = [option for option in runner.needs if not own.get(option)]
    if lacking:
        raise CaptionerError(
            f"runner {name!r} needs {lacking[0]!r}; set it in the Airflow Variable {SETTINGS}, as "
            f'{{"{name}": {{"{lacking[0]}": "..."}}}}'
        )
    return [
        argument
        for option, value in {**runner.options, **own}.items()
        for argument in _arguments(option, value)
    ]


def _arguments(option: str, value: object) -> list[str]:
    """A list is the option repeated, true the option alone, and false nothing."""
    if isinstance(value, bool):
        return [f"--{option}"] if value else []
    values = value if isinstance(value, list) else [value]
    return [f"--{option}={one}" for one in values]
