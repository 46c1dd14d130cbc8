"""The command line. No other package prints or exits."""
