"""What type checkers see of TwoPhaseCommit; never run."""

from typing import Any, assert_type

from sqlalchemy import Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from troth import AsyncTwoPhaseCommit, TwoPhaseCommit


def threads(bank: Engine, tpc: TwoPhaseCommit) -> None:
    with tpc.begin() as tx:
        assert_type(tx[bank], Connection)
        assert_type(tx["bank"], Any)
        tx[bank].exekute("typo")  # type: ignore[attr-defined]
    with tpc.snapshot([bank]) as snap:
        assert_type(snap[bank], Connection)
        snap[bank].exekute("typo")  # type: ignore[attr-defined]


async def tasks(bank: AsyncEngine, tpc: AsyncTwoPhaseCommit) -> None:
    async with tpc.begin() as tx:
        assert_type(tx[bank], AsyncConnection)
        assert_type(tx["bank"], Any)
        assert_type(await tx.connection(bank), AsyncConnection)
        await tx[bank].execute(text("SELECT 1"))
        async with tx[bank].begin_nested(), tx[bank].stream(text("SELECT 1")) as rows:
            assert_type(await rows.scalar_one(), Any)
        await tx[bank].exekute("typo")  # type: ignore[attr-defined]
    async with tpc.snapshot([bank]) as snap:
        assert_type(snap[bank], AsyncConnection)
