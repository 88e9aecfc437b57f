"""The site: ``make docs`` builds it into ``build/site``; a broken link or an unknown name fails the build."""

import ast
import importlib
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate

import mastlens

project = "mastlens"
author = "The mastlens developers"
copyright = f"{author}, MIT licence"
release = version = mastlens.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_*"]
nitpicky = True  # with -W: a name that does not exist fails the build
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = "mastlens"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left",
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

_PUBLIC = {id(getattr(mastlens, name)): name for name in mastlens.__all__}


def _imported_names() -> dict[str, str]:
    """Return name to dotted path of what the package imports; annotations that nothing evaluates name it so."""
    names = {}
    for path in (HERE.parent / "mastlens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                names |= {alias.asname: module + alias.name for alias in node.names if alias.asname}
                names |= {alias.name: module + alias.name for alias in node.names if module and not alias.asname}
    return names


_IMPORTED = _imported_names()


def _find(target: str) -> object | None:
    """Return the object that a dotted name stands for; None where there is none."""
    first, dot, rest = target.partition(".")
    parts = (_IMPORTED.get(first, first) + dot + rest).split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except (ImportError, ValueError):
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return None
            found = getattr(found, part)
        return found
    return None


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Lead a name that the reference does not document to its public alias; let one that is another's stand as text.

    Annotations name classes where they are defined; the reference documents them as ``mastlens.NAME``. What torch,
    pandas and others define has no page here: it must exist, and is shown without a link.
    """
    if node.get("refdomain") != "py":
        return None
    found = _find(node["reftarget"])
    if found is None:
        return None
    if public := _PUBLIC.get(id(found)):
        domain, target = env.get_domain("py"), f"mastlens.{public}"
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)
    return content


def _docstring(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Turn a Google docstring into reStructuredText; a bar is a bar, as in |x|, and a property's colon a colon."""
    outside = [re.sub(r"(``.*?``)|\|", lambda match: match[1] or r"\|", line) for line in lines]
    kind = "method" if what in ("property", "attribute") else what
    config = Config(napoleon_use_rtype=False, napoleon_use_ivar=True)
    lines[:] = GoogleDocstring(outside, config, None, kind, name, found).lines()


def _signature(app: Sphinx, what: str, name: str, found: object, options: object, signature: str, returns: str):
    """Write a field that is made anew for each object as ``...``: Sphinx cannot read ``<factory>``."""
    return (signature or "").replace("<factory>", "...") or None, returns


def setup(app: Sphinx) -> None:
    """Write what is generated before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: generate.write_pages(HERE))
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("missing-reference", _resolve)
