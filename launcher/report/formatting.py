"""How values, intervals, durations are written for a reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from launcher.core.types import Json, MetricResult, Pause, Report, Status, TaskResult

NOT_SCORED = tuple(status.value for status in Status if status is not Status.scored)
"""The four ways in which a sample does not reach a metric, in the order in which they are shown."""


FROM_POWERS = 1e7
"""Numbers from here on are written with a power of ten: a word perplexity may have twenty digits."""


def task_name(key: str) -> str:
    """Write a task's key in a run as its option: ``lm_eval_arc_easy`` is ``lm_eval/arc_easy``."""
    prefix = next((prefix for prefix in ("lm_eval", "harness") if key.startswith(f"{prefix}_")), None)
    return f"{prefix}/{key.removeprefix(f'{prefix}_')}" if prefix else key


def number(value: Json) -> str:
    """Write a number with four significant digits, three decimals for what lies in [-1, 1], ``-`` for none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) <= 1:
        return f"{value:.3f}"
    if abs(value) >= FROM_POWERS:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def signed(value: Json) -> str:
    """Write a difference with its sign, also that of a rise."""
    return ("+" if isinstance(value, int | float) and value > 0 else "") + number(value)


def p_value(value: float) -> str:
    """Write a p-value; very small ones as a bound."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.01 else f"{value:.2f}"


def interval(low: Json, high: Json) -> str:
    """Write an interval as ``[low, high]``, ``-`` when an end of it is not known."""
    ends = number(low), number(high)
    return "-" if "-" in ends else f"[{ends[0]}, {ends[1]}]"


def duration(seconds: float) -> str:
    """Write seconds in the unit that reads best: ``12 ms``, ``3.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 or seconds == 0 else f"{seconds * 1000:.1g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(text: Json) -> str:
    """Write a time of ISO 8601 to the minute: ``2026-12-01 03:53 UTC``; empty for what is none."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return ""
    zone = found.tzname() or ""
    return f"{found:%Y-%m-%d %H:%M} {zone}".strip()


def short_time(seconds: float) -> str:
    """Write a time as `duration` does, below 10 ms with one decimal: ``1.3 ms``."""
    return f"{1000 * seconds:.1f} ms" if 0 < seconds < 0.01 else duration(seconds)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: ``1 sample``, ``1,200 samples``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(part: int, whole: int) -> str:
    """Write a share in percent, never rounded to 0 or 100 unless it is that."""
    share = 100 * part / whole
    return f"{share:.0f} %" if part in (0, whole) else f"{min(99.9, max(0.1, share)):.1f} %"


def lost(coverage: Mapping[str, int]) -> dict[str, int]:
    """Return the statuses other than scored that occurred, with their counts, in a fixed order."""
    return {status: coverage[status] for status in NOT_SCORED if coverage.get(status)}


def total(coverage: Mapping[str, int]) -> int:
    """Return the number of samples that a task has, whether or not all of them were reached."""
    return coverage.get("total", sum(coverage.get(status.value, 0) for status in Status))


def early_stops(report: Report) -> list[str]:
    """Say for each population that was drawn at random how many questions its verdict needed."""
    every = {
        result.early_stop["population"]: result.early_stop for result in report.results.values() if result.early_stop
    }
    return [early_stop(told) for told in every.values()]


def early_stop(told: Mapping[str, Json]) -> str:
    """Say how many questions were asked of a task or group that may stop early, and what that means."""
    name, asked, total = task_name(told["population"]), told["asked"], told["total"]
    if not told["decided"]:
        return f"{name}: {asked:,} of {total:,} questions asked so far, in random order"
    spared = plural(total - asked, "question")
    return (
        f"{name}: {asked:,} of {total:,} questions asked, the rest is not needed: {spared} saved. "
        f"The {told['level']:.0%} interval is for all {total:,}, and valid however often one looks"
    )


def not_asked(coverage: Mapping[str, int]) -> int:
    """Return how many samples have no status at all: an interrupted or stopped run has no answer for them."""
    return max(0, total(coverage) - sum(coverage.get(status.value, 0) for status in Status))


def complete(coverage: Mapping[str, int]) -> bool:
    """Tell whether every sample was scored, so that a metric needs no bounds."""
    return coverage.get(Status.scored.value, 0) == total(coverage)


def answers_from(source: Mapping[str, Json]) -> str:
    """Say where answers come from that were scored again; empty for a run that asked them."""
    if not source:
        return ""
    return f"from {source['folder']}, asked at {source['asked_at'] or 'an unknown time'}, and scored again now"


def earlier_values(report: Report) -> list[str]:
    """Return a line for each metric whose value was another one before its answers were scored again.

    It says of how many samples each is, if these are not as many.
    """
    source: Mapping[str, Json] = report.run.get("answers_from") or {}
    return [
        f"{task_name(task)} {metric}: {'not measured' if before is None else number(before)} before{old}, "
        f"{number(now.value)} now{new}"
        for task, result in report.tasks.items()
        for metric, now in result.metrics.items()
        for before in [(source.get("values") or {}).get(task, {}).get(metric)]
        for old, new in [_of_samples(None if before is None else (source.get("scored") or {}).get(task), result)]
        if source and before != now.value
    ]


def _of_samples(before: int | None, result: TaskResult) -> tuple[str, str]:
    """Say of how many samples a value was, and is; nothing where they are as many, or where it is not known."""
    now = result.coverage.get(Status.scored.value, 0)
    if before is None or before == now:
        return "", ""
    return f" (of {plural(before, 'sample')})", f" (of {plural(now, 'sample')})"


def item_changes(changes: Mapping[str, Mapping[str, int]]) -> str:
    """Return what became of the samples of tasks whose items have changed since the run began."""
    return "; ".join(
        f"{name} changed: {counts['kept']} kept, {counts['asked_again']} asked again, {counts['removed']} removed"
        for name, counts in changes.items()
    )


def failed_exchanges(found: Mapping[str, Json]) -> str:
    """Return where the requests and answers of failed samples are; empty without any."""
    return f"{plural(found['samples'], 'sample')} with requests and answers in {found['folder']}/" if found else ""


def adapter_failures(failures: Mapping[str, Mapping[str, Json]]) -> str:
    """Return how often adapters failed without failing a request, and the first error of each."""
    return "; ".join(
        f"{name} failed {plural(entry['count'], 'time')}, first: {entry['first']}" for name, entry in failures.items()
    )


def adapter_parameters(imposed: Sequence[str]) -> str:
    """Return the parameters that adapters change in every request; empty without any."""
    return f"in every request: {', '.join(imposed)}" if imposed else ""


def cost(budget: Mapping[str, Json]) -> str:
    """Say what all sessions cost, with the share of each endpoint where there are several."""
    money = f" for {budget['usd']:.4f} USD" if budget["usd"] else ""
    parts = found if len(found := budget.get("endpoints", {})) > 1 else {}
    shares = [
        f"{name} {found['prompt_tokens'] + found['completion_tokens']:,} tokens, {found['usd']:.4f} USD"
        for name, found in parts.items()
    ]
    return f"{budget['tokens']:,} tokens{money} in all sessions" + (f" ({'; '.join(shares)})" if shares else "")


def events(health: Mapping[str, Json]) -> str:
    """Return how many events the monitor saw, and the last one; empty without any."""
    seen = health.get("events")
    if not seen:
        return ""
    return f"{plural(len(seen) + health['left_out'], 'event')}; last: {seen[-1]['event']}"


RATES = {
    "scored_prompts_per_s": "prompts scored/s",
    "generated_tokens_per_s": "generated tokens/s",
    "prompt_tokens_per_s": "prompt tokens/s",
    "requests_per_s": "requests/s",
}
TOKEN_TIMES = {"ttft_s": "time to first token", "tpot_s": "time per token"}
NO_TOKEN_TIMES = "time to first token not measured: the server does not say it"


def rates(throughput: Mapping[str, Json]) -> dict[str, str]:
    """Return the rates that say something of an evaluation, with their words.

    Where prompts were scored and nothing was generated, the one token of each such answer is no rate.
    """
    left_out = set() if throughput.get("generations", 1) else {"generated_tokens_per_s"}
    return {key: words for key, words in RATES.items() if throughput.get(key) and key not in left_out}


def resumed(throughput: Mapping[str, Json]) -> str:
    """Say which samples the speed of a resumed run leaves out; empty for a run of one session."""
    earlier = throughput.get("earlier_samples")
    return f"of the last session: {plural(earlier, 'sample')} of earlier ones left out" if earlier else ""


def rate_table(speeds: Sequence[Mapping[str, Json]]) -> tuple[list[str], list[list[str]]]:
    """Return the words of the rates that any of several evaluations has, and the figures of each evaluation."""
    known = [rates(speed) for speed in speeds]
    keys = [key for key in RATES if any(key in one for one in known)]
    figures = [
        [number(speed[key]) if key in one else "-" for key in keys] for speed, one in zip(speeds, known, strict=True)
    ]
    return [RATES[key] for key in keys], figures


def spent(speeds: Sequence[Mapping[str, Json]]) -> tuple[list[str], list[list[str]]]:
    """Return the words for what several evaluations cost, and the figures of each: its tokens, and money if known."""
    tokens = [_tokens(speed) for speed in speeds]
    money = [(speed.get("budget") or {}).get("usd") for speed in speeds]
    rows = [[f"{one:,}" if one else "-", f"{usd:.4f}" if usd else "-"] for one, usd in zip(tokens, money, strict=True)]
    heads = ["tokens", "USD"] if any(money) else ["tokens"] if any(tokens) else []
    return heads, [row[: len(heads)] for row in rows]


def _tokens(speed: Mapping[str, Json]) -> int:
    """Return the tokens of prompts and answers: of all sessions where there is a budget, else of the answers here."""
    counted = (speed.get("budget") or {}).get("tokens")
    return int(counted or (speed.get("prompt_tokens") or 0) + (speed.get("generated_tokens") or 0))


def token_times(throughput: Mapping[str, Json]) -> list[str]:
    """Say when generated answers had their tokens, or that this was not measured; empty where nothing was generated."""
    if not throughput.get("generations"):
        return []
    said = [f"{words} {_p50_p99(throughput[key])}" for key, words in TOKEN_TIMES.items() if throughput.get(key)]
    source = next((found["source"] for key in TOKEN_TIMES if (found := throughput.get(key)) and "source" in found), "")
    return [*said, *([f"these times are from {source}"] if source else [])] or [NO_TOKEN_TIMES]


def _p50_p99(found: Mapping[str, Json]) -> str:
    return " ".join(f"{name} {short_time(found[name])}" for name in ("p50", "p99") if found.get(name) is not None)


def paused(pauses: Sequence[Pause]) -> str:
    """Write how long an evaluation waited for its server, and the last reason; empty if it never did."""
    if not pauses:
        return ""
    total_s, last = sum(pause.seconds for pause in pauses), pauses[-1].reason
    return f"{plural(len(pauses), 'time')}, {duration(total_s)} in all; {'last: ' * (len(pauses) > 1)}{last}"


def bounded(metric: MetricResult) -> bool:
    """Tell whether the bounds of a metric say more than its value."""
    return math.isfinite(metric.low) and math.isfinite(metric.high) and metric.low < metric.high


def harness(facts: Mapping[str, Json]) -> str:
    """Say what a harness did; empty for a task of the launcher's own."""
    if not facts:
        return ""
    done = f"{plural(facts['requests'], 'completion')} in {duration(facts['seconds'])}, exit code {facts['exit_code']}"
    return f"{done}: {' '.join(facts['command'])}"


def is_uncounted(harness: Mapping[str, Json]) -> bool:
    """Tell whether a harness has a result and does not say of how many samples."""
    return harness.get("samples", 0) is None and "source" in harness


def retried(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line for each kind of samples that had a second attempt."""
    extra = {"truncated": ", with more tokens"}
    return [
        f"{plural(found['asked'], f'{kind} sample')} asked once more{extra.get(kind, '')}; {found['scored']:,} scored"
        for kind, found in counts.items()
    ]
