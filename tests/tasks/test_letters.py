"""The letter of an answer is read as people and models write it, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.tasks.letters import letter_of
from tests.fuzzing import examples

CHOICES = ["a cat", "Paris", "Rome", "42"]
READ = {
    "A": [
        "A",
        "a",
        "A.",
        "(A)",
        "The answer is A.",
        "The answer is A because it is.",
        "The answer is A, a cat.",
        "A cat",
        "I pick A",
        "A - the first",
        "a cat",
    ],
    "B": [
        "B",
        "b",
        "(b)",
        "B.",
        "**B**",
        "B!",
        '"B"',
        "'B'",
        "[B]",
        "The answer is B",
        "\\boxed{B}",
        "The answer is (B).",
        "Answer: B",
        "**Answer: B**",
        "The correct answer is **B. Paris**.",
        "B) Paris",
        "(B) Paris",
        "B: Paris",
        "B. Paris",
        "B, because it is big",
        "B - Paris",
        "B\n\nBecause",
        "Let me think.\n\nB",
        "Reasons...\n\n**B**",
        "$\\boxed{\\text{B}}$",
        "\\boxed{\\text{(B)}}",
        "Option B is correct",
        "(A) is wrong, (B) is right",
        "Option A is incorrect. Option B is correct.",
        "If the answer is A then no. So the answer is B.",
        "The answer is A. Wait, the answer is B.",
        "I choose B.",
        "Paris",
        "paris.",
        "**Paris**",
        "答案是B",
        "答案：B",
        "Die Antwort ist B.",
        "La respuesta es B",
        "La réponse est B.",
        "\uff22",
        "The answer is option B",
        "Answer\nB",
        "Answer is B",
        "B is the correct answer.",
        "I am sure. It's B.",
        "The capital is Paris (B).",
        "The answer is B) Paris",
        "The answer is B: Paris.",
        "The answer is \\(B\\).",
        "B Paris",
        "Choice B.",
        "A cat is (B)",
        "The answer is **B**, Paris.",
    ],
    "C": [
        "I would go with C.",
        "The right one is (C), as said.",
        "Final answer: C",
        "Correct choice: C",
        "The final answer is: \n\n**C) Rome**",
        "The answer is\\boxed{C}.",
        "A. a cat\nB. Paris\nC. Rome\n\nC",
    ],
    "D": [
        "42",
        "The best answer is therefore (D).",
        "Therefore, the answer is $\\boxed{D}$",
        "\\boxed{A} or rather \\boxed{D}",
    ],
}
NOT_READ = [
    "",
    "A dog",
    "A dog is what it is.",
    "The answer is A cat",
    "The answer is a dog",
    "A or B",
    "A and B",
    "A, B",
    "A/B",
    "B, C",
    "B; C",
    "(A) and (B)",
    "Both A and C are correct.",
    "The answer is A or B",
    "The answer is A and B.",
    "Answer: A, B and C",
    "The answer is E",
    "E",
    "E.",
    "\\boxed{E}",
    "\\boxed{A, B}",
    "None of the above",
    "I don't know",
    "I",
    "I think so",
    "Vitamin C",
    "The answer is vitamin C",
    "It is not B.",
    "The answer isn't B",
    "It is C major",
    "(A) no, (C) maybe",
    "A. a cat B. Paris",
    "A: a cat\nB: Paris",
    "C Paris",
    "What is it?\nA. a cat\nB. Paris\nC. Rome\nD. 42\nAnswer with the letter of the right choice.",
]


@pytest.mark.parametrize(("letter", "answer"), [(letter, text) for letter, texts in READ.items() for text in texts])
def test_a_letter_is_read(letter, answer):
    assert letter_of(answer, CHOICES) == ord(letter) - ord("A")


@pytest.mark.parametrize("answer", NOT_READ)
def test_what_names_no_choice_is_not_read(answer):
    assert letter_of(answer, CHOICES) is None


def test_the_letter_goes_before_the_text_of_a_choice():
    assert letter_of("B", ["B", "A"]) == 1
    assert letter_of("same", ["same", "Same"]) is None


@settings(max_examples=examples(60), deadline=None)
@given(st.text(max_size=200), st.sampled_from("ABCD"))
def test_any_text_is_read_or_not_without_an_error(text, letter):
    assert letter_of(text, CHOICES) in (None, 0, 1, 2, 3)
    assert letter_of(f"The answer is {letter}.", CHOICES) == "ABCD".index(letter)


@pytest.mark.parametrize(
    "text", ["A " * 5000, "(A" * 5000, "answer " * 3000, "the answer is " * 2000, "\\boxed{" * 3000, " " * 20000]
)
def test_a_long_answer_is_read_in_time(text):
    letter_of(text, CHOICES)
