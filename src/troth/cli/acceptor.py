"""acceptor: one acceptor of leaderless registers, without the rest of a server."""

import click

from troth.cli.numbers import SIZE


@click.command()
@click.option("--data-dir", required=True, help="Where this acceptor keeps what it has promised and accepted.")
@click.option("--listen", default="127.0.0.1:7301", show_default=True, help="Where proposers reach it.")
@click.option(
    "--tls-ca", default="", help="The CA that signed everybody's certificates (`troth certs` makes a set)."
)
@click.option("--tls-cert", default="", help="This acceptor's certificate.")
@click.option("--tls-key", default="", help="Its key.")
@click.option("--insecure", is_flag=True, help="Allow an address that other machines can reach without TLS.")
@click.option(
    "--tcp-only", is_flag=True, help="Offer no unix socket beside a loopback port to processes of this user."
)
@click.option(
    "--quota-bytes",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Refuse registers beyond this.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def acceptor(
    data_dir: str,
    listen: str,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    insecure: bool,
    tcp_only: bool,
    quota_bytes: int,
    log_level: str,
    log_format: str,
) -> None:
    """Run one acceptor for `troth paxos` and PaxosClient.

    Every server of `troth serve` and `troth up` is an acceptor already, on its client port; this one is for registers
    alone. Three or more become a set when the first client comes that names all of them.

    \b
    Examples:
      troth acceptor --data-dir /var/lib/troth/a1 --listen 127.0.0.1:7301
      troth acceptor --data-dir /var/lib/troth/a1 --listen 10.0.0.1:7301 \\
        --tls-ca ca.pem --tls-cert a1.pem --tls-key a1.key
    """
    from troth.server.acceptor_process import AcceptorConfig, run_acceptor

    config = AcceptorConfig(
        data_dir=data_dir,
        listen=listen,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        tcp_only=tcp_only,
        quota_bytes=quota_bytes,
        log_level=log_level,
        log_format=log_format,
    )
    raise SystemExit(run_acceptor(config))
