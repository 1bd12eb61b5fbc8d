r"""What is written differently and means the same, made one: before an answer is read.

Unicode becomes LaTeX (×, ½, −5, x², fullwidth digits), spaces and sizes of brackets go (~,
\left, \displaystyle), digits in groups are joined (1{,}234), numpy's names become LaTeX's.
Nothing that carries meaning is dropped here.
"""

from __future__ import annotations

import re
import unicodedata


def listed(words: str) -> list[str]:
    """The words of a table: one string reads better than a column of quoted ones."""
    return words.split()


SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₙₓᵢ", "0123456789+-anxi", strict=True))
GREEK = listed(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "sigma tau upsilon phi chi psi omega"
)
CHARACTERS = {
    "−‐‑‒–—﹣": "-",
    "×✕": r"\times ",
    "⋅·∙•": r"\cdot ",
    "÷": r"\div ",
    "∕⁄": "/",
    "∗": "*",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3]",
    "∜": r"\sqrt[4]",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≤⩽": r"\leq ",
    "≥⩾": r"\geq ",
    "≠": r"\neq ",
    "≈≃≅": r"\approx ",
    "≡": r"\equiv ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "∅⌀": r"\emptyset ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "∂": r"\partial ",
    "°º": r"^\circ ",
    "′’": "'",
    "″": "''",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨〈": r"\langle ",
    "⟩〉": r"\rangle ",
    "ℓ": r"\ell ",
    "ħℏ": r"\hbar ",
    "∧": r"\wedge ",
    "∨": r"\vee ",
    "⟹⇒": r"\implies ",
    "→⟶": r"\to ",
    "。": ".",
    "、": ",",
    "€": r"\euro ",
    "£": r"\pounds ",
    "¥": r"\yen ",
    "…⋯": r"\ldots ",
    "‰": r"\permille ",
    "µ": r"\mu ",
    "Å": r"\text{Angstrom}",
    "“”": '"',
}
TABLE: dict[int, str] = {ord(c): new for old, new in CHARACTERS.items() for c in old}
for _index, _name in enumerate(GREEK):
    # U+03B1..03C9 with the final sigma (03C2) in between
    _code = 0x3B1 + _index + (_index >= 17)
    TABLE[_code] = f"\\{_name} "
    TABLE[_code - 32] = f"\\{_name.capitalize()} "
TABLE |= {0x3D5: r"\phi ", 0x3F5: r"\epsilon ", 0x3D1: r"\theta "}
INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\ufe0f]")
RAISED = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
LOWERED = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
NUMPY = re.compile(r"\b(?:np|numpy|math|sympy|sp)\.([a-z]+\d*)")
NUMPY_NAMES = {
    "log": r"\ln",
    "log10": r"\log_{10}",
    "log2": r"\log_{2}",
    "inf": r"\infty",
    "e": " e ",
}

# In their order: {,} between digits in groups joins them, between others it is a decimal comma.
JOINED = (
    r"(?<![\d.,}])\d{1,3}(?:\{,\}\d{3})+(?!\d)",
    r"(?<![\d.,}])\d{1,2}(?:\{,\}\d{2})+\{,\}\d{3}(?!\d)",  # 1,00,000
    r"(?<![\d.,}])\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)",  # 1.234.567; one group is a decimal
    r"(?<![\w.,}])\d{1,3}(?:_\d{3}){2,}(?!_?\d)|(?<![\w.,}])\d{1,3}(?:'\d{3})+(?!'?\d)",
    # with spaces: not in 2 345/678, a mixed number
    r"(?<![\d.,^_])(?<![\d.,^_] )\d{1,3}(?: \d{3})+(?!\d| ?/| \d|\s*\\[dt]?frac)",
)
GROUPS = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,!;: ]|~|[\u202f\u2009\u00a0])(?=\d{3}(?!\d))")
JOIN = re.compile("|".join(JOINED))
RULES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\[()\[\]]", ""),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]ig{1,2}[lrm]?)(?![a-zA-Z])", ""),
        (
            r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|strut|mathstrut"
            r"|nonumber|notag|normalsize|large|Large|huge|Huge|bf|it|sf|checkmark|blacksquare|qed)"
            r"(?![a-zA-Z])",
            "",
        ),
        (r"\{\\rm(?![a-zA-Z])\s*", r"\\mathrm{"),
        (r"\\(?:tag|label|color|phantom|hspace|vspace)\*?\s*\{[^{}]*\}", " "),
        (r"\\(?:textcolor|colorbox)\s*\{[^{}]*\}", ""),
        (r",\s*\\!\s*", "{,}"),
        (r"\\!\s*", ""),
        (
            r"\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|enskip|space|allowbreak)"
            r"(?![a-zA-Z])|\\[,;:> ]|~|\s",
            " ",
        ),
        (r"\{\s*,\s*\}", "{,}"),
        (r"(?<!\\)\{ ?\}", ""),
        (r"\{([-+=<>])\}", r"\1"),
        (r"(?i)(?<![a-z])([ap])\. ?m(?:\.|(?![a-z]))", r"\1m"),
    )
]
# Digits that go on as they began: 0.333..., 0.1666\\ldots, 0.142857142857...
ENDLESS = re.compile(r"(\.\d*?)(?:(\d)\2{2,}|(\d{2,9}?)\3+) ?(?:\\[lc]?dots|\.{3})(?![a-zA-Z])")
TIMES_TEN = re.compile(r"(?<=[\d.]) ?[xX] ?(?=10 ?(?:\^|\*\*))")
NEWLINE = "\0"  # what \\\\ is while single backslashes are looked for
EDGES = re.compile(r"^[\s:=\"`]+|(?:[\s,;:?\"`\0]|(?<!\.)\.)$")
BOLD = re.compile(r"^\s*\*\*(?=\S)(.*\S)\*\*[\s.]*$", re.DOTALL)


def join_digits(text: str) -> str:
    r"""A whole response in which 1{,}234 and 1\,234 are one number and a minus sign is a hyphen."""
    return GROUPS.sub("", text.replace("−", "-"))


def normalise(text: str) -> str:
    """The answer in plain LaTeX, on one line."""
    if not text.isascii():
        text = _ascii(text)
    bold = BOLD.match(text)
    text = (bold[1] if bold else text).replace("\\\\", NEWLINE)
    if "begin" not in text:  # escaped once too often: \\\\frac
        text = re.sub(f"{NEWLINE}(?=[a-zA-Z]{{2}})", r"\\", text)
    text = _undollar(text)
    for pattern, new in RULES:
        text = pattern.sub(new, text)
    text = JOIN.sub(lambda match: re.sub(r"[ ,.'_{}]", "", match[0]), text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)", ".", text).replace("{,}", ",")
    text = ENDLESS.sub(lambda m: f"{m[1]}\\overline{{{m[2] or m[3]}}}", text)
    text = NUMPY.sub(lambda match: NUMPY_NAMES.get(match[1], f"\\{match[1]}"), text)
    text = TIMES_TEN.sub(r"\\times ", text).replace("**", "^")
    while (stripped := EDGES.sub("", text)) != text:
        text = stripped
    return re.sub(" +", " ", text).replace(NEWLINE, "\\\\")


def _ascii(text: str) -> str:
    """Characters as LaTeX writes them; what LaTeX has no word for stays."""
    text = INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    text = RAISED.sub(lambda m: f"^{{{''.join(SUPERSCRIPTS[c] for c in m[0])}}}", text)
    text = LOWERED.sub(lambda m: f"_{{{''.join(SUBSCRIPTS[c] for c in m[0])}}}", text)
    return "".join(c if c.isascii() else _character(c) for c in text.translate(TABLE))


def _character(c: str) -> str:
    digit = unicodedata.decimal(c, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", c)
    if unicodedata.decomposition(c).startswith("<fraction>"):
        over, _, under = plain.partition("\u2044")
        return f"\\frac{{{over}}}{{{under}}}"
    return plain.translate(TABLE)


def _undollar(text: str) -> str:
    r"""Without the dollars that mark mathematics. \$ is money, and so is a $ without its like."""
    plain = re.findall(r"(?<!\\)\$", text)
    if len(plain) % 2:
        text = re.sub(r"(?<!\\)\$(?= ?[\d.])", r"\\$", text, count=1)
    return re.sub(r"(?<!\\)\$", "", text)
