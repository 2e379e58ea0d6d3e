"""The pages below docs/, and the code blocks and links in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COMMAND_LINE = DOCS / "command-line.md"
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>not run|file): (?P<value>.+?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        page: the file that it stands in.
        line: of the page, counted from 1.
        language: as the fence names it, such as `sh`.
        code: its lines.
        reason: why it isn't run, None if it is.
        file: the name under which its code lies in the folder where the page's blocks run, None for no file.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines that begin with `stemsplit`, without comments; a line may go on after a backslash."""
        joined = re.sub(r"(\\|(?<=\|))\n\s*", " ", self.code)
        bare = (re.match(r"(?:'[^']*'|[^'#]|(?<=\S)#)*", line) for line in joined.splitlines())
        found = [match[0].strip() for match in bare if match]
        return [command for command in found if command.split(" ")[0] == "stemsplit"]


def as_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table."""
    lines = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def name_of(page: Path) -> str:
    """Return a page's path below the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        reason = found["value"] if found["mark"] == "not run" else None
        file = found["value"] if found["mark"] == "file" else None
        yield Block(page, line, found["language"], found["code"], reason, file)


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Return the targets of a page's links that lead to other files or headings, not to the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "``", prose(page)))
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and GitLab make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
