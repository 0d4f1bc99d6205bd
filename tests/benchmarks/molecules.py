"""Rows for an encoder of molecules: SMILES strings with one carbonyl group, labelled by the kind of the group.

    python -m tests.benchmarks.molecules > molecules.csv

Ester, acid, amide and ketone differ in the atoms next to C(=O); oxygen and nitrogen also occur elsewhere.
"""

import csv
import random
import sys
from collections.abc import Iterator

ROWS = 4000
GROUPS = {
    "ester": ("C(=O)OC{tail}", "OC(=O)C{tail}"),
    "acid": ("C(=O)O", "CC(=O)O"),
    "amide": ("C(=O)NC{tail}", "NC(=O)C{tail}", "C(=O)N"),
    "ketone": ("C(=O)C{tail}", "CC(=O)C{tail}"),
}
CHAINS = ("C", "CC", "CCC", "C(C)C", "CCO", "CN(C)C", "COC", "CCCl")
RINGS = ("c1ccc({})cc1", "c1cc({})ccc1F", "c1cnc({})cc1", "C1CCC({})CC1", "c1coc({})c1", "c1cc(Br)cc({})c1")
SIDES = ("", "OC", "N(C)C", "Cl", "CCO", "CN", "C#N")


def rows() -> Iterator[tuple[str, str]]:
    draw = random.Random(11)
    seen: set[str] = set()
    while len(seen) < ROWS:
        label = draw.choice(list(GROUPS))
        group = draw.choice(GROUPS[label]).replace("{tail}", draw.choice(CHAINS[1:]))
        ring = draw.choice(RINGS).format(draw.choice(("", "C", "CC")) + group)
        molecule = draw.choice(SIDES) + draw.choice(CHAINS) + ring
        if molecule not in seen:
            seen.add(molecule)
            yield molecule, label


def main() -> None:
    table = csv.writer(sys.stdout)
    table.writerow(("source", "label"))
    table.writerows(rows())


if __name__ == "__main__":
    main()
