"""Free text reduced to what it says of the examination (option 113105, Clean Descriptors), and version strings.

Words of the vocabulary stay, with what joins them; everything else goes: names are known by being in no list, or by being
in the data set's own name fields; numbers by being longer than a measurement of an examination is.
"""

from __future__ import annotations

import re
from functools import lru_cache

from imaging.deidentification.known_identity import NOBODY, KnownIdentity
from imaging.deidentification.profile import RULES

__all__ = ["clean_version_text", "clean_words", "known_words", "words_of"]

_TOKEN = re.compile(r"[^\W_]+(?:\.[^\W_]+)*")
# Dates, telephone numbers, times: three or more groups of digits, or two long ones.
_GROUPS = re.compile(r"(?<![^\W_])\+?\d+(?:[-/._ :,()]{1,2}\d+){2,}(?![^\W_])|(?<![^\W_])\d{3,}[-/. ]\d{3,}(?![^\W_])")
_SEQUENCE_NAMES = (
    "tse|tfl|fl|spc|spcir|ep|epse|epfid|se|gre|tir|tirm|fid|fi|fm|pc|h|hste|swi|qfl|me|ci|tgse|mbep|re|rese|cs"
)
_MEASURED = re.compile(
    r"(\d{1,4}(\.\d{1,3})?(mm|cm|ms|us|s|sec|min|d|t|x|ch|deg|dir|dirs|echo|ml|mg|gy|vol|vols|avg|nex|ns|sl|hz|mhz|khz|tesla|kv|ma|th|nd|rd|st|pct|"
    r"wk|w|mo|yr)"
    r"|\d{1,4}(\.\d{1,3})?(x\d{1,4}(\.\d{1,3})?){1,2}(mm|cm)?"
    r"|\d{1,2}(\.\d{1,2})?|0\.\d{1,3}"
    r"|(p|s|x|a|r|l|n|v|i|mb|sms|fa|te|tr|ti|nex|nsa|ph|echo|run|phase|dyn|pos|ser|h|f|e|g|q|k)\d{1,3}|iso\d?(\.\d)?(mm)?|b\d{1,4}|t[rei]\d{3,5}|t[12]|grade\d"
    rf"|({_SEQUENCE_NAMES})[23]d\d{{0,3}}[a-z]{{0,4}}\d{{0,2}})\Z"
)
_JOINT = re.compile(r"[ \t\r\n\-_+/()*,;:=&%#\[\].<>'\"~^|]{1,4}\Z")
_MAX_CACHED = 512
_VERSION_TOKEN = re.compile(
    r"(?P<word>[A-Za-z]{0,12})(?P<rest>\d{1,4}([.-]?[A-Za-z]{0,3}[.-]?\d{1,4})*[.-]?[A-Za-z]{0,3})?\Z"
)
_DATE = re.compile(
    r"(?<!\d)((19|20)\d{2}([-._/]?)(0?[1-9]|1[0-2])\3(0?[1-9]|[12]\d|3[01])"
    r"|(0?[1-9]|[12]\d|3[01])([-._/])(0?[1-9]|1[0-2])\7((19|20)?\d{2})"
    r"|(0?[1-9]|1[0-2])([-._/])(0?[1-9]|[12]\d|3[01])\11((19|20)\d{2}))(?!\d)"
)
_MODALITIES_TOO = frozenset({"mr", "ms", "pd", "sr"})  # MR is no mister, MS may be a sclerosis
_SERIAL = re.compile(r"(?i)\bs/n\b")
MOST_VERSION_DIGITS = 8  # of one part


def words_of(text: str) -> list[str]:
    """The words of a text. A letter of any script belongs to its word: no piece of a name is taken for a word of ours."""
    return _TOKEN.findall(text)


def _in_vocabulary(word: str) -> bool:
    lowered = word.lower().strip(".")
    return lowered in RULES.words or bool(_MEASURED.match(lowered))


def known_words(text: str, known: KnownIdentity = NOBODY) -> bool:
    """Whether ``text`` consists of words of the vocabulary, none of them a known name or number."""
    return all(
        word.isascii() and _in_vocabulary(word) and not known.names_person(word) and not known.is_identifier(word)
        for word in words_of(text)
    )


def clean_words(text: str, known: KnownIdentity = NOBODY) -> str:
    """``text`` reduced to words of the vocabulary, joined as they were where nothing went from between them.

    :param known: names and numbers of the persons concerned: a patient may be called Sharp.
    """
    return _clean_cached(text, known) if len(text) <= _MAX_CACHED else _clean(text, known)


def _clean(text: str, known: KnownIdentity) -> str:
    blanked = _GROUPS.sub(lambda match: "\0" * len(match.group()), text)
    spans = [match.span() for match in _TOKEN.finditer(blanked)]
    words = [blanked[start:end] for start, end in spans]
    stays = [
        word.isascii() and _in_vocabulary(word) and not known.names_person(word) and not known.is_identifier(word)
        for word in words
    ]
    for index in range(len(words) - 1):  # an identifier may be grouped: B-4711, 47 11
        if spans[index + 1][0] - spans[index][1] == 1 and known.is_grouped(words[index], words[index + 1]):
            stays[index] = stays[index + 1] = False
    _drop_persons(words, stays)
    for index in range(len(words) - 1, -1, -1):  # "of", "by" before something that went say nothing
        if stays[index] and words[index].lower() in RULES.joining and not (index + 1 < len(words) and stays[index + 1]):
            stays[index] = False
    pieces: list[str] = []
    last = -1
    for index, (start, end) in enumerate(spans):
        if not stays[index]:
            continue
        if last >= 0:
            joint = text[spans[last][1] : start]
            pieces.append(joint if last == index - 1 and joint.isascii() and _JOINT.match(joint) else " ")
        elif index == 0 and text[:start] == "*":  # Siemens' sequence names begin so
            pieces.append("*")
        pieces.append(text[start:end])
        last = index
    return "".join(pieces)


_clean_cached = lru_cache(maxsize=8192)(_clean)


def _drop_persons(words: list[str], stays: list[bool]) -> None:
    """Names that are words as well: behind a title, behind what announces a person, and two beside each other."""
    lowered = [word.lower().strip(".") for word in words]
    for index, word in enumerate(lowered):
        if word in RULES.titles and not (words[index].isupper() and word in _MODALITIES_TOO):
            stays[index] = False
            for behind in range(index + 1, min(index + 4, len(words))):
                if not words[behind][:1].isupper() and lowered[behind] not in RULES.also_names:
                    break
                stays[behind] = False
        elif word in RULES.announcing:
            for behind in range(index + 1, min(index + 4, len(words))):
                if lowered[behind] not in RULES.also_names and stays[behind]:
                    break
                stays[behind] = False
        elif word in RULES.announcing_numbers and index + 1 < len(words) and words[index + 1].isdigit():
            stays[index + 1] = False
    for index in range(len(words) - 1):
        pair = (index, index + 1)
        if all(lowered[one] in RULES.also_names and words[one][:1].isupper() for one in pair):
            stays[index] = stays[index + 1] = False


def clean_version_text(text: str, known: KnownIdentity = NOBODY) -> str:
    """A version: words of the vocabulary and short version numbers. No date, no run of more than four digits, no more than
    eight digits in a part, nothing behind a word that announces somebody's number."""
    text = _SERIAL.sub("SN", text.strip())
    spans = [match.span() for match in re.finditer(r"[^\s:;,/()|]+", text)]
    words = [text[start:end] for start, end in spans]
    kept = [_version_word_of(word, known) for word in words]
    for index, word in enumerate(words):
        if "".join(re.findall(r"[A-Za-z]+", word)).lower() in RULES.version_numbers:
            kept[index] = ""
            if index + 1 < len(words) and not any(map(str.isdigit, word)) and any(map(str.isdigit, words[index + 1])):
                kept[index + 1] = ""
    # Several words of digits alone are a telephone number or a date in pieces, and no version.
    if sum(word.isdigit() for word in kept) > 1:
        kept = ["" if word.isdigit() else word for word in kept]
    pieces: list[str] = []
    last = -1
    for index, word in enumerate(kept):
        if word:
            pieces += [text[spans[last][1] : spans[index][0]] if last == index - 1 else " "] if last >= 0 else []
            pieces.append(word)
            last = index
    return "".join(pieces)


def _version_word_of(word: str, known: KnownIdentity) -> str:
    """What stays of one word: its parts between underscores and asterisks that are versions or known words."""
    if not word.isascii() or known.is_identifier(word):
        return ""
    if any(known.names_person(part) for part in re.split(r"[\W_\d]+", word) if part):
        return ""
    parts = [part for part in re.split(r"[_*]+", word) if part]
    stays = [part for part in parts if _is_version(part)]
    return word if stays == parts else "_".join(stays)


def _is_version(part: str) -> bool:
    digits = sum(char.isdigit() for char in part)
    if digits == 0:
        return all(_in_vocabulary(piece) for piece in re.split(r"[.-]+", part) if piece)
    if digits > MOST_VERSION_DIGITS or _DATE.search(part) or re.search(r"\d{5}", part):
        return False
    if not any(char.isalpha() for char in part) and digits > (3 if part.isdigit() else 6):
        return False  # a telephone, insurance or patient number, grouped or not
    return _VERSION_TOKEN.match(part) is not None and _version_word(part)


def _version_word(part: str) -> bool:
    """Letters of a part: a short prefix (VE11C, XA30, R5), or a word of the vocabulary (release26)."""
    letters = re.match(r"[A-Za-z]*", part)
    word = letters.group() if letters else ""
    return len(word) <= 3 or _in_vocabulary(word)
