//! A network in memory: UDP sockets for quinn whose datagrams are lost, delayed, overtaken, doubled and cut off as a
//! seed says, in virtual time.
//!
//! Invariants: what becomes of a datagram is decided when it is sent; one that is on its way arrives even if its
//! sender is gone by then, and never at a socket that was bound later; after [`Network::cut`] no datagram leaves or
//! reaches that socket.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lacuna_tests::random::Random;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep};

/// Datagrams waiting at one socket; beyond it they are lost, as in a full buffer.
const INBOX_DATAGRAMS_MAX: usize = 4096;

/// What the path does to datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) delay_ms: u64,
    /// Added at random to each, so that they overtake each other.
    pub(crate) jitter_ms: u64,
    pub(crate) lost_per_mille: u64,
    pub(crate) doubled_per_mille: u64,
    /// Delayed by [`LATE_MS`] more: they come when all has been sent again.
    pub(crate) late_per_mille: u64,
    /// Larger datagrams are lost.
    pub(crate) mtu_bytes: usize,
}

/// The longest extra delay of a late datagram.
pub(crate) const LATE_MS: u64 = 700;

impl Conditions {
    /// A network without faults.
    pub(crate) const GOOD: Self = Self {
        delay_ms: 1,
        jitter_ms: 0,
        lost_per_mille: 0,
        doubled_per_mille: 0,
        late_per_mille: 0,
        mtu_bytes: 65_535,
    };

    /// Delays with which a datagram arrives: none if it is lost, two if it is doubled.
    fn arrivals(&self, random: &mut Random, bytes: usize) -> [Option<Duration>; 2] {
        let mut hit = |per_mille: u64| random.below(1000) < per_mille;
        if hit(self.lost_per_mille) || bytes > self.mtu_bytes {
            return [None, None];
        }
        let (doubled, late) = (hit(self.doubled_per_mille), hit(self.late_per_mille));
        let mut delay = |late: bool| {
            let late_ms = if late { random.between(1, LATE_MS) } else { 0 };
            Duration::from_millis(self.delay_ms + random.between(0, self.jitter_ms) + late_ms)
        };
        let first = delay(late);
        [Some(first), doubled.then(|| delay(false))]
    }
}

/// Which way to and from a socket is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Partition {
    /// What it sends is lost.
    pub(crate) mute: bool,
    /// What is sent to it is lost.
    pub(crate) deaf: bool,
}

/// Counts of what was done to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    conditions: Conditions,
    inboxes: BTreeMap<SocketAddr, Arc<Inbox>>,
    partitions: BTreeMap<SocketAddr, Partition>,
    sequence: u64,
    tally: Tally,
}

/// One socket.
#[derive(Debug)]
struct Inbox {
    address: Mutex<SocketAddr>,
    cut: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    datagrams: BTreeMap<(Instant, u64), Datagram>,
    timer: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    bytes: Arc<[u8]>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                random: Random::new(seed),
                conditions: Conditions::GOOD,
                inboxes: BTreeMap::new(),
                partitions: BTreeMap::new(),
                sequence: 0,
                tally: Tally::default(),
            }),
        })
    }

    /// A socket at `address`, in place of the one that was there.
    pub(crate) fn bind(self: &Arc<Self>, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let inbox = Arc::new(Inbox {
            address: Mutex::new(address),
            cut: AtomicBool::new(false),
            queue: Mutex::default(),
        });
        let before = self.state.lock().inboxes.insert(address, Arc::clone(&inbox));
        if let Some(before) = before {
            before.cut.store(true, Ordering::Release);
        }
        Arc::new(Socket {
            network: Arc::clone(self),
            inbox,
        })
    }

    /// The process behind the socket at `address` is gone, without a word.
    pub(crate) fn cut(&self, address: SocketAddr) {
        if let Some(inbox) = self.state.lock().inboxes.get(&address) {
            inbox.cut.store(true, Ordering::Release);
        }
    }

    /// The host behind a socket gets another address: what it sends from now on comes from there, what is sent to the old
    /// one is lost.
    pub(crate) fn readdress(&self, from: SocketAddr, to: SocketAddr) {
        let mut state = self.state.lock();
        if let Some(inbox) = state.inboxes.remove(&from) {
            *inbox.address.lock() = to;
            state.inboxes.insert(to, inbox);
        }
        if let Some(partition) = state.partitions.remove(&from) {
            state.partitions.insert(to, partition);
        }
    }

    pub(crate) fn set_conditions(&self, conditions: Conditions) {
        self.state.lock().conditions = conditions;
    }

    pub(crate) fn partition(&self, address: SocketAddr, partition: Partition) {
        self.state.lock().partitions.insert(address, partition);
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state.lock().tally
    }

    fn send(&self, from: &Inbox, to: SocketAddr, bytes: &[u8]) {
        if from.cut.load(Ordering::Acquire) {
            return;
        }
        let address = *from.address.lock();
        let mut state = self.state.lock();
        state.tally.sent += 1;
        let State {
            random,
            conditions,
            partitions,
            ..
        } = &mut *state;
        let arrivals = conditions.arrivals(random, bytes.len());
        let way = |address| partitions.get(&address).copied().unwrap_or_default();
        let closed = way(address).mute || way(to).deaf;
        let inbox = state.inboxes.get(&to).filter(|_| !closed).cloned();
        state.tally.lost += u64::from(closed || arrivals[0].is_none());
        state.tally.doubled += u64::from(arrivals[1].is_some());
        let Some(inbox) = inbox else { return };
        let (now, bytes): (_, Arc<[u8]>) = (Instant::now(), bytes.into());
        for delay in arrivals.into_iter().flatten() {
            state.sequence += 1;
            let datagram = Datagram {
                from: address,
                bytes: Arc::clone(&bytes),
            };
            inbox.put((now + delay, state.sequence), datagram);
        }
    }
}

impl Inbox {
    fn put(&self, at: (Instant, u64), datagram: Datagram) {
        let mut queue = self.queue.lock();
        if queue.datagrams.len() >= INBOX_DATAGRAMS_MAX || self.cut.load(Ordering::Acquire) {
            return;
        }
        queue.datagrams.insert(at, datagram);
        let waker = queue.waker.take();
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next datagram that is due; else whoever asks is woken when there is one.
    fn take(&self, context: &mut Context<'_>) -> Poll<Datagram> {
        let mut queue = self.queue.lock();
        if self.cut.load(Ordering::Acquire) {
            queue.datagrams.clear();
        }
        queue.waker = Some(context.waker().clone());
        loop {
            let Some(((due, _), _)) = queue.datagrams.first_key_value() else {
                return Poll::Pending;
            };
            let due = *due;
            if due <= Instant::now()
                && let Some((_, datagram)) = queue.datagrams.pop_first()
            {
                return Poll::Ready(datagram);
            }
            let mut timer = queue
                .timer
                .take()
                .unwrap_or_else(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            let fired = timer.as_mut().poll(context);
            queue.timer = Some(timer);
            if fired.is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// A socket of the network; it can always send.
#[derive(Debug)]
struct Socket {
    network: Arc<Network>,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.network
            .send(&self.inbox, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let datagram = match self.inbox.take(context) {
                Poll::Ready(datagram) => datagram,
                Poll::Pending if received == 0 => return Poll::Pending,
                Poll::Pending => break,
            };
            let length = datagram.bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram.bytes[..length]);
            *meta = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ..RecvMeta::default()
            };
            received += 1;
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(*self.inbox.address.lock())
    }

    /// False, so that quinn looks for the largest datagram of the path.
    fn may_fragment(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_as_often_as_the_conditions_say() {
        let conditions = Conditions {
            delay_ms: 10,
            jitter_ms: 5,
            lost_per_mille: 100,
            doubled_per_mille: 50,
            late_per_mille: 20,
            mtu_bytes: 1500,
        };
        let mut random = Random::new(1);
        let all: Vec<_> = (0..10_000)
            .map(|_| conditions.arrivals(&mut random, 1200))
            .collect();
        let count = |test: &dyn Fn(&[Option<Duration>; 2]) -> bool| all.iter().filter(|a| test(a)).count();
        assert!((900..1100).contains(&count(&|a| a[0].is_none())));
        assert!((400..500).contains(&count(&|a| a[1].is_some())));
        let late = Duration::from_millis(16);
        assert!((140..220).contains(&count(&|a| a[0].is_some_and(|delay| delay >= late))));
        assert_eq!(conditions.arrivals(&mut random, 1501), [None, None]);
    }
}
