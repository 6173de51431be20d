"""The pages of the documentation, as tests read them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block: the language, the text, and the paragraph before it."""

    language: str
    text: str
    before: str


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """The path below the root of the project."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def tokens(self) -> list[Token]:
        """The Markdown tokens of the page, including tables."""
        return MarkdownIt().enable("table").parse(self.path.read_text(encoding="utf-8"))

    def blocks(self, *languages: str) -> list[Block]:
        """Return the fenced blocks in some languages, or in all."""
        found, before = [], ""
        for token in self.tokens:
            if token.type == "inline":
                before = token.content
            elif token.type == "fence" and (not languages or token.info.strip() in languages):
                found.append(Block(token.info.strip(), token.content, before))
        return found

    def inline(self) -> Iterator[Token]:
        """Yield the inline tokens within paragraphs, headings and cells."""
        for token in self.tokens:
            yield from token.children or ()

    def code(self) -> list[str]:
        """Return the inline code of the page."""
        return [token.content for token in self.inline() if token.type == "code_inline"]

    def links(self) -> list[str]:
        """Return the targets of links and images."""
        places = {"link_open": "href", "image": "src"}
        return [str(t.attrs[places[t.type]]) for t in self.inline() if t.type in places]

    def anchors(self) -> set[str]:
        """Return the anchors of headings, as GitHub makes them."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        headings = [text for opening, text in pairs if opening.type == "heading_open"]
        return {_slug(heading.content) for heading in headings}


def _slug(heading: str) -> str:
    kept = [c for c in heading.lower() if c.isalnum() or c in "-_ "]
    return "".join(kept).strip().replace(" ", "-")


def pages() -> list[Page]:
    """Return the front page and the documentation."""
    return [Page(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]


def page(name: str) -> Page:
    """Return one page by its path below the root."""
    return Page(ROOT / name)
