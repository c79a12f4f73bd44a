"""Bugs such as somebody would plant: a wrong line or two in a rule that much rests on, outside of the engines.

They stand in planted.txt, each as a name and the lines that are taken out and put in. ``python tests/mutants/planted.py
[TEXT]`` puts back those with TEXT in their name or file, and prints the first test that fails. Each is tried with the
tests that are about its file (`survivors.SUBJECTS`) and nothing else.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from pitfalls import Pitfall
from survivors import HEAVY, tried, unasked
from trial import ROOT


def read(text: str) -> Iterator[Pitfall]:
    """Blocks with an empty line between them: ``file: name``, then lines with ``-``, then lines with ``+``."""
    for block in text.split("\n\n"):
        if block.startswith("#"):
            continue
        head, *lines = block.strip("\n").split("\n")
        file, _, name = head.partition(": ")
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] == sign) for sign in "-+")
        yield Pitfall(name=name, found="", file=f"src/troth/{file}", old=old, new=new)


PLANTED = tuple(read((Path(__file__).parent / "planted.txt").read_text()))


def changed(pitfall: Pitfall) -> str:
    """The text of the module with the bug in it.

    Raises:
        ValueError: the text to change is not there once.
    """
    text = (ROOT / pitfall.file).read_text()
    if text.count(pitfall.old) != 1:
        raise ValueError(f"{pitfall.file}: {pitfall.name}: its text occurs {text.count(pitfall.old)} times")
    return text.replace(pitfall.old, pitfall.new)


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name in HEAVY:
        importlib.import_module(name)
    chosen = [each for each in PLANTED if wanted in each.name or wanted in each.file]
    missed = clumsy = 0
    for pitfall in chosen:
        file = pitfall.file.removeprefix("src/troth/")
        try:
            source = changed(pitfall)
        except ValueError as error:
            print(f"STALE {error}", flush=True)
            continue
        verdict = tried(file, source)
        missed += not verdict.caught_by
        clumsy += bool(verdict.died_of)
        caught = verdict.caught_by or f"**nothing**{unasked(verdict)}"
        died = f" (it dies of {verdict.died_of})" if verdict.died_of else ""
        print(f"{file}: {pitfall.name}: {caught}{died}", flush=True)
    print(f"{len(chosen)} bugs, {missed} caught by nothing; {clumsy} die of an error that is perhaps not the bug")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
