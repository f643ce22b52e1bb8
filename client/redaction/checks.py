"""Check digits: what tells an ID or card number from any other row of digits."""

from __future__ import annotations

import re
from datetime import date

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ENDINGS = "10X98765432"


def citizen_id(number: str) -> bool:
    """Whether 18 characters are a resident ID of GB 11643: a real date of birth and ISO 7064 MOD 11-2.

    The area code is not looked at: tables of them age, and a number of a dissolved county is a person's all the same.
    """
    if not re.fullmatch(r"\d{17}[\dXx]", number):
        return False
    remainder = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False)) % 11
    return _ENDINGS[remainder] == number[17].upper() and born(number[6:14])


def born(digits: str) -> bool:
    """Whether YYYYMMDD is a day from 1900 on."""
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).year >= 1900
    except ValueError:
        return False


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check of the others, as on bank cards."""
    total = sum(int(digit) for digit in digits[-1::-2])
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return total % 10 == 0


def iban(number: str) -> bool:
    """Whether letters and digits are an IBAN by ISO 13616: MOD 97-10."""
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", number):
        return False
    return int("".join(str(int(each, 36)) for each in number[4:] + number[:4])) % 97 == 1
