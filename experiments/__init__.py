"""One module a published table or figure: trials -> records -> report."""
