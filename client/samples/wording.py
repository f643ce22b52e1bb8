"""The sentences of the sample reports. `{}` fields are filled from the report's own figures."""

from __future__ import annotations

COMPANIES = (
    ("华星科技", "Huaxing Technology"),
    ("东方电气", "Orient Electric"),
    ("蓝天股份", "Blue Sky"),
    ("长河能源", "Changhe Energy"),
    ("北辰医药", "Northstar Pharma"),
    ("海润食品", "Hairun Foods"),
)
INDUSTRIES = (("智能制造", "smart manufacturing"), ("新能源", "new energy"), ("生物医药", "biopharma"))
MEASURES = {
    "revenue": ("营业收入", "Revenue"),
    "profit": ("净利润", "Net profit"),
    "sales": ("销售额", "Sales"),
    "income": ("主营业务收入", "Operating revenue"),
}
UNITS = {"zh": ("亿元", "百万元"), "en": ("million", "billion")}
ANNUAL_REPORT = "{year} 年年度报告"
HEADINGS = {
    "letter": ("董事长致辞", "Letter to shareholders"),
    "summary": ("主要会计数据和财务指标", "Financial highlights"),
    "discussion": ("管理层讨论与分析", "Management discussion and analysis"),
    "scan": ("附件：审阅稿", "Annex: reviewed copy"),
    "governance": ("公司治理", "Corporate governance"),
}
PARAGRAPHS = {
    "zh": (
        "报告期内，公司围绕{industry}主业，坚持稳健经营，持续优化产品结构，{measure}达到{value}{unit}，同比{moved}{growth}%。",
        "公司持续加大研发投入，推进数字化改造，主要产线自动化水平进一步提高，单位成本较上年有所下降。",
        "面对外部环境的不确定性，公司加强现金流管理，资产负债结构保持稳健，各项偿债指标处于合理区间。",
        "展望下一年度，公司将继续聚焦核心客户与重点区域，深化供应链协同，努力为全体股东创造长期价值。",
        "董事会由九名董事组成，其中独立董事三名。报告期内共召开董事会会议六次，全部议案均获审议通过。",
        "公司坚持以客户为中心，完善营销与服务网络，海外业务收入占比进一步提升，品牌影响力持续增强。",
        "公司持续完善内部控制体系，加强重点领域风险排查，未发现对经营活动产生重大不利影响的事项。",
        "公司严格按照有关法律法规的要求履行信息披露义务，保证所披露信息的真实、准确、完整。",
    ),
    "en": (
        "During the year the group kept to its core business in {industry}. {measure} reached CNY {value} {unit}, "
        "{moved} by {growth}% on the year before.",
        "Spending on research rose again, and the main production lines were automated further; unit costs fell.",
        "The group managed its cash flow with care. The structure of assets and liabilities remained sound, and "
        "all covenants were met with room to spare.",
        "In the coming year the group will go on to focus on its key accounts and regions, to work more closely with "
        "its suppliers, and to create lasting value for all shareholders.",
        "The board has nine directors, three of them independent. It met six times during the year.",
        "Closer to its customers, the group widened its network of sales and service; the share of revenue earned "
        "abroad grew again, and so did the reputation of its brands.",
        "Internal control was reviewed throughout the year; nothing was found that would harm the business.",
        "The company disclosed information as the law requires and confirms that it is true, accurate and complete.",
    ),
}
MOVED = {"zh": ("下降", "增长"), "en": ("down", "up")}
CAPTIONS = {
    "zh": {
        "chart": "图{number} {measure}{growth}（单位：{unit}）",
        "table": "表{number} 近{count}年主要财务数据（单位：{unit}）",
    },
    "en": {
        "chart": "Figure {number}: {measure}{growth} (CNY {unit})",
        "table": "Table {number}: {count}-year summary (CNY {unit})",
    },
}
AND_GROWTH = {"zh": "及同比增速", "en": " and growth"}
TABLE_HEAD = {"zh": "项目", "en": "Item"}
TABLE_ROWS = {
    "zh": ("营业收入", "营业成本", "净利润", "研发投入", "总资产"),
    "en": ("Revenue", "Cost of sales", "Net profit", "R&D spending", "Total assets"),
}
PAGE_HEAD = ("{name} {year} 年年度报告", "{name} Annual Report {year}")


def letters() -> str:
    """Every character that a report can print: what its font has to hold."""
    texts: list[str] = [ANNUAL_REPORT, *PAGE_HEAD, *AND_GROWTH.values(), *TABLE_HEAD.values()]
    for pairs in (COMPANIES, INDUSTRIES, MEASURES.values(), HEADINGS.values()):
        texts += [text for pair in pairs for text in pair]
    for group in (UNITS, PARAGRAPHS, MOVED, TABLE_ROWS):
        texts += [text for each in group.values() for text in each]
    texts += [text for captions in CAPTIONS.values() for text in captions.values()]
    latin = "".join(map(chr, range(0x20, 0x7F)))
    return "".join(texts) + latin + "同比增速增长率单位：（）年万百亿元−·—"
