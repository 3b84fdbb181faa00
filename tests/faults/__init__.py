"""What goes wrong from outside: bad input and bad orders, against real nodes."""
