"""The VQA answer normalisation (VQAv2, TextVQA, VizWiz), as the challenge server applies it, faults included."""

import re

OFFICIAL_PERIODS = 32  # the published code passes a flag where a count belongs: only the first 32 periods are dropped

_NUMBERS = dict(
    zip("zero one two three four five six seven eight nine ten none".split(), [*map(str, range(11)), "0"], strict=True)
)
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'
_PERIOD = re.compile(r"\.(?!\d)")

# Words whose apostrophe is put back. Each is recognised when exactly one of its apostrophes is missing.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()


def _contractions() -> dict[str, str]:
    """Misspelt form -> form with all its apostrophes; one entry of the published list goes the other way."""
    table = {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTED
        for place, letter in enumerate(word)
        if letter == "'"
    }
    return {**table, "somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()


def normalise(text: str, periods: int = OFFICIAL_PERIODS) -> str:
    """One answer in the form answers are compared in.

    Lower case; commas and question marks go; `'s` becomes a word; punctuation goes where a blank stands beside it
    anywhere in the text, else becomes a blank; a period goes unless a digit follows; number words up to ten become
    digits; articles go; lost apostrophes return.

    Args:
        periods: how many periods may be dropped, 0 for all (the corrected rule).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    spaced = {mark for mark in _PUNCTUATION if f"{mark} " in text or f" {mark}" in text}
    text = "".join("" if letter in spaced else " " if letter in _PUNCTUATION else letter for letter in text)
    text = _PERIOD.sub("", text, count=periods)
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
