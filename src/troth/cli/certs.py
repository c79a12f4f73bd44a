"""certs: a working set of certificates, so that TLS costs one command.

The directory gets ``ca.pem`` and ``ca.key``, and ``NAME.pem`` and ``NAME.key`` for each server and the client. All
keys are P-256. Servers are clients of one another, so their certificates serve both ends of a connection.
"""

import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from troth.cli.numbers import Whole
from troth.errors import UsageError

CA_DAYS = 3650
_CLOCK_SKEW = timedelta(hours=1)
_NAME = re.compile(r"[\w.+-]{1,64}", re.ASCII)
_HOST = re.compile(r"[\w*.-]{1,253}", re.ASCII)


class Authority(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class ServerNames(NamedTuple):
    """A server's name, and every host name and IP address it is reached under."""

    name: str
    hosts: tuple[str, ...]


def parse_server(text: str) -> ServerNames:
    """Read ``NAME=HOST,HOST``; without ``=`` the name is the host.

    Raises:
        UsageError: no name, or one that cannot be a file name or stand in a certificate; something else than a host.
    """
    name, _, listed = text.partition("=")
    hosts = tuple(host for host in listed.split(",") if host) or (name,)
    is_file_name = _NAME.fullmatch(name) and not name.startswith(".") and name not in ("ca", "client")
    if not is_file_name or not all(_HOST.fullmatch(host) or _is_ip_address(host) for host in hosts):
        raise UsageError(
            f"{text!r}: write --server NAME=HOST,HOST, for example --server n1=10.0.0.1,node1.example (no ports, and "
            "names of hosts as the DNS has them: xn--... for other letters than a to z)"
        )
    return ServerNames(name, hosts)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def write_set(directory: Path, servers: list[ServerNames], *, days: int) -> list[Path]:
    """Write what is missing in *directory*; what is there stays. Returns the files written.

    A CA that is already there signs the new certificates, so a server can be added later.

    Raises:
        UsageError: half of a pair is there, or the directory cannot be written.
    """
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        authority = _authority(directory, written)
        for server in servers:
            _leaf(directory, server.name, server.hosts, authority, days, written)
        _leaf(directory, "client", (), authority, days, written)
    except OSError as error:
        raise UsageError(f"{directory}: {error}") from error
    return written


def _authority(directory: Path, written: list[Path]) -> Authority:
    if _pair_exists(directory, "ca"):
        try:
            ca_key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        except (ValueError, TypeError) as error:  # TypeError: it has a password
            raise UsageError(f"{directory} holds a ca.key and ca.pem that cannot be read: {error}") from None
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or certificate.public_key() != ca_key.public_key():
            raise UsageError(
                f"{directory} holds a ca.key and ca.pem that `troth certs` did not make: use another one"
            )
        return Authority(certificate, ca_key)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("troth CA")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(directory, "ca", certificate, key, written)
    return Authority(certificate, key)


def _leaf(
    directory: Path, name: str, hosts: tuple[str, ...], authority: Authority, days: int, written: list[Path]
) -> None:
    if _pair_exists(directory, name):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if hosts:
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    issuer_identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(name), authority.certificate.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), critical=False
        )
    )
    if hosts:
        reachable = dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1"))
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in reachable]), critical=False
        )
    _write_pair(directory, name, builder.sign(authority.key, hashes.SHA256()), key, written)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pair_exists(directory: Path, name: str) -> bool:
    found = [(directory / f"{name}.{kind}").exists() for kind in ("pem", "key")]
    if any(found) and not all(found):
        raise UsageError(f"{directory} has only one of {name}.pem and {name}.key; remove it, or restore the other")
    return all(found)


def _write_pair(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, written: list[Path]
) -> None:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key is created unreadable for others; a chmod afterwards would leave a moment in which it can be read.
    descriptor = os.open(directory / f"{name}.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    written += [directory / f"{name}.pem", directory / f"{name}.key"]


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path("certs"))
@click.option(
    "--server", "servers", multiple=True, metavar="NAME=HOST,HOST", help="A server and its names. Repeat."
)
@click.option(
    "--days",
    type=Whole(1, 3650),
    default=730,
    show_default=True,
    help="How long the certificates are valid (the CA: ten years).",
)
def certs(directory: Path, servers: tuple[str, ...], days: int) -> None:
    """Make certificates for a cluster: one CA, servers, a client.

    Files that are there already stay as they are; run it again with another --server to add one. Keep ca.key away
    from the servers. Clients use troth+tls://host:port?ca=ca.pem&cert=client.pem&key=client.key.

    To replace a certificate remove NAME.pem and NAME.key, run this again, and send SIGHUP to the server once it has
    both. To replace the CA put the old and the new one into the ca.pem of all, then exchange the certificates, then
    take the old one out, with a SIGHUP to every server after each step.

    \b
    Examples:
      troth certs                                        n1, n2, n3 on this machine, into ./certs
      troth certs pki --server n1=10.0.0.1 --server n2=10.0.0.2 --server n3=10.0.0.3
    """
    wanted = [parse_server(text) for text in servers or ("n1=localhost", "n2=localhost", "n3=localhost")]
    written = write_set(directory, wanted, days=days)
    for path in written:
        click.echo(path)
    if not written:
        click.echo("everything is there already", err=True)
