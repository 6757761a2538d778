"""Files of API keys and certificates: which are read, and with which start-up fails."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from starlette.requests import Request

from llamafw import Settings, SettingsError
from llamafw.server.authentication import ApiKeys, api_keys
from llamafw.server.tls import certificate_files
from llamafw.serving import Credentials


@pytest.mark.inventory("C-109")
def test_keys_of_a_file_are_added_to_the_others(tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_bytes("# first\none\r\n\n # a comment\n  \nschlüs#sel".encode())
    keys = api_keys(Settings(api_key=("zero",), api_key_file=str(path)))
    assert keys == {"zero": 0, "one": 0, "schlüs#sel": 0}
    assert api_keys(Settings(api_key=("zero",))) == {"zero": 0}
    assert api_keys(Settings()) == {}


@pytest.mark.inventory("C-109")
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\n \n", "contains no key"),
        (b"# only\n#\n", "contains no key"),
        (b"\xff\n", "cannot be read"),
        (None, "cannot be read: .*No such file"),
        (b"one priority=20\n", "priority=20 is not a whole number from -20 to 19"),
        (b"one priority=-21\n", "priority=-21 is not"),
        (b"one priority=high\n", "priority=high is not"),
        (b"one priority=\n", "priority= is not"),
    ],
)
def test_startup_fails_if_a_key_file_has_no_keys(tmp_path: Path, raw: bytes | None, message: str) -> None:
    path = tmp_path / "keys"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(SettingsError, match=f"--api-key-file: .*{message}"):
        api_keys(Settings(api_key=("zero",), api_key_file=str(path)))


def test_keys_of_a_file_have_priorities(tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_text("one priority=-5\ntwo\t priority=7\na b priority=19\nx=priority=1\n")
    keys = api_keys(Settings(api_key=("zero",), api_key_file=str(path)))
    assert keys == {"zero": 0, "one": -5, "two": 7, "a b": 19, "x=priority=1": 0}


async def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    request = Request({"type": "http", "headers": []})
    user = await ApiKeys({"one": 0, "two": 0, "three": 0}).authenticate(Credentials(("one",), request))
    assert user is not None
    assert compared == [(b"one", b"one"), (b"one", b"two"), (b"one", b"three")]  # no early exit


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate, its key, its key with a password, and the key of another certificate."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    issued.private_key_pem.write_to_path(str(folder / "key"))
    other.private_key_pem.write_to_path(str(folder / "other"))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encoding, file_format = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "locked").write_bytes(
        key.private_bytes(encoding, file_format, serialization.BestAvailableEncryption(b"word"))
    )
    return folder


@pytest.mark.inventory("C-110", "C-111")
def test_certificate_files_are_returned(pem: Path) -> None:
    files = certificate_files(Settings(ssl_cert_file=str(pem / "cert"), ssl_key_file=str(pem / "key")))
    assert files == (pem / "cert", pem / "key")
    assert certificate_files(Settings()) == (None, None)


@pytest.mark.inventory("C-110", "C-111")
@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("cert", None, "needs both"),
        (None, "key", "needs both"),
        ("cert", "none", "--ssl-key-file: .*none cannot be read: No such file"),
        ("none", "key", "--ssl-cert-file: .*none cannot be read: No such file"),
        ("cert", "other", "are not a certificate and its key"),
        ("key", "cert", "are not a certificate and its key"),
        ("cert", "locked", "are not a certificate and its key"),  # OpenSSL does not ask for the password
    ],
)
def test_startup_fails_with_unusable_certificates(pem: Path, cert: str | None, key: str | None, message: str) -> None:
    files = {"ssl_cert_file": cert, "ssl_key_file": key}
    settings: dict[str, Any] = {name: str(pem / file) for name, file in files.items() if file}
    with pytest.raises(SettingsError, match=message):
        certificate_files(Settings(**settings))
