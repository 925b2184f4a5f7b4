"""An engine that says what a test wants, for what real ones can't be made to do at will."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20"}
Say = Callable[[str, str], Awaitable[tuple[int, object]]]


@asynccontextmanager
async def scripted(socket: Path, say: Say) -> AsyncIterator[None]:
    """Listen at `socket`; `say` gives the status and the body for (method, path with query)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = re.search(r"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(size[1]) if size else 0)
                method, target, _ = head.split(" ", 2)
                path = re.sub(r"^/v[\d.]+", "", target)
                status, body = (200, VERSION) if path == "/version" else await say(method, path)
                text = json.dumps(body).encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, socket)
    try:
        yield
    finally:
        server.close()
