"""Check the files of ``--ssl-cert-file`` and ``--ssl-key-file`` before the server listens."""

from __future__ import annotations

import ssl
from pathlib import Path

from llamafw.errors import SettingsError
from llamafw.settings import Settings


def certificate_files(settings: Settings) -> tuple[Path, Path] | tuple[None, None]:
    """Return the paths of the certificate and its key; None and None if the settings name neither.

    Raises
    ------
    SettingsError
        Only one of the files is given, a file cannot be read, the key is not the certificate's, or the key needs a
        password.
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
        # without a password, OpenSSL would ask for one on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # ValueError: the key needs a password that is not empty
        reason = f"{cert} and {key} are not a certificate and its key, or the key needs a password: {error}"
        raise SettingsError(f"--ssl-cert-file, --ssl-key-file: {reason}") from None
    return cert, key
