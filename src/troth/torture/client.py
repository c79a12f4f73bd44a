"""What torture's workloads ask of a system, asked of a troth cluster."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

import troth
from troth.client.aio import AsyncClient
from troth.client.operations import Get, Put
from troth.client.replies import RangeReply
from troth.errors import NotApplied, OutcomeUnknown
from troth.torture.system import Definite, Indefinite

T = TypeVar("T")


class TrothClient:
    """`TortureClient` over troth's own client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def put(self, key: str, value: str) -> None:
        await outcome_of(self._client.put(key, value))

    async def get(self, key: str) -> str | None:
        reply = await outcome_of(self._client.get(key))
        return None if reply.value is None else reply.value.decode()

    async def swap(self, expected: Mapping[str, str | None], wanted: Mapping[str, str]) -> bool:
        compare = [
            troth.version(key) == 0 if value is None else troth.value(key) == value
            for key, value in expected.items()
        ]
        reply = await outcome_of(self._client.txn(compare, [Put(key, value) for key, value in wanted.items()]))
        return reply.succeeded

    async def read(self, keys: Sequence[str]) -> dict[str, str | None]:
        reply = await outcome_of(self._client.txn([], [Get(key) for key in keys]))
        found: dict[str, str | None] = {}
        for key, response in zip(keys, reply.responses, strict=True):
            kvs = response.kvs if isinstance(response, RangeReply) else []
            found[key] = kvs[0].value.decode() if kvs else None
        return found

    async def scan(self, prefix: str) -> dict[str, tuple[str, int]]:
        reply = await outcome_of(self._client.range(prefix=prefix))
        return {kv.key.decode(): (kv.value.decode(), kv.version) for kv in reply.kvs}

    async def close(self) -> None:
        await self._client.close()


async def outcome_of(request: Awaitable[T]) -> T:
    """Await *request*, its errors turned into torture's two."""
    try:
        return await request
    except NotApplied as error:
        raise Definite(f"{type(error).__name__}: {error}") from error
    except OutcomeUnknown as error:
        raise Indefinite(f"{type(error).__name__}: {error}") from error
