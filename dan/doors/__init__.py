"""What is done with a trained network: measured, used on new data, handed on. `dan.__main__` makes them commands."""
