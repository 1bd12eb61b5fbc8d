r"""Whether the answer to a maths problem is the gold one, as written in LaTeX, Python or words.

notation.py makes what is written in several ways one; lexer.py, brackets.py, atoms.py and
grammar.py read it as a tree (nodes.py) of exact numbers, symbols, lists and relations; reader.py
gives the readings where notation is ambiguous; equality.py compares trees, by regions.py,
relations.py and values.py, where the rules for numbers stand; judge.py is the door, and asks
math-verify about what cannot be read here.

A reader of its own, because math-verify 0.9 drops what it does not read (derivatives, the base of
204_5, a minus before a pair, exponents such as A^T, letters that may be units) and compares numbers
to an absolute 10^-6. What this one does not read, it refuses.
"""
