//! The worst that clients who are allowed can do: they ask for everything at once, and take nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lacuna_transport::id::Handle;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{self, MapRequest};
use lacuna_transport::wire::read::ReadRequest;
use tokio::task::JoinSet;

use crate::client::{Client, path_request, write_body};
use crate::daemon::Daemon;

/// Names in the folder that is listed.
const NAMES: u32 = 8_000;
/// Of those, what each session opens.
const OPENED: u32 = 500;
/// Extents of the volume whose map is asked for.
const EXTENTS: u64 = 6_000;
/// Lanes of each session that do nothing else than each of the bad things.
const LANES: usize = 12;
const VOLUME_BYTES: u64 = 256 << 20;

/// The volumes that are misused.
pub(crate) fn prepare(dir: &Path) {
    File::create(dir.join("good")).expect("a volume");
    let data = File::create(dir.join("data")).expect("a volume");
    for mebibyte in 0..VOLUME_BYTES >> 20 {
        // Half of it packs.
        let mut bytes: Vec<u8> = (0..1_u32 << 18)
            .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
            .collect();
        bytes[..1 << 19].fill(u8::try_from(mebibyte % 251).expect("small"));
        data.write_all_at(&bytes, mebibyte << 20).expect("written");
    }
    let holes = File::create(dir.join("holes")).expect("a volume");
    for extent in 0..EXTENTS {
        holes.write_all_at(b"data", extent << 13).expect("written");
    }
    let many = dir.join("many");
    std::fs::create_dir(&many).expect("a folder");
    for name in 0..NAMES {
        File::create(many.join(format!("a volume with a rather long name {name}"))).expect("a volume");
    }
}

pub(crate) fn read_body(handle: Handle, offset: u64, len: u64) -> Vec<u8> {
    let range = ByteRange::at(offset, len).expect("a range");
    ReadRequest::new(handle, vec![range]).expect("a read").encode()
}

/// One key with all the sessions that the server lets it have.
pub(crate) struct Hostile(Vec<Client>);

impl Hostile {
    pub(crate) async fn connect(daemon: &Daemon, identity: Identity) -> Self {
        let mut sessions = Vec::new();
        while let Some(session) = Client::connect(daemon, &identity).await {
            sessions.push(session);
        }
        assert!(!sessions.is_empty(), "a client that is allowed gets a session");
        Self(sessions)
    }

    pub(crate) fn sessions(&self) -> usize {
        self.0.len()
    }

    /// Each session does everything, each lane one thing.
    pub(crate) fn work(self, load: &mut Load) {
        for session in self.0 {
            load.0.spawn(async move {
                let mut lanes = JoinSet::new();
                misuse(&session, &mut lanes).await;
                while lanes.join_next().await.is_some() {}
            });
        }
    }
}

/// What goes on; all of it ends when dropped.
#[derive(Default)]
pub(crate) struct Load(JoinSet<()>);

async fn misuse(session: &Client, lanes: &mut JoinSet<()>) -> Option<()> {
    let mut first = session.lane().await?;
    let data = first.open("data", true).await?.ok()?;
    let holes = first.open("holes", false).await?.ok()?;
    for number in 0..LANES {
        let place = u64::try_from(number).expect("small") << 20;
        // Most of a write, and then nothing.
        let mut lane = session.lane().await?;
        let body = write_body(data, place, &vec![1; 1 << 20]);
        lanes.spawn(async move {
            let header = lacuna_transport::wire::frame::Header {
                body_bytes: u32::try_from(body.len()).expect("fits"),
                kind: Kind::Write,
                code: lacuna_transport::wire::frame::Code::Done,
                request: lacuna_transport::id::RequestId(9),
            };
            drop(lane.send.write_all(&header.encode()).await);
            drop(lane.send.write_all(&body[..body.len() - 1]).await);
            drop(lane.receive.read_chunk(1, true).await);
        });
        // Reads whose replies nobody takes.
        let mut lane = session.lane().await?;
        lanes.spawn(async move {
            for turn in 0..64_u64 {
                let offset = (place + (turn << 22)) % VOLUME_BYTES;
                if lane
                    .send(Kind::Read, read_body(data, offset, 1 << 20))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            drop(lane.send.stopped().await);
        });
        // Maps, listings and digests, whose replies nobody takes either.
        let mut lane = session.lane().await?;
        lanes.spawn(async move {
            let map = MapRequest {
                handle: holes,
                start: 0,
                end: u64::MAX,
                pages_max: u32::MAX,
            };
            for _ in 0..8 {
                drop(lane.send(Kind::Map, message::encode(&map)).await);
                drop(lane.send(Kind::List, path_request("many")).await);
            }
            drop(lane.send.stopped().await);
        });
        // Small requests without an end, no reply taken.
        let mut lane = session.lane().await?;
        lanes.spawn(async move {
            for _ in 0..2_000 {
                if lane.send(Kind::Stat, path_request("data")).await.is_err() {
                    return;
                }
            }
            drop(lane.send.stopped().await);
        });
        // Good writes, as fast as they go.
        let mut lane = session.lane().await?;
        lanes.spawn(async move {
            let body = write_body(data, place, &vec![3; 1 << 20]);
            for _ in 0..4 {
                if lane.ask(Kind::Write, body.clone()).await.is_none() {
                    return;
                }
            }
        });
    }
    // As many volumes as it gets.
    let mut lane = session.lane().await?;
    lanes.spawn(async move {
        for name in 0..OPENED {
            let name = format!("many/a volume with a rather long name {name}");
            match lane.open(&name, false).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    });
    Some(())
}
