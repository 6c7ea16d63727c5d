//! Work of one kind, made again and again, for scripts/instructions.sh, which counts what it executes.
//!
//! Usage: `instructions PATH COUNT`; the paths are those of [`PATHS`]. Without a path each is made a few times, which shows
//! that it still does what it is meant to.
//!
//! No path has threads, sockets, files or a moving clock in it, so that the same build executes the same. Setting up is not
//! counted: the script takes the difference of two counts.

use std::env;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lacuna::extent_map::{ExtentMap, Sought};
use lacuna::file_system::FileSystem;
use lacuna::remote::Access;
use lacuna::remote::memory::MemoryRemote;
use lacuna::volume::read::ReadNow;
use lacuna::volume::shared::Settings;
use lacuna_server::backend::Backend;
use lacuna_server::backend::memory::Memory;
use lacuna_server::buffers::BufferPool;
use lacuna_server::catalog::events::EventQueue;
use lacuna_server::catalog::{Catalog, OpenNode, Party};
use lacuna_server::session::read_here;
use lacuna_tests::random::Random;
use lacuna_transport::extent::ExtentKind;
use lacuna_transport::id::{Handle, NodeId, RequestId};
use lacuna_transport::path::{NodeName, NodePath};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::frame::{Code, Header, Kind, Sender};
use lacuna_transport::wire::read::ReadRequest;

/// Prepares itself and then works so many times.
type Work = fn(u64) -> Result<()>;

const PATHS: [(&str, Work); 3] = [
    ("extent-map-seek", seek),
    ("cached-read-4k", cached_read),
    ("server-read-4k", server_read),
];

const BLOCK_BYTES: u64 = 4096;
/// Of the volumes that are read.
const VOLUME_BYTES: u64 = 4 << 20;
/// Of data, each beside a hole of the same length.
const EXTENTS: u64 = 16_384;
/// Room for all of a volume.
const CACHE_BYTES: u64 = 64 << 20;
/// How often a path is made that is only tried.
const TRIED: u64 = 100;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [path, count] if !path.starts_with('-') => {
            let found = PATHS.iter().find(|(name, _)| *name == path);
            let (_, work) = found.with_context(|| format!("there is no path {path}"))?;
            work(count.parse()?)
        }
        // Words of cargo, if any.
        _ => PATHS
            .iter()
            .try_for_each(|(name, work)| work(TRIED).with_context(|| format!("path {name}"))),
    }
}

/// The places of `count` reads of one block, in no order.
fn places(count: u64) -> impl Iterator<Item = Result<ByteRange>> {
    let mut random = Random::new(1);
    (0..count).map(move |_| {
        let start = random.below(VOLUME_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
        ByteRange::at(start, BLOCK_BYTES).context("a block in a volume")
    })
}

/// One SEEK_DATA or SEEK_HOLE of a walk through a map.
fn seek(count: u64) -> Result<()> {
    let stride = 2 * BLOCK_BYTES;
    let mut map = ExtentMap::new(EXTENTS * stride);
    for start in (0..EXTENTS).map(|extent| extent * stride) {
        for (start, kind) in [(start, ExtentKind::Hole), (start + BLOCK_BYTES, ExtentKind::Data)] {
            map.set(ByteRange::at(start, BLOCK_BYTES).context("an extent")?, kind);
        }
    }
    let mut at = 0;
    for number in 0..count {
        let sought = if number % 2 == 0 {
            map.seek_data(black_box(at))
        } else {
            map.seek_hole(black_box(at))
        };
        at = match sought {
            Sought::At(found) if found < map.size() => found,
            Sought::At(_) => 0,
            other => bail!("{other:?} at {at}"),
        };
    }
    Ok(())
}

/// One read of the file system that the cache answers.
fn cached_read(count: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let path = NodePath::new(b"volume").context("a path")?;
    let remote = MemoryRemote::default();
    let all = ByteRange::up_to(VOLUME_BYTES);
    remote.change(&path, |content| content.write(all, 7));
    let settings = Settings::new(CACHE_BYTES, Some(Duration::from_secs(20)));
    let fs = FileSystem::new(remote, NodePath::root(), settings);
    let open = runtime.block_on(async {
        let name = NodeName::new(b"volume").context("a name")?;
        let attr = fs.lookup(NodeId::ROOT, &name).await?;
        let (open, _) = fs.open(attr.id, Access::Read).await?;
        ensure!(fs.read(open, all).await?.len() == VOLUME_BYTES, "a short read");
        anyhow::Ok(open)
    })?;
    let _runtime = runtime.enter();
    for place in places(count) {
        match fs.read_now(open, place?)? {
            ReadNow::Ready(gathered) => gathered.with_slice(|bytes| {
                black_box(bytes);
            }),
            ReadNow::Wait => bail!("a block is not in the cache"),
        }
    }
    Ok(())
}

/// One read from the client's request to the reply that it has checked, without QUIC in between.
fn server_read(count: u64) -> Result<()> {
    let backend = Memory::default();
    let path = NodePath::new(b"volume").context("a path")?;
    backend.put_volume(&path, VOLUME_BYTES);
    let volume = backend.open(&path)?;
    volume.write_at(&vec![7; usize::try_from(VOLUME_BYTES)?], 0)?;
    let party = Party {
        session: 1,
        events: Arc::new(EventQueue::default()),
    };
    let (node, _) = Catalog::new(backend.clock_tick()).open(volume, Handle(1), &party, false)?;
    let node = Arc::new(node);
    let buffers = Arc::new(BufferPool::new(usize::try_from(VOLUME_BYTES)?));
    for (place, number) in places(count).zip(0..) {
        let request = ReadRequest::new(Handle(1), vec![place?])?;
        answer(&buffers, &node, &request, RequestId(number))?;
    }
    Ok(())
}

/// What both sides do with one request.
fn answer(
    buffers: &Arc<BufferPool>,
    node: &Arc<OpenNode>,
    request: &ReadRequest,
    number: RequestId,
) -> Result<()> {
    let body = request.encode();
    let sent = header(body.len(), number)?.encode();

    let taken = Header::decode(black_box(&sent), Sender::Client)?;
    let asked = ReadRequest::decode(black_box(&body))?;
    let (base, payload) = read_here(buffers, node, &asked)?;
    let head = asked.encode_reply_head(base, None);
    let replied = header(head.len() + payload.len(), taken.request)?.encode();

    let reply = Header::decode(black_box(&replied), Sender::Server)?;
    let payload_bytes = reply.body_bytes - u32::try_from(request.reply_head_bytes())?;
    request.decode_reply_head(black_box(&head), payload_bytes)?;
    // Not all of the bytes: looking at them would be counted.
    let is_whole = payload_bytes == 4096 && payload.len() == 4096 && payload.ends_with(&[7]);
    ensure!(reply.request == number && is_whole, "another reply");
    Ok(())
}

fn header(body_bytes: usize, request: RequestId) -> Result<Header> {
    Ok(Header {
        body_bytes: u32::try_from(body_bytes)?,
        kind: Kind::Read,
        code: Code::Done,
        request,
    })
}
