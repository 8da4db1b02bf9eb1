"""How far a forwarder has come with a journal: forward.json of a run's folder."""

import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from skinml.base.files import read_json


@dataclass
class Acknowledged:
    """What a server has acknowledged of a journal; kept in the run's folder.

    `sequence` and `offset` are those of the last record, `ended` says whether it was the end,
    `left_out` why the models are not there: the server takes none.
    """

    server: str
    run_id: str = ""
    sequence: int = 0
    offset: int = 0
    ended: bool = False
    refused: str = ""
    left_out: str = ""
    uris: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, server: str = "") -> "Acknowledged":
        """What a folder has; nothing is acknowledged where it is another server's, or damaged.

        To send a record again costs time, nothing else; to begin at a wrong offset, records.
        Without `server` that of any.
        """
        try:
            values = read_json(path)
            checksum = values.pop("checksum")
            state = cls(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls(server)
        whole = checksum == state._checksum()
        return state if whole and server in ("", state.server) else cls(server)

    def _checksum(self) -> int:
        return zlib.crc32(json.dumps(asdict(self)).encode())

    def save(self, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("w") as file:
            json.dump({**asdict(self), "checksum": self._checksum()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
