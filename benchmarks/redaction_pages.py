"""Pages with known personal data, and pages of figures without any: layouts, fonts and what scanners do to them."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels: TypeAlias = NDArray[np.uint8]

WIDTH, HEIGHT = 1100, 780
DEGRADATIONS = ("clean", "jpeg-25", "half-size", "rotated-1.5", "rotated-90", "photo")
LAYOUTS = ("form", "table", "letter", "figures")

_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡"
    "余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范"
)
_GIVEN = (
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰建国志文晓雨欣怡子涵浩宇梓轩思远若曦嘉琪俊熙一诺诗涵振东海燕"
)
_COMPOUND = ("欧阳", "上官", "司马", "诸葛")
_ENGLISH = (
    "John Smith", "Mary Johnson", "Siobhan Kavanagh", "Rajesh Kumar", "Yuki Tanaka", "Olga Petrova", "Peter O'Neill",
    "Anna-Lena Vogt", "Michael T. Brown", "Fatima Zahra", "Carlos Mendez", "Grace Hopper", "Wei Zhang", "Liam Walsh",
)  # fmt: skip


@dataclass
class Page:
    """Pixels, and for every value its kind and where its ink is."""

    layout: str
    language: str
    pixels: Pixels
    truth: list[tuple[str, str, Pixels]] = field(default_factory=list)


def fonts() -> list[Path]:
    """Fonts that can draw Chinese.

    Raises:
        RuntimeError: there is none; drawn pages would show empty boxes.
    """
    import mplfonts  # type: ignore[import-untyped]

    folder = Path(mplfonts.__file__).parent / "fonts"
    found = sorted(path for path in folder.iterdir() if path.suffix in (".ttf", ".otf"))
    if not found:
        raise RuntimeError("no font with Chinese letters: pip install 'homescope[demo]'")
    return found


class _Canvas:
    def __init__(self, dice: random.Random, layout: str, language: str, font: Path) -> None:
        self.image = Image.new("L", (WIDTH, HEIGHT), 255)
        self.draw, self.font = ImageDraw.Draw(self.image), ImageFont.truetype(str(font), dice.choice((20, 22, 24)))
        self.page = Page(layout, language, np.zeros((1, 1), np.uint8))

    def say(self, x: float, y: float, text: str, kind: str = "") -> float:
        """Draws a text, as a value to be masked where it has a kind; returns where it ends."""
        self.draw.text((x, y), text, font=self.font, fill=20)
        if kind:
            ink = Image.new("L", self.image.size, 0)
            ImageDraw.Draw(ink).text((x, y), text, font=self.font, fill=255)
            self.page.truth.append((kind, text, np.asarray(ink)))
        return x + self.font.getlength(text)

    def finished(self) -> Page:
        self.page.pixels = np.asarray(self.image)
        return self.page


def page(seed: int, layout: str, language: str) -> Page:
    """A page of one layout (`form`, `table`, `letter`, `figures`) in `zh` or `en`."""
    dice = random.Random(f"{seed}{layout}{language}")
    canvas = _Canvas(dice, layout, language, dice.choice(fonts()))
    {"form": _form, "table": _table, "letter": _letter, "figures": _figures}[layout](canvas, dice, language == "zh")
    return canvas.finished()


def value(dice: random.Random, kind: str, chinese: bool) -> str:
    """A made-up value of a kind, with check digits that are right."""
    return {
        "name": _name, "id_number": _id, "phone": _phone, "bank_card": _card, "account": _account, "email": _email,
    }[kind](dice, chinese)  # fmt: skip


def _name(dice: random.Random, chinese: bool) -> str:
    if not chinese:
        return dice.choice(_ENGLISH)
    surname = dice.choice(_COMPOUND) if dice.random() < 0.08 else dice.choice(_SURNAMES)
    return surname + "".join(dice.sample(_GIVEN, dice.choice((1, 2, 2))))


def _id(dice: random.Random, chinese: bool) -> str:
    area = dice.choice(("110105", "310104", "440305", "510107", "330106", "420111"))
    born = f"{dice.randint(1950, 2004)}{dice.randint(1, 12):02}{dice.randint(1, 28):02}"
    body = f"{area}{born}{dice.randint(0, 999):03}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 11]


def _phone(dice: random.Random, chinese: bool) -> str:
    if not chinese:
        return dice.choice(("+1 (415) 555-{:04}", "+44 20 7946 {:04}", "212-555-{:04}")).format(dice.randint(100, 9999))
    digits = f"1{dice.choice('35789')}{dice.randint(0, 9)}{dice.randint(0, 99999999):08}"
    landline = f"0{dice.choice(('10', '21', '755', '571'))}-{dice.randint(22222222, 88888888)}"
    return dice.choice((digits, f"{digits[:3]}-{digits[3:7]}-{digits[7:]}", f"+86 {digits}", landline))


def _card(dice: random.Random, chinese: bool) -> str:
    body = ("6222" if chinese else "4") + "".join(str(dice.randint(0, 9)) for _ in range(14))
    total = sum(sum(divmod(2 * int(d), 10)) if at % 2 == 0 else int(d) for at, d in enumerate(reversed(body)))
    number = body + str(-total % 10)
    return number if dice.random() < 0.5 else " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def _account(dice: random.Random, chinese: bool) -> str:
    if chinese:
        return "".join(str(dice.randint(0, 9)) for _ in range(dice.choice((12, 15, 17))))
    bank = f"WEST{dice.randint(10**13, 10**14 - 1)}"
    check = 98 - int("".join(str(int(each, 36)) for each in f"{bank}GB00")) % 97
    number = f"GB{check:02}{bank}"
    return " ".join(number[at : at + 4] for at in range(0, len(number), 4))


def _email(dice: random.Random, chinese: bool) -> str:
    user = dice.choice(("zhang.wei", "li_na88", "j.smith", "finance-office", "wangfang2020", "o.petrova"))
    return f"{user}@{dice.choice(('example.com', 'mail.example.cn', 'bank-test.com.cn'))}"


_LABELS = {
    "name": (("户名", "姓名", "联系人", "法定代表人"), ("Account holder", "Name", "Contact person", "Prepared by")),
    "id_number": (("身份证号", "证件号码"), ("ID No", "ID number")),
    "phone": (("电话", "手机号码", "联系电话"), ("Tel", "Phone", "Mobile")),
    "bank_card": (("银行卡号", "卡号"), ("Card number", "Card")),
    "account": (("账号", "开户账号"), ("IBAN", "Account number")),
    "email": (("邮箱", "电子邮件"), ("E-mail", "Email")),
}


def _form(canvas: _Canvas, dice: random.Random, chinese: bool) -> None:
    canvas.say(60, 40, "客户信息登记表" if chinese else "Customer information form")
    for at, kind in enumerate([*dice.sample(list(_LABELS), len(_LABELS)), "name", "phone"]):
        label = dice.choice(_LABELS[kind][0 if chinese else 1]) + ("：" if chinese else ": ")
        end = canvas.say(60, 120 + 66 * at, label)
        canvas.say(end + dice.choice((4, 30)), 120 + 66 * at, value(dice, kind, chinese), kind)
    canvas.say(
        60, 690, "开户日期：2023-06-18  金额：1,234,567.89 元" if chinese else "Opened 2023-06-18, USD 1,234,567.89"
    )


def _table(canvas: _Canvas, dice: random.Random, chinese: bool) -> None:
    kinds, places = ("name", "phone", "bank_card", "id_number"), (40, 260, 500, 830)
    heads = ("姓名", "电话", "银行卡号", "身份证号") if chinese else ("Name", "Phone", "Card number", "ID number")
    for x, head in zip(places, heads, strict=True):
        canvas.say(x + 8, 60, head)
    for row in range(7):
        y = 110 + 60 * row
        canvas.draw.line((40, y - 8, WIDTH - 20, y - 8), fill=90)
        for x, kind in zip(places, kinds, strict=True):
            canvas.say(x + 8, y, value(dice, kind, chinese), kind)
    for x in (*places, WIDTH - 20):
        canvas.draw.line((x, 50, x, 110 + 60 * 7 - 8), fill=90)
    canvas.say(60, 600, "合计：7 户，余额 3,210,000.00 元" if chinese else "Total: 7 customers, USD 3,210,000.00")


def _letter(canvas: _Canvas, dice: random.Random, chinese: bool) -> None:
    if chinese:
        lines = [
            ["兹证明", "name", "同志系我公司员工，身份证号为", "id_number", "。"],
            ["其工资由银行代发，卡号", "bank_card", "，"],
            ["如有疑问请拨打", "phone", "，或发送邮件至", "email", "。"],
            ["本报告期内，", "name", "先生辞去独立董事职务，"],
            ["由", "name", "接任，任期三年。2023年营业收入增长12.5%。"],
            ["款项请汇至账号", "account", "，户名", "name", "。"],
        ]
    else:
        lines = [
            ["This is to certify that Mr. ", "name", " works for our company."],
            ["Salaries are paid to card ", "bank_card", " every month."],
            ["Please call ", "phone", " or write to ", "email", "."],
            ["During the year ", "name", " resigned as director,"],
            ["and ", "name", " was elected. Revenue grew by 12.5% in 2023."],
            ["Payments go to account ", "account", "."],
        ]
    for at, line in enumerate(lines):
        x = 50.0
        for part in line:
            kind = part if part in _LABELS else ""
            x = canvas.say(x, 100 + 80 * at, value(dice, part, chinese) if kind else part, kind)


def _figures(canvas: _Canvas, dice: random.Random, chinese: bool) -> None:
    canvas.say(60, 30, "近五年营业收入（亿元）" if chinese else "Revenue over five years (USD million)")
    base = canvas.draw
    for at in range(5):
        high = dice.randint(60, 300)
        base.rectangle((140 + 150 * at, 400 - high, 220 + 150 * at, 400), fill=dice.randint(90, 180))
        canvas.say(150 + 150 * at, 410, str(2019 + at))
        canvas.say(150 + 150 * at, 368 - high, f"{dice.randint(1000, 9999):,}.{dice.randint(0, 99):02}")
    for row, name in enumerate(
        ("营业收入", "净利润", "总资产", "每股收益") if chinese else ("Revenue", "Net profit", "Assets", "EPS")
    ):
        canvas.say(60, 480 + 56 * row, name)
        for column in range(4):
            canvas.say(260 + 200 * column, 480 + 56 * row, f"{dice.randint(10**6, 10**10):,}")
    canvas.say(
        60,
        720,
        "资料来源：公司年报 2019-2023，同比增长 12.5%" if chinese else "Source: annual reports 2019-2023, up 12.5%",
    )


def degraded(page: Page, how: str, seed: int) -> Page:
    """The page as it comes out of a scanner, a mail program or a camera; the truth moves with it."""
    if how == "jpeg-25":
        stream = io.BytesIO()
        Image.fromarray(page.pixels).save(stream, "JPEG", quality=25)
        return _with(page, np.asarray(Image.open(stream)), page.truth)
    if how == "half-size":
        return _moved(page, lambda pixels: cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    if how.startswith("rotated-90"):
        return _moved(page, lambda pixels: np.ascontiguousarray(np.rot90(pixels)))
    if how.startswith("rotated"):
        turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), float(how.split("-")[1]), 1)
        return _moved(page, lambda pixels: _warped(pixels, np.vstack([turn, [0, 0, 1]])))
    return _photographed(page, seed) if how == "photo" else page


def _photographed(page: Page, seed: int) -> Page:
    """Seen at an angle, unevenly lit, a little out of focus, with a sensor's noise."""
    noise = np.random.default_rng(seed)
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    seen = (corners + noise.uniform(-18, 18, (4, 2))).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, seen)
    moved = _moved(page, lambda pixels: _warped(pixels, matrix))
    light = np.linspace(0.62, 1.0, WIDTH)[None, :] * np.linspace(1.0, 0.85, HEIGHT)[:, None]
    shown = cv2.GaussianBlur(moved.pixels, (3, 3), 0.8) * light + noise.normal(0, 7, moved.pixels.shape)
    return _with(moved, np.clip(shown, 0, 255).astype(np.uint8), moved.truth)


def _warped(pixels: Pixels, matrix: NDArray[Any]) -> Pixels:
    border = 255 if pixels.mean() > 127 else 0
    return np.asarray(cv2.warpPerspective(pixels, matrix, (WIDTH, HEIGHT), borderValue=border), np.uint8)


def _moved(page: Page, move: object) -> Page:
    assert callable(move)
    return _with(page, move(page.pixels), [(kind, text, move(ink)) for kind, text, ink in page.truth])


def _with(page: Page, pixels: Pixels, truth: list[tuple[str, str, Pixels]]) -> Page:
    return Page(page.layout, page.language, np.asarray(pixels, np.uint8), truth)
