"""The end of ``aae up``, and its next beginning. Last of all files here: it ends the product that the others share."""

from __future__ import annotations

import pytest

from aae.local.stack import _marked
from tests.e2e.conftest import Product, up
from tests.e2e.test_product import runs_of
from tests.quick import QUICK

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_after_ctrl_c_nothing_is_left_and_the_next_start_comes_back_where_it_was(product: Product) -> None:
    url, runs = product.stack.api_url, len(runs_of(product, "fetch-ad-data/six-hourly"))
    assert product.interrupt() in {0, 130}
    assert not _marked(product.state / "up")
    with up(product.state, **QUICK) as second:
        assert second.stack.api_url == url
        assert len(runs_of(second, "fetch-ad-data/six-hourly")) == runs
        assert second.interrupt() in {0, 130}
