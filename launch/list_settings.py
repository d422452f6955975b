"""list of every setting by group: path, value, type and meaning, for `sweep.py --settings`"""

import textwrap
from collections.abc import Sequence

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import Setting, describe, nearest
from launch.experiment import Experiment

MARK = "*"  # behind the path of an operational setting
NOTE = f"""\
Change a setting with --set PATH=VALUE. The values above are those of the recipe and the flags.
{MARK} operational: it changes how the work is done, not its result, and is not part of a run id.
eval.*: not part of a run id; other evaluation settings evaluate the same trained models again."""


def settings_list(experiment: Experiment, prefix: str = "", width: int = 100) -> str:
    """Every setting whose path starts with `prefix`, grouped, two or more lines per setting.

    Raises ConfigurationError, with the nearest paths, for a prefix of no setting.
    """
    matching = describe(experiment, prefix)
    if not matching:
        known = [setting.path for setting in describe(experiment)]
        raise ConfigurationError(
            f"--settings {prefix}: no setting starts with this prefix; "
            f"{nearest([*_groups(known), *known], prefix)}"
        )
    groups: dict[str, list[Setting]] = {}
    for setting in matching:
        groups.setdefault(_group(setting.path), []).append(setting)
    parts = [
        "\n".join([group or "experiment", *_entries(settings, width)])
        for group, settings in groups.items()
    ]
    return "\n\n".join([*parts, NOTE])


def _entries(settings: Sequence[Setting], width: int) -> list[str]:
    lines = []
    for setting in settings:
        mark = MARK if setting.is_operational else ""
        lines.append(f"  {setting.path}{mark} = {setting.value}   ({setting.type})")
        lines += textwrap.wrap(
            setting.meaning, width, initial_indent="      ", subsequent_indent="      "
        )
    return lines


def _group(path: str) -> str:
    return path.rpartition(".")[0]


def _groups(paths: Sequence[str]) -> list[str]:
    return list(filter(None, dict.fromkeys(map(_group, paths))))
