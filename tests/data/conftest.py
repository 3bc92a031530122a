"""Keep pytest's doctest collection away from the script here: it needs PyTorch and normflows."""

collect_ignore = ["make_normflows_truth.py"]
