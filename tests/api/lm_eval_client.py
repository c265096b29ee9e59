"""lm-evaluation-harness's own client for completions."""

from __future__ import annotations


def ask(url: str, model: str, ends: list[str]) -> tuple[list[tuple[float, bool]], list[str]]:
    """Ask with the client that lm-eval's users have: how likely ends are, and what comes."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    client = LocalCompletionsAPI(
        model=model, base_url=f"{url}/completions", tokenizer_backend="remote", num_concurrent=2, max_length=64
    )
    likely = [Instance("loglikelihood", {}, ("12+34=", end), n) for n, end in enumerate(ends)]
    wanted = {"until": ["\n"], "max_gen_toks": 8, "temperature": 0}
    generated = [Instance("generate_until", {}, (prompt, wanted), n) for n, prompt in enumerate(("12+34=", "2+2="))]
    return client.loglikelihood(likely, disable_tqdm=True), client.generate_until(generated, disable_tqdm=True)
