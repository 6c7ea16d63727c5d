//! Ten thousand connections that never become sessions, of every kind, while a good client works.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::quic::tls::{self, SERVER_NAME};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::daemon::Daemon;

/// Of those whose handshake ends, at once.
const AT_ONCE: usize = 16;
/// How long a hostile client waits for the server to say something.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the hostile ones of whom nobody hears again are: not where the good ones are.
const ELSEWHERE: &str = "127.0.0.2:0";

/// Packets that are no QUIC, and some that look like it.
pub(crate) async fn garbage(server: SocketAddr, count: u32) {
    let socket = UdpSocket::bind(ELSEWHERE).await.expect("a socket");
    for number in 0..count {
        let seed = number.wrapping_mul(2_654_435_761).to_le_bytes();
        let mut packet = seed.repeat(1 + usize::try_from(number % 350).expect("small"));
        if number % 2 == 0 {
            // The first byte of an Initial of version 1, with whatever then comes.
            packet[..4].copy_from_slice(&[0xc0, 0, 0, 0]);
            packet.insert(4, 1);
        }
        drop(socket.send_to(&packet, server).await);
    }
}

/// First packets of good handshakes, of which nothing follows.
pub(crate) async fn unfinished(daemon: &Daemon, count: u32) {
    let relay = UdpSocket::bind(ELSEWHERE).await.expect("a socket");
    let out = UdpSocket::bind(ELSEWHERE).await.expect("a socket");
    let through = relay.local_addr().expect("bound");
    let client = endpoint::client(daemon.address).expect("an endpoint");
    let (config, _) = endpoint::client_config(&Identity::generate(), daemon.key);
    let mut packet = vec![0; 1 << 16];
    for _ in 0..count {
        let connecting = client
            .connect_with(config.clone(), through, SERVER_NAME)
            .expect("connects");
        let bytes = relay.recv(&mut packet).await.expect("a packet");
        drop(out.send_to(&packet[..bytes], daemon.address).await);
        drop(connecting);
    }
}

/// Handshakes that end, with a key that nobody has allowed, or another protocol. Returns how many were told so; the
/// others got no answer in time.
pub(crate) async fn strangers(daemon: &Daemon, count: u32) -> usize {
    let mut under_way = JoinSet::new();
    let mut refused = 0;
    let client = endpoint::client(daemon.address).expect("an endpoint");
    for number in 0..count {
        if under_way.len() >= AT_ONCE
            && let Some(Ok(true)) = under_way.join_next().await
        {
            refused += 1;
        }
        let identity = Identity::generate();
        let config = match number % 2 {
            0 => endpoint::client_config(&identity, daemon.key).0,
            _ => of_another_protocol(&identity, daemon),
        };
        under_way.spawn(refused_by(client.clone(), config, daemon.address));
    }
    while let Some(ended) = under_way.join_next().await {
        refused += usize::from(ended.is_ok_and(|refused| refused));
    }
    refused
}

fn of_another_protocol(identity: &Identity, daemon: &Daemon) -> ClientConfig {
    let (mut tls, _) = tls::client_config(identity, daemon.key);
    tls.alpn_protocols = vec![b"h3".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a cipher")))
}

async fn refused_by(client: Endpoint, config: ClientConfig, server: SocketAddr) -> bool {
    let connected = async {
        let connecting = client
            .connect_with(config, server, SERVER_NAME)
            .expect("connects");
        if let Ok(connection) = connecting.await {
            connection.closed().await;
        }
    };
    timeout(PATIENCE, connected).await.is_ok()
}
