"""Sphinx settings."""

import kvbound

project = "kvbound"
author = "the kvbound authors"
copyright = "the kvbound authors"
version = release = kvbound.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_fence_as_directive = ["math"]  # what GitHub reads as math, too
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "kvbound"
