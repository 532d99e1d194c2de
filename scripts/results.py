"""Write the tables of README.md and docs/ from results/<benchmark>/*.json and results/performance.json.

    python scripts/results.py [--check]
    python scripts/results.py --results runs/benchmark_quick/results --out tables.md

A table is between the lines `<!-- table: BENCHMARK -->` (or `performance`) and `<!-- end -->`. A cell shows the
median of the seeds, with the range in brackets. `--check` writes nothing and ends with exit code 2 if a table differs.
`--out` writes all tables of a folder of results into one file instead.
"""

import argparse
import re
from pathlib import Path

from benchmarks import performance
from benchmarks.tables import all_tables, table
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/results.md", "docs/performance.md")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 2 if a table differs")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results, for --out")
    parser.add_argument("--out", type=Path, help="write all tables of --results into this file instead")
    args = parser.parse_args(argv)
    with exit_on_user_error():
        if args.out:
            atomic_text(args.out, all_tables(args.results))
            print(f"wrote {args.out}")
            return
        for path in (ROOT / name for name in DOCUMENTS):
            old = path.read_text(encoding="utf-8")
            new = fill(old)
            if args.check and new != old:
                raise UserError(f"{path}: a table differs from results/; run `python scripts/results.py`")
            if new != old:
                atomic_text(path, new)
                print(f"wrote {path}")


def fill(text: str, results: Path = ROOT / "results") -> str:
    """A document with new tables.

    Raises:
        UserError: a table without results.
    """

    def filled(match: re.Match) -> str:
        name = match[2]
        rows = performance.table(results / f"{name}.json") if name == "performance" else table(results / name)
        return match[1] + rows + match[3]

    return re.sub(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", filled, text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
