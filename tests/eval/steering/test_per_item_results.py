import numpy as np

from data_prep.core import storage
from eval.steering import per_item_results
from eval.steering.per_item_results import ItemValue

ITEMS = [
    ItemValue("iti", "toxicity", name, strength, value)
    for strength, value in ((0.0, 7.0), (4.0, 3.0))
    for name in "ab"
]


def test_written_items_are_read_back_by_condition(tmp_path):
    folder = str(tmp_path / "eval-0")
    per_item_results.write(ITEMS, folder)
    assert per_item_results.read(folder) == {
        ("iti", "toxicity", 0.0): {"a": 7.0, "b": 7.0},
        ("iti", "toxicity", 4.0): {"a": 3.0, "b": 3.0},
    }
    assert storage.exists(storage.join(folder, per_item_results.FILE_NAME))


def test_common_items_are_those_of_all_runs_at_all_strengths():
    first = {
        ("toxicity", 0.0): {"b": 1.0, "a": 2.0, "c": 3.0},
        ("toxicity", 4.0): {"a": 4.0, "b": 5.0, "c": 6.0},
    }
    second = {
        ("toxicity", 0.0): {"a": 7.0, "b": 8.0, "d": 9.0},
        ("toxicity", 4.0): {"b": 10.0, "a": 11.0, "c": 0.0},
    }
    common = per_item_results.common([first, second], "toxicity", [0.0, 4.0])
    assert [values.tolist() for values in common] == [
        [[2.0, 4.0], [1.0, 5.0]],
        [[7.0, 11.0], [8.0, 10.0]],
    ]
    assert all(isinstance(values, np.ndarray) for values in common)
    assert per_item_results.common([first, {}], "toxicity", [0.0])[0].shape == (0, 1)


def test_common_items_are_in_the_order_of_their_ids():
    table = {("toxicity", 0.0): {f"{i:02d}": float(i) for i in reversed(range(40))}}
    (values,) = per_item_results.common([table], "toxicity", [0.0])
    assert values[:, 0].tolist() == list(range(40))
