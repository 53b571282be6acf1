"""I42: PostgreSQL beside the others and the model, compared after every step."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant

from flux_storage import PostgresStorage

from ..postgres import Server, fresh_schema
from .following_postgres import astray
from .test_agreement import Agreement
from .test_agreement_queues import Queues

_server: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def beside(database: Server) -> Iterator[None]:
    _server.append(database)
    yield
    _server.clear()


class Postgres(Agreement):
    def __init__(self) -> None:
        super().__init__()
        self.temporary, tempfile.tempdir = tempfile.tempdir, self.directory.name  # for the lock files of workers
        storage = PostgresStorage(_server[0].url(), schema=fresh_schema(), clock=self.clock)
        self.storages["postgres"], self.refs["postgres"] = storage, {}
        self.run(self.stack.enter_async_context(storage))

    @invariant()
    def nothing_is_astray(self) -> None:
        storage = self.storages["postgres"]
        assert isinstance(storage, PostgresStorage)
        assert self.run(astray(storage)) == []

    def teardown(self) -> None:
        super().teardown()
        tempfile.tempdir = self.temporary


class AgreementWithPostgres(Postgres):
    pass


class QueuesWithPostgres(Postgres, Queues):
    pass


TestAgreementWithPostgres = AgreementWithPostgres.TestCase
TestAgreementWithPostgres.settings = settings(max_examples=max(15, settings.default.max_examples // 10), stateful_step_count=50)
TestAgreementWithPostgres.__doc__ = "I42, I1, I7, I10, I11, I15, I24: replies, error classes and the whole observable state are equal."
TestQueuesWithPostgres = QueuesWithPostgres.TestCase
TestQueuesWithPostgres.settings = settings(max_examples=15, stateful_step_count=40)
TestQueuesWithPostgres.__doc__ = "I42, I15: limits, lanes and rates, of all storages."
