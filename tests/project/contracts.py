"""The import contract for pure files: import-linter's `forbidden`, tolerant of files not written yet.

A listed module that does not exist is left out; everything else is import-linter's own check, so
chains through helpers are followed and reported with their whole path.
"""

from grimp import ImportGraph
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain.contract import ContractCheck


class PureContract(ForbiddenContract):
    """A `forbidden` contract whose missing source modules are skipped."""

    type_name = "pure"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        self.source_modules = {module for module in self.source_modules if str(module) in graph.modules}
        return super().check(graph, verbose)
