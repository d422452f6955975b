"""ENTRY: run the paper's toy experiment: entanglement of under-sampled features

    python eval/toy_run.py --out out
    python eval/toy_run.py --out s3://bucket/study --set n_seeds=40 'training.weight_decays=[0.1]'
    python eval/toy_run.py --out out --set chains.n_states=5 chains.n_chains=6 \\
        chains.length_tokens=10 model.d_model=6 model.n_heads=3
    python eval/toy_run.py --settings

All replicas are trained in one job. A finished result is printed again; a killed run continues.
"""

import argparse
import sys
import textwrap

from data_prep.core import storage, telemetry
from data_prep.core.command import entry_command
from data_prep.core.records import to_json
from data_prep.core.settings import describe, parse_overrides
from eval.toy.config import ToyConfig

LIST_COMMAND = "python eval/toy_run.py --settings"


@entry_command
def main() -> int:
    arguments = _parse_arguments()
    telemetry.configure()
    words = [word.removeprefix("toy.") for word in arguments.set]
    config = parse_overrides(ToyConfig(), words, list_command=LIST_COMMAND)
    if arguments.settings:
        print(_settings_list(config), end="")
        return 0
    # imported here, since they import torch: Ctrl-C is one line from the first second on
    from eval.toy import result_table, run_toy, toy_result

    result = run_toy.run(storage.object_root(arguments.out), config)
    print(to_json(result) if arguments.json else result_table.text(result), end="")
    if not arguments.json:
        print(f"\nrecord: {toy_result.result_uri(arguments.out, config)}")
    return 0


def _settings_list(config: ToyConfig) -> str:
    lines = []
    for setting in describe(config):
        lines.append(f"{setting.path} = {setting.value}   ({setting.type})")
        indent = " " * 4
        lines += textwrap.wrap(
            setting.meaning, 100, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines) + "\n"


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "--out", default="out", metavar="URI", help="object root, as of a sweep (default out)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH=VALUE",
        help="override settings, e.g. n_seeds=40",
    )
    parser.add_argument(
        "--settings", action="store_true", help="list all settings and stop; starts nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the whole record")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
