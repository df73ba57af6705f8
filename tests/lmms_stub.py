"""A model for lmms-eval that knows the answers of the miniature's sets, and says something else where told.

`SAID[task][document]` is what it says instead of the gold answer: plainly wrong, or right in a form that shows how
lmms-eval's own task code reads answers. The scores that follow are in tests/smoke/test_lmms_smoke.py.
"""

from collections import Counter

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms

MODEL_ID = "lmms_stub"


def manifest():
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.Stub")


def rarest(answers):
    return Counter(answers).most_common()[-1][0]


def other_letter(letter):
    return "B" if letter == "A" else "A"


def letter_of(doc):
    return "ABCD"[doc["answer"]]


GOLD = {
    "mini_pope": lambda doc: doc["answer"],
    "mini_gqa": lambda doc: doc["answer"],
    "mini_mme": lambda doc: doc["answer"],
    "mini_textvqa_val": lambda doc: Counter(doc["answers"]).most_common(1)[0][0],
    "mini_textvqa_val_ocr": lambda doc: Counter(doc["answers"]).most_common(1)[0][0],
    "mini_scienceqa_img": letter_of,
    "mini_mmbench_en_dev": lambda doc: doc["answer"],
    "mini_seedbench": lambda doc: doc["answer"],
    "mini_vqav2_val": lambda doc: doc["multiple_choice_answer"],
    "mini_mmmu_val": lambda doc: doc["answer"],
    "mini_docvqa_val": lambda doc: doc["answers"][0],
    "mini_chartqa": lambda doc: doc["answer"],
    "mini_ocrbench": lambda doc: doc["answer"][0],
}
SAID = {
    "mini_pope": {1: lambda doc: "yes", 2: lambda doc: "Yes."},
    "mini_gqa": {1: lambda doc: "nonsense", 2: lambda doc: doc["answer"].upper() + "."},
    "mini_mme": {
        0: lambda doc: "maybe",
        2: lambda doc: "Yes, indeed.",
        20: lambda doc: "no",
        21: lambda doc: "yes",
    },
    "mini_textvqa_val": {1: lambda doc: "nonsense", 2: lambda doc: rarest(doc["answers"])},
    "mini_textvqa_val_ocr": {},
    "mini_scienceqa_img": {
        1: lambda doc: other_letter(letter_of(doc)),
        2: lambda doc: f"{letter_of(doc)}. {doc['choices'][doc['answer']]}",
        3: lambda doc: f"The answer is {letter_of(doc)}.",
    },
    "mini_mmbench_en_dev": {
        1: lambda doc: other_letter(doc["answer"]),
        2: lambda doc: f"({doc['answer']})",
        3: lambda doc: "zzz",
        28 + 5: lambda doc: other_letter(doc["answer"]),
    },
    "mini_seedbench": {1: lambda doc: other_letter(doc["answer"]), 2: lambda doc: f"{doc['answer']}. as I see it"},
    "mini_vqav2_val": {1: lambda doc: "nonsense", 2: lambda doc: rarest([one["answer"] for one in doc["answers"]])},
    "mini_mmmu_val": {
        0: lambda doc: other_letter(doc["answer"]),
        1: lambda doc: f"({doc['answer']})",
        2: lambda doc: f"The answer is {doc['answer']}",
        5: lambda doc: "nothing",
    },
    "mini_docvqa_val": {
        0: lambda doc: doc["answers"][0].lower(),
        1: lambda doc: doc["answers"][0][:-1] + "#",
        2: lambda doc: "#####",
    },
    "mini_chartqa": {
        0: lambda doc: str(int(doc["answer"]) * 1.04),
        1: lambda doc: "nonsense",
        2: lambda doc: str(int(doc["answer"]) * 1.06),
    },
    "mini_ocrbench": {0: lambda doc: f"It says {doc['answer'][0]}!", 1: lambda doc: "nonsense"},
}

JUDGED = "mini_mmbench_en_dev_judged"  # the same set, lmms-eval's task that asks a judge where no option is found
GOLD[JUDGED], SAID[JUDGED] = GOLD["mini_mmbench_en_dev"], SAID["mini_mmbench_en_dev"]


class Stub(lmms):
    """batch_size comes from the command line and changes nothing."""

    is_simple = True

    def __init__(self, batch_size=1, max_batch_size=None, device=None):
        super().__init__()

    def generate_until(self, requests):
        said = []
        for request in requests:
            _, _, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            assert all(picture.mode == "RGB" for picture in doc_to_visual(doc))
            said.append(SAID[task].get(doc_id, GOLD[task])(doc))
        return said

    def loglikelihood(self, requests):
        """Smallest for the right choice, but for document 1."""
        found = []
        for request in requests:
            _, target, _, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            right = target.strip() == doc[f"choice_{doc['answer'].lower()}"]
            found.append(GenerationResult((0.5 if right != (doc_id == 1) else 2.0, False)))
        return found

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("no set of the miniature asks in rounds")
