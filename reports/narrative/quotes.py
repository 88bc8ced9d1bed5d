"""Sentences of documents, quoted byte for byte: cut, filtered, ranked by topic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reports.content.schema import DocumentCitation
from reports.narrative.sentences import SourceText

__all__ = ["Quote", "choose_quotes", "named_in_documents", "quotable_sentences", "split_sentences"]


_TOPICS: Mapping[str, re.Pattern[str]] = {
    topic: re.compile(pattern, re.IGNORECASE)
    for topic, pattern in {
        "diagnosis": r"glioblastom|gliom|astrocytom|oligodendro|ependymom|metasta|lymphom|meningiom|WHO grade|diagnos|patholog",
        "surgery": r"resect|craniotom|biops|debulk|surger|surgical|operat",
        "radiotherapy": r"radiother|radiat|irradiat|\bGy\b|fraction|radiosurg",
        "chemotherapy": r"temozolomid|\bTMZ\b|lomustin|CCNU|bevacizumab|chemother|\bPCV\b|cycle|immunother|targeted",
        "steroids": r"dexamethason|steroid|prednis",
        "clinical status": r"karnofsky|\bKPS\b|\bECOG\b|performance status|seizure|epilep|headache|deficit|hemipar|aphas|"
        r"neurolog|clinically|weakness|cognit",
        "molecular markers": r"\bIDH|MGMT|1p/?19q|EGFR|\bTERT|ATRX|H3 ?K27|CDKN2A|methylat|Ki-?67|wild-?type",
    }.items()
}
# What the response rules lack (`imaging.longitudinal.rano`) -> words of a sentence that names it, in English, German, French,
# Spanish, Italian, Portuguese and Dutch. Whole words: "glioblastoma" has a "last" in it, "rt" is a right side.
_RADIOTHERAPY = (
    r"(?:\bradioth[eé]rap|\bradioterap|\b(?:ir)?radiat(?:ion|ed)|\bchemoradi|\bXRT\b|(?-i:\bRT\b)|\bstrahlenth|\bbestrahl|\bradiochemo|"
    r"\bbestraling)"
)
_ENDED = (
    r"\b(?:complet(?:ed|ion)|finish(?:ed)?|ended|end of|last (?:fraction|dose|session|day)|until|abgeschlossen|beendet|bis|"
    r"letzte\w*|abschlu(?:ss|ß)|ende der|termin[eé]\w*|achev[eé]\w*|fin de|finaliz\w+|complet(?:ad|at)\w+|conclu\w+|ultimat\w+|"
    r"fine della|fim da|afgerond|voltooid|einde van)"
)
_NAMED: Mapping[str, re.Pattern[str]] = {
    what: re.compile(pattern, re.IGNORECASE)
    for what, pattern in {
        "corticosteroid dose": r"d[eé](?:x|s)am[eé]th?as|decadron|fortecortin|(?<!non-)(?<!non )(?<!non)steroid|"
        r"predniso|methylpred|[ck]ortison|cortico[iïs]",
        "clinical status (KPS or NANO)": r"karnofsky|\bKPS\b|\bECOG\b|\bNANO\b|performance (?:status|score)|clinically|"
        r"allgemeinzustand|\b[eé]tat g[eé]n[eé]ral|\bestado ge(?:ne)?ral|\bcondizioni generali|\balgemene toestand|"
        r"neurologisch|neurological|neurologically|klinisch (?:stabil|unver|schlecht|gut)",
        "end of radiotherapy": rf"{_RADIOTHERAPY}[^.]*{_ENDED}|{_ENDED}[^.]*{_RADIOTHERAPY}",
    }.items()
}
# Not the patient, or no statement about one. A relative who only tells of the patient, or comes along, is none.
_RELATIVE = (
    r"(?:father|mother|sister|brother|(?:her|his|their|a|the|one) son|daughter|aunt|uncle|cousin|grand(?:father|mother|parent|son|"
    r"daughter)s?|husband|wife|vater|mutter|schwester|bruder|sohn|tochter|tante|onkel|gro(?:ß|ss)(?:vater|mutter|eltern|tante|onkel)|"
    r"p[eè]re|m[eè]re|s(?:œ|oe)ur|fr[eè]re|oncle|madre|padre|hermana|hermano|abuel[ao]|t[ií][ao]|fratello|sorella|nonn[ao]|zi[ao]|"
    r"m[aã]e|pai|irm[aã]o?|av[oóô]|vader|moeder|zus|broer|oom)"
)
_SOMEBODY_ELSE = re.compile(
    rf"\b{_RELATIVE}\b(?!,? (?:reports?|reported|says|said|states?|stated|tells|told|notes|berichtet|sagt|gibt an|rapporte|dit|"
    r"refiere|"
    r"riferisce|refere|meldt)\b)|\bfamily history\b|\bfamilienanamnese\b|\bant[eé]c[eé]dents? famil|\bantecedentes familiares\b|"
    r"\banamnesi familiare\b|\bfamilieanamnese\b|\breference range\b|\bnormal range\b",
    re.IGNORECASE,
)
_COMES_ALONG = re.compile(
    rf"\b(?:accompanied by|together with|in begleitung|begleitet von) (?:(?:her|his|the|ihre[rsnm]?|seine[rsnm]?|der|des) )?"
    rf"{_RELATIVE}\b",
    re.IGNORECASE,
)
_PER_TOPIC = 2
_MAX_QUOTES = 10
_MIN_WORDS = 3
_MAX_BYTES = 500


# A sentence ends at a stop followed by space and a capital, digit or quotation mark, at an empty line, or where the next
# line starts a new item or field.
_BREAK = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|St|No|vs|ca)\.)\s+(?=[A-Z0-9\"“(])"
    r"|\n[ \t]*\n\s*"
    r"|\n(?=[ \t]*(?:[-*•]\s|\d+[.)]\s|[A-Z][\w /()-]{0,40}:))",
)


@dataclass(frozen=True)
class Quote:
    """One sentence of a document: ``start`` and ``end`` are byte offsets into its stored text."""

    source: SourceText
    start: int
    end: int
    text: str
    score: float
    topics: tuple[str, ...]

    def citation(self) -> DocumentCitation:
        """Where it stands."""
        authored = self.source.authored
        return DocumentCitation(
            document_id=self.source.document_id,
            start=self.start,
            end=self.end,
            text=self.text,
            text_sha256=self.source.text_sha256,
            type_text=self.source.type_text,
            authored_on=authored.isoformat() if authored else None,
            authored_text=authored.text if authored else "",
        )

    def origin(self) -> str:
        """How a sentence names the document, e.g. ``The oncology note of 3 March 2026``."""
        # A title with digits in it would be a number without a source, so it is left to the list of sources.
        title = self.source.type_text.strip()
        name = title[0].lower() + title[1:] if title and not re.search(r"\d", title) else "document"
        if title[:2].isupper():
            name = title if not re.search(r"\d", title) else "document"
        named = f"The {name} of {self.source.authored.text}" if self.source.authored else f"An undated {name}"
        return f"{named} (perhaps written after this study)" if self.source.may_be_later else named


def split_sentences(text: bytes) -> Iterator[tuple[int, int, str]]:
    """(start, end, sentence) of every sentence of UTF-8 ``text``; offsets in bytes, surrounding blanks left out."""
    decoded = text.decode("utf-8")
    offset = 0  # characters
    position = 0  # bytes
    edges = [*((found.start(), found.end()) for found in _BREAK.finditer(decoded)), (len(decoded), len(decoded))]
    for stop, following in edges:
        piece = decoded[offset:stop]
        lead = len(piece) - len(piece.lstrip())
        start = position + len(piece[:lead].encode("utf-8"))
        core = piece.strip()
        if core:
            yield start, start + len(core.encode("utf-8")), core
        position += len(decoded[offset:following].encode("utf-8"))
        offset = following


def quotable_sentences(source: SourceText) -> Iterator[Quote]:
    if not source.passages:
        return
    for start, end, text in split_sentences(source.text):
        scores = [score for first, last, score in source.passages if first <= start and end <= last]
        if not scores or end - start > _MAX_BYTES or len(text.split()) < _MIN_WORDS:
            continue
        if any(mark in text for mark in "“”"):
            continue  # our own quotation marks must stay unambiguous
        topics = tuple(topic for topic, pattern in _TOPICS.items() if pattern.search(text))
        yield Quote(source, start, end, text, max(scores), topics)


def choose_quotes(sources: Sequence[SourceText]) -> list[Quote]:
    """At most two sentences for each topic and ten in all: newest documents first, then what retrieval ranked higher."""
    quotes = [quote for source in sources for quote in quotable_sentences(source)]

    def rank(quote: Quote) -> tuple[float, float, int]:
        authored = quote.source.authored_on
        return (-(authored.timestamp() if authored else 0.0), -quote.score, quote.start)

    chosen: list[Quote] = []
    seen: set[str] = set()
    for topic in _TOPICS:
        taken = 0
        for quote in sorted((one for one in quotes if topic in one.topics), key=rank):
            words = " ".join(quote.text.lower().split())
            if taken == _PER_TOPIC or len(chosen) == _MAX_QUOTES:
                break
            if words in seen:
                continue
            seen.add(words)
            chosen.append(quote)
            taken += 1
    return chosen


def named_in_documents(sources: Sequence[SourceText]) -> dict[str, Quote]:
    """What the response rules lack -> the sentence of the newest document that names it; what none names is absent.

    The words are shown as they stand, negations and plans included: no value is read out of them.
    """
    quotes = [quote for source in sources for quote in quotable_sentences(source)]
    quotes.sort(key=lambda one: (one.source.authored_on is None, -_moment(one), -one.score, one.start))
    found: dict[str, Quote] = {}
    for what, pattern in _NAMED.items():
        for quote in quotes:
            if pattern.search(quote.text) and not _of_somebody_else(quote.text):
                found[what] = quote
                break
    return found


def _of_somebody_else(text: str) -> bool:
    return bool(_SOMEBODY_ELSE.search(_COMES_ALONG.sub(" ", text)))


def _moment(quote: Quote) -> float:
    return quote.source.authored_on.timestamp() if quote.source.authored_on else 0.0
