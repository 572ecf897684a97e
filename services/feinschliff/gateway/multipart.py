"""Multipart uploads read as a stream: small fields in memory, the file passed on piece by piece, never on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from feinschliff.gateway.bodies import too_large
from feinschliff.gateway.errors import ApiError

FIELDS_BYTES_MAX = 64 * 1024
OVERHEAD_BYTES_MAX = 2 * FIELDS_BYTES_MAX  # fields, headers and boundaries around the file


class Form:
    """A multipart body with at most one file, in field `file`; read it from front to back, once.

    Memory holds the small fields and what one read of the socket brought. Fields that stand behind the file are known
    once the file has been read.
    """

    def __init__(self, request: Request, *, file_bytes_max: int) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.file_bytes = 0
        self._chunks = aiter(request.stream())
        self._file_bytes_max = file_bytes_max
        self._fields_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._in_file = self._file_ended = self._is_over = False
        self._name, self._value = "", bytearray()
        self._header: tuple[bytes, bytes] = (b"", b"")
        self._disposition = b""
        self._parser = MultipartParser(
            _boundary(request),
            {
                "on_part_begin": self._on_part_begin,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_end": self._on_end,
            },
        )
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > file_bytes_max + OVERHEAD_BYTES_MAX:
            raise too_large(file_bytes_max)

    async def find_file(self) -> bool:
        """Reads up to where the file begins; False if there is none."""
        while self.file_name is None and await self._read():
            pass
        return self.file_name is not None

    async def file(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the file, in pieces of at most what one read of the socket brings.

        Raises:
            ApiError: 413 beyond the limit; 400 where the body ends before the form does.
        """
        while True:
            while self._pieces:
                yield self._pieces.popleft()
            if self._file_ended or not await self._read():
                return

    async def finish(self) -> None:
        """Reads what follows the file, so that all fields are known."""
        while await self._read():
            self._pieces.clear()

    async def _read(self) -> bool:
        """Parses what the socket brings next; False at the end of the form."""
        if self._is_over:
            return False
        chunk = await anext(self._chunks, b"")
        if not chunk:
            raise ApiError(400, "The multipart body ended before its closing boundary.", param="file")
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise ApiError(400, f"The multipart body cannot be read: {error}.") from None
        if self.file_bytes > self._file_bytes_max:
            raise too_large(self._file_bytes_max)
        return True

    def _on_part_begin(self) -> None:
        self._name, self._value, self._disposition = "", bytearray(), b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (b"", b"")

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._name == "file"
        if not self._in_file:
            return
        if self.file_name is not None:
            raise ApiError(400, "One file a request is taken, but there are two.", code="invalid_value", param="file")
        self.file_name = options.get(b"filename", b"").decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.file_bytes += end - start
            self._pieces.append(data[start:end])
            return
        self._count(end - start)
        self._value += data[start:end]

    def _on_part_end(self) -> None:
        if self._in_file:
            self._in_file, self._file_ended = False, True
        elif self._name:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._is_over = True

    def _count(self, size_bytes: int) -> None:
        self._fields_bytes += size_bytes
        if self._fields_bytes > FIELDS_BYTES_MAX:
            raise ApiError(413, f"The fields beside the file are larger than {FIELDS_BYTES_MAX} bytes together.")


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, "Send the file as multipart/form-data with the fields `purpose` and `file`.")
    return boundary
