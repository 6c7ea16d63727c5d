//! What goes wrong in a run: when and what follows from the seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lacuna_tests::random::Random;
use lacuna_transport::limits::IDLE_TIMEOUT;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::actor;
use crate::host::Host;
use crate::network::{Conditions, LATE_MS, Partition};
use crate::storage::{CALLS, CrashPoint};
use crate::world::{Shared, volume_path};

/// Longest time that faults come.
const RAGE_SECS: (u64, u64) = (8, 25);
/// Longer than it takes to notice that a client is cut off, and to give its lease to another one.
const LONG_MS: (u64, u64) = (500, 8000);
/// Between one fault and the next.
const PAUSE_MS: (u64, u64) = (100, 2500);
/// What a killed client had under way has ended or is lost by then: the longest way of a datagram, and more.
const CLIENT_DOWN_MS_MIN: u64 = 2 * (LATE_MS + 300);

/// Owns all that can be broken, and the clients' tasks.
#[derive(Debug)]
pub(crate) struct Nemesis {
    shared: Arc<Shared>,
    host: Host,
    deaths: UnboundedReceiver<()>,
    random: Random,
    clients: Vec<Process>,
    processes: u8,
    moves: u8,
    faults: u64,
    /// Until when the disk is full, and the network parted.
    disk_full_until: Option<Instant>,
    parted_until: Option<Instant>,
    /// A partition of so long is waited for.
    long_until: Option<Instant>,
}

/// A client process, or the pause until the next one.
#[derive(Debug)]
struct Process {
    number: u8,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Nemesis {
    pub(crate) fn new(
        shared: Arc<Shared>,
        host: Host,
        deaths: UnboundedReceiver<()>,
        random: &mut Random,
    ) -> Self {
        let mut nemesis = Self {
            shared,
            host,
            deaths,
            random: Random::new(random.number()),
            clients: Vec::new(),
            processes: 0,
            moves: 0,
            faults: 0,
            disk_full_until: None,
            parted_until: None,
            long_until: None,
        };
        for client in 0..nemesis.shared.people.len() {
            let process = nemesis.start_client(client, Duration::ZERO, false);
            nemesis.clients.push(process);
        }
        nemesis
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults
    }

    /// Breaks things for a while, then puts all in order again.
    pub(crate) async fn rage(&mut self) -> Result<()> {
        let length = Duration::from_secs(self.random.between(RAGE_SECS.0, RAGE_SECS.1));
        let end = Instant::now() + length;
        while Instant::now() < end || self.long_until.is_some_and(|until| Instant::now() < until) {
            let pause = Duration::from_millis(self.random.between(PAUSE_MS.0, PAUSE_MS.1));
            if let Ok(Some(())) = timeout(pause, self.deaths.recv()).await {
                self.note("the server died at its crash point");
                self.host.kill().await;
                self.come_back().await?;
            }
            self.repair_what_is_over();
            self.fault().await?;
        }
        self.note("calm");
        (self.disk_full_until, self.parted_until) = (None, None);
        self.shared.disk.set_full(false);
        self.shared.disk.set_bad_flushes(0);
        self.heal();
        self.shared.network.set_conditions(Conditions::GOOD);
        // A crash point that was armed may still be met, so this run ends here.
        self.host.kill().await;
        sleep(Duration::from_millis(1)).await;
        self.start_host()
    }

    fn start_host(&mut self) -> Result<()> {
        self.host.start()?;
        let mut ledger = self.shared.ledger.lock();
        ledger.note("the server runs");
        let holders = ledger.holders.iter_mut();
        holders.for_each(|holders| holders.server_started(Instant::now()));
        Ok(())
    }

    /// Ends all.
    pub(crate) async fn end(&mut self) {
        for process in &mut self.clients {
            process.task.abort();
        }
        self.host.kill().await;
    }

    fn note(&self, what: &str) {
        self.shared.ledger.lock().note(what);
    }

    fn start_client(&mut self, client: usize, pause: Duration, again: bool) -> Process {
        self.processes += 1;
        let number = self.processes;
        let address = SocketAddr::from(([10, 0, 1, number], 40_000));
        let random = Random::new(self.random.number());
        let work = actor::live(Arc::clone(&self.shared), client, (number, address), random, again);
        let task = tokio::spawn(async move {
            sleep(pause).await;
            work.await;
        });
        Process {
            number,
            address,
            task,
        }
    }

    fn repair_what_is_over(&mut self) {
        let over = |until: &mut Option<Instant>| until.take_if(|until| *until <= Instant::now()).is_some();
        if over(&mut self.disk_full_until) {
            self.shared.disk.set_full(false);
            self.note("the disk has room again");
        }
        if over(&mut self.parted_until) {
            self.heal();
            self.note("no partition any more");
        }
    }

    fn heal(&self) {
        let clients = self.clients.iter().map(|process| process.address);
        for address in clients.chain([self.host.address]) {
            self.shared.network.partition(address, Partition::default());
        }
    }

    async fn fault(&mut self) -> Result<()> {
        self.faults += 1;
        match self.random.below(100) {
            0..25 => self.change_conditions(),
            25..40 => self.part(),
            40..52 => {
                self.note("kill -9 of the server");
                self.host.kill().await;
                self.come_back().await?;
            }
            52..62 => {
                self.note("the server loses its power");
                self.host.kill().await;
                self.lose_power();
                self.come_back().await?;
            }
            62..75 => self.arm(),
            75..78 => {
                let count = self.random.between(1, 3);
                self.note(&format!("the next {count} flushes fail"));
                self.shared.disk.set_bad_flushes(count);
            }
            78..83 => {
                self.note("the disk is full");
                self.shared.disk.set_full(true);
                self.disk_full_until = Some(self.in_ms(200, 6000));
            }
            83..88 => self.kill_client().await,
            88..90 => self.move_client(),
            90..95 => self.break_lease().await?,
            95..98 => self.part_for_long(),
            _ => {
                self.note("the server is stopped");
                self.host.stop().await?;
                self.come_back().await?;
            }
        }
        Ok(())
    }

    /// Starts the server after a while; its host may have lost its power meanwhile.
    async fn come_back(&mut self) -> Result<()> {
        if self.random.below(4) == 0 {
            self.lose_power();
        }
        let longest_ms = [50, 1000, 8000, 20_000][usize::try_from(self.random.below(4))?];
        let pause = Duration::from_millis(self.random.between(1, longest_ms));
        sleep(pause).await;
        while self.deaths.try_recv().is_ok() {}
        self.start_host()
    }

    fn lose_power(&mut self) {
        let mut ledger = self.shared.ledger.lock();
        ledger.note("power loss");
        for volume in &mut ledger.volumes {
            volume.lose_power();
        }
        drop(ledger);
        let kept_of_four = self.random.below(4);
        let random = &mut self.random;
        self.shared.disk.lose_power(|| random.below(4) < kept_of_four);
    }

    fn in_ms(&mut self, low: u64, high: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.random.between(low, high))
    }

    fn change_conditions(&mut self) {
        let random = &mut self.random;
        let mut some = |most: &[u64]| {
            let index = usize::try_from(random.below(u64::try_from(most.len()).unwrap_or(1))).unwrap_or(0);
            random.between(0, most[index])
        };
        let conditions = Conditions {
            delay_ms: some(&[1, 10, 100]),
            jitter_ms: some(&[0, 5, 50]),
            lost_per_mille: some(&[0, 10, 100, 300]),
            doubled_per_mille: some(&[0, 50]),
            late_per_mille: some(&[0, 30]),
            mtu_bytes: if random.below(2) == 0 { 1452 } else { 65_535 },
        };
        self.shared.network.set_conditions(conditions);
        self.note(&format!("{conditions:?}"));
    }

    /// Cuts one client, or the server, off; both ways or one.
    fn part(&mut self) {
        self.heal();
        let whom = self
            .random
            .below(u64::try_from(self.clients.len()).unwrap_or(0) + 1);
        let client = usize::try_from(whom)
            .ok()
            .and_then(|index| self.clients.get(index));
        let address = client.map_or(self.host.address, |process| process.address);
        let (mute, deaf) =
            [(true, true), (true, false), (false, true)][usize::try_from(self.random.below(3)).unwrap_or(0)];
        self.shared.network.partition(address, Partition { mute, deaf });
        let longest_ms = [500, 5000, 25_000][usize::try_from(self.random.below(3)).unwrap_or(0)];
        self.parted_until = Some(self.in_ms(50, longest_ms));
        self.note(&format!("{address} is cut off: mute {mute}, deaf {deaf}"));
    }

    /// Cuts one client off until its leases are anybody's.
    fn part_for_long(&mut self) {
        self.heal();
        let client = self.any_client();
        let address = self.clients[client].address;
        let all = Partition {
            mute: true,
            deaf: true,
        };
        self.shared.network.partition(address, all);
        let until = self.in_ms(LONG_MS.0, LONG_MS.1) + IDLE_TIMEOUT + self.shared.lease_time;
        (self.parted_until, self.long_until) = (Some(until), Some(until));
        self.note(&format!("c{client} is cut off for long"));
    }

    fn arm(&mut self) {
        let point = CrashPoint {
            call: CALLS[usize::try_from(self.random.below(5)).unwrap_or(0)],
            after_calls: self.random.between(0, 3),
            applied: self.random.below(3) > 0,
        };
        self.note(&format!("armed: {point:?}"));
        self.host.arm(point);
    }

    fn any_client(&mut self) -> usize {
        let count = u64::try_from(self.clients.len()).unwrap_or(1);
        usize::try_from(self.random.below(count)).unwrap_or(0)
    }

    /// A host changes its network: the session goes on from the new address.
    fn move_client(&mut self) {
        let client = self.any_client();
        self.moves += 1;
        let to = SocketAddr::from(([10, 0, 2, self.moves], 40_000));
        let from = std::mem::replace(&mut self.clients[client].address, to);
        self.shared.network.readdress(from, to);
        self.note(&format!("c{client} moves to {to}"));
    }

    async fn kill_client(&mut self) {
        let client = self.any_client();
        self.note(&format!("kill -9 of c{client}"));
        let process = &mut self.clients[client];
        self.shared.network.cut(process.address);
        process.task.abort();
        let killed = process.number;
        // Cancelled is what it is meant to be; a panic of its own shows as a client that never ends.
        let _ = (&mut process.task).await;
        for holders in &mut self.shared.ledger.lock().holders {
            holders.killed(killed, Instant::now());
        }
        let pause = self.random.between(CLIENT_DOWN_MS_MIN, 3 * CLIENT_DOWN_MS_MIN);
        self.clients[client] = self.start_client(client, Duration::from_millis(pause), true);
    }

    /// An operator gives the contested volume to whoever comes next.
    async fn break_lease(&mut self) -> Result<()> {
        let volume = self.shared.contested;
        self.shared.ledger.lock().holders[volume].breaking();
        let broken = self.host.break_lease(&volume_path(volume)?).await;
        let mut ledger = self.shared.ledger.lock();
        ledger.holders[volume].broke(broken, Instant::now());
        ledger.note(&format!("the lease of v{volume} is broken: {broken}"));
        Ok(())
    }
}
