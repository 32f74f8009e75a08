"""The command line: it parses, composes and prints. Heavy imports happen inside the commands that need them."""
