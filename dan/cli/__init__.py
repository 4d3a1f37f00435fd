"""The commands of python -m dan, one a file; `dan.__main__` lists them."""
