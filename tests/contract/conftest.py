"""Assertions in the suite are shown with their values, as in a test module."""

import pytest

pytest.register_assert_rewrite("tests.contract.suite")
