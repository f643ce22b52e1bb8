"""Questions about charts and the one form of answer that each kind of question has."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from serving.demo.charts.chart import Chart, Language

Task = Literal["json", "describe", "analyse", "period", "growth", "highest", "lowest", "trend", "type"]

TASK_WEIGHTS: dict[Task, float] = {
    "json": 14,
    "describe": 8,
    "analyse": 16,
    "period": 8,
    "growth": 6,
    "highest": 20,
    "lowest": 20,
    "trend": 8,
    "type": 2,
}
"""Shares of the questions of training. Comparing figures is learned more slowly than reading them: with 12 % of the
questions the highest period was right in 56 of 100 charts whose figures were read in 96."""
SHORT_TASKS: tuple[Task, ...] = ("period", "growth", "highest", "lowest", "trend", "type")


@dataclass(frozen=True)
class Exchange:
    question: str
    answer: str


QUESTIONS: dict[Task, dict[Language, tuple[str, ...]]] = {
    "json": {
        "zh": (
            "提取图中数据，以JSON格式输出。",
            "读取图表中的全部数值，返回JSON。",
            "请提取这张图表的数据，只返回JSON",
            "识别图片中的年份、数值和增长率，用JSON表示。",
            "把图中的数据整理成JSON",
            "请以JSON格式输出图中所有数据。",
            "提取公司营收数据，结果用JSON格式，不要输出其他内容。",
            "解析该图，输出JSON，包含type、unit、years、values、growth字段。",
        ),
        "en": (
            "Read all values in this chart as JSON",
            "Read all values in this chart as JSON.",
            "Extract the data in the chart as JSON.",
            "Return the numbers of this chart as JSON only.",
            "Give me all values from the image in JSON format.",
            "Extract years, values and growth as a JSON object.",
            "Output JSON with keys type, unit, years, values, growth.",
            "Please extract all data from this figure and return JSON.",
        ),
    },
    "describe": {
        "zh": (
            "请描述这张图片的内容",
            "请描述这张图片的内容。",
            "描述这张图。",
            "这张图显示了什么？",
            "请概括图表内容。",
            "图中有什么？",
            "各年的数据是多少？",
            "总结一下这张图表",
        ),
        "en": (
            "Describe this image.",
            "Describe the chart.",
            "What does this chart show?",
            "What is in this image?",
            "Please summarize the chart.",
            "What are the values of each year?",
            "Explain this figure in one sentence.",
        ),
    },
    "analyse": {
        "zh": (
            "请分析这张图表，提取公司近三年的营收数据和同比增长率，并判断增长趋势。",
            "请分析这些财报中的柱状图，比较过去三年营收增长率，并指出哪一年存在异常波动。",
            "请分析这张图表。",
            "分析图中的营收数据和增长率，判断趋势。",
            "提取营收与同比增长率并分析增长趋势。",
        ),
        "en": (
            "Analyze this chart: extract revenue and year-over-year growth and judge the trend.",
            "Please analyze this chart.",
            "Analyze the revenue and growth in the chart.",
            "Extract revenue and growth rates, and tell which year changed most.",
        ),
    },
    "period": {
        "zh": ("{year}年的数值是多少？", "{year}年营收是多少？", "图中{year}年为多少？", "请问{year}年的收入是多少"),
        "en": (
            "What was the value in {year}?",
            "What was revenue in {year}?",
            "How much was it in {year}?",
            "Value of {year}?",
        ),
    },
    "growth": {
        "zh": ("{year}年同比增速是多少？", "{year}年的增长率是多少？", "{year}年增长了多少？", "{year}年增速多少"),
        "en": (
            "What was the growth in {year}?",
            "What is the growth rate for {year}?",
            "How much did it grow in {year}?",
        ),
    },
    "highest": {
        "zh": ("哪一年最高？", "哪一年营收最高？", "图中哪年的数值最大？", "最高的是哪一年？"),
        "en": ("Which year was the highest?", "Which year had the highest revenue?", "What is the maximum value?"),
    },
    "lowest": {
        "zh": ("哪一年最低？", "哪一年营收最低？", "图中哪年的数值最小？", "最低的是哪一年？"),
        "en": ("Which year was the lowest?", "Which year had the lowest revenue?", "What is the minimum value?"),
    },
    "trend": {
        "zh": ("增速是否放缓？", "最近一年增长放缓了吗？", "增长率是上升还是下降？", "增长趋势如何？"),
        "en": ("Did growth slow down?", "Has growth slowed in the last year?", "Is growth speeding up or slowing?"),
    },
    "type": {
        "zh": ("这是什么类型的图表？", "这是柱状图还是折线图？", "图表类型是什么？"),
        "en": ("What type of chart is this?", "Is this a bar chart or a line chart?", "What kind of chart is it?"),
    },
}
COMPARISONS: dict[Language, tuple[str, ...]] = {
    "zh": ("比较两张图的最高值。", "哪张图的最高营收更高？", "请比较这两张图表。", "两张图中哪个最高值更大？"),
    "en": (
        "Compare the two charts.",
        "Which chart has the higher maximum?",
        "Compare the highest values of the two charts.",
    ),
}
SMALL_TALK: dict[Language, tuple[str, ...]] = {
    "zh": (
        "你好",
        "你是谁？",
        "你能做什么？",
        "写一首诗",
        "今天天气怎么样？",
        "讲个笑话",
        "1+1等于几？",
        "什么是人工智能？",
        "谢谢",
        "在吗",
    ),
    "en": (
        "Hello",
        "Hi",
        "Who are you?",
        "What can you do?",
        "Write a poem",
        "Tell me a joke",
        "What is 2+2?",
        "Say hello",
        "ping",
    ),
}
REFUSALS: dict[Language, str] = {
    "zh": "我是离线演示用的小模型，只能读取图表图片，请上传一张图表。",
    "en": "I am a small offline demo model that only reads charts. Please send an image of a chart.",
}
TYPE_NAMES = {
    "zh": {"bar": "柱状图", "line": "折线图", "combined": "柱状图与折线图的组合图"},
    "en": {"bar": "a bar chart", "line": "a line chart", "combined": "a combined bar and line chart"},
}
NO_GROWTH = {"zh": "图中未标注增长率。", "en": "The chart prints no growth."}


def pairs(chart: Chart, language: Language) -> str:
    """Every period with its value, and its growth where the chart prints it."""
    items = []
    for index, year in enumerate(chart.periods):
        value = chart.value_text(index)
        item = f"{year}年{value}" if language == "zh" else f"{value} in {year}"
        if chart.growth:
            growth = chart.growth_text(index)
            item += f"（{growth}%）" if language == "zh" else f" ({growth}%)"
        items.append(item)
    return ("，" if language == "zh" else ", ").join(items)


def describe(chart: Chart, language: Language) -> str:
    name = TYPE_NAMES[language][chart.kind]
    if language == "zh":
        unit = f"单位{chart.unit}，" if chart.language == "zh" and chart.unit else ""
        return f"这是{name}，{unit}{pairs(chart, language)}。"
    unit = f" in {chart.unit}" if chart.language == "en" and chart.unit else ""
    return f"This is {name}{unit}: {pairs(chart, language)}."


def trend(chart: Chart, language: Language) -> str:
    """Whether growth slowed in the last period, as the last two printed rates say."""
    if not chart.growth:
        return NO_GROWTH[language]
    before, after = chart.growth_text(-2), chart.growth_text(-1)
    change = (float(after) > float(before)) - (float(after) < float(before))
    if language == "zh":
        return f"最近一年增速由{before}%变为{after}%，{('增长持平', '增长加快', '增长放缓')[change]}。"
    return f"Growth went from {before}% to {after}%: {('it held', 'it sped up', 'it slowed')[change]}."


def extreme(chart: Chart, language: Language, highest: bool) -> str:
    pick = max if highest else min
    index = chart.values.index(pick(chart.values))
    year, value = chart.periods[index], chart.value_text(index)
    if language == "zh":
        return f"{year}年{'最高' if highest else '最低'}，为{value}。"
    return f"The {'highest' if highest else 'lowest'} is {year} with {value}."


def analyse(chart: Chart, language: Language) -> str:
    """All figures, then the trend and the highest and lowest period."""
    joint = "" if language == "zh" else " "
    figures = f"{pairs(chart, language)}{'。' if language == 'zh' else '.'}"
    return joint.join(
        (figures, trend(chart, language), extreme(chart, language, True), extreme(chart, language, False))
    )


def answer(task: Task, chart: Chart, language: Language, index: int = 0) -> str:
    """The answer to `task` in `language`; `index` is the period that a question names."""
    year = chart.periods[index]
    if task == "json":
        return chart.answer()
    if task == "describe":
        return describe(chart, language)
    if task == "analyse":
        return analyse(chart, language)
    if task == "trend":
        return trend(chart, language)
    if task in ("highest", "lowest"):
        return extreme(chart, language, task == "highest")
    if task == "type":
        name = TYPE_NAMES[language][chart.kind]
        return f"这是{name}。" if language == "zh" else f"This is {name}."
    if task == "growth" and not chart.growth:
        return NO_GROWTH[language]
    figure = chart.value_text(index) if task == "period" else f"{chart.growth_text(index)}%"
    if language == "zh":
        return f"{year}年{'为' if task == 'period' else '同比'}{figure}。"
    return f"{'Value' if task == 'period' else 'Growth'} in {year}: {figure}."


def draw_exchange(chart: Chart, rng: random.Random, task: Task | None = None) -> Exchange:
    """A question about `chart` and its answer, in a language of the asker's own."""
    task = task or rng.choices(list(TASK_WEIGHTS), list(TASK_WEIGHTS.values()))[0]
    language: Language = "zh" if rng.random() < 0.6 else "en"
    index = rng.randrange(len(chart.periods))
    question = rng.choice(QUESTIONS[task][language]).format(year=chart.periods[index])
    return Exchange(question, answer(task, chart, language, index))


def draw_comparison(first: Chart, second: Chart, rng: random.Random) -> Exchange:
    """A question about two charts of one message; the answer compares their highest values."""
    language: Language = "zh" if rng.random() < 0.6 else "en"
    one, two = (chart.value_text(chart.values.index(max(chart.values))) for chart in (first, second))
    higher = (float(one) > float(two)) - (float(one) < float(two))
    question = rng.choice(COMPARISONS[language])
    if language == "zh":
        verdict = ("两者相同", "图1更高", "图2更高")[higher]
        return Exchange(question, f"图1最高为{one}，图2最高为{two}，{verdict}。")
    verdict = ("they are equal", "chart 1 is higher", "chart 2 is higher")[higher]
    return Exchange(question, f"Chart 1 peaks at {one}, chart 2 at {two}: {verdict}.")


def draw_refusal(rng: random.Random) -> Exchange:
    """A message without an image: small talk, or a chart question whose image is missing."""
    language: Language = "zh" if rng.random() < 0.5 else "en"
    if rng.random() < 0.5:
        return Exchange(rng.choice(SMALL_TALK[language]), REFUSALS[language])
    task = rng.choices(list(TASK_WEIGHTS), list(TASK_WEIGHTS.values()))[0]
    question = rng.choice(QUESTIONS[task][language]).format(year=rng.randint(2005, 2030))
    return Exchange(question, REFUSALS[language])
