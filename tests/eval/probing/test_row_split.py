import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import ConfigurationError
from eval.probing import row_split
from eval.probing.row_split import SHARES

natural_groups = st.lists(st.tuples(st.integers(1, 60), st.floats(0.1, 0.9)), min_size=4).map(
    lambda sizes: [
        (f"user {g}", int(i < round(n * share)))
        for g, (n, share) in enumerate([*sizes, *[(20, 0.5)] * 4])
        for i in range(n)
    ]
)


@settings(max_examples=60, deadline=None)
@given(natural_groups, st.integers(0, 3), st.randoms())
def test_natural_groups_are_held_out_whole_in_shares_near_the_split(rows, seed, random):
    groups, labels = map(list, zip(*rows, strict=True))
    split = row_split.split_rows(groups, labels, seed)
    assert sorted(split.train + split.validation + split.test) == list(range(len(rows)))
    names = [{groups[i] for i in part} for part in split]
    assert len(set.union(*names)) == sum(map(len, names))
    assert all({labels[i] for i in part} == {0, 1} for part in split)
    largest = max(groups.count(name) for name in set(groups))
    excess = np.array([len(part) for part in split]) - SHARES * len(rows)
    assert (excess < largest).all() and (excess > -2 * largest).all()
    order = list(range(len(rows)))
    random.shuffle(order)
    other = row_split.split_rows([groups[i] for i in order], [labels[i] for i in order], seed)
    assert [sorted(order[i] for i in part) for part in other] == list(split)


@pytest.mark.parametrize("seed", range(5))
def test_thirteen_target_groups_or_one_large_user_give_usable_parts(seed):
    sizes = [1600, 1200, 1100, 900, 800, 700, 600, 550, 450, 400, 300, 250, 110]
    many = [3000, *[20] * 350]
    for group_sizes in (sizes, many):
        groups = [str(g) for g, n in enumerate(group_sizes) for _ in range(n)]
        labels = [int(i % 10 < 3 + g % 4) for g, n in enumerate(group_sizes) for i in range(n)]
        split = row_split.split_rows(groups, labels, seed)
        shares = np.array([len(part) for part in split]) / len(groups)
        assert np.abs(shares - SHARES).max() < 0.05
        toxic = [np.mean([labels[i] for i in part]) for part in split]
        assert max(toxic) - min(toxic) < 0.08


def test_one_group_with_all_toxic_rows_is_refused_with_its_size():
    groups = ["a"] * 80 + ["b"] * 10 + ["c"] * 10
    labels = [i % 2 for i in range(80)] + [0] * 20
    message = r"label 1: got 40 of 100.* in 1 groups, the largest of which has 80% of the rows"
    with pytest.raises(ConfigurationError, match=message):
        row_split.split_rows(groups, labels, 0)


def test_a_split_is_disjoint_complete_and_four_to_one_within_each_label():
    groups = [f"row {i}" for i in range(100)]
    labels = [int(i < 30) for i in range(100)]
    split = row_split.split_rows(groups, labels, seed=0)
    assert sorted(split.train + split.validation + split.test) == list(range(100))
    assert [len(part) for part in split] == [65, 15, 20]
    assert [sum(labels[i] for i in part) for part in split] == [20, 4, 6]


def test_the_split_depends_on_names_and_seed_and_not_on_the_order_of_rows():
    groups = [f"row {i}" for i in range(60)]
    labels = [i % 2 for i in range(60)]
    split = row_split.split_rows(groups, labels, 0)
    reverse = row_split.split_rows(groups[::-1], labels[::-1], 0)
    assert {groups[i] for i in split.test} == {groups[::-1][i] for i in reverse.test}
    assert row_split.split_rows(groups, labels, 1) != split


def test_the_halves_of_a_pair_stay_together():
    groups = [f"pair {i // 2}" for i in range(100)] + [f"single {i}" for i in range(50)]
    labels = [i % 2 for i in range(150)]
    split = row_split.split_rows(groups, labels, 0)
    assert [len(part) for part in split] == [64 + 32, 16 + 8, 20 + 10]
    train, validation, test = ({groups[i] for i in part} for part in split)
    assert not test & (train | validation) and not train & validation
    assert all(abs(sum(labels[i] for i in part) / len(part) - 0.5) < 0.03 for part in split)


def test_a_few_large_groups_that_differ_in_their_labels_are_split():
    groups = [f"user {i // 50}" for i in range(600)]
    labels = [int(i % 50 < 20 + i // 50) for i in range(600)]  # 20 to 31 toxic rows of 50
    split = row_split.split_rows(groups, labels, 0)
    assert [len(part) for part in split] == [400, 100, 100]
    assert all(0 < sum(labels[i] for i in part) < len(part) for part in split)
    train, validation, test = ({groups[i] for i in part} for part in split)
    assert not test & (train | validation) and not train & validation


def test_a_few_single_rows_of_a_class_are_refused():
    with pytest.raises(ConfigurationError, match=r"label 1: got 4 of 100, too few"):
        row_split.split_rows([str(i) for i in range(100)], [int(i < 4) for i in range(100)], 0)


def test_rows_of_one_class_are_refused_with_their_numbers():
    with pytest.raises(ConfigurationError, match=r"label 1: got 0 of 40"):
        row_split.split_rows([str(i) for i in range(40)], [0] * 40, 0)


@given(st.integers(12, 60), st.integers(4, 30), st.integers(0, 5))
def test_rows_of_a_test_file_are_the_test_rows_and_no_others(n_own, n_test, seed):
    labels = [i % 2 for i in range(n_own + n_test)]
    groups = [str(i) for i in range(n_own + n_test)]
    split = row_split.split_rows(groups, labels, seed, n_test=n_test)
    assert split.test == list(range(n_own, n_own + n_test))
    assert sorted(split.train + split.validation) == list(range(n_own))
    assert len(split.validation) == pytest.approx(n_own / 5, abs=2)
