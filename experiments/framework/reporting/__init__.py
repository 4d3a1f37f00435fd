"""What all reports are made with: tables, plots, tests between methods, and the forms in which people read them."""
