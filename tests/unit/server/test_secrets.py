"""Keys and certificates from files: what is taken, and what ends the start."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from starlette.requests import Request

from llamafw import Settings, SettingsError
from llamafw.server.auth import ApiKeys, keys
from llamafw.server.tls import certificate
from llamafw.serving import Credentials


@pytest.mark.inventory("C-109")
def test_keys_from_a_file_add_to_the_others(tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_bytes("one\r\n\n # no comment\n  \nschlüssel".encode())
    found = keys(Settings(api_key=("zero",), api_key_file=str(path)))
    assert found == ("zero", "one", "# no comment", "schlüssel")
    assert keys(Settings(api_key=("zero",))) == ("zero",)
    assert keys(Settings()) == ()


@pytest.mark.inventory("C-109")
@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"\n \n", "holds no key"), (b"\xff\n", "cannot be read"), (None, "cannot be read: .*No such file")],
)
def test_a_file_without_keys_does_not_open_the_server(tmp_path: Path, raw: bytes | None, message: str) -> None:
    path = tmp_path / "keys"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(SettingsError, match=f"--api-key-file: .*{message}"):
        keys(Settings(api_key=("zero",), api_key_file=str(path)))


async def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    request = Request({"type": "http", "headers": []})
    found = await ApiKeys(["one", "two", "three"]).authenticate(Credentials(("one",), request))
    assert found is not None
    assert compared == [(b"one", b"one"), (b"one", b"two"), (b"one", b"three")]  # no early exit


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, that key behind a password, and another's key."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    issued.private_key_pem.write_to_path(str(folder / "key"))
    other.private_key_pem.write_to_path(str(folder / "other"))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "locked").write_bytes(key.private_bytes(encoding, form, serialization.BestAvailableEncryption(b"word")))
    return folder


@pytest.mark.inventory("C-110", "C-111")
def test_a_certificate_and_its_key(pem: Path) -> None:
    found = certificate(Settings(ssl_cert_file=str(pem / "cert"), ssl_key_file=str(pem / "key")))
    assert found == (pem / "cert", pem / "key")
    assert certificate(Settings()) == (None, None)


@pytest.mark.inventory("C-110", "C-111")
@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("cert", None, "needs both"),
        (None, "key", "needs both"),
        ("cert", "none", "--ssl-key-file: .*none cannot be read: No such file"),
        ("none", "key", "--ssl-cert-file: .*none cannot be read: No such file"),
        ("cert", "other", "no certificate and its key"),
        ("key", "cert", "no certificate and its key"),
        ("cert", "locked", "no certificate and its key"),  # and nobody is asked for the password
    ],
)
def test_no_https_is_no_http(pem: Path, cert: str | None, key: str | None, message: str) -> None:
    files = {"ssl_cert_file": cert, "ssl_key_file": key}
    with pytest.raises(SettingsError, match=message):
        certificate(Settings(**{name: str(pem / file) for name, file in files.items() if file}))
