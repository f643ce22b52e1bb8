from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from client.errors import ConfigurationError
from client.finance.series import Point, Series


class Rule(BaseModel):
    """When a series is worth a person's attention. The fields are explained in `rules.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    label: str = Field(min_length=1)
    message: str
    metric: Literal["growth", "value"]
    test: Literal["change", "level"]
    below: float | None = None
    above: float | None = None
    running: int = Field(default=1, ge=1, le=50)
    when: Literal["latest", "any"] = "latest"
    measures: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_threshold(self) -> Rule:
        if self.below is None and self.above is None:
            raise ValueError("needs below, above, or both")
        return self


class Alert(BaseModel):
    """A rule that a series met. `certain`: nothing about the series is in doubt."""

    model_config = ConfigDict(frozen=True)

    rule: str
    label: str
    message: str
    years: tuple[int, ...]
    certain: bool


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rule: tuple[Rule, ...]


def read_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """Rules of a TOML file, or those that come with homescope.

    Raises:
        ConfigurationError: unreadable, not TOML, or not a rule: the message names which.
    """
    shown = path or "the built-in rules"
    try:
        text = (
            files("client.finance").joinpath("rules.toml").read_text("utf-8")
            if path is None
            else path.read_text("utf-8")
        )
        return _File.model_validate(tomllib.loads(text)).rule
    except OSError as error:
        raise ConfigurationError(f"the rules {shown} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the rules {shown} are not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"the rules {shown}: {place or 'file'}: {first['msg']}") from error


def alerts_of(series: Series, rules: Sequence[Rule]) -> list[Alert]:
    """The rules that a series meets, each once, with the years that meet it."""
    alerts = []
    for rule in rules:
        if years := _met(rule, series):
            figures = ", ".join(_shown(point, rule) for point in series.points if point.year in years)
            message = f"{series.measure or 'the series'}: {rule.message} ({figures})"
            certain = not series.flags
            alerts.append(Alert(rule=rule.name, label=rule.label, message=message, years=years, certain=certain))
    return alerts


def _met(rule: Rule, series: Series) -> tuple[int, ...]:
    """Years of the last run that is long enough, with the year that the first change is against."""
    if rule.measures and not any(word.lower() in series.measure.lower() for word in rule.measures):
        return ()
    tested = list(_tested(rule, series.points))
    run: list[int] = []
    found: tuple[int, ...] = ()
    for year, figure in tested:
        run = [*run, year] if _fits(rule, figure) else []
        if len(run) >= rule.running:
            found = tuple(run[-rule.running :])
    if not found or (rule.when == "latest" and found[-1] != series.points[-1].year):
        return ()
    return (found[0] - 1, *found) if rule.test == "change" else found


def _tested(rule: Rule, points: Sequence[Point]) -> Iterator[tuple[int, float | None]]:
    before: Point | None = None
    for point in points:
        now = point.growth if rule.metric == "growth" else point.value
        if rule.test == "level":
            yield point.year, now
        else:
            follows = before is not None and before.year == point.year - 1
            then = None if before is None or not follows else before.growth if rule.metric == "growth" else before.value
            yield point.year, _change(rule, then, now)
        before = point


def _change(rule: Rule, then: float | None, now: float | None) -> float | None:
    """Points of growth, or percent of a value. Rounded, so that 12.1 - 9.1 is 3 and not a little more."""
    if then is None or now is None:
        return None
    if rule.metric == "growth":
        return round(now - then, 6)
    return round(100 * (now / then - 1), 6) if then > 0 else None


def _fits(rule: Rule, figure: float | None) -> bool:
    if figure is None:
        return False
    return (rule.below is None or figure < rule.below) and (rule.above is None or figure > rule.above)


def _shown(point: Point, rule: Rule) -> str:
    figure = point.growth if rule.metric == "growth" else point.value
    return f"{point.year}: {'-' if figure is None else f'{figure:.1f}'}{' %' if rule.metric == 'growth' else ''}"
