from __future__ import annotations

import pytest

from launcher.tasks.loglikelihood import NoLogprobs, loglikelihood

PROMPT = "Question: x\nAnswer: dog"
START = PROMPT.index(" dog")


def choice(tokens, values, text=None, offsets=None):
    text = "".join(tokens) if text is None else text
    if offsets is None:
        offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
    return {"text": text, "logprobs": {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}}


def test_the_tokens_of_the_continuation_are_summed_and_the_generated_one_is_not():
    tokens = ["Question", ": x\n", "Answer:", " d", "og", "!"]
    answer = choice(tokens, [None, -1.0, -2.0, -4.0, -8.0, -16.0])
    assert loglikelihood(answer, PROMPT, START) == -12.0


def test_a_token_across_the_border_counts():
    answer = choice(["Question: x\nAnswer", ": do", "g", "!"], [None, -1.0, -2.0, -4.0])
    assert loglikelihood(answer, PROMPT, START) == -3.0


def test_a_generated_token_without_text_does_not_count():
    answer = choice(["Question: x\nAnswer:", " dog", ""], [None, -1.0, -9.0])
    assert loglikelihood(answer, PROMPT, START) == -1.0


def test_a_special_first_token_without_text():
    answer = choice(["", "Question: x\nAnswer:", " dog", "!"], [None, -7.0, -1.0, -9.0])
    assert loglikelihood(answer, PROMPT, START) == -1.0


def test_characters_cut_into_tokens_of_bytes():
    prompt, values = "né été", [None, -1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0, -128.0, -256.0]
    offsets = [0, 1, 1, 2, 3, 3, 4, 5, 5, 6]
    answer = {"text": prompt + "!", "logprobs": {"token_logprobs": values, "text_offset": offsets}}
    assert loglikelihood(answer, prompt, 3) == -(8 + 16 + 32 + 64 + 128)
    assert loglikelihood(answer, prompt, 2) == -(4 + 8 + 16 + 32 + 64 + 128)


WHOLE = ["Question: x\nAnswer:", " dog", "!"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (choice(["!"], [-1.0]), "ignores 'echo'"),
        (choice(["Answer: dog", "!"], [None, -1.0]), "ignores 'echo'"),
        ({"text": PROMPT + "!"}, "no 'logprobs'"),
        ({"text": PROMPT + "!", "logprobs": None}, "no 'logprobs'"),
        ({"text": None}, "ignores 'echo'"),
        (choice(WHOLE, [None, -1.0]), "same length"),
        (choice(WHOLE, None), "lists"),
        (choice(["!"], [-1.0], text=PROMPT + "!", offsets=[len(PROMPT)]), "first token"),
        (choice(["dog", "!"], [-1.0, -2.0], text=PROMPT + "!", offsets=[START, len(PROMPT)]), "first token"),
        (choice(["!"], [-1.0], text=PROMPT + "!", offsets=[0]), "beyond the prompt"),
        (choice([], [], text=PROMPT), "first token"),
        (choice(WHOLE, [None, None, -1.0]), "finite"),
        (choice(WHOLE, [None, float("nan"), -1.0]), "finite"),
        (choice(WHOLE, [None, float("-inf"), -1.0]), "finite"),
    ],
)
def test_an_answer_without_the_prompts_logprobs_is_refused(answer, reason):
    with pytest.raises(NoLogprobs, match=reason):
        loglikelihood(answer, PROMPT, START)


def test_a_continuation_without_context_has_no_likelihood():
    with pytest.raises(NoLogprobs, match="finite"):
        loglikelihood(choice(WHOLE, [None, -1.0, -1.0]), PROMPT, 0)
