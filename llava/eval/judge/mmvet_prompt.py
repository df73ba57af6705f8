"""The prompt MM-Vet answers are graded by, and how its replies are read.

Written for this package after the published description: a number from 0 to 1, parts joined by <AND>, alternatives by
<OR>, a few graded examples first. The published examples are not in it, so PROMPT_VERSION goes into every result.
"""

import re

PROMPT_VERSION = "ours, version 1 (own instruction and own few-shot examples; not the published prompt)"

INSTRUCTION = """\
You grade answers to questions about pictures that you cannot see. You are given the question, a reference answer that \
is right, and the answer to grade. Say how right the answer is, as one number with one decimal: 0.0 when nothing in it \
is right, 1.0 when all that the reference asks for is there, and the steps 0.1, 0.2 and so on up to 0.9 in between \
when a part of it is there. In a reference, <AND> joins parts that are all needed, <OR> joins alternatives of which \
one is enough. Only the meaning counts, not the wording or the length. Reply with the number and nothing else."""

_UMBRELLAS = "Why do the people in this photo hold umbrellas?"
_SHADE = (
    "The sun is very strong: the shadows are sharp, the street is dry and nobody wears a coat, so the umbrellas give "
    "shade and do not keep off rain."
)
# question, reference, answer, grade: parts, alternatives, a long reference missed, met in part and in full
EXAMPLES = (
    ("Which two fruits are in the bowl?", "pear <AND> plum", "There are apples in the bowl.", "0.0"),
    ("Which two fruits are in the bowl?", "pear <AND> plum", "I can see a pear.", "0.5"),
    ("Which two fruits are in the bowl?", "pear <AND> plum", "A plum lies beside a pear.", "1.0"),
    ("What is the sum on the receipt?", "12.50 <OR> 12.5 euros", "The sum is 12.5 euros.", "1.0"),
    ("What is the sum on the receipt?", "12.50 <OR> 12.5 euros", "It comes to 15.20.", "0.0"),
    (_UMBRELLAS, _SHADE, "Because it is raining hard.", "0.1"),
    (_UMBRELLAS, _SHADE, "They seem to protect themselves from the sun.", "0.7"),
    (
        _UMBRELLAS,
        _SHADE,
        "For shade: the street is dry, the shadows are hard, all are dressed lightly. It is no rain.",
        "1.0",
    ),
)
_GRADE = re.compile(r"(?:correctness |score|grade)?\s*:?\s*(0(?:\.\d+)?|1(?:\.0+)?)\.?", re.IGNORECASE)


def grade_prompt(question: str, reference: str, answer: str) -> str:
    """What the judge reads."""
    rows = [*EXAMPLES, (question, reference, answer, "")]
    blocks = [f"Question: {q}\nReference: {r}\nAnswer: {a}\nGrade: {grade}".rstrip() for q, r, a, grade in rows]
    return "\n\n".join([INSTRUCTION, *blocks])


def parse_grade(text: str) -> float | None:
    """The number of 0 to 1 that the first line consists of, None if it is anything else."""
    match = _GRADE.fullmatch(text.strip().split("\n", 1)[0].strip())
    return float(match.group(1)) if match else None
