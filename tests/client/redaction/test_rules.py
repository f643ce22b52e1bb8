from __future__ import annotations

import numpy as np
import pytest

from client.redaction.checks import born, citizen_id, iban, luhn
from client.redaction.find import sensitive
from client.redaction.mask import area, masked, share
from client.redaction.names import is_header, is_person, names
from client.redaction.ocr import Line
from client.redaction.rules import spans


class Deaf:
    """A tagger that hears no names."""

    def run(self, texts: str) -> list[tuple[str, str]]:
        return [(texts, "n")]


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in spans(text)]


@pytest.mark.parametrize("first", ["11010519491231002", "44052419800101001"])
def test_of_eleven_endings_one_is_right(first: str) -> None:
    assert sum(citizen_id(first + ending) for ending in "0123456789X") == 1


def test_a_small_x_is_one_too() -> None:
    assert citizen_id("11010519491231002x")
    assert not citizen_id("440524188001010014")  # the checksum is right, the day is too long ago


@pytest.mark.parametrize("number", ["11010519491331002X", "1101051949123100", "11010517991231002X", "", "a" * 18])
def test_no_citizen_ids(number: str) -> None:
    assert not citizen_id(number)


def test_days() -> None:
    assert born("20240229")
    assert not born("20230229")
    assert not born("18991231")


@pytest.mark.parametrize("number", ["4111111111111111", "6222021234567890128", "5500005555555559"])
def test_luhn(number: str) -> None:
    assert luhn(number)
    for at in range(len(number)):
        changed = number[:at] + str((int(number[at]) + 1) % 10) + number[at + 1 :]
        assert not luhn(changed)


def test_iban() -> None:
    assert iban("GB82WEST12345698765432")
    assert not iban("GB83WEST12345698765432")
    assert not iban("GB82")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("身份证号：11010519491231002X", [("id_number", "11010519491231002X")]),
        ("证件号码 110105 19491231 002X", [("id_number", "110105 19491231 002X")]),
        ("卡号 6222 0212 3456 7890 128", [("bank_card", "6222 0212 3456 7890 128")]),
        ("卡号 6222 0212 3456 7890128", [("bank_card", "6222 0212 3456 7890128")]),
        ("电话：138-1234-5678", [("phone", "138-1234-5678")]),
        ("Tel: +86 10 8888 6666", [("phone", "+86 10 8888 6666")]),
        ("Fax (010) 8888-7777", [("phone", "(010) 8888-7777")]),
        ("邮箱 zhang. wei@example.com", [("email", "zhang. wei@example.com")]),
        ("E-mail j.smith©example.com", [("email", "j.smith©example.com")]),
        ("账号：622848001234567", [("account", "622848001234567")]),
        ("IBAN GB82 WEST 1234 5698 7654 32 and more", [("account", "GB82 WEST 1234 5698 7654 32")]),
        ("SSN 123-45-6789", [("id_number", "123-45-6789")]),
        ("电话 １３８１２３４５６７８", [("phone", "１３８１２３４５６７８")]),
    ],
)
def test_what_is_found(text: str, kinds: list[tuple[str, str]]) -> None:
    assert found(text) == kinds


def test_a_number_right_before_a_card_does_not_hide_it() -> None:
    (only,) = found("212-555-0286 4111 1111 1111 1111")  # 0286 4111 1111 1111 looks like one, too
    assert only[0] == "bank_card"
    assert only[1].endswith("4111 1111 1111 1111")
    assert ("bank_card", "6222021234567890128") in found("13812345678 6222021234567890128")
    both = [("phone", "+44 20 7946 9200"), ("bank_card", "4111 1111 1111 1111")]
    assert found("+44 20 7946 9200 4111 1111 1111 1111") == both


def test_the_whole_of_a_number_abroad_is_masked() -> None:
    assert found("+1 (415) 555-5784") == [("phone", "+1 (415) 555-5784")]
    assert found("+1(415)555-5784") == [("phone", "+1(415)555-5784")]


def test_a_misread_digit_is_masked_all_the_same() -> None:
    assert found("身份证号 110105194912310021") == [("id_number", "110105194912310021")]
    assert found("卡号 6222021234567890129") == [("account", "6222021234567890129")]


@pytest.mark.parametrize(
    "text",
    [
        "2019 2020 2021 2022 2023", "1000 2000 3000 4000 5000", "营业收入 1,234,567,890.12 万元 15.3%",
        "2023-01-31 12:30", "0.1234567890123456", "第 12 页 共 345 页", "ISO 9001", "1,000,000", "13812345678.00 元",
    ],
)  # fmt: skip
def test_what_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("户名：张伟", "张伟"), ("姓名\t欧阳娜娜\t性别\t女", "欧阳娜娜"), ("董事长：李明", "李明"),
        ("Account holder: John Smith", "John Smith"), ("Prepared by: J. Doe", "J. Doe"),
        ("Mr. Rajesh Kumar said", "Rajesh Kumar"), ("Mary Johnson resigned", "Mary Johnson"),
        ("联系人：阿卜杜拉·买买提", "阿卜杜拉·买买提"),
        ("Peter O'Neill resigned", "Peter O'Neill"), ("Name: Peter O’Neill", "Peter O’Neill"),
        ("Contact person: Anna-Lena Vogt", "Anna-Lena Vogt"),
    ],
)  # fmt: skip
def test_names_by_their_labels(text: str, name: str) -> None:
    assert [text[span.start : span.end] for span in names(text, Deaf())] == [name]


@pytest.mark.parametrize(
    "text", ["户名：某某科技有限公司", "姓名\t账号\t电话", "Name\tAccount\tPhone", "营业收入同比增长"]
)
def test_no_names(text: str) -> None:
    assert names(text, Deaf()) == []


def test_headers_and_cells() -> None:
    assert is_header("姓名")
    assert is_header("Customer Name")
    assert not is_header("金额")
    assert is_person("Olga Petrova")
    assert not is_person("Total")


def line(text: str, x: float, y: float, score: float = 0.99) -> Line:
    """A line of letters 20 pixels wide and 30 high."""
    chars = [np.array([[a, y], [a + 20, y], [a + 20, y + 30], [a, y + 30]]) for a in np.arange(len(text)) * 20.0 + x]
    quad = np.array([[x, y], [x + 20 * len(text), y], [x + 20 * len(text), y + 30], [x, y + 30]])
    return Line(text, score, quad, chars)


def test_names_below_a_header() -> None:
    page = [line("Name", 0, 0), line("Siobhan Kavanagh", 0, 40), line("Total", 0, 80), line("Olga Petrova", 600, 40)]
    assert [item.text for item in sensitive(page, Deaf())] == ["Siobhan Kavanagh"]


def test_a_label_in_the_next_cell_of_a_row() -> None:
    page = [line("张伟", 300, 1), line("户名", 0, 0)]
    assert [item.text for item in sensitive(page, Deaf())] == ["张伟"]


def test_a_name_found_once_is_masked_everywhere() -> None:
    page = [line("Prepared by: Yuki Tanaka", 0, 0), line("as Yuki Tanaka wrote", 0, 60)]
    assert [item.text for item in sensitive(page, Deaf())].count("Yuki Tanaka") >= 2


def test_what_cannot_be_read_is_masked() -> None:
    (item,) = sensitive([line("l1|", 0, 0, score=0.2)], Deaf())
    assert item.kind == "unreadable"


def test_the_mask_covers_the_value_and_little_else() -> None:
    page = line("tel 13812345678 yes", 100, 50)
    (item,) = sensitive([page], Deaf())
    corners = area(item)
    pixels = masked(np.full((200, 600, 3), 255, np.uint8), [corners])
    assert not pixels[50:80, 180:400].any()
    assert pixels[50:80, :164].all()
    assert pixels[50:80, 417:].all()
    assert 0 < share(pixels.shape, [corners]) < 0.1
