"""HTTPS: ``--ssl-cert-file`` and ``--ssl-key-file``, checked before anything listens."""

from __future__ import annotations

import ssl
from pathlib import Path

from llamafw.errors import SettingsError
from llamafw.settings import Settings


def certificate(settings: Settings) -> tuple[Path, Path] | tuple[None, None]:
    """Return the files of the certificate and its key; None twice if HTTPS is not asked for.

    Raises
    ------
    SettingsError
        One of the two files is missing, cannot be read, or does not fit the other; or the key needs a password.
    """
    if settings.ssl_cert_file is None and settings.ssl_key_file is None:
        return None, None
    if settings.ssl_cert_file is None or settings.ssl_key_file is None:
        raise SettingsError("HTTPS needs both --ssl-cert-file and --ssl-key-file")
    cert, key = Path(settings.ssl_cert_file).expanduser(), Path(settings.ssl_key_file).expanduser()
    for flag, path in (("--ssl-cert-file", cert), ("--ssl-key-file", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror or error}") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")  # or it would ask for one
    except (OSError, ValueError) as error:  # ValueError: OpenSSL has no use for an empty password
        raise SettingsError(f"--ssl-cert-file, --ssl-key-file: no certificate and its key: {error}") from None
    return cert, key
