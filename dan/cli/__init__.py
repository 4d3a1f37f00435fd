"""What the commands do: train a network, measure it, use it on new data, hand it on. `dan.__main__` lists them."""
