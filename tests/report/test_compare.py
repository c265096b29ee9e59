import math
import random

import pytest

from launcher.core.types import Status
from launcher.report import compare, results
from launcher.stats.paired import holm, t_test
from tests.report.report_records import choice, record, report, write_samples


def answers(folder, records):
    write_samples(folder, records)
    return compare.Answers.read(folder, results.to_json(report(records))["tasks"])


def run(folder, right):
    return answers(folder, [record(number, right=number in right) for number in range(20)])


def both(tmp_path, a, b, metric="exact_match"):
    one, other = [(name, answers(tmp_path / name, records)) for name, records in (("a", a), ("b", b))]
    return compare.compare(one, other, "addition", metric)


def test_two_runs_are_compared_question_by_question(tmp_path):
    a, b = run(tmp_path / "a", set(range(10))), run(tmp_path / "b", set(range(2, 18)))
    found = compare.compare(("a", a), ("b", b), "addition", "exact_match")
    assert (found.n, found.left_out, found.test) == (20, 0, "sign")
    assert found.difference == pytest.approx(0.3)
    differences = [-1.0] * 2 + [1.0] * 8 + [0.0] * 10
    expected = math.sqrt(sum((x - 0.3) ** 2 for x in differences) / 19 / 20)
    assert found.stderr == pytest.approx(expected)
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 2**10)


def test_only_questions_scored_in_both_are_paired(tmp_path):
    a = [record(1), record(2), record(3, Status.failed), record(4)]
    b = [record(1), record(2, Status.truncated), record(3), record(5)]
    found = both(tmp_path, a, b)
    assert (found.n, found.left_out) == (1, 4)
    assert found.stderr is None
    assert found.p == 1


def test_the_same_id_with_another_target_is_another_question(tmp_path):
    found = both(tmp_path, [record(1), record(2)], [record(1, target="other"), record(2)])
    assert (found.n, found.left_out) == (1, 1)


def test_repeats_count_as_one_question(tmp_path):
    a = [record(number, repeat=repeat, right=repeat == 0) for number in range(4) for repeat in range(2)]
    b = [record(number, repeat=repeat, right=number != 1) for number in range(4) for repeat in range(2)]
    found = both(tmp_path, a, b)
    assert (found.n, found.test) == (4, "t")
    assert found.difference == pytest.approx((0.5 - 0.5 + 0.5 + 0.5) / 4)


def test_nothing_in_common_is_no_comparison(tmp_path):
    assert both(tmp_path, [record(1)], [record(2)]) is None
    assert both(tmp_path, [record(1)], []) is None


def test_a_folder_without_samples_holds_no_answer(tmp_path):
    assert compare.Answers.read(tmp_path / "none", {}).ids == {}


def test_other_values_use_the_t_test(tmp_path):
    draw = random.Random(3)
    a = [record(number, scores={"bleu": draw.random()}) for number in range(30)]
    b = [record(number, scores={"bleu": draw.random() + 0.3}) for number in range(30)]
    found = both(tmp_path, a, b, "bleu")
    assert found.test == "t"
    assert found.p == pytest.approx(t_test(found.difference / found.stderr, 29))


def test_a_constant_difference_is_not_infinitely_significant(tmp_path):
    a = [record(number, scores={"bleu": 0.1}) for number in range(2)]
    b = [record(number, scores={"bleu": 0.2}) for number in range(2)]
    found = both(tmp_path, a, b, "bleu")
    assert (found.test, found.p) == ("sign", 0.5)


def test_all_pairs_of_runs_share_one_correction(tmp_path):
    runs = {
        name: answers(tmp_path / name, [*(record(i, right=i < right) for i in range(40)), choice(0, True)])
        for name, right in (("a", 10), ("b", 20), ("c", 40))
    }
    found = compare.compare_all(runs)
    assert [(item.a, item.b, item.metric) for item in found][:3] == [
        ("a", "b", "exact_match"),
        ("a", "b", "acc"),
        ("a", "b", "acc_norm"),
    ]
    assert len(found) == 9
    assert [item.p_holm for item in found] == holm([item.p for item in found])
    assert [item.significant for item in found if item.metric == "exact_match"] == [True, True, True]
    assert not any(item.significant for item in found if item.metric != "exact_match")
