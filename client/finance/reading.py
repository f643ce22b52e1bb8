"""What the model is asked about a chart, and the form of its answer."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

FIGURES = "解析该图，输出JSON，包含type、unit、years、values、growth字段。"
WORDS = "请分析这张图表，提取公司近三年的营收数据和同比增长率，并判断增长趋势。"
PROMPT_VERSION = "1"
"""Part of each answer's provenance and of the key under which it is kept: raise it when a prompt changes."""
PARAMETERS = {"temperature": 0}

Year = Annotated[int, Field(ge=1900, le=2100)]


class Reading(BaseModel):
    """The figures of one chart of years, as they are printed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    type: str = Field(description="Kind of chart: bar, line or combined (bars with a line of growth).")
    unit: str = Field(description="Unit of the values as printed, such as 亿元 or million; empty where none is.")
    years: list[Year] = Field(min_length=1, max_length=40, description="Years on the axis, from left to right.")
    values: list[float] = Field(description="One printed value for each year.")
    growth: list[float] = Field(description="Printed growth in percent for each year; empty where none is printed.")

    @model_validator(mode="after")
    def _of_one_length(self) -> Reading:
        if len(self.values) != len(self.years):
            raise ValueError(f"{len(self.years)} years and {len(self.values)} values")
        if self.growth and len(self.growth) != len(self.years):
            raise ValueError(f"{len(self.years)} years and {len(self.growth)} rates of growth")
        if sorted(set(self.years)) != self.years:
            raise ValueError("the years do not rise from left to right")
        return self


def reading_key(image_digest: str, model: str, with_words: bool, prepared: str = "") -> str:
    """SHA-256 under which an answer about an image is kept: what was asked already is not asked again."""
    parts = [image_digest, model, PROMPT_VERSION, FIGURES, WORDS if with_words else ""]
    if prepared:
        parts.append(prepared)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
