"""Sphinx: Markdown pages, executed notebooks, a reference out of docstrings. `make docs` builds with warnings as errors."""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]

project = "induced"
author = "the authors of induced"
html_title = "induced"
html_show_copyright = False
html_copy_source = False

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "docstrings",
    "mathml",
    "sources",
]
exclude_patterns = ["_build", "_ext", "figures"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["induced.css"]
pygments_style = "friendly"
pygments_dark_style = "monokai"

# ---------------------------------------------------------------------------------------------------- Markdown, notebooks
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
# What a notebook printed is kept for as long as neither it nor the library changes.
library = b"".join(path.read_bytes() for path in sorted((ROOT / "induced").rglob("*.py")))
nb_execution_cache_path = str(HERE / "_build" / f"notebooks-{hashlib.sha256(library).hexdigest()[:12]}")

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# ---------------------------------------------------------------------------------------------------- reference
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autoclass_content = "both"
autodoc_inherit_docstrings = False  # an override without a docstring does what its base says; nn.Module's are torch's
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False

nitpicky = True
nitpick_ignore_regex = [
    # other projects: their inventories are on the network, and the build asks nothing of it
    (r"py:.*", r"(torch|nn|np|numpy|scipy|os|collections|types|typing|hypothesis|huggingface_hub|matplotlib|pathlib)\b.*"),
    (r"py:.*", r"(Tensor|Module|Parameter|Callable|Iterable|Iterator|Sequence|Mapping|Path|ndarray|Axes|SearchStrategy)"),
    (r"py:.*", r"induced\._module\.Module"),  # an nn.Module
    # what annotations name and nobody imports: private classes, type variables
    (r"py:.*", r"induced\.[\w.]*\.(_\w+|[A-Z])"),
]
