import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from launcher.core.types import Check, Endpoint, GroupResult, Pause, Status, TaskResult
from launcher.report import page, samples
from launcher.stats.overview import RESERVED, ROWS
from tests.report.report_records import (
    CHECKS,
    HOSTILE,
    choice,
    failed_report,
    hostile,
    mixed,
    record,
    report,
    task_results,
    write_samples,
)

VOID = {"meta", "input", "br", "wbr"}


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, the visible text, the data."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.open, self.data, self.scripts = [], "", [], None, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ("", {})
        if inside[0] == "script" and inside[1].get("type") == "application/json":
            self.data = (self.data or "") + data
        elif inside[0] == "script":
            self.scripts.append(data)
        elif inside[0] != "style":
            self.text += data

    @property
    def words(self):
        return re.sub(r"\s+", " ", self.text)


def made(folder, rep, records=()):
    write_samples(folder, records)
    path = page.write(rep, folder)
    found = Page(path.read_text(encoding="utf-8"))
    assert not found.open
    return found


def test_the_page_says_what_the_run_found(tmp_path):
    records = [*mixed(200), choice(0, True), choice(1, False)]
    found = made(tmp_path, report(records, status="incomplete", reason="coverage 0.9 is below 0.95"), records)
    for text in ("tiny-gpt", "incomplete", "coverage 0.9 is below 0.95", "exact_match", "greedy repeats",
                 "3 passed, 1 not applicable", "generated tokens per second", "812.4", "p50", "evaluate",
                 "megatron-core", "0123456789abcdef", "limit: null", "bounds"):  # fmt: skip
        assert text in found.words
    assert [row["id"] for row in json.loads(found.data)] == [row.id for row in records]


def test_a_certificate_shows_what_went_wrong_and_what_it_does_not_cover(tmp_path):
    """What passed, and what no task needs, is shown on demand, and counted as the line above says."""
    checks = (
        *CHECKS,
        Check("echo", False, "no", 1.0, effect="scores are wrong", remedy="another server", requests=1, sent="{}"),
        Check("tools", None, "no task of this run needs it", unneeded=True),
    )
    found = made(tmp_path, report(status="invalid", checks=checks))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    parts = re.findall(r'<details class="group"( open)?><summary>(\d+ checks? [a-z ]+)', text)
    assert parts == [
        (" open", "1 check failed"),
        (" open", "1 check not applicable"),
        ("", "3 checks passed"),
        ("", "1 check not needed by these tasks"),
    ]
    assert "3 passed, 1 failed, 1 not applicable, 1 not needed by these tasks" in found.words
    assert "effect: scores are wrong; remedy: another server" in found.words
    assert re.findall(r'outcome-not-applicable">([a-z ]+)<', text) == ["not applicable", "not needed"]


def test_a_resumed_run_says_of_what_its_speed_is(tmp_path):
    records = mixed(20)
    whole = report(records)
    assert "was resumed" not in made(tmp_path, whole, records).words
    resumed = report(records, throughput={**whole.throughput, "earlier_samples": 12})
    found = made(tmp_path, resumed, records)
    assert (
        "This run was resumed. These figures are of the last session: 12 samples of earlier ones left out."
        in found.words
    )
    assert "earlier samples" not in found.words, "it is no figure of speed"


@pytest.mark.parametrize("status", page.VERDICTS)
def test_every_status_has_a_verdict(status, tmp_path):
    found = made(tmp_path, report(status=status))
    assert f"{status} {page.VERDICTS[status]}" in found.words


def test_the_page_needs_nothing_from_outside(tmp_path):
    found = made(tmp_path, report(mixed(20)), mixed(20))
    for tag, attributes in found.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert attributes.get("src") is None
        assert attributes.get("href", "#").startswith("#")
    source = (tmp_path / "report.html").read_text()
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|document\.write", source)


def test_only_our_own_script_may_run(tmp_path):
    found = made(tmp_path, report(hostile()), hostile())
    (policy,) = (a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found.scripts]
    assert len(hashes) == 2
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    assert f"script-src {allowed};" in policy
    assert "connect-src" not in policy
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)


def test_hostile_text_stays_text(tmp_path):
    rep = report(
        hostile(),
        reason=HOSTILE,
        endpoint=Endpoint("http://127.0.0.1:1/v1", HOSTILE, HOSTILE, "echo"),
        checks=(*CHECKS, Check(HOSTILE, False, HOSTILE + "\ud83d")),
        timings={HOSTILE: 1.0},
        run={"config": {"x": HOSTILE}, HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}},
        tasks={HOSTILE: next(iter(task_results(hostile()).values()))},
        engine={HOSTILE: [HOSTILE]},
        throughput={HOSTILE: 1.0},
    )
    found = made(tmp_path, rep, hostile())
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert "img" not in [tag for tag, _ in found.tags]
    assert HOSTILE in found.text
    assert "<" not in found.data
    rows = json.loads(found.data)
    assert rows[0]["prediction"] == HOSTILE
    assert rows[3]["prediction"] == hostile()[3].prediction
    assert rows[4]["prediction"] == hostile()[4].prediction
    assert rows[5]["prediction"] == "half a pair \ufffd"
    assert "characters left out" in rows[6]["prediction"]
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_the_key_of_the_endpoint_is_not_on_the_page(tmp_path):
    made(tmp_path, report(mixed(5)), mixed(5))
    assert "sk-secret" not in (tmp_path / "report.html").read_text()


def test_a_run_that_failed_before_evaluation_has_a_page(tmp_path):
    found = made(tmp_path, failed_report())
    for text in ("error The run failed", "[bold]no[/bold] such folder", "No endpoint became ready",
                 "No sample was scored", "Nothing was evaluated", "was not validated",
                 "There are no samples"):  # fmt: skip
        assert text in found.words
    assert found.data is None
    assert len(found.scripts) == 1


def test_a_run_without_anything_has_a_page(tmp_path):
    found = made(tmp_path, report(run={}, endpoint=None, engine={}, throughput={}, timings={}, checks=()))
    assert "Nothing was measured" in found.words


@pytest.mark.parametrize("mode", ["validate", "serve", "proxy"])
def test_a_run_that_evaluates_nothing_has_no_empty_scores(tmp_path, mode):
    found = made(tmp_path, report(run={"config": {"mode": mode}}))
    for heading in ("Scores", "Coverage", "Samples"):
        assert heading not in found.words
    assert "Certificate" in found.words


def test_a_run_in_which_nothing_was_scored_has_a_page(tmp_path):
    records = [record(number, Status.failed, latency_s=0.0) for number in range(5)]
    found = made(tmp_path, report(records), records)
    assert "0 of 5 scored (0 %)" in found.words
    assert "No sample was scored" in found.words
    assert "histogram" not in {attributes.get("class") for _, attributes in found.tags}


def test_the_page_says_why_samples_were_lost(tmp_path):
    lost = TaskResult({}, {"scored": 0, "refused": 3, "total": 3}, {"refused": {"HTTP 400: <b>no</b>": 3}})
    found = made(tmp_path, report(tasks={"t": lost}))
    assert "refused 3 times: HTTP 400: <b>no</b>" in found.words


def test_samples_that_were_not_reached_are_shown(tmp_path):
    found = made(tmp_path, report(status="interrupted", tasks=task_results(mixed(10), unreached=90)), mixed(10))
    assert "not asked 90" in found.words
    assert "waited for the server" not in found.words


def test_pauses_are_listed(tmp_path):
    pauses = [Pause("2026-01-31T12:00", 12.5, "<b>the server restarts</b>"), Pause("later", 1.5, "refused")]
    found = made(tmp_path, report(mixed(10), pauses=pauses), mixed(10))
    for text in ("waited for the server 2 times, 14.0 s in all", "2026-01-31T12:00", "<b>the server restarts</b>"):
        assert text in found.words


def test_a_page_of_many_samples_holds_some_and_says_which(tmp_path):
    records = mixed(10_000)
    lost = sum(row.status is not Status.scored for row in records)
    found = made(tmp_path, report(records), records)
    wrong = sum(row.status is Status.scored and row.scores["exact_match"] == 0 for row in records)
    assert len(json.loads(found.data)) == ROWS
    assert (
        f"This page holds 2,000 of the 10,000 samples: {lost} of the {lost} not scored, "
        f"{ROWS - lost - RESERVED:,} of the {wrong:,} wrong, "
        f"{RESERVED} of the {10_000 - lost - wrong:,} right or partly right, "
        "the first of each in the order of the file. All of them are in samples.jsonl beside it."
    ) in found.words


def test_a_page_of_samples_that_were_read_before_is_the_same_and_of_a_changed_file_is_new(tmp_path):
    records = mixed(20)
    first = made(tmp_path, report(records), records).data
    overview = samples.gather(tmp_path)
    page.write(report(records), tmp_path, overview)
    assert first in (tmp_path / "report.html").read_text()
    write_samples(tmp_path, mixed(12, seed=1))
    page.write(report(records), tmp_path, overview)
    assert "This page holds" not in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.html").read_text().count('"task":') == 12


def test_answers_without_token_counts_are_mentioned(tmp_path):
    found = made(tmp_path, report(throughput={"requests": 9, "without_usage": 3, "wall_s": 1.5}))
    assert "3 answers came without token counts" in found.words
    assert "without usage" not in found.words


def test_embedded_json_cannot_leave_its_script():
    assert page.embed(['"</script>&\u2028"', "1"]) == '["\\u003c/script\\u003e\\u0026\\u2028",\n1]'


def test_the_members_of_a_group_are_shown_with_the_weakest_first(tmp_path):
    values = {"b": 0.9, "a": 0.2, "c": 0.5}
    one = next(iter(task_results(mixed(50)).values()))
    metric = next(iter(one.metrics.values()))
    tasks = {name: replace(one, metrics={"acc": replace(metric, value=value)}) for name, value in values.items()}
    tasks["none"] = replace(one, metrics={})
    group = GroupResult(tuple(tasks), "size", (), one)
    found = made(tmp_path, report(tasks=tasks, groups={"stem": group}))
    assert "stem: 4 members, the weakest first" in found.words
    members = found.words.partition("the weakest first")[2]
    assert [members.index(f" {name} acc") for name in ("a", "c", "b")] == sorted(
        members.index(f" {name} acc") for name in values
    )


def test_a_group_without_a_score_shows_the_scores_of_its_members(tmp_path):
    one = next(iter(task_results(mixed(50)).values()))
    lost = TaskResult({}, {"scored": 0, "failed": 3, "total": 3})
    group = GroupResult(("a", "b"), "size", ("b",), replace(one, metrics={}))
    found = made(tmp_path, report(tasks={"a": one, "b": lost, "alone": lost}, groups={"stem": group}))
    assert "No sample was scored" not in found.words
    assert "There is no score of alone." in found.words
    assert "It has no score, as there is none of b" in found.words
    assert f"a {next(iter(one.metrics))}" in found.words.partition("the weakest first")[2]


def test_a_group_of_groups_comes_before_its_members_and_names_break_between_words(tmp_path):
    one = next(iter(task_results(mixed(50)).values()))
    groups = {"stem": GroupResult(("stem_physics",), "size", (), one), "all": GroupResult(("stem",), "size", (), one)}
    found = made(tmp_path, report(tasks={"stem_physics": one}, groups=groups))
    assert found.words.index("all: 1 member") < found.words.index("stem: 1 member")
    assert "stem_<wbr>physics" in (tmp_path / "report.html").read_text()


def test_a_group_in_which_nothing_was_scored_has_no_empty_table(tmp_path):
    lost = TaskResult({}, {"scored": 0, "failed": 3, "total": 3})
    found = made(tmp_path, report(tasks={"a": lost}, groups={"stem": GroupResult(("a",), "size", ("a",), lost)}))
    assert "No sample was scored" in found.words
    assert "standard error" not in found.words


def test_categories_are_shown_with_the_weakest_first(tmp_path):
    one = next(iter(task_results(mixed(50)).values()))
    metric = next(iter(one.metrics.values()))
    values = {"algebra": 0.9, HOSTILE: 0.2}
    categories = {name: replace(one, metrics={"acc": replace(metric, value=value)}) for name, value in values.items()}
    found = made(tmp_path, report(tasks={"a": replace(one, categories=categories)}))
    _, _, shown = found.words.partition("a: 2 categories, the weakest first")
    assert 0 < shown.index("document.title='owned'") < shown.index("algebra")
    assert "categories" not in made(tmp_path, report(tasks={"a": one})).words
