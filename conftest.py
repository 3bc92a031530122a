"""What the examples in docstrings may use."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(np=np, tf=tf)
