"""Whether an image file is whole, as far as its bytes tell, beyond what decoders notice.

Decoders fill in what is missing: of a PNG whose second half is zeros they return the first half,
and of a JPEG too. A PNG has checksums. A JPEG has only a mark at its end, which some whole files
lack, so its absence is a doubt and no more.
"""

import zlib

from pipeline.base.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")  # others do not change how the image is read
JPEG, SCAN, END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


def require_whole(data: bytes) -> None:
    """Raise DataError if `data` is a PNG with damaged pixels, or one without an end."""
    if not data.startswith(PNG):
        return
    place = len(PNG)
    while (kind := data[place + 4 : place + 8]) != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4])
        if len(kind) < 4 or not kind.isalpha() or end + 4 > len(data):
            raise DataError(f"Not a whole PNG: it breaks off after {place:,} bytes.")
        if kind in PIXEL_CHUNKS:
            found, wanted = zlib.crc32(data[place + 4 : end]), int.from_bytes(data[end : end + 4])
            if found != wanted:
                raise DataError("Not a whole PNG: a checksum does not fit its pixels.")
        place = end + 4


def lacks_end(data: bytes) -> bool:
    """Whether `data` is a JPEG without a mark at the end of its last scan."""
    return data.startswith(JPEG) and data.find(END, data.rfind(SCAN)) < 0
