"""Golden records: what trainings gave before the code was restructured, bit by bit."""
