"""Sphinx configuration.  Build:  python -m sphinx -W --keep-going -b html docs docs/_build/html

No inventories of other projects are fetched: the build needs no network.
"""

import fastcorr

project = "fastcorr"
author = "The fastcorr developers"
copyright = "2026, The fastcorr developers"
version = release = fastcorr.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.extlinks",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "*_table.md"]
nitpicky = True
# Words of numpydoc's type descriptions that are not objects to link to.
nitpick_ignore_regex = [("py:class", ".*"), ("py:data", ".*")]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

extlinks = {
    "arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s"),
    "doi": ("https://doi.org/%s", "doi:%s"),
}

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's Parameters sections say it in words
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
numpydoc_validation_checks = {
    *("EX01", "GL03", "GL05", "GL06", "GL07", "GL08", "PR01", "PR02", "PR03", "PR05", "PR06"),
    *("PR07", "PR10", "RT01", "SS01", "SS03", "YD01"),
}
# Methods and attributes need no example of their own: their class has one.
numpydoc_validation_exclude = {r"\.[A-Z]\w+\."}

# Pictures of one page must not be drawn into those of the page before.
doctest_global_cleanup = "import matplotlib.pyplot; matplotlib.pyplot.close('all')"

html_theme = "pydata_sphinx_theme"
html_title = "fastcorr"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_sidebars = {"**": []}
html_theme_options = {
    "logo": {"text": "fastcorr"},
    "header_links_before_dropdown": 7,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "performance": []},
    "show_prev_next": False,
}
html_show_sourcelink = False
