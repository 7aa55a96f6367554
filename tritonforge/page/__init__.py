"""Pages that stand alone: their frame and style sheet, plots inside them, and how figures are written.

Builds and load tests report in it, so that both look alike. It needs jinja2, and matplotlib where it draws.
"""
