"""The commands of `relaygr`: each takes parsed arguments and gives a Report."""
