"""The report: facts gathered from the stages' outputs, curves, and the pages made of them."""
