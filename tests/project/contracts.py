"""The import contract for pure files: import-linter's `forbidden`, told what a gateway's shells are.

Pure is the rule: every module of a gateway except the shells named in pyproject.toml is held to it, so
a new file is pure until someone says otherwise. Everything else is import-linter's own check: chains
through helpers are followed and reported with their whole path.
"""

from grimp import ImportGraph
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain import fields
from importlinter.domain.contract import ContractCheck


class PureContract(ForbiddenContract):
    """A `forbidden` contract whose source modules include all of the gateways but their shells.

    gateways: package names. shells: module names inside any of them, for example `serve`.
    """

    type_name = "pure"

    gateways = fields.SetField(subfield=fields.StringField())
    shells = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        pure = {
            child
            for gateway in self.gateways
            for child in graph.find_children(gateway)
            if child.rpartition(".")[2] not in self.shells
        }
        field = fields.ModuleExpressionField()
        self.source_modules = set(self.source_modules) | {field.parse(name) for name in pure}
        return super().check(graph, verbose)
