"""What aiohttp alone costs: the same POST, the body read and parsed, an answer of the same size that never changes."""

import asyncio
import sys

import msgspec
import uvloop
from aiohttp import web

decode = msgspec.json.Decoder().decode


async def serve(port: int, answer: bytes) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        decode(await request.read())
        return web.Response(body=answer, content_type="application/json")

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), b"x" * int(sys.argv[2])))
