"""Stand-ins for the directives `schematic` and `cite` of PyTerrier's documentation.

PyTerrier's own (docs/extras in its repository) are in no package of PyPI. These take the same arguments, so that pages
which build here build there: a schematic's code sees `pt` alone, and its last expression is drawn by PyTerrier.
"""

from __future__ import annotations

import ast

import pyterrier as pt
from docutils import nodes
from docutils.parsers.rst import Directive


class Schematic(Directive):
    has_content = True
    option_spec = {"input_columns": str}

    def run(self):
        body = ast.parse("\n".join(self.content))
        last = ast.Expression(body.body.pop().value)
        names = {"pt": pt}
        exec(compile(body, "<schematic>", "exec"), names)
        drawn = eval(compile(last, "<schematic>", "eval"), names)
        columns = self.options.get("input_columns")
        columns = None if columns is None else [column.strip() for column in columns.split(",")]
        return [nodes.raw("", pt.schematic.draw(drawn, input_columns=columns), format="html")]


class Cite(Directive):
    required_arguments = 1
    has_content = True
    option_spec = {"citation": str, "link": str, "blbtex": str}

    def run(self):
        link, citation = self.options["link"], self.options["citation"]
        return [nodes.paragraph("", "", nodes.reference("", citation, refuri=link))]


def setup(app):
    app.add_directive("schematic", Schematic)
    app.add_directive("cite", Cite)
    return {"parallel_read_safe": True}
