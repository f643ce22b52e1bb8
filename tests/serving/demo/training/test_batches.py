import random

from serving.demo.batches import Chat, compose
from serving.demo.charts.chart import Chart
from serving.demo.pictures import Pictures
from tests.serving.demo.training.conftest import Small

ROOM = 256
LONG = Chart(
    "combined",
    "zh",
    "",
    "营业收入",
    "百万元",
    tuple(range(2020, 2026)),
    (12345.0,) * 6,
    growth=(-123.4,) * 6,
    decimals=0,
)


def test_no_row_is_longer_than_there_is_room(small: Small) -> None:
    """Nor with the longest answers, whichever of the forms of a row is drawn."""
    chat, rng = Chat(small.tokenizer), random.Random(3)
    picture = Pictures(None, 0).draw(rng, (352, 192), variety=2.5)
    wordy = type(picture)(LONG, picture.pixels, picture.targets)

    for _ in range(150):
        assert all(len(row.ids) <= ROOM for row in compose(chat, [wordy] * 4, rng, ROOM))
