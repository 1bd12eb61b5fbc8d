r"""Words after a number: units, currencies, counted things, and factors such as million.

A unit is compared where both answers have one, and never converted: 5 m is not 500 cm here.
"""

from __future__ import annotations

import re

from pipeline.tasks.answers.nodes import Node, UnreadableError, mul, number, power
from pipeline.tasks.answers.notation import listed

_NAMES = """
mm millimeter millimetre; cm centimeter centimetre; dm decimeter decimetre; m meter metre mtr
km kilometer kilometre; km kms; in inch inche; ft foot feet; yd yard; mi mile; um micron micrometer
nm nanometer; pm picometer; ha hectare; acre; mg milligram; g gram gm; kg kilogram kilo kgs
lb pound lbs; oz ounce; ton tonne; s sec second; min minute mins; h hr hour hrs; day; week wk
month; year yr; ms millisecond; us microsecond; ns nanosecond; L l liter litre
mL ml milliliter millilitre; gal gallon; qt quart; pt pint; cup; deg degree; rad radian
arcsec arcsecond; arcmin arcminute; rev revolution; Hz hertz; kHz; MHz; GHz; N newton; kN; J joule
kJ kilojoule; cal calorie; kcal; W watt; kW kilowatt; V volt; A amp ampere; ohm; C coulomb celsius
F farad fahrenheit; K kelvin; T tesla; Pa pascal; kPa; atm; bar; eV; keV; MeV; GeV; erg; mol mole
dollar usd; cent; euro; rupee r; dB
"""
UNITS: dict[str, str] = {}
for _entry in re.split(r"[;\n]", _NAMES):
    _words = _entry.split()
    UNITS |= dict.fromkeys(_words, _words[0] if _words else "")
# Written without \text they are as likely products of symbols.
ALSO_SYMBOLS = {"in", "pm", "ms", "us", "ns", "pt", "ha", "mi", "um", "bar", "Pa", "kN", "kW"}
BARE = ({name for name in UNITS if len(name) > 1} - ALSO_SYMBOLS) | {"AM", "PM", "am", "pm"}
LETTERS = set(listed("m s g h N J W V K L A C F T"))  # units of one letter, in \\text
BARE_LETTERS = LETTERS - set("ACFT")  # without it, where the gold holds no symbol
FACTORS = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
REFUSED = set(listed("or and not to than except without if unless plus minus"))
MONTHS = listed(
    """
    january february march april may june july august september october november december jan
    feb mar apr jun jul aug sep sept oct nov dec
    """
)
EMPTY = set(listed("of the a an total unit units"))
SPEEDS = {"mph": ("mi", "h"), "kph": ("km", "h"), "kmph": ("km", "h"), "kmh": ("km", "h")}
WORD = re.compile(r"[A-Za-z]+(?:\.[A-Za-z]+\.?)*|\^?\s*\{?-?\d+\}?|[/*^'-]|\\cdot|\S")


def canonical(word: str) -> str:
    """The unit's short name; what is no unit keeps its own, in lower case and singular."""
    for name in (word, word.lower(), word.lower().removesuffix("s")):
        if name in UNITS:
            return UNITS[name]
    word = word.lower().replace(".", "")
    return word.removesuffix("s") if len(word) > 3 else word


def unit(name: str) -> Node:
    return Node("unit", name=name)


def read_units(text: str) -> Node:
    r"""What stands in \text{} after a number: a product of units, factors and percent.

    Raises:
        UnreadableError: it holds numbers, or words that change the answer (or, and, not, ...).
    """
    factors: list[Node] = []
    sign, raised, named = 1, 0, False  # after "per" or "/"; after "square" or "cubic"
    for word in WORD.findall(text):
        low = word.lower()
        if low in ("per", "/"):
            sign = -1
        elif low in ("square", "sq", "sq.", "cubic", "cu"):
            raised = 3 if low.startswith("cu") else 2
        elif low in ("squared", "cubed") or re.fullmatch(r"\^?\s*\{?-?\d+\}?", low):
            digits = re.sub(r"[^\d-]", "", low)
            exponent = int(digits) if digits else 2 if low == "squared" else 3
            if not factors or abs(exponent) > 9:
                raise UnreadableError(f"the words {text!r} after a number")
            factors[-1] = power(factors[-1], number(exponent))
        elif low in FACTORS or low.removesuffix("s") in FACTORS:
            factors.append(number(FACTORS.get(low) or FACTORS[low.removesuffix("s")]))
        elif low in REFUSED or low in MONTHS:
            raise UnreadableError(f"the words {text!r} after a number")
        elif low in EMPTY:
            named = True
        elif low in SPEEDS:
            top, bottom = SPEEDS[low]
            factors += [unit(top), power(unit(bottom), number(-1))]
        elif low[0].isalpha():
            named = True
            factors.append(power(unit(canonical(word)), number(sign * (raised or 1))))
            sign, raised = 1, 0
        elif low not in ("*", "\\cdot", "-", ".", "(", ")"):
            raise UnreadableError(f"the words {text!r} after a number")
    if not named and not factors:
        raise UnreadableError("words without a unit")
    return mul(factors)
