"""Keep pytest's doctest collection away from the scripts here."""

collect_ignore = ["export_reader.py", "make_normflows_truth.py"]
