"""Code blocks of the project's Markdown pages, and the shell commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
SHELL_LOOP = ("for", "done", "do")
CONFIG_KEY = re.compile(r"(?:[A-Z][A-Z0-9_]*\.)+[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: path of the page below the repository's root.
        line: number of its first line, from 1.
        language: name at the fence; "" for an indented block.
        text: without fence and indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def page_name(path: Path) -> str:
    """Returns the path of a page below the repository's root."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[Block]:
    """Yields the code blocks of a page: fenced ones, and paragraphs indented by four spaces outside of lists."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number, in_list = 0, False
    while number < len(lines):
        line = lines[number]
        if line.startswith("```"):
            end = next(i for i in range(number + 1, len(lines)) if lines[i].startswith("```"))
            yield Block(page_name(path), number + 2, line[3:].strip(), "\n".join(lines[number + 1 : end]))
            number = end
        elif line.startswith("    ") and not in_list and not lines[number - 1].strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block(page_name(path), number + 1, "", "\n".join(x[4:] for x in lines[number:end]).rstrip())
            number = end - 1
        elif line.strip():
            in_list = bool(re.match(r"\s*([-*]|\d+\.) ", line)) or (in_list and line.startswith(" "))
        number += 1


def is_shell(block: Block) -> bool:
    """Returns whether a block holds shell commands: by its fence, or by the first word of an indented block."""
    if block.language:
        return block.language in ("bash", "sh")
    words = next((w for line in block.text.splitlines() if (w := line.split("#")[0].split())), [""])
    programs = ("panoptic-fusion", "python", "make", "for", "ln")
    return words[0] in programs or bool(ASSIGNMENT.fullmatch(words[0])) or bool(CONFIG_KEY.fullmatch(words[0]))


def commands(block: Block) -> list[list[str]]:
    """Returns the words of each command of a shell block, without environment variables, loops and comments."""
    text = block.text.replace("\\\n", " ")
    if text.count("'") % 2 == 0:  # a quoted value may span lines
        text = re.sub(r"'[^'\n]*\n[^']*'", lambda match: match[0].replace("\n", " "), text)
    result = []
    for line in text.splitlines():
        words = ["for"] if line.startswith("for ") else shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and ASSIGNMENT.fullmatch(command[0]):
                command = command[1:]
            if command and command[0].rstrip(";") not in SHELL_LOOP:
                result.append(command)
    return result


def shell_commands() -> list[tuple[Block, list[str]]]:
    """Returns all commands of all pages."""
    return [(b, words) for path in PAGES for b in blocks(path) if is_shell(b) for words in commands(b)]
