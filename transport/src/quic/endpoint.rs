//! Endpoints: one UDP socket each, with buffers, packet size and windows set on purpose.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, Connection, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, Runtime,
    TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::sockopt;

use super::congestion::QueueAwareConfig;
use super::identity::{Identity, KeyId};
use super::tls::{self, ShownKey};
use crate::limits::{
    HANDSHAKES_MAX, IDLE_TIMEOUT, INCOMING_BYTES_MAX, INCOMING_TOTAL_BYTES_MAX, KEEP_ALIVE, LANES_MAX,
    SEND_WINDOW_BYTES, SESSION_WINDOW_BYTES, SOCKET_BUFFER_BYTES, STREAM_WINDOW_BYTES, UDP_PAYLOAD_BYTES_MAX,
    UNADMITTED_WINDOW_BYTES,
};

/// An endpoint that accepts sessions at `listen`.
pub fn server(identity: &Identity, listen: SocketAddr) -> io::Result<Endpoint> {
    server_on(identity, socket(listen)?)
}

/// An endpoint that accepts sessions on a bound [`socket`].
///
/// The keys for stateless resets and connection ids are derived from the identity, so that a client
/// whose server was restarted is told at once instead of waiting for its idle timeout.
pub fn server_on(identity: &Identity, socket: UdpSocket) -> io::Result<Endpoint> {
    let (endpoint, config) = server_config(identity, UNADMITTED)?;
    open(TokioRuntime.wrap_udp_socket(socket)?, endpoint, Some(config))
}

/// As [`server_on`], over a socket that is not one of this host; what is random in it, but for keys, follows from
/// `seed`.
pub fn server_over(
    identity: &Identity,
    socket: Arc<dyn AsyncUdpSocket>,
    seed: [u8; 32],
) -> io::Result<Endpoint> {
    let (mut endpoint, config) = server_config(identity, UNADMITTED)?;
    endpoint.rng_seed(Some(seed));
    open(socket, endpoint, Some(config))
}

/// An endpoint at `listen` whose connections may use all lanes and a whole window at once: for peers that are not
/// hostile.
pub fn open_server(identity: &Identity, listen: SocketAddr) -> io::Result<Endpoint> {
    let (endpoint, config) = server_config(identity, (LANES_MAX + 1, SESSION_WINDOW_BYTES))?;
    open(
        TokioRuntime.wrap_udp_socket(socket(listen)?)?,
        endpoint,
        Some(config),
    )
}

/// Streams and receive window of a connection until [`admit`] is called for it: the control stream, and a hello.
const UNADMITTED: (u32, u32) = (1, UNADMITTED_WINDOW_BYTES);

pub(super) fn server_config(
    identity: &Identity,
    (streams, window_bytes): (u32, u32),
) -> io::Result<(EndpointConfig, quinn::ServerConfig)> {
    let crypto = QuicServerConfig::try_from(tls::server_config(identity)).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport();
    // Of a client: its lanes, and the control stream. Of the server: one event stream.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(streams));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.receive_window(VarInt::from_u32(window_bytes));
    config.transport_config(Arc::new(transport));
    config.max_incoming(HANDSHAKES_MAX);
    // Packets of clients that nobody has looked at yet: the rest of a first flight.
    config.incoming_buffer_size(INCOMING_BYTES_MAX);
    config.incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    config.migration(true);
    let reset_key =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &identity.derive("stateless reset"));
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = identity.derive("connection id");
    let cid_key = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    Ok((endpoint, config))
}

/// Lets a client that was found on the allow list open its lanes, and send up to `window_bytes` ahead.
pub fn admit(connection: &Connection, window_bytes: u32) {
    connection.set_receive_window(VarInt::from_u32(window_bytes));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(LANES_MAX + 1));
}

/// An endpoint that opens sessions to servers of the address family of `server`.
pub fn client(server: SocketAddr) -> io::Result<Endpoint> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = TokioRuntime.wrap_udp_socket(socket(local)?)?;
    open(socket, EndpointConfig::default(), None)
}

/// As [`client`], over a socket that is not one of this host; as with [`server_over`].
pub fn client_over(socket: Arc<dyn AsyncUdpSocket>, seed: [u8; 32]) -> io::Result<Endpoint> {
    let mut endpoint = EndpointConfig::default();
    endpoint.rng_seed(Some(seed));
    open(socket, endpoint, None)
}

/// What a client connects with: its identity, and the one server key it accepts. The second value tells
/// which key the server showed.
pub fn client_config(identity: &Identity, pin: KeyId) -> (quinn::ClientConfig, ShownKey) {
    client_config_within(identity, pin, SESSION_WINDOW_BYTES, SEND_WINDOW_BYTES)
}

/// The same with other windows: what the server may send ahead, and what is kept until it has acknowledged it.
pub fn client_config_within(
    identity: &Identity,
    pin: KeyId,
    receive_window_bytes: u32,
    send_window_bytes: u64,
) -> (quinn::ClientConfig, ShownKey) {
    let (tls, shown) = tls::client_config(identity, pin);
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 has a QUIC cipher");
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(1));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.receive_window(VarInt::from_u32(receive_window_bytes));
    transport.send_window(send_window_bytes);
    config.transport_config(Arc::new(transport));
    (config, shown)
}

pub(super) fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(QueueAwareConfig::default()))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(SESSION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("seconds fit")))
        .mtu_discovery_config(Some(mtu))
        .datagram_receive_buffer_size(None);
    transport
}

fn open(
    socket: Arc<dyn AsyncUdpSocket>,
    mut config: EndpointConfig,
    server: Option<quinn::ServerConfig>,
) -> io::Result<Endpoint> {
    config
        .max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX)
        .map_err(io::Error::other)?;
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

/// A bound socket with large buffers: beyond the system's limit where we may, up to it otherwise.
pub fn socket(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local)?;
    let receive = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES));
    let send = sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES));
    if let Err(error) = receive.and(send) {
        tracing::warn!(%error, "cannot enlarge the socket buffers: transfers will be slower");
    }
    Ok(socket)
}
