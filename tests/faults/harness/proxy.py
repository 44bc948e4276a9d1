"""A TCP proxy that can cut, hold back and delay what passes through it: the network's faults.

All of it runs on one event loop in a thread of its own. The methods may be called from any other
thread and return when the fault is in effect.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Self

# Closing then sends RST, as a firewall does, instead of the polite end of stream.
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

# A simple query of PostgreSQL's protocol: type, length with itself, text, NUL.
COMMIT = b"Q" + struct.pack("!I", 4 + len(b"COMMIT\0")) + b"COMMIT\0"
# Outside of a transaction, these statements commit themselves.
WRITES = (b"INSERT INTO users", b"UPDATE users", b"DELETE FROM users")


class _Link:
    """One connection through the proxy: the task that serves it and both its sockets."""

    def __init__(self, task: asyncio.Task[None], writers: list[asyncio.StreamWriter]) -> None:
        self.task = task
        self.writers = writers
        self.swallow = False
        self._in_transaction = False

    def commits_by(self, chunk: bytes) -> bool:
        """Return whether what the client sends makes the server commit a write."""
        if b"BEGIN" in chunk:
            self._in_transaction = True
        elif COMMIT in chunk or b"ROLLBACK" in chunk:
            self._in_transaction = False
            return COMMIT in chunk
        return not self._in_transaction and any(write in chunk for write in WRITES)

    def cut(self) -> None:
        for writer in self.writers:
            client_socket = writer.get_extra_info("socket")
            if client_socket is not None:
                with suppress(OSError):
                    client_socket.setsockopt(*RESET)
        self.task.cancel()

    async def close(self) -> None:
        for writer in self.writers:
            writer.close()
        for writer in self.writers:
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


class Proxy:
    """Forwards connections from ``port`` of 127.0.0.1 to ``target``, another port of it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.connections_made = 0
        self.commits_cut = 0
        self.seen: Counter[bytes] = Counter()  # chunks to the server with one of `watched` in them
        self.watched: tuple[bytes, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._delay = 0.0
        self._refusing = False
        self._commits_to_cut = 0
        self._forward_commit = True

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection there is; new ones pass."""
        self._do(self._cut_all)

    def refuse(self) -> None:
        """Reset every connection there is and every new one."""
        self._refusing = True
        self.cut()

    def hold(self) -> None:
        """Accept connections and what they send, and forward nothing: a black hole."""
        self._do(self._flowing.clear)

    def delay(self, seconds: float) -> None:
        """Hold back each chunk on its way to the server: so much more for each round trip."""
        self._delay = seconds

    def cut_commits(self, number: int, *, forward: bool) -> None:
        """Cut the connections of the next ``number`` commits.

        That is COMMIT, or a write outside of a transaction. With ``forward`` the server gets it and
        its answer is swallowed, so that the change is stored; without, it never reaches the server.
        """
        self._forward_commit, self.commits_cut, self._commits_to_cut = forward, 0, number

    def resume(self) -> None:
        """End every fault; what was held back is delivered."""
        self._refusing, self._delay, self._commits_to_cut = False, 0.0, 0
        self._do(self._flowing.set)

    def _do(self, action: Callable[[], None]) -> None:
        async def call() -> None:
            action()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = {link.task for link in self._links}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports finish closing in the loop's next turn

    def _cut_all(self) -> None:
        for link in self._links:
            link.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_made += 1
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, [writer])
        self._links.add(link)
        try:
            if self._refusing:
                return
            await self._flowing.wait()
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            link.writers.append(to_server)
            await asyncio.gather(
                self._pump_to_server(link, reader, to_server),
                self._pump_to_client(link, from_server, writer),
            )
        except (OSError, asyncio.CancelledError):
            pass  # whoever is left of the two is closed below
        finally:
            self._links.discard(link)
            await link.close()

    async def _pump_to_server(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(65536):
            self.seen.update(text for text in self.watched if text in chunk)
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._flowing.wait()
            commits = link.commits_by(chunk)
            if self._commits_to_cut and commits:
                self._commits_to_cut -= 1
                self.commits_cut += 1
                if not self._forward_commit:
                    link.cut()
                    return
                link.swallow = True
            writer.write(chunk)
            await writer.drain()
        await self._flowing.wait()
        writer.write_eof()

    async def _pump_to_client(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while chunk := await reader.read(65536):
            await self._flowing.wait()
            if link.swallow:
                link.cut()
                return
            writer.write(chunk)
            await writer.drain()
        await self._flowing.wait()
        # The server has ended the connection: tell the client, and end the other direction too.
        link.task.cancel()
