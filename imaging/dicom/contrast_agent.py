"""Whether contrast agent had been given when an image was acquired: every element of PS3.3 C.7.6.4 (Contrast/Bolus Module) and
C.7.6.4b (Enhanced Contrast/Bolus) weighed, and what words say about it in the languages of the scanners' users.

An element that is empty or a placeholder says nothing. Free text is read for negations before it is read for agents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

__all__ = ["CONTRAST_TAGS", "ContrastEvidence", "ContrastWords", "contrast_evidence", "contrast_words"]

_TAGS = (
    "ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusRoute ContrastBolusAdministrationRouteSequence "
    "ContrastBolusVolume ContrastBolusTotalDose ContrastBolusStartTime ContrastBolusStopTime ContrastFlowRate "
    "ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration"
)
CONTRAST_TAGS = tuple(_TAGS.split())

_SPACE = r"[ \-]*"
_AGENT = (
    r"(?:i ?v ?|medio de |mezzo di |meio de |produit de |agente de |prod(?:uit)? |any |the |del? |di |des? |la |l )?"
    r"(?:contrast\w*|kontrast\w*|kontrasz\w*|gado?\w*|gd|km|mdc|pdc|ce|civ|inj\w*|enhanc\w*|bolus|c(?![a-z0-9]))"
    r"(?: (?:de |di |d )?(?:produit|prod|medio|mezzo|meio)?(?: (?:de|di) )?(?:contrast\w*|gado?\w*|km|gd))?"
)
_BOTH = re.compile(
    r"(?<![a-z])(?:w|with|mit|con|com|avec|c|met|med|s)\s?/?(?:\s?(?:and|und|y|e|et|en|och|og|a|\+|&|/)\s?|\s?/\s?)"
    r"(?:wo|w/o|w o|without|ohne|sin|sem|senza|sans|s|zonder|utan|uden|uten|bez)"
    rf"(?![a-z]){_SPACE}(?:{_AGENT})?"
    r"|(?<![a-z])(?:ohne|sin|sem|senza|sans|without|w/o|wo|pre|vor|avant|nativ\w*)\s?(?:and|und|y|e|et|\+|&|/)\s?"
    rf"(?:mit|con|com|avec|with|w|post|nach|apres|km)(?![a-z]){_SPACE}(?:{_AGENT})?|(?<![a-z])wwo(?![a-z]){_SPACE}(?:{_AGENT})?"
)
_NEGATED = re.compile(
    rf"(?<![a-z])(?:without|w ?/ ?o|w o|wo|no|non|not|nil|never|sans|ss|pas de|sin|senza|sem|zonder|geen|utan|ingen|uten|uden|"
    rf"bez|ilman|nelkul|ohne|keine?|fara|before|prior to|vor|avant|antes|prima|voor|fore|for|przed|pred|pre){_SPACE}{_AGENT}"
    r"|(?<![a-z])(?:none?|not|nicht|no) (?:given|used|administered|applied|gegeben|injected|donne)(?![a-z])(?: contrast\w*)?"
    r"|(?<![a-z])(?:precontrast\w*|prekontrast\w*|noncontrast\w*|nonenhanc\w*|unenhanc\w*|un-enhanc\w*|kontrastsiz\w*|"
    r"kontrastfrei\w*|nativ\w*|plain|blanco|basal(?! gang)|without|w/o|sans|ohne|sin|senza|sem|zonder|bez|utan|s/c|"
    r"c-(?![a-z]))(?![a-z])"
    r"|(?<![a-z])pre(?![a-z])(?![ \-]*(?:op|surg|chir|rt|radio|treat|ther|tx|biops|resect|scan|proc|sat|pulse))"
    r"|(?:(?<=\s)|^)-\s?(?:c|gd|km)(?![a-z])"
    r"|без\s*(?:контраст\w*|ку|кв|усил\w*)|до\s*(?:контраст\w*|ку|введ\w*)|нативн\w*|χωρισ\s*σκιαγραφικ\w*"
    r"|造影(?:なし|無し|前|剤なし)|非造影|無造影|单纯|単純|平扫|平掃|(?:增强|增強|造影)前|(?:无|無|非|未)(?:增强|增強|造影)|"
    r"조영\s?전|비\s?조영|조영제\s?없음"
)
_GIVEN = re.compile(
    r"(?<![a-z])(?:postcontrast\w*|post ?gad\w*|post(?![a-z])(?![ \-]*(?:op|surg|chir|rt|radio|treat|ther|tx|biops|resect|proc))|"
    r"gadolin\w*|gado?(?![a-z])|gado\w+|gadavist|gadovist|dotarem|dotagraf|clariscan|magnevist|magneg\w+|magnetolux|multihance|"
    r"prohance|omniscan|optimark|eovist|primovist|ablavar|vasovist|elucirem|vueway|artirem|cyclolux|pixxoscan|dtpa|dota|"
    r"ferumoxytol|feraheme|inj(?:ect\w*)?(?![a-z])|gd(?![a-z])|contrast\w*|kontrast\w*|kontrasz\w*|enhanced|km(?![a-z])|"
    r"ce(?![a-z])|with c(?![a-z])|w/ ?c(?![a-z])|mdc(?![a-z])|pdc(?![a-z])|civ(?![a-z])|c\+|c/c(?![a-z])|gadopic\w+|macrocyclic)"
    r"|\+ ?(?:c|gd|gad\w*|km|ce|k)(?![a-z])|(?<![a-z0-9])t1w?[ \-]?(?:c|ce|gd|gad|km)(?![a-z])|t1ce"
    r"|контраст\w*|с\s*ку(?!\w)|гадо\w*|σκιαγραφικ\w*|造影|增强|增強|조영"
)
# "T1-C": with or without, as it is read.
_AMBIGUOUS = re.compile(r"(?<![a-z0-9])t1w?-c(?![a-z0-9])")
_NO_WORDS = (
    "no none nil n null false nein kein keine keines keiner non aucun ninguno ninguna nessuno nenhum nao geen nee ingen "
    "inget ingenting brak zadny yok нет なし 無し 無 无 没有 없음 0"
)
_NONE = frozenset(_NO_WORDS.split())
_PLACEHOLDER = re.compile(
    r"[^\w]*|n\.?/?a\.?|not (?:applicable|specified|stated|available|known|recorded)|unknown|unspecified|undefined|"
    r"unbekannt|inconnu|desconocido|sconosciuto|tbd|x+|other|default|anonymi[sz]ed|removed"
)
_AFFIRMED = frozenset(("yes", "y", "true", "ja", "oui", "si", "sim", "given", "administered", "applied", "iv"))
_ZERO = re.compile(r"(?<![\d.,])0+(?:[.,]0*)?\s*(?:ml|cc|mmol|mg|cm3|l)(?![a-z])|^[0.,]+$")
_AMOUNT = re.compile(
    r"(?<![\d.,])\d*[1-9]\d*(?:[.,]\d+)?\s*(?:ml|cc|mmol|mg)(?![a-z])|"
    r"(?<![\d.,])0?[.,]\d*[1-9]\d*\s*(?:ml|cc|mmol)"
)


@dataclass(frozen=True)
class ContrastWords:
    """What a text says: ``given`` and ``denied`` may both hold, and then it contradicts itself or names both."""

    given: bool
    denied: bool


@dataclass(frozen=True)
class ContrastEvidence:
    """The elements that speak for and against contrast in an image, by name; none of their values.

    :param given: elements that say so. :param denied: elements that deny it.
    :param hinted: elements that would only go with it (a route, a flow rate, free text that is not understood).
    :param start: ContrastBolusStartTime in seconds of the day, None where not given.
    """

    given: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    hinted: tuple[str, ...] = ()
    start: float | None = None

    @property
    def stated(self) -> bool:
        """Whether the header says anything."""
        return bool(self.given or self.denied or self.hinted)


def contrast_words(text: str) -> ContrastWords:
    """What a description says about contrast. Words for both ("with and without") say nothing about one series."""
    plain = _BOTH.sub(" ", _plain(text))
    if _AMBIGUOUS.search(plain):
        return ContrastWords(True, True)
    rest, denied = _NEGATED.subn(" ", plain)
    return ContrastWords(bool(_GIVEN.search(rest)), denied > 0)


def contrast_evidence(places: Iterable[Dataset]) -> ContrastEvidence:
    """Weigh the elements found in ``places``: the data set, and the functional groups of an enhanced one. Never raises."""
    given: list[str] = []
    denied: list[str] = []
    hinted: list[str] = []
    start: float | None = None

    def note(keyword: str, verdict: bool | None, where: list[str] | None = None) -> None:
        if verdict is not None:
            (where if verdict and where is not None else given if verdict else denied).append(keyword)

    for place in places:
        for item in [place, *_items(place, "ContrastBolusAgentSequence")]:
            texts = [_text(item, "ContrastBolusAgent")]
            if item is not place:
                texts += [_text(item, "CodeMeaning") or _text(item, "CodeValue")]
                texts += [_text(code, "CodeMeaning") for code in _items(item, "ContrastBolusIngredientCodeSequence")]
            for text in texts:
                words = _agent(text)
                if words is None and text:
                    hinted.append("ContrastBolusAgent")
                elif words is not None:
                    note("ContrastBolusAgent", True if words.given else None)
                    note("ContrastBolusAgent", False if words.denied else None)
            note("ContrastBolusIngredient", _kind(_text(item, "ContrastBolusIngredient")))
            for keyword in ("ContrastBolusVolume", "ContrastBolusTotalDose"):
                amount = _number(item, keyword)
                note(keyword, None if amount is None else amount > 0)
            for keyword in ("ContrastFlowRate", "ContrastFlowDuration", "ContrastBolusIngredientConcentration"):
                if _number(item, keyword):
                    hinted.append(keyword)
            note("ContrastBolusRoute", _kind(_text(item, "ContrastBolusRoute")), hinted)
            if _items(item, "ContrastBolusAdministrationRouteSequence"):
                hinted.append("ContrastBolusAdministrationRouteSequence")
            for keyword in ("ContrastBolusStartTime", "ContrastBolusStopTime"):
                moment = _seconds(_text(item, keyword))
                if moment is not None:
                    hinted.append(keyword)
                    start = moment if start is None and keyword.endswith("StartTime") else start
        for usage in [place, *_items(place, "ContrastBolusUsageSequence")]:
            administered = _text(usage, "ContrastBolusAgentAdministered").upper()
            note("ContrastBolusAgentAdministered", {"YES": True, "NO": False}.get(administered))
    return ContrastEvidence(
        tuple(dict.fromkeys(given)), tuple(dict.fromkeys(denied)), tuple(dict.fromkeys(hinted)), start
    )


def _agent(text: str) -> ContrastWords | None:
    """What an agent's text says; None for text that is not understood (and for none at all)."""
    plain = _plain(text).strip()
    if not plain or _PLACEHOLDER.fullmatch(plain):
        return ContrastWords(False, False)
    if plain in _NONE:
        return ContrastWords(False, True)
    words = contrast_words(plain)
    denied = words.denied or bool(_ZERO.search(plain))
    given = words.given or plain in _AFFIRMED or bool(_AMOUNT.search(plain))
    return ContrastWords(given, denied) if given or denied else None


def _kind(text: str) -> bool | None:
    """Whether a coded word names something, denies it, or is empty."""
    plain = _plain(text).strip()
    if not plain or _PLACEHOLDER.fullmatch(plain):
        return None
    return not (plain in _NONE or contrast_words(plain).denied)


def _plain(text: str) -> str:
    """Lower case without accents; underscores, brackets and the like as blanks."""
    decomposed = unicodedata.normalize("NFKD", text)
    bare = "".join(one for one in decomposed if not unicodedata.combining(one) or "\u3040" <= one <= "\u30ff")
    lower = unicodedata.normalize("NFC", bare).lower().replace("ı", "i").replace("ς", "σ")
    return re.sub(r"[_.;:,()\[\]\s]+(?!\d)|(?<!\d)[.,]", " ", lower)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        number = float(_text(dataset, keyword))
    except ValueError:
        return None
    return number if 0 <= number < 1e6 else None


def _seconds(text: str) -> float | None:
    """TM (PS3.5 Table 6.2-1) as seconds of the day."""
    match = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d+)?)?", text)
    return None if match is None else int(match[1]) * 3600 + int(match[2] or 0) * 60 + float(match[3] or 0)
