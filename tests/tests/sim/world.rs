//! One run: a host, clients, a network and faults on one thread, all from one seed, in virtual time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use lacuna::compress::Compress;
use lacuna_server::backend::Backend;
use lacuna_tests::random::Random;
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::identity::Identity;
use parking_lot::Mutex;
use tokio::sync::{Barrier, watch};
use tokio::time::Instant;

use crate::baton;
use crate::client::{Person, Server};
use crate::history::{BLOCK_CELLS, CELL_BYTES, History, tag_of};
use crate::holders::Holders;
use crate::host::Host;
use crate::ledger::Ledger;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::storage::{Bug, Disk};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 7117);
/// For all to end once the faults have: several deadlines of the slowest client.
const END_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a server keeps the lease of a client that is lost; so short that others get it while faults come.
const LEASE_TIMES: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(8),
];

/// What the clients of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) begun: Instant,
    pub(crate) network: Arc<Network>,
    pub(crate) server: Server,
    pub(crate) people: Vec<Person>,
    /// The volume that all write to, if they get its lease; each of those before belongs to one person.
    pub(crate) contested: usize,
    pub(crate) lease_time: Duration,
    /// Where clients keep what they could not save.
    pub(crate) rescue: tempfile::TempDir,
    pub(crate) ledger: Mutex<Ledger>,
    /// True once the faults are over.
    pub(crate) calm: watch::Receiver<bool>,
    /// All clients and the world meet here when one part of the end is done.
    pub(crate) meeting: Barrier,
    pub(crate) disk: Arc<Disk>,
}

/// What became of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) trace: Vec<String>,
    pub(crate) trace_hash: u64,
    pub(crate) operations: u64,
    pub(crate) failed_operations: u64,
    pub(crate) faults: u64,
    pub(crate) datagrams: u64,
    pub(crate) datagrams_lost: u64,
    /// Leases that went from one that had not let go to another, writers that were told of it, and rescue files.
    pub(crate) takeovers: u64,
    pub(crate) fenced: u64,
    pub(crate) rescued: u64,
    pub(crate) overtime: (Duration, String),
}

/// Runs the world of a seed.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Result<Report> {
    baton::run(play(seed, bug))?
}

pub(crate) fn volume_path(volume: usize) -> Result<NodePath> {
    NodePath::new(format!("v{volume}").as_bytes()).map_err(|error| anyhow!("{error}"))
}

/// Of all volumes; what is beyond was never written.
pub(crate) fn volume_bytes(cells: usize) -> Result<u64> {
    Ok(u64::try_from(cells * CELL_BYTES)?)
}

async fn play(seed: u64, bug: Option<Bug>) -> Result<Report> {
    let mut random = Random::new(seed);
    let network = Network::new(random.number());
    let lease_time = LEASE_TIMES[usize::try_from(random.below(3))?];
    let (mut host, deaths) = Host::new(&network, SERVER, bug, lease_time)?;
    let clients = usize::try_from(random.between(2, 3))?;
    let cells = usize::try_from(random.between(4, 16))? * BLOCK_CELLS;
    let deadline = Duration::from_secs([5, 10, 30][usize::try_from(random.below(3))?]);
    let mut people = Vec::new();
    let (mut volumes, mut holders) = (Vec::new(), Vec::new());
    for volume in 0..=clients {
        let memory = &host.disk.memory;
        memory.put_volume(&volume_path(volume)?, volume_bytes(cells)?);
        volumes.push(History::new(cells));
        holders.push(Holders::new(lease_time, Instant::now()));
    }
    for _ in 0..clients {
        let identity = Identity::generate();
        host.allow(&identity)?;
        let compress = [Compress::None, Compress::None, Compress::Lz4][usize::try_from(random.below(3))?];
        people.push(Person {
            identity,
            compress,
            deadline,
        });
    }
    host.start()?;
    let (calm, calmed) = watch::channel(false);
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        network,
        server: Server {
            address: SERVER,
            key: host.key(),
        },
        people,
        contested: clients,
        lease_time,
        rescue: tempfile::Builder::new()
            .prefix("lacuna-sim-rescue")
            .tempdir_in("/dev/shm")?,
        ledger: Mutex::new(Ledger::new(volumes, holders)),
        calm: calmed,
        meeting: Barrier::new(clients + 1),
        disk: Arc::clone(&host.disk),
    });
    let mut nemesis = Nemesis::new(Arc::clone(&shared), host, deaths, &mut random);
    nemesis.rage().await?;
    calm.send_replace(true);
    let end = tokio::time::timeout(END_TIMEOUT, finish(&shared, &mut nemesis));
    if end.await.is_err() {
        let text = "not every client came to an end after the faults were over";
        shared.ledger.lock().violation(text.to_owned());
    }
    Ok(report(&shared, &nemesis))
}

/// Waits until all clients have saved and compared everything, then looks at the disk itself.
async fn finish(shared: &Arc<Shared>, nemesis: &mut Nemesis) {
    // All is flushed; then all have written to the contested volume; then all have looked.
    shared.meeting.wait().await;
    shared.meeting.wait().await;
    shared.meeting.wait().await;
    nemesis.end().await;
    look_at_disk(shared, "the disk at the end");
    shared.disk.lose_power(|| false);
    look_at_disk(shared, "the disk after a last power loss");
    shared.ledger.lock().settle_contests();
}

fn look_at_disk(shared: &Shared, who: &str) {
    let mut ledger = shared.ledger.lock();
    for volume in 0..ledger.volumes.len() {
        let cells = ledger.volumes[volume].cells();
        let mut bytes = vec![0; cells * CELL_BYTES];
        let read = volume_path(volume).and_then(|path| {
            shared.disk.memory.open(&path)?.read_at(&mut bytes, 0)?;
            Ok(())
        });
        ledger.expect(who, read.map_err(|error| format!("{error:#}")));
        for (cell, bytes) in bytes.chunks_exact(CELL_BYTES).enumerate() {
            let checked = tag_of(cell, bytes).and_then(|tag| ledger.volumes[volume].settled(cell, tag));
            ledger.expect(&format!("{who}, v{volume}"), checked);
        }
    }
}

fn report(shared: &Shared, nemesis: &Nemesis) -> Report {
    let ledger = shared.ledger.lock();
    let tally = shared.network.tally();
    Report {
        violations: ledger.violations().to_vec(),
        trace: ledger.trace().map(str::to_owned).collect(),
        trace_hash: ledger.trace_hash(),
        operations: ledger.operations,
        failed_operations: ledger.failed_operations,
        faults: nemesis.faults(),
        datagrams: tally.sent,
        datagrams_lost: tally.lost,
        takeovers: ledger.holders.iter().map(|holders| holders.takeovers).sum(),
        fenced: ledger.fenced,
        rescued: ledger.rescued,
        overtime: ledger.overtime.clone(),
    }
}
