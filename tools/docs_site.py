"""Hooks of mkdocs.yml: pages from outside docs/, links between them, and the API reference.

Every page stays a plain Markdown file whose links work in the repository. The site has the
same pages at other paths, so the hooks rewrite each link between two pages of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
API_PACKAGE = "captioner_core"
API_FOLDER = "reference"

# Files at the repository's root that are pages of the site, and their paths there.
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE.txt",
}
_PATHS_IN_REPOSITORY = {page: path for path, page in ROOT_PAGES.items()}
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds what grows by itself to the navigation: the decisions and the API reference."""
    decisions = sorted((ROOT / "docs/decisions").glob("0*.md"))
    config.nav = [
        *(config.nav or []),
        {"Decisions": ["decisions/README.md", *(f"decisions/{path.name}" for path in decisions)]},
        {"API reference": [{name: page} for name, page in _api_pages().items()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    for path, page in ROOT_PAGES.items():
        content = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    for module, page in _api_pages().items():
        files.append(File.generated(config, page, content=_api_text(module)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page's text with its links turned from repository paths to paths of the site.

    A link that leads to no page of the site is left as it is; the strict build then reports it.
    """
    source = _PATHS_IN_REPOSITORY.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = posixpath.dirname(source)

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["target"]))
        site_path = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(site_path) is None:
            return link[0]
        relative = posixpath.relpath(site_path, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({relative}{link['anchor'] or ''})"

    return _LINK.sub(rewrite, markdown)


def _api_pages() -> dict[str, str]:
    """Returns the page of each package of the core, and of each module that lies beside them."""
    package = ROOT / API_PACKAGE
    modules = [API_PACKAGE]
    for path in sorted(package.iterdir()):
        if (path / "__init__.py").exists():
            modules.append(f"{API_PACKAGE}.{path.name}")
        elif path.suffix == ".py" and not path.name.startswith("_"):
            modules.append(f"{API_PACKAGE}.{path.stem}")
    return {module: f"{API_FOLDER}/{module}.md" for module in modules}


def _api_text(name: str) -> str:
    """Returns the Markdown of one page of the reference, which mkdocstrings fills in.

    A package's own page shows what it exports; elsewhere each name stands with its module.
    """
    path = ROOT / name.replace(".", "/")
    directives = [f"::: {name}\n    options:\n      heading_level: 1"]
    if name == API_PACKAGE or not path.is_dir():
        return directives[0] + "\n      show_submodules: false\n"
    directives[0] += "\n      members: false"
    for module in sorted(path.rglob("*.py")):
        dotted = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        if module.name == "__init__.py" and module.parent != path:
            package = dotted.removesuffix(".__init__")
            directives.append(f"::: {package}\n    options:\n      members: false")
        elif not module.name.startswith("_"):
            directives.append(f"::: {dotted}")
    return "\n\n".join(directives) + "\n"
