"""The ledger: what each experiment was measured at here, against its published number, one file a measurement.

experiments/ledger/<experiment>/<time>.json holds an `Entry`: the value with its interval, the verdict, which weights were
measured and whether they were trained here, the data by its contents, and the code, libraries and machine. Own work.
"""

from trimask.ledger.contents import DataFingerprint, data_fingerprint
from trimask.ledger.entry import Entry, Verdict, judge, newest, read, write

__all__ = ["DataFingerprint", "Entry", "Verdict", "data_fingerprint", "judge", "newest", "read", "write"]
