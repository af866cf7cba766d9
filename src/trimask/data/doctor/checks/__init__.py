"""One check a file; `check.all_checks` finds them."""
