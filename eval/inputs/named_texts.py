"""texts that settings name: the sets of an evaluation, and access to data sets of the hub"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from data_prep.core.errors import HormesisError
from data_prep.core.records import to_dict
from data_prep.overlap.overlap_record import SoughtSet
from data_prep.sources import hub
from eval.config import HELD_OUT, EvalConfig
from eval.inputs import benchmark_uris

# behind the form of a benchmark (`cloze:`) or the name of a text (`openwebtext=`), if there is one
HUB_URI = re.compile(r"(?:[a-z]+:|[A-Za-z_]\w*=)?(hub:.+)", re.DOTALL)


def evaluation_sets(config: EvalConfig) -> list[SoughtSet]:
    """Every set of texts that an evaluation reads, but for held-out text of the run's own streams,
    which is disjoint from what is trained on.
    """
    sets = [
        SoughtSet(f"eval.{group}.{name}", uri)
        for group, named in (("probes", config.probes), ("prompts", config.prompts))
        for name, uri in named.items()
    ]
    probing, capability = config.probing, config.capability
    sets += [
        SoughtSet(f"eval.probing.test_rows.{name}", uri) for name, uri in probing.test_rows.items()
    ]
    sets += [SoughtSet("eval.probing.transfer", uri) for uri in probing.transfer]
    sets += [SoughtSet("eval.probing.attributes", uri) for uri in probing.attributes]
    for name, text in config.benchmarks.items():
        setting = f"eval.benchmarks.{name}"
        sets.append(SoughtSet(setting, benchmark_uris.parse(text, setting).rows_uri))
    for named_uri in capability.held_out:
        name, _, uri = named_uri.partition("=")
        sets.append(SoughtSet(f"eval.capability.held_out.{name}", uri))
    return [each for each in sets if each.uri != HELD_OUT]


def check_hub_access(settings: Mapping[str, Any]) -> None:
    """Raise a HormesisError, with the setting, for the first data set of the hub that cannot be
    read: a gated one without access, one that does not exist, any without a network.

    settings: groups by their path, such as {"data": DataConfig}.
    """
    asked = set[str]()
    for path, text in _texts(to_dict(dict(settings)), ""):
        found = HUB_URI.fullmatch(text)
        name = found[1].partition("?")[0] if found else ""
        if not found or name in asked:
            continue
        asked.add(name)
        base, _, options = found[1].partition("#")
        try:
            hub.check_access(base)
        except HormesisError as error:
            local = text.replace(found[1], f"FILE#{options}" if options else "FILE")
            raise type(error)(f"{path}: {error}: --set '{_assignment(path, local)}'") from error


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in plain JSON data, with its dotted path; items of a list have that of the list,
    followed by [].
    """
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, path if path.endswith("[]") else f"{path}[]")


def _assignment(path: str, text: str) -> str:
    """The word of `--set` that names a local file there."""
    return f'{path.removesuffix("[]")}=["{text}", …]' if path.endswith("[]") else f"{path}={text}"
