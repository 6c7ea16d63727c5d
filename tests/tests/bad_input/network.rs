//! Wrong addresses, closed ports, and bytes that are no QUIC.

use std::net::UdpSocket;

use anyhow::Result;
use lacuna_tests::random::Random;

use crate::Stage;

#[test]
fn a_host_that_does_not_exist() -> Result<()> {
    let stage = Stage::new()?;
    // RFC 2606 reserves this name.
    stage.ensure_refused(&stage.mount("no-such-host.invalid")?, &["no-such-host.invalid"])
}

#[test]
fn a_spec_that_is_no_address() -> Result<()> {
    let stage = Stage::new()?;
    for spec in [
        "",
        ":",
        "127.0.0.1:port",
        "127.0.0.1:99999",
        "/folder",
        "[::1",
        "127.0.0.1:0",
    ] {
        stage.ensure_refused(&stage.mount(spec)?, &[])?;
    }
    Ok(())
}

#[test]
fn a_closed_port() -> Result<()> {
    let stage = Stage::new()?;
    // Bound and closed again: nobody else gets it in the meantime, as a rule; nobody answers QUIC there at all.
    let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let identity = stage.server.identity();
    lacuna_tests::command::run(stage.client.command()?.args(["trust", &address, identity]))?;
    stage.ensure_refused(&stage.mount(&address)?, &[&address])
}

#[test]
fn a_server_that_never_answers() -> Result<()> {
    let stage = Stage::new()?;
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?.to_string();
    lacuna_tests::command::run(
        stage
            .client
            .command()?
            .args(["trust", &address, stage.server.identity()]),
    )?;
    stage.ensure_refused(&stage.mount(&address)?, &[&address])
}

#[test]
fn garbage_on_the_port_harms_nobody() -> Result<()> {
    let stage = Stage::new()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(stage.server.address())?;
    let mut random = Random::new(61);
    for _ in 0..3000 {
        let length = random.below(1500);
        let mut bytes = random.bytes(usize::try_from(length)?);
        if let Some(first) = bytes.first_mut().filter(|_| length.is_multiple_of(2)) {
            // The form of a QUIC long header, so that it gets further.
            *first |= 0xc0;
        }
        // The answer to an earlier one may be an error; the next is sent all the same.
        let _ = socket.send(&bytes);
    }
    assert!(stage.server.lives()?, "the server ended");
    stage.ensure_serves()
}

#[test]
fn a_folder_that_does_not_exist() -> Result<()> {
    let stage = Stage::new()?;
    for folder in ["missing", "volume", "missing/deeper"] {
        stage.ensure_refused(&stage.mount(format!("{}/{folder}", stage.spec()))?, &[folder])?;
    }
    Ok(())
}

#[test]
fn no_folder_leads_out() -> Result<()> {
    let stage = Stage::new()?;
    std::os::unix::fs::symlink("/", stage.sandbox.join("served/link"))?;
    for folder in ["..", "../client-state", "link", "link/etc", "a/../.."] {
        stage.ensure_refused(&stage.mount(format!("{}/{folder}", stage.spec()))?, &[])?;
    }
    Ok(())
}
