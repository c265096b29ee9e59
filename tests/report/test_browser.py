"""The table of samples in a real browser, where there is one."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from launcher.core.records import to_line
from launcher.core.types import Status
from launcher.report import page
from tests.report.report_records import HOSTILE, RUN, choice, hostile, mixed, record, report, write_samples

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--virtual-time-budget=5000",
)  # fmt: skip

DRIVER = """<script>
const set = (id, value, kind) => {
  const at = document.getElementById(id);
  at.value = value;
  at.dispatchEvent(new Event(kind));
};
const count = () => document.getElementById("count").textContent;
const seen = [count()];
%s
document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
</script>"""


def shown(folder, records, steps=""):
    """Open the page, run ``steps`` in it (which may add to ``seen``), and return what it shows."""
    write_samples(folder, records)
    run = {**RUN, "overrides": ["tasks=[addition]", "evaluate.limit=a b"]}
    path = page.write(report(records, run=run), folder)
    text = path.read_text(encoding="utf-8")
    if steps:
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        path.write_text(text.replace("</body>", DRIVER % steps + "</body>"), encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode("utf-8", "replace")


def seen(document):
    found = re.search(r'data-seen="([^"]*)"', document).group(1)
    return json.loads(found.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def test_our_script_runs_under_the_policy_and_hostile_text_does_not(tmp_path):
    document = shown(tmp_path, hostile())
    assert document.count('class="sample"') == len(hostile())
    assert "<title>tiny-gpt: ok</title>" in document
    assert "<img" not in document


def test_filters_search_order_and_pages(tmp_path):
    records = [*mixed(300), *(choice(number, number % 2 == 0) for number in range(20))]
    document = shown(
        tmp_path,
        records,
        """
        document.getElementById("next").click(); seen.push(count());
        set("filter-task", "facts", "change"); seen.push(count());
        set("filter-answer", "wrong", "change"); seen.push(count());
        set("filter-task", "", "change"); set("filter-answer", "", "change"); set("filter-status", "failed", "change");
        seen.push(count());
        set("filter-status", "", "change"); set("order", "latency", "change");
        seen.push(document.querySelector(".c-latency .text").textContent);
        set("search", "WHAT IS 123 PLUS", "input"); setTimeout(() => {
          seen.push(count(), document.querySelector(".c-question .text").textContent);
          document.documentElement.setAttribute("data-seen", JSON.stringify(seen));
        }, 400);
        """,
    )
    failed = sum(row.status.value == "failed" for row in records)
    slowest = max(row.latency_s for row in records)
    assert seen(document) == [
        "1 to 50 of 320 samples",
        "51 to 100 of 320 samples",
        "1 to 20 of 20 matching samples",
        "1 to 10 of 10 matching samples",
        f"1 to {failed} of {failed} matching samples",
        f"{slowest:.1f} s",
        "1 to 1 of 1 matching samples",
        "What is 123 plus 7?",
    ]


def test_a_sample_opens_and_closes(tmp_path):
    document = shown(
        tmp_path,
        [choice(0, True), *hostile()],
        """
        set("order", "", "change");
        const buttons = [...document.querySelectorAll(".toggle")];
        seen.push(document.querySelector(".c-question .text").textContent);
        seen.push(document.querySelector(".c-prediction .text").textContent);
        buttons[0].click(); seen.push(document.querySelectorAll("pre.asked").length);
        seen.push(...[...document.querySelectorAll(".expanded pre:not(.asked)")].map((pre) => pre.textContent));
        buttons[0].click(); seen.push(document.querySelectorAll("pre.asked").length);
        buttons[1].click(); seen.push(document.querySelector("pre.answered").textContent);
        seen.push(buttons[1].getAttribute("aria-expanded"));
        """,
    )
    assert seen(document)[1:] == [
        "Question 0: the capital of France is",
        "Paris",
        3,
        "(the prompts, echoed; the log-probabilities are in the raw response)",
        "Paris",
        "Paris",
        0,
        HOSTILE,
        "true",
    ]
    assert "<title>tiny-gpt: ok</title>" in document


def test_wrong_answers_come_first_and_choices_are_a_table(tmp_path):
    document = shown(
        tmp_path,
        [choice(0, True), record(1, Status.failed), choice(2, False)],
        """
        const first = document.querySelector(".toggle");
        first.click();
        for (const row of document.querySelectorAll(".choices tbody tr"))
          seen.push([...row.cells].map((cell) => cell.textContent).join("|"));
        seen.push(...[...document.querySelectorAll(".sample .chip")].map((chip) => chip.textContent));
        const copied = document.querySelector("[data-copy]");
        seen.push(copied.hidden, document.getElementById(copied.dataset.copy).textContent);
        """,
    )
    assert seen(document)[1:] == [
        "Paris|-3.750|9.0 %|right",
        "Rome|-2.750|24.5 %|",
        "Oslo|-1.750|66.5 %|predicted",
        *("wrong", "failed", "right"),
        *(False, "launcher 'tasks=[addition]' 'evaluate.limit=a b'"),
    ]


def test_texts_that_a_line_has_once_are_whole_in_the_table(tmp_path):
    start = "Which of these is it? " * 20
    prompts = [start + end for end in ("one", "two")]
    logprobs = {"tokens": [start, "x", "!"], "text_offset": [0, len(start), len(start) + 1], "merged_tokens": 7}
    choices = [{"index": i, "text": f"{prompt}!", "logprobs": logprobs} for i, prompt in enumerate(prompts)]
    echoed = choice(0, True)
    body = echoed.requests[0]["body"] | {"prompt": prompts}
    ids = body | {"prompt": [[*range(300), i] for i in (1, 2)]}
    requests = {"texts": body, "ids": ids}
    records = [
        replace(echoed, id=name, requests=({"path": "/v1", "body": each},), responses=({"choices": choices},))
        for name, each in requests.items()
    ]
    assert all(b'"shared"' in to_line(one) for one in records)
    document = shown(
        tmp_path,
        records,
        """
        const buttons = [...document.querySelectorAll(".toggle")];
        for (const button of buttons) {
          button.click();
          seen.push([...document.querySelectorAll("pre")].map((pre) => pre.textContent));
          button.click();
        }
        """,
    )
    texts, tokens = seen(document)[1:]
    assert set(prompts) <= set(texts)
    assert "(the prompts, echoed" in "".join(texts)
    assert json.dumps(start)[1:-1] in "".join(tokens)
    assert "298,299,2]" in "".join(tokens)
