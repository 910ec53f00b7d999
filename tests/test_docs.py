"""What the documentation says of paths, links, pictures, layers, chains and sets is what the repository has."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsagent.address import Family
from ipvsagent.backends.hand_over import Stage
from ipvsagent.render.iptables.ipvs_rules import RuleOptions, rule_set
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_name, set_specs
from ipvsagent.rows.packet_rules import Place, RuleSet
from tests.support.layers import LAYERS, MAY_NOT_KNOW, PURE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ipvsagent"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.txt"))
MODULES = sorted(PACKAGE.rglob("*.py"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
# Words that may be paths: of the repository, or as the map has them, of the package.
_WORD = re.compile(
    r"(?<![\w./:=@-])[A-Za-z_][\w*-]*(?:/[\w.*-]+)*(?:/|\.(?:py|md|txt|svg|sh|yaml|toml))?(?![\w@-]|:\w)"
)
_SUFFIX = re.compile(r"\.(?:py|md|txt|svg|sh|toml)$")
# Files that the reader has, and those that a run makes.
_OF_THE_READER = {"cluster.yaml"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def paths_in(text: str) -> Iterator[str]:
    """Words that can be nothing but paths: in a directory of the repository or of the package, or a file of a kind that
    is found here alone."""
    directories = {p.name for place in (ROOT, PACKAGE) for p in place.iterdir() if p.is_dir() and p.name[0].isalpha()}
    for word in _WORD.findall(text):
        first, slash, _ = word.partition("/")
        if (slash and first in directories) or (_SUFFIX.search(word) and word not in _OF_THE_READER):
            yield word


def exists(word: str, *places: Path) -> bool:
    return any(next(place.glob(word.rstrip("/")), None) for place in places)


@pytest.mark.parametrize("page", [*PAGES, *PICTURES], ids=name_of)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    code = " ".join(_CODE.findall(page.read_text()))
    missing = [word for word in paths_in(code) if not exists(word, ROOT, PACKAGE, *named_directories(code))]
    assert not missing


def named_directories(code: str) -> list[Path]:
    """Those of the files that a page names: the next file may be named as one beside them."""
    return sorted({(ROOT / word).parent for word in paths_in(code) if (ROOT / word).is_file()})


def the_map() -> str:
    return ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""


def test_the_layers_of_the_map_are_the_law() -> None:
    written = " ".join(the_map().split()).partition("tests/test_layers.py: ")[2].partition(". ")[0]
    assert [set(layer.split(", ")) for layer in written.split(" → ")] == [names - {"__main__"} for names in LAYERS]


def test_paths_that_the_map_names_exist() -> None:
    missing = []
    for line in the_map().splitlines():
        directory = PACKAGE
        for word in paths_in(line):
            if not exists(word, PACKAGE, ROOT, directory):
                missing.append(word)
            elif "/" in word and (PACKAGE / word).parent.is_dir():
                directory = (PACKAGE / word).parent  # what follows on the line may be beside it
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for link in _LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert not broken


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pictures_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "draw.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_picture_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "draw.py").write_bytes((ROOT / "docs" / "draw.py").read_bytes())
    description = tmp_path / "pictures" / "one.txt"
    description.write_text(
        "picture 300x100 One\nbox a 10,10 100x40 ours\n  Title\nbox b 180,10 100x40 kernel\narrow a b to\n"
    )

    def run(*arguments: str) -> int:
        return subprocess.run([sys.executable, tmp_path / "draw.py", *arguments], capture_output=True).returncode

    assert run("--check") == 1
    assert (run(), run("--check")) == (0, 0)
    description.write_text(description.read_text().replace("Title", "Other"))
    assert run("--check") == 1
    description.write_text(description.read_text().replace("Other", "A title that is far too long for its box"))
    assert run() == 2


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_in_a_sentence_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "has no docstring"
    assert re.match(r"[A-Z]", docstring), "the first sentence does not begin with a capital letter"
    assert re.search(r"\.(\s|$)", docstring.partition("\n\n")[0]), "the first sentence does not end with a full stop"


def rows_of(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / "docs" / page).read_text()
    assert f"\n{heading}\n" in text
    lines = text.partition(f"\n{heading}\n")[2].partition("\n#")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_of_layers_is_the_law() -> None:
    rows = rows_of("architecture.md", "## Layers")
    assert [set(re.findall(r"`(\w+)`", packages)) for _, packages, _ in rows] == LAYERS
    written = {
        name: set(others.split(", ")) for *_, cell in rows for name, others in re.findall(r"`(\w+)`: ([^;]+)", cell)
    }
    assert written == MAY_NOT_KNOW
    text = (ROOT / "docs" / "architecture.md").read_text()
    pure = re.search(r"No clock, no I/O, no threads: ([^.]+)\.", text)
    assert pure
    assert set(re.findall(r"`(\w+)`", pure[1])) == PURE


def test_the_stages_of_a_hand_over_are_those_of_the_code() -> None:
    assert [stage.strip("`") for stage, *_ in rows_of("architecture.md", "### Hand-over")] == list(Stage)


OPTIONS = RuleOptions(pods_known=True)


@pytest.mark.parametrize(
    ("heading", "picture", "rules"),
    [
        ("## Beside IPVS", "packet-path-ipvs", rule_set(Family.IPV4, OPTIONS)),
        ("## The iptables backend", "packet-path-iptables", nat_rule_set(Family.IPV4, OPTIONS)),
    ],
)
def test_the_tables_and_pictures_of_chains_are_the_rules(heading: str, picture: str, rules: RuleSet) -> None:
    drawn = set(re.findall(r"[A-Z-]+", (ROOT / "docs" / "pictures" / f"{picture}.txt").read_text()))
    assert {chain.name.removeprefix("IPVSAGENT-") for chain in rules.chains} <= drawn
    rows = {chain.strip("`"): (origin, place) for chain, origin, place, _ in rows_of("packet-path.md", heading)}
    assert set(rows) == {chain.name for chain in rules.chains}
    for chain, (origin, place) in rows.items():
        jumps = [jump for jump in rules.jumps if jump.chain == chain]
        if jumps:
            assert set(origin.split(", ")) == {f"{jump.table} {jump.hook}" for jump in jumps}
            assert {Place(place)} == {jump.place for jump in jumps}
        else:
            callers = {c.name.removeprefix("IPVSAGENT-") for c in rules.chains if any(chain in r for r in c.rules)}
            assert set(origin.split(", ")) == callers
            assert place == ""


def test_the_table_of_sets_is_that_of_the_code() -> None:
    rows = {set_name(noun, Family.IPV4): kind for noun, kind, _ in rows_of("packet-path.md", "## Sets")}
    assert rows == {spec.name: spec.kind for spec in set_specs() if spec.family is Family.IPV4}
