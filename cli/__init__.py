"""actlas.cli: the command `act`. Commands parse, call one library function, and print."""
