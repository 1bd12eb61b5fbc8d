"""The commands and words that an answer may hold, and what the grammar calls them."""

from __future__ import annotations

from pipeline.tasks.answers.notation import GREEK, listed


def _names(table: dict[str, str]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words.split()}


FUNCTIONS = set(
    listed(
        """
    sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc ln log
    lg exp max min gcd lcm abs Re Im arg
    """
    )
)
SPELLINGS = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "arctg": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
}
OPERATORS = _names(
    {
        "*": "cdot times ast cdotp",
        "/": "div",
        "frac": "frac dfrac tfrac cfrac sfrac nicefrac",
        "binom": "binom dbinom tbinom",
        "sqrt": "sqrt",
        "over": "over",
        "choose": "choose",
        "cup": "cup bigcup sqcup",
        "cap": "cap bigcap",
        "setminus": "setminus backslash smallsetminus",
        "|": "mid vert lvert rvert",
        "||": "| Vert lVert rVert",
        "lfloor": "lfloor",
        "rfloor": "rfloor",
        "lceil": "lceil",
        "rceil": "rceil",
        "\\{": "{ lbrace",
        "\\}": "} rbrace",
        "<<": "langle",
        ">>": "rangle",
        "[": "lbrack",
        "]": "rbrack",
        "(": "lparen lgroup",
        ")": "rparen rgroup",
        "%": "%",
        "circ": "circ degree",
        "prime": "prime",
        "+-": "pm",
        "-+": "mp",
        "empty": "emptyset varnothing",
        "money:dollar": "$ dollar",
        "money:pound": "pounds",
        "money:euro": "euro",
        "money:yen": "yen",
        "newline": "\\ newline cr",
        "mod": "pmod mod",
        ":": "colon",
        "dot:1": "dot",
        "dot:2": "ddot",
        "dot:3": "dddot",
        "implies": "implies Rightarrow Longrightarrow therefore iff Leftrightarrow",
    }
)
RELATIONS = _names(
    {
        "<=": "leq le leqslant leqq",
        ">=": "geq ge geqslant geqq",
        "<": "lt",
        ">": "gt",
        "!=": "neq ne",
        "~": "approx simeq sim cong thickapprox approxeq doteq",
        "==": "equiv",
        "in": "in",
        "notin": "notin",
        "->": "to rightarrow longrightarrow mapsto",
    }
)
TEXTS = set(
    listed(
        """
    text textrm textnormal textsf texttt textup textmd textsc mbox hbox textbf textit emph
    mathrm operatorname
    """
    )
)
FONTS = set(
    listed(
        """
    mathbf mathit boldsymbol bm pmb mathsf mathtt mathnormal boxed fbox framebox underline vec
    overrightarrow displaylimits hline ensuremath bold mathop
    """
    )
)
DECORATIONS = set(
    listed(
        """
    bar hat tilde overline widehat widetilde mathcal mathbb mathfrak mathscr check breve acute
    grave overarc wideparen
    """
    )
)
SYMBOLS = set(
    listed(
        """
    ell hbar aleph nabla partial imath jmath dagger top perp odot angle triangle measuredangle
    square Box parallel complement
    """
    )
)
SYMBOLS |= {*GREEK, *(name.capitalize() for name in GREEK)} - {"pi"}
VARIANTS = {f"var{name}": name for name in GREEK}
DOTS = set(listed("ldots dots cdots vdots ddots dotsc dotsb"))
CONSTANTS = {"pi": "pi", "infty": "infinity", "infinity": "infinity", "infin": "infinity"}
BARE_CONSTANTS = {**CONSTANTS, "inf": "infinity", "oo": "infinity", "Infinity": "infinity"}
PERCENT = {"percent", "per cent", "pct", "percentage", "%", "\\%"}
CHARACTERS = set("+-*/^_(){}[]|!%&':=<>,;")
PAIRS = {"<=": "<=", ">=": ">=", "!=": "!=", "==": "=", "=<": "<=", "->": "->"}
BARE_WORD = 4  # letters from which on a run of letters is a word and no product of symbols
COMMANDS: dict[str, dict[str, str]] = {
    "func": {name: name for name in FUNCTIONS} | SPELLINGS,
    "op": OPERATORS,
    "rel": RELATIONS,
    "const": CONSTANTS,
    "sym": {name: name for name in SYMBOLS} | dict.fromkeys(DOTS, "\\ldots"),
}
