//! The link itself, through sockets on both sides.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lacuna_tests::host;
use lacuna_tests::link::{Conditions, Link};

/// As large as the largest packet of lacuna.
const PAYLOAD_BYTES: usize = 6500;
const PACKETS: u32 = 500;
/// Of silence: then nothing more comes.
const SILENCE: Duration = Duration::from_millis(200);

fn between(conditions: Conditions) -> Result<(Link, UdpSocket, UdpSocket)> {
    host::require_fuse()?;
    host::require_programs(&["ip", "nsenter"])?;
    let link = Link::new(conditions, 1)?;
    let (client, server) = (link.client().socket()?, link.server().socket()?);
    client.connect(server.local_addr()?)?;
    server.connect(client.local_addr()?)?;
    server.set_read_timeout(Some(SILENCE))?;
    client.set_read_timeout(Some(SILENCE))?;
    Ok((link, client, server))
}

/// Numbered packets, sent one at a time or all at once; those that arrive, until nothing more does.
fn passed(from: &UdpSocket, to: &UdpSocket) -> Result<Vec<u32>> {
    let mut buffer = vec![0; PAYLOAD_BYTES];
    let mut arrived = Vec::new();
    for first in (0..PACKETS).step_by(10) {
        for number in first..first + 10 {
            buffer[..4].copy_from_slice(&number.to_le_bytes());
            from.send(&buffer)?;
        }
        // Ten at a time fit into the buffer of any socket.
        while arrived.last() != Some(&(first + 9)) {
            match to.recv(&mut buffer) {
                Ok(length) => {
                    ensure!(length == PAYLOAD_BYTES, "a packet of {length} bytes");
                    let number = buffer.first_chunk().context("too short")?;
                    arrived.push(u32::from_le_bytes(*number));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                other => return Err(other.err().context("no error")?.into()),
            }
        }
    }
    Ok(arrived)
}

#[test]
fn a_perfect_link_loses_nothing_either_way() -> Result<()> {
    let (_link, client, server) = between(Conditions::default())?;
    let all: Vec<_> = (0..PACKETS).collect();
    assert_eq!(passed(&client, &server)?, all);
    assert_eq!(passed(&server, &client)?, all);
    Ok(())
}

#[test]
fn an_answer_takes_a_round_trip() -> Result<()> {
    let (_link, client, server) = between(Conditions::of(40, 0))?;
    let start = Instant::now();
    client.send(b"question")?;
    let mut buffer = [0; 8];
    server.recv(&mut buffer)?;
    server.send(&buffer)?;
    client.recv(&mut buffer)?;
    let took = start.elapsed();
    assert_eq!(&buffer, b"question");
    ensure!(took >= Duration::from_millis(40), "an answer after {took:?}");
    Ok(())
}

#[test]
fn packets_are_lost_cut_off_and_come_from_another_address() -> Result<()> {
    let (mut link, client, server) = between(Conditions::of(0, 0))?;
    link.set(Conditions {
        loss_ppm: 20_000,
        ..Conditions::default()
    });
    let arrived = passed(&client, &server)?.len();
    ensure!((400..500).contains(&arrived), "{arrived} of 500 arrived");
    link.set(Conditions::default());

    link.cut();
    client.send(b"lost")?;
    let silence = server.recv(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(silence, Err(ErrorKind::WouldBlock));
    link.mend();
    assert_eq!(passed(&client, &server)?.len(), 500);

    let (server, address) = (link.server().socket()?, Ipv4Addr::new(10, 117, 0, 3));
    server.set_read_timeout(Some(SILENCE))?;
    link.change_client_address(address)?;
    let client = link.client().socket()?;
    client.send_to(b"moved", server.local_addr()?)?;
    let (_, from) = server.recv_from(&mut [0; 8])?;
    assert_eq!(from.ip(), address);
    Ok(())
}
