//! QUIC and nothing else, with the settings of lacuna's endpoints and one thread on each side that polls as lacuna's do: what is slower than this is not the network's doing.
//!
//! Usage: `bare_quic serve ADDRESS`, which prints `ADDRESS KEY` and runs until it is killed;
//! `bare_quic receive|send ADDRESS KEY MIB BOUND`, one stream, in MiB/s; `bare_quic ask ADDRESS KEY SECONDS`, requests that
//! are answered with 4 KiB, one at a time on one stream, per second.
//!
//! A stream begins with what it is for and how many bytes follow it: a letter and eight bytes. The clients print their
//! figure as `measure` does, and to standard error the seconds of processor that they used.

use std::env;
use std::net::SocketAddr;
use std::process;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use lacuna_tests::measure::{Figure, cpu};
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::Identity;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rustix::process::{Signal, set_parent_process_death_signal};

const RECEIVE: u8 = b'r';
const SEND: u8 = b's';
const ASK: u8 = b'a';

/// As large as what lacuna gives quinn at once.
const PIECE_BYTES: usize = 256 << 10;
const REQUEST_BYTES: usize = 32;
const REPLY_BYTES: usize = 4096;
/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // As in both daemons.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let figure = match words[..] {
        ["serve", address] => return runtime.block_on(serve(address.parse()?)),
        ["receive", address, key, mib, bound] => {
            let bound = Duration::try_from_secs_f64(bound.parse()?)?;
            runtime.block_on(receive(address.parse()?, key, mib.parse()?, bound))
        }
        ["send", address, key, mib, bound] => {
            let bound = Duration::try_from_secs_f64(bound.parse()?)?;
            runtime.block_on(send(address.parse()?, key, mib.parse()?, bound))
        }
        ["ask", address, key, seconds] => {
            let longest = Duration::try_from_secs_f64(seconds.parse()?)?;
            runtime.block_on(ask(address.parse()?, key, longest))
        }
        _ => bail!("see the head of bare_quic.rs for the arguments"),
    }?;
    println!("{figure}");
    eprintln!("{:.2}", cpu::seconds(&[process::id()]));
    Ok(())
}

async fn serve(address: SocketAddr) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let identity = Identity::generate();
    let endpoint = endpoint::open_server(&identity, address)?;
    println!("{} {}", endpoint.local_addr()?, identity.id());
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok((reply, request)) = connection.accept_bi().await {
                // The client sees what went wrong: its stream ends.
                let _ = answer(reply, request).await;
            }
        });
    }
    Ok(())
}

async fn answer(mut reply: SendStream, mut request: RecvStream) -> Result<()> {
    let mut head = [0; 9];
    request.read_exact(&mut head).await?;
    let [what, bytes @ ..] = head;
    let bytes = u64::from_le_bytes(bytes);
    match what {
        RECEIVE => pour(&mut reply, bytes, None).await.map(drop),
        SEND => {
            drain(&mut request, bytes, None).await?;
            reply.write_all(&[SEND]).await.context("the client is gone")
        }
        ASK => {
            let (mut question, answer) = ([0; REQUEST_BYTES], [0; REPLY_BYTES]);
            let busy_poll = BusyPoll::default();
            busy_poll.allow();
            while request.read_exact(&mut question).await.is_ok() {
                let _under_way = busy_poll.begin();
                reply.write_all(&answer).await?;
            }
            Ok(())
        }
        _ => bail!("not a request"),
    }
}

async fn connect(server: SocketAddr, key: &str) -> Result<Connection> {
    let identity = Identity::generate();
    let endpoint = endpoint::client(server)?;
    let (config, _) = endpoint::client_config(&identity, key.parse().ok().context("not a key")?);
    let connecting = endpoint.connect_with(config, server, "bare")?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
    Ok(connected.context("no connection in time")??)
}

async fn begin(connection: &Connection, what: u8, bytes: u64) -> Result<(SendStream, RecvStream)> {
    let (mut request, reply) = connection.open_bi().await?;
    let mut head = vec![what];
    head.extend(bytes.to_le_bytes());
    request.write_all(&head).await?;
    Ok((request, reply))
}

async fn receive(server: SocketAddr, key: &str, mib: u64, bound: Duration) -> Result<Figure> {
    let connection = connect(server, key).await?;
    let start = Instant::now();
    let (_request, mut reply) = begin(&connection, RECEIVE, mib << 20).await?;
    let done = drain(&mut reply, mib << 20, Some(start + bound)).await?;
    let figure = rate(start, done, mib);
    connection.close(VarInt::from_u32(0), b"");
    Ok(figure)
}

async fn send(server: SocketAddr, key: &str, mib: u64, bound: Duration) -> Result<Figure> {
    let connection = connect(server, key).await?;
    let start = Instant::now();
    let (mut request, mut reply) = begin(&connection, SEND, mib << 20).await?;
    let done = pour(&mut request, mib << 20, Some(start + bound)).await?;
    if done == mib << 20 {
        reply.read_exact(&mut [0]).await?;
    }
    let figure = rate(start, done, mib);
    connection.close(VarInt::from_u32(0), b"");
    Ok(figure)
}

async fn ask(server: SocketAddr, key: &str, longest: Duration) -> Result<Figure> {
    let connection = connect(server, key).await?;
    let (mut request, mut reply) = begin(&connection, ASK, 0).await?;
    let (question, mut answer) = ([0; REQUEST_BYTES], [0; REPLY_BYTES]);
    let (start, mut count) = (Instant::now(), 0_u32);
    let busy_poll = BusyPoll::default();
    busy_poll.allow();
    while start.elapsed() < longest {
        let _under_way = busy_poll.begin();
        request.write_all(&question).await?;
        reply.read_exact(&mut answer).await?;
        count += 1;
    }
    let figure = Figure::done(f64::from(count) / start.elapsed().as_secs_f64());
    connection.close(VarInt::from_u32(0), b"");
    Ok(figure)
}

fn rate(start: Instant, bytes: u64, mib: u64) -> Figure {
    let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    let value = f64::from(kib) / 1024.0 / start.elapsed().as_secs_f64();
    let stopped = (bytes < mib << 20).then(|| format!("at {} of {mib} MiB", bytes >> 20));
    Figure { value, stopped }
}

/// Sends `bytes`, or less until `until`; says how many.
async fn pour(stream: &mut SendStream, bytes: u64, until: Option<Instant>) -> Result<u64> {
    let piece = Bytes::from(vec![0x5a; PIECE_BYTES]);
    let mut done = 0;
    while done < bytes && until.is_none_or(|until| Instant::now() < until) {
        let wanted = usize::try_from(bytes - done).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        stream.write_chunk(piece.slice(..wanted)).await?;
        done += u64::try_from(wanted)?;
    }
    Ok(done)
}

/// Receives `bytes`, or less until `until`; says how many.
async fn drain(stream: &mut RecvStream, bytes: u64, until: Option<Instant>) -> Result<u64> {
    let mut done = 0;
    while done < bytes && until.is_none_or(|until| Instant::now() < until) {
        let chunk = stream.read_chunk(PIECE_BYTES, true).await?;
        let chunk = chunk.context("the stream ended early")?;
        done += u64::try_from(chunk.bytes.len())?;
    }
    Ok(done)
}
