//! Connections over a path that is not there: quinn's own state machines in virtual time, without sockets.
//!
//! All senders share one bottleneck; what is random follows from a seed. Acknowledgements come back over a path that is as
//! long and loses as many, but has no queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn::TransportConfig;
use quinn::congestion::ControllerFactory;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, StreamId, VarInt,
};

use crate::limits::{SEND_WINDOW_BYTES, UDP_PAYLOAD_BYTES_MAX};
use crate::quic::endpoint;
use crate::quic::identity::Identity;

/// What a path does to packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) rtt: Duration,
    pub(super) loss_ppm: u64,
    pub(super) rate_bytes: u64,
    pub(super) queue_bytes: u64,
}

impl Path {
    pub(super) fn new(rtt_ms: u64, loss_percent: u64, rate_mbit: u64, queue_bytes: u64) -> Self {
        Self {
            rtt: Duration::from_millis(rtt_ms),
            loss_ppm: loss_percent * 10_000,
            rate_bytes: rate_mbit * 125_000,
            queue_bytes,
        }
    }
}

pub(super) type Factory = Arc<dyn ControllerFactory + Send + Sync>;

/// One end of a connection; the first one of a pair sends as much as it may.
struct Peer {
    address: SocketAddr,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    stream: Option<StreamId>,
    received_bytes: u64,
    sends_from: Instant,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

/// See the module. Peers `2 * n` and `2 * n + 1` are a pair.
pub(super) struct World {
    pub(super) path: Path,
    now: Instant,
    peers: Vec<Peer>,
    on_the_way: BinaryHeap<Reverse<Due>>,
    number: u64,
    free_at: Instant,
    random: u64,
}

impl World {
    pub(super) fn new(path: Path) -> Self {
        let now = Instant::now();
        Self {
            path,
            now,
            peers: Vec::new(),
            on_the_way: BinaryHeap::new(),
            number: 0,
            free_at: now,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A pair of which one sends with this controller, from `after` on.
    pub(super) fn add(&mut self, factory: &Factory, after: Duration) {
        let index = self.peers.len();
        let address = |index: usize| SocketAddr::from(([10, 0, 0, u8::try_from(index).unwrap()], 1));
        let identity = Identity::generate();
        let transport = || {
            let mut transport = endpoint::transport();
            transport
                .congestion_controller_factory(Arc::clone(factory))
                .max_concurrent_uni_streams(VarInt::from_u32(1))
                .receive_window(VarInt::from_u64(SEND_WINDOW_BYTES).unwrap())
                .stream_receive_window(VarInt::from_u64(SEND_WINDOW_BYTES).unwrap());
            Arc::<TransportConfig>::new(transport)
        };
        let (config, mut server) = endpoint::server_config(&identity, (1, 1 << 20)).unwrap();
        server.transport_config(transport());
        let (mut client, _) = endpoint::client_config(&identity, identity.id());
        client.transport_config(transport());
        let endpoint = |mut config: EndpointConfig, server: Option<quinn_proto::ServerConfig>| {
            config.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).unwrap();
            Endpoint::new(Arc::new(config), server.map(Arc::new), true, Some([7; 32]))
        };
        let mut sender = endpoint(EndpointConfig::default(), None);
        let connection = sender
            .connect(self.now, client, address(index + 1), "lacuna")
            .unwrap();
        let peer = |address, endpoint, connection| Peer {
            address,
            endpoint,
            connection,
            stream: None,
            received_bytes: 0,
            sends_from: self.now + after,
        };
        let pair = [
            peer(address(index), sender, Some(connection)),
            peer(address(index + 1), endpoint(config, Some(server)), None),
        ];
        self.peers.extend(pair);
        self.drive(index);
    }

    /// How many bytes each pair moved in the next `time`.
    pub(super) fn run(&mut self, time: Duration) -> Vec<u64> {
        let end = self.now + time;
        let before: Vec<u64> = self.received();
        while self.now < end {
            self.step(end);
        }
        let after = self.received();
        after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect()
    }

    /// Share of the bottleneck that was used if so many bytes passed in `time`, in percent.
    pub(super) fn percent(&self, bytes: u64, time: Duration) -> u64 {
        bytes * 100_000 / (self.path.rate_bytes * u64::try_from(time.as_millis()).unwrap())
    }

    /// What waits in the queue now.
    pub(super) fn queue(&self) -> Duration {
        self.free_at.saturating_duration_since(self.now)
    }

    pub(super) fn sender(&self, pair: usize) -> &Connection {
        &self.peers[2 * pair].connection.as_ref().unwrap().1
    }

    fn received(&self) -> Vec<u64> {
        self.peers
            .iter()
            .skip(1)
            .step_by(2)
            .map(|peer| peer.received_bytes)
            .collect()
    }

    /// To the next moment at which something happens, `end` at the latest.
    fn step(&mut self, end: Instant) {
        let timers: Vec<Option<Instant>> = self.peers.iter_mut().map(Peer::next_timer).collect();
        let arrival = self.on_the_way.peek().map(|Reverse(due)| due.at);
        let next = timers.iter().copied().chain([arrival]).flatten().min();
        self.now = next.map_or(end, |next| next.min(end)).max(self.now);
        for (index, timer) in timers.into_iter().enumerate() {
            if timer.is_some_and(|timer| timer <= self.now) {
                self.peers[index].on_timer(self.now);
                self.drive(index);
            }
        }
        while let Some(Reverse(due)) = self.on_the_way.peek()
            && due.at <= self.now
        {
            let Some(Reverse(due)) = self.on_the_way.pop() else {
                break;
            };
            let from = self.peers[due.to ^ 1].address;
            self.peers[due.to].take(self.now, from, &due.packet);
            self.drive(due.to);
        }
    }

    fn drive(&mut self, index: usize) {
        for packet in self.peers[index].drive(self.now, index.is_multiple_of(2)) {
            self.send(index, packet);
        }
    }

    fn send(&mut self, from: usize, packet: Vec<u8>) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let mut at = self.now;
        if from.is_multiple_of(2) {
            // IP and UDP headers take their part of the rate.
            let bytes = u64::try_from(packet.len()).unwrap() + 28;
            let waiting = self.queue().as_nanos() * u128::from(self.path.rate_bytes) / 1_000_000_000;
            if waiting + u128::from(bytes) > u128::from(self.path.queue_bytes) {
                return;
            }
            let takes = Duration::from_nanos(bytes * 1_000_000_000 / self.path.rate_bytes);
            self.free_at = self.free_at.max(self.now) + takes;
            at = self.free_at;
        }
        if self.random % 1_000_000 < self.path.loss_ppm {
            return;
        }
        self.number += 1;
        self.on_the_way.push(Reverse(Due {
            at: at + self.path.rtt / 2,
            number: self.number,
            to: from ^ 1,
            packet,
        }));
    }
}

impl Peer {
    fn next_timer(&mut self) -> Option<Instant> {
        let (_, connection) = self.connection.as_mut()?;
        connection.poll_timeout()
    }

    fn on_timer(&mut self, now: Instant) {
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(now);
        }
    }

    fn take(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        let mut answer = Vec::new();
        match self
            .endpoint
            .handle(now, from, None, None, BytesMut::from(packet), &mut answer)
        {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) if self.connection.is_none() => {
                self.connection = self.endpoint.accept(incoming, now, &mut answer, None).ok();
            }
            _ => {}
        }
    }

    /// What the application does, then what is to be sent.
    fn drive(&mut self, now: Instant, sends: bool) -> Vec<Vec<u8>> {
        let Some((handle, connection)) = &mut self.connection else {
            return Vec::new();
        };
        while connection.poll().is_some() {}
        if self.stream.is_none() && now >= self.sends_from {
            self.stream = match sends {
                true => connection.streams().open(Dir::Uni),
                false => connection.streams().accept(Dir::Uni),
            };
        }
        if let Some(stream) = self.stream {
            if sends {
                while connection.send_stream(stream).write(&[0; 64 << 10]).is_ok() {}
            } else if let Ok(mut chunks) = connection.recv_stream(stream).read(true) {
                while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                    self.received_bytes += u64::try_from(chunk.bytes.len()).unwrap();
                }
                let _ = chunks.finalize();
            }
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        let mut packets = Vec::new();
        let mut buffer = Vec::new();
        while let Some(transmit) = connection.poll_transmit(now, 10, &mut buffer) {
            let size = transmit.segment_size.unwrap_or(transmit.size);
            packets.extend(buffer[..transmit.size].chunks(size).map(<[u8]>::to_vec));
            buffer.clear();
        }
        packets
    }
}
