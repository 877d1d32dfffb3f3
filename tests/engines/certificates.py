"""Certificates that a test makes itself."""

from pathlib import Path

import attrs
import trustme


@attrs.frozen
class Certificates:
    """An authority's, and the one that it gave to a server, as PEM files."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def made(cls, folder: Path, *names: str) -> "Certificates":
        """For a server of these names or addresses."""
        folder.mkdir(parents=True)
        authority = trustme.CA()
        issued = authority.issue_cert(*names)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        authority.cert_pem.write_to_path(made.ca)
        issued.private_key_pem.write_to_path(made.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(made.certificate, append=True)
        return made
