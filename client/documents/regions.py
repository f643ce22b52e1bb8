"""Regions of a page from the boxes of what is drawn on it. All lengths in points, all boxes as `models.Box`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from client.documents.models import Box, Kind

GAP = 9.0
"""Marks closer than this belong together; bars of one chart are tied by its axis, which spans them."""
MIN_WIDTH, MIN_HEIGHT = 60.0, 45.0
MOST_OF_PAGE = 0.85
_THIN = 3.0
_ROW_GAP = 46.0
_CELL = 3.0

CAPTION = re.compile(
    r"^\s*[（(【\[]?\s*(图表|图|表|figure|fig\.|table|chart|exhibit)\s*[0-9０-９一二三四五六七八九十]+", re.IGNORECASE
)
_CAPTION_DISTANCE = 32.0
_LABEL_DISTANCE = 11.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Something drawn. `plain`: only upright and level lines, as in tables; `group`: marks of one group go together."""

    box: Box
    plain: bool = True
    filled: bool = False
    raster: bool = False
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text."""

    box: Box
    text: str


@dataclass(frozen=True, slots=True)
class Region:
    box: Box
    kind: Kind
    raster: bool = False
    whole: bool = False
    """Its box is the producer's own: nothing around it belongs to it."""
    caption: str = ""


@dataclass(slots=True)
class _Cluster:
    box: Box
    marks: list[Mark] = field(default_factory=list)


def find_regions(marks: Sequence[Mark], lines: Sequence[Line], width: float, height: float) -> list[Region]:
    """Figures and tables of a page of that size, from the top down, each with its caption."""
    usable = [mark for mark in marks if _area(mark.box) < MOST_OF_PAGE * width * height]
    clusters = _stacked(_clusters(usable, width, height))
    regions = [region for cluster in clusters if (region := _classified(cluster, lines)) is not None]
    regions = [_with_labels(region, lines) for region in _outermost(regions)]
    captioned = [replace(region, caption=caption_of(region.box, region.kind, lines)) for region in regions]
    return sorted(captioned, key=lambda region: (region.box[1], region.box[0]))


def _clusters(marks: Sequence[Mark], width: float, height: float) -> list[_Cluster]:
    """Marks that touch, or nearly do: connected cells of a coarse picture of the page, so that a map of a hundred
    thousand paths costs no more than a bar chart."""
    import cv2
    import numpy as np

    grid = np.zeros((int(height / _CELL) + 2, int(width / _CELL) + 2), np.uint8)
    units = _units(marks)
    places = [_cells(_grown(unit.box, GAP / 2), width, height) for unit in units]
    for left, top, right, bottom in places:
        grid[top : bottom + 1, left : right + 1] = 1
    _, labels = cv2.connectedComponents(grid, connectivity=4)
    found: dict[int, _Cluster] = {}
    for unit, (left, top, _, _) in zip(units, places, strict=True):
        cluster = found.setdefault(int(labels[top, left]), _Cluster(unit.box))
        cluster.box = union(cluster.box, unit.box)
        cluster.marks += unit.marks
    return list(found.values())


def _units(marks: Sequence[Mark]) -> list[_Cluster]:
    """Marks, those of one group as one."""
    groups: dict[int, _Cluster] = {}
    units = []
    for mark in marks:
        if mark.group is None:
            units.append(_Cluster(mark.box, [mark]))
        elif mark.group in groups:
            groups[mark.group].box = union(groups[mark.group].box, mark.box)
            groups[mark.group].marks.append(mark)
        else:
            groups[mark.group] = _Cluster(mark.box, [mark])
    return [*units, *groups.values()]


def _cells(box: Box, width: float, height: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    across, down = int(width / _CELL) + 1, int(height / _CELL) + 1
    return (
        min(max(int(left / _CELL), 0), across),
        min(max(int(top / _CELL), 0), down),
        min(max(int(right / _CELL), 0), across),
        min(max(int(bottom / _CELL), 0), down),
    )


def _stacked(clusters: Sequence[_Cluster]) -> list[_Cluster]:
    """Clusters with the same left and right edges, one close under the other, as one: the rules of a table."""
    joined: list[_Cluster] = []
    for cluster in sorted(clusters, key=lambda each: (each.box[1], each.box[0])):
        above = next((each for each in reversed(joined) if _continues(each, cluster)), None)
        if above is None:
            joined.append(cluster)
        else:
            above.box = union(above.box, cluster.box)
            above.marks += cluster.marks
    return joined


def _continues(above: _Cluster, below: _Cluster) -> bool:
    edges = abs(above.box[0] - below.box[0]) < _THIN and abs(above.box[2] - below.box[2]) < _THIN
    plain = all(mark.plain and not mark.raster for mark in (*above.marks, *below.marks))
    return edges and plain and 0 <= below.box[1] - above.box[3] <= _ROW_GAP


def _classified(cluster: _Cluster, lines: Sequence[Line]) -> Region | None:
    left, top, right, bottom = cluster.box
    if right - left < MIN_WIDTH or bottom - top < MIN_HEIGHT:
        return None
    raster = any(mark.raster for mark in cluster.marks)
    whole = all(mark.group is not None for mark in cluster.marks)
    if raster or is_drawn(cluster.marks, right - left):
        return Region(cluster.box, "figure", raster, whole)
    inside = [line for line in lines if _contains(cluster.box, _centre(line.box))]
    rules = {round(mark.box[1] / _THIN) for mark in cluster.marks}
    return Region(cluster.box, "table") if len(inside) >= 4 and len(rules) >= 3 else None


def is_drawn(marks: Sequence[Mark], width: float) -> bool:
    """Curves and slanted lines, or filled boxes of different heights on one ground line: no table has these."""
    if any(not mark.plain for mark in marks):
        return True
    solid = [mark.box for mark in marks if mark.filled and _is_bar(mark.box, width)]
    heights = {round(box[3] - box[1]) for box in solid}
    grounds = {round(box[3]) for box in solid}
    return len(solid) >= 2 and len(heights) >= 2 and len(grounds) < len(solid)


def _is_bar(box: Box, width: float) -> bool:
    return _THIN < box[2] - box[0] < 0.6 * width and box[3] - box[1] > _THIN


def _outermost(regions: Sequence[Region]) -> list[Region]:
    return [one for one in regions if not any(one is not other and _inside(one.box, other.box) for other in regions)]


def _with_labels(region: Region, lines: Sequence[Line]) -> Region:
    if region.kind == "table" or region.whole or region.raster:
        return region
    return replace(region, box=labelled(region.box, lines))


def labelled(chart: Box, lines: Sequence[Line], above: float = _LABEL_DISTANCE) -> Box:
    """The box of a chart with the text around it that belongs to it: names under its axis, its title, which may be
    `above` points over the rest."""
    box = chart
    for _ in range(3 if above > _LABEL_DISTANCE else 2):
        for line in lines:
            left, top, right, bottom = _grown(box, _LABEL_DISTANCE)
            near = _contains((left, min(top, box[1] - above), right, bottom), _centre(line.box))
            narrow = line.box[2] - line.box[0] <= 1.05 * (chart[2] - chart[0])
            if near and narrow and not CAPTION.match(line.text):
                box = union(box, line.box)
    return box


def caption_of(box: Box, kind: Kind, lines: Iterable[Line]) -> str:
    """The nearest line over or under the box that is numbered like a caption. On a tie in doubt a table's stands over
    it and a figure's under it."""
    found = []
    for line in lines:
        over, under = box[1] - line.box[3], line.box[1] - box[3]
        distance = max(over, under)
        beside = line.box[2] < box[0] or line.box[0] > box[2]
        if -4 <= distance <= _CAPTION_DISTANCE and not beside and CAPTION.match(line.text):
            unusual = (over > under) != (kind == "table")
            found.append((distance + 8 * unusual, " ".join(line.text.split())))
    return min(found, default=(0.0, ""))[1]


def union(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    both = _area(one) + _area(other) - shared(one, other)
    return shared(one, other) / both if both > 0 else 0.0


def shared(one: Box, other: Box) -> float:
    """The area that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def clipped(box: Box, width: float, height: float, margin: float = 0.0) -> Box:
    """The part of a box, grown by `margin`, that lies on the page."""
    left, top, right, bottom = _grown(box, margin)
    return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _contains(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _inside(one: Box, other: Box) -> bool:
    """Whether most of `one` lies in `other`, the larger."""
    return _area(one) < _area(other) and shared(one, other) > 0.8 * _area(one)


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by
