"""What MkDocs does besides: the pages are written for GitHub first, and the site shows the same.

- Files of the checkout that a page links to (``../recipes/minilm.yaml``) become pages of the site.
- A fence ``bash not-run: REASON`` shows its reason as the block's title.
- Pages with a diagram load mermaid from the site itself, no browser asks anybody else for it: the file lies
  in the wheel ``mermaidx``, byte for byte that of the npm package ``mermaid``.
"""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)(?P<rest>.*)$")
_MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"  # mermaid 11.16.0
_LANGUAGES = {
    ".yml": "yaml",
    ".yaml": "yaml",
    ".py": "python",
    ".json": "json",
    ".proto": "protobuf",
    ".toml": "toml",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add mermaid, and a page for each file outside of ``docs/`` that some page links to."""
    mermaid = File.generated(config, "assets/javascripts/mermaid.min.js", abs_src_path=str(_mermaid()))
    files.append(mermaid)
    root = Path(config.docs_dir).parent
    targets = {
        target.rstrip("/")
        for file in files.documentation_pages()
        for target in _LINK.findall(file.content_string)
    }
    for target in sorted(targets):
        if not (root / target).exists():
            raise PluginError(f"a page links to ../{target}, which does not exist")
        files.append(
            File.generated(
                config,
                f"source/{target}.md",
                content=_source_page(root, target),
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the pages that :func:`on_files` made, and make fences ones that MkDocs knows."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    page.meta["mermaid"] = "```mermaid" in markdown
    markdown = _LINK.sub(lambda found: f"](source/{found[1].rstrip('/')}.md)", markdown)
    return "\n".join(_fences(markdown.split("\n")))


def _fences(lines: list[str]) -> list[str]:
    closing = ""
    out = []
    for line in lines:
        found = _FENCE.match(line)
        if closing:
            closing = "" if line.strip() == closing else closing
        elif found:
            closing = found["ticks"]
            label, _, reason = found["rest"].strip().partition(":")
            title = f' title="Not run by the tests: {_quoted(reason)}"' if label == "not-run" else ""
            line = f"{found['indent']}{found['ticks']}{found['language']}{title}"
        out.append(line)
    return out


def _quoted(text: str) -> str:
    return text.strip().replace('"', "'")


def _source_page(root: Path, target: str) -> str:
    path = root / target
    head = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {target}\n\n"
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if not file.name.startswith((".", "__")))
        return (
            head
            + "A folder of the checkout. It holds:\n\n"
            + "\n".join(f"- `{name}`" for name in names)
            + "\n"
        )
    text = path.read_text(encoding="utf-8")
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    language = "docker" if path.name.startswith("Dockerfile") else _LANGUAGES.get(path.suffix, "text")
    return f"{head}{ticks}{language}\n{text.rstrip()}\n{ticks}\n"


def _mermaid() -> Path:
    """The file in the wheel, if it is the one that was compared with npm's."""
    spec = find_spec("mermaidx")
    if spec is None or spec.origin is None:
        raise PluginError("mermaidx is not installed: pip install -c requirements.lock -e '.[docs]'")
    path = Path(spec.origin).parent / "assets" / "mermaid.js"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != _MERMAID_SHA256:
        raise PluginError(f"{path} is not the dist/mermaid.min.js of npm's mermaid 11.16.0, but {found}")
    return path
