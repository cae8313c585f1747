"""The worker process that only decodes tiles, for a tile whose engine is not available."""

from pipeline.embed.worker import read_picture
from pipeline.errors import TileError
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve


def decode_all(request: Message, progress: Progress) -> Payload:
    """Decode the tiles of a request of `pipeline.embed.worker_messages.worker_request`.

    Returns:
        A map of `bad_tiles`: for each tile that cannot be decoded its position in the request, an `ErrorKind` and a
            message.
    """
    del progress
    bad: list[Payload] = []
    for number, (_, sha256, locator) in enumerate(request["tiles"]):
        try:
            read_picture(sha256, locator)
        except TileError as error:
            bad.append([number, str(error.kind), error.message])
    return {"bad_tiles": bad}


def start(first: Message) -> Handler:
    """Return the handler; there is nothing to load."""
    del first
    return decode_all


if __name__ == "__main__":
    serve(start)
