"""The commands of python -m active, one a file; `active.__main__` lists them."""
