//! What is answered without a server, and what is not.

use std::time::Duration;

use lacuna_transport::attr::NewNode;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::message::RenameMode;

use super::*;
use crate::file_system::OpenId;
use crate::file_system::changes::Reach;
use crate::remote::Access;
use crate::remote::memory::MemoryRemote;
use crate::volume::shared::Settings;

const DEADLINE: Duration = Duration::from_secs(5);
const NODE: NewNode = NewNode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

struct Bed {
    remote: MemoryRemote,
    fs: Arc<FileSystem<MemoryRemote>>,
    folder: OpenId,
}

impl Bed {
    fn new(names: &[&str]) -> Self {
        let remote = MemoryRemote::default();
        for (number, text) in names.iter().enumerate() {
            let size = u64::try_from(number).unwrap() + 1;
            remote.change(&path(text), |content| content.write(ByteRange::up_to(size), 1));
        }
        let settings = Settings::new(16 << 20, Some(DEADLINE));
        let fs = Arc::new(FileSystem::new(remote.clone(), NodePath::root(), settings));
        let folder = fs.open_folder(NodeId::ROOT).unwrap();
        Self { remote, fs, folder }
    }

    async fn size(&self, text: &str) -> Result<u64> {
        self.fs
            .lookup(NodeId::ROOT, &name(text))
            .await
            .map(|attr| attr.size)
    }

    async fn names(&self) -> Result<Vec<String>> {
        let listing = self.fs.listing(self.folder, true).await?;
        let text = |(name, _): &(NodeName, Attr)| String::from_utf8_lossy(name.as_bytes()).into_owned();
        Ok(listing.names.iter().map(text).collect())
    }

    async fn opened(&self, text: &str, access: Access) -> OpenId {
        let attr = self.fs.lookup(NodeId::ROOT, &name(text)).await.unwrap();
        self.fs.open(attr.id, access).await.unwrap().0
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text.as_bytes()).unwrap()
}

fn path(text: &str) -> NodePath {
    NodePath::new(text.as_bytes()).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn names_attributes_and_listings_are_served_without_a_server() {
    let bed = Bed::new(&["a", "b", "c"]);
    let attr = bed.fs.lookup(NodeId::ROOT, &name("a")).await.unwrap();
    bed.remote.cut(true);
    assert_eq!(kind(bed.size("b").await), ErrorKind::TimedOut, "nobody listed it");
    assert_eq!(kind(bed.names().await), ErrorKind::TimedOut);
    bed.remote.cut(false);
    bed.names().await.unwrap();
    bed.remote.cut(true);
    let (begun, before) = (Instant::now(), bed.remote.requests());
    assert_eq!(bed.size("a").await.unwrap(), 1);
    assert_eq!(bed.fs.attr(attr.id).await.unwrap(), attr);
    assert_eq!(bed.size("c").await.unwrap(), 3, "known from the listing alone");
    assert_eq!(
        kind(bed.size("d").await),
        ErrorKind::NotFound,
        "the listing is whole"
    );
    assert_eq!(bed.names().await.unwrap(), ["a", "b", "c"]);
    assert_eq!(begun.elapsed(), Duration::ZERO, "something waited");
    assert_eq!(bed.remote.requests(), before);
}

#[tokio::test(start_paused = true)]
async fn who_waits_already_gets_what_is_known_when_the_server_is_lost() {
    let bed = Bed::new(&["a"]);
    bed.names().await.unwrap();
    bed.remote.delay(crate::remote::memory::Delays {
        ask: Duration::from_secs(3600),
        ..Default::default()
    });
    let begun = Instant::now();
    let (size, ()) = tokio::join!(bed.size("a"), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        bed.remote.cut(true);
    });
    assert_eq!(size.unwrap(), 1);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

/// With a deadline shorter than it takes to notice that nothing is heard of the server.
#[tokio::test(start_paused = true)]
async fn what_is_known_is_served_when_the_server_has_not_answered_in_time() {
    let bed = Bed::new(&["a", "b"]);
    bed.names().await.unwrap();
    let open = bed.opened("a", Access::Read).await;
    bed.remote.delay(crate::remote::memory::Delays {
        ask: Duration::from_secs(3600),
        ..Default::default()
    });
    let begun = Instant::now();
    assert_eq!(bed.size("a").await.unwrap(), 1);
    assert_eq!(begun.elapsed(), DEADLINE, "it was asked first");
    assert_eq!(bed.size("b").await.unwrap(), 2, "known from the listing alone");
    assert_eq!(kind(bed.size("d").await), ErrorKind::NotFound);
    assert_eq!(bed.names().await.unwrap(), ["a", "b"]);
    bed.fs.close(open);
    let unlisted = Bed::new(&["a"]);
    unlisted.remote.delay(crate::remote::memory::Delays {
        ask: Duration::from_secs(3600),
        ..Default::default()
    });
    assert_eq!(
        kind(unlisted.size("a").await),
        ErrorKind::TimedOut,
        "nothing is known"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_server_said_since_counts() {
    let bed = Bed::new(&["a", "b"]);
    bed.names().await.unwrap();
    bed.remote
        .change(&path("a"), |content| content.write(ByteRange::up_to(500), 1));
    let attr = bed.fs.lookup(NodeId::ROOT, &name("a")).await.unwrap();
    bed.fs.forget(attr.id, 1);
    bed.remote.change(&path("new"), |_| {});
    bed.size("new").await.unwrap();
    bed.remote.cut(true);
    assert_eq!(
        kind(bed.names().await),
        ErrorKind::TimedOut,
        "the listing lacks a name that is there"
    );
    bed.remote.cut(false);
    bed.names().await.unwrap();
    let attr = bed.fs.lookup(NodeId::ROOT, &name("a")).await.unwrap();
    // Not in the list any more when the kernel forgets it: what was found out since is kept there.
    let open = bed.fs.open(attr.id, Access::ReadWrite).await.unwrap().0;
    bed.fs.write(open, 1000, &[7; 24], Reach::Server).await.unwrap();
    bed.fs.flush(open, true).await.unwrap();
    bed.fs.close(open);
    bed.fs.forget(attr.id, 1);
    bed.remote.cut(true);
    assert_eq!(bed.size("a").await.unwrap(), 1024);
}

#[tokio::test(start_paused = true)]
async fn while_the_server_answers_nothing_old_is_served() {
    let bed = Bed::new(&["a", "b"]);
    bed.names().await.unwrap();
    let attr = bed.fs.lookup(NodeId::ROOT, &name("a")).await.unwrap();
    bed.remote
        .change(&path("a"), |content| content.write(ByteRange::up_to(77), 1));
    bed.remote.change(&path("z"), |_| {});
    assert_eq!(bed.size("a").await.unwrap(), 77);
    assert_eq!(bed.fs.attr(attr.id).await.unwrap().size, 77);
    assert_eq!(bed.names().await.unwrap(), ["a", "b", "z"]);
}

#[tokio::test(start_paused = true)]
async fn own_changes_of_names_are_not_forgotten() {
    let bed = Bed::new(&["a", "b", "c"]);
    let root = NodeId::ROOT;
    bed.names().await.unwrap();
    for text in ["a", "b", "c"] {
        bed.size(text).await.unwrap();
    }
    let (_, open) = bed.fs.create(root, &name("new"), NODE, true).await.unwrap();
    bed.fs.write(open, 0, &[1; 99], Reach::Here).await.unwrap();
    bed.fs.remove(root, &name("a"), false).await.unwrap();
    bed.fs
        .rename((root, &name("b")), (root, &name("moved")), RenameMode::Replace)
        .await
        .unwrap();
    bed.remote.cut(true);
    assert_eq!(bed.size("new").await.unwrap(), 99, "with what was not sent yet");
    assert_eq!(bed.size("moved").await.unwrap(), 2);
    assert_eq!(bed.size("c").await.unwrap(), 3);
    for gone in ["a", "b"] {
        assert_eq!(
            kind(bed.size(gone).await),
            ErrorKind::TimedOut,
            "{gone} was served"
        );
    }
    assert_eq!(
        kind(bed.names().await),
        ErrorKind::TimedOut,
        "an older listing was served"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_was_not_answered_makes_the_listing_void() {
    let bed = Bed::new(&["a"]);
    bed.names().await.unwrap();
    bed.remote.cut(true);
    let made = bed.fs.make_folder(NodeId::ROOT, &name("folder"), NODE).await;
    assert_eq!(kind(made), ErrorKind::TimedOut);
    assert_eq!(kind(bed.names().await), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn what_is_open_can_be_opened_and_read_again() {
    let bed = Bed::new(&["a", "b"]);
    let first = bed.opened("a", Access::Read).await;
    let all = ByteRange::up_to(1);
    bed.fs.read(first, all).await.unwrap();
    let id = bed.fs.open_attr(first).unwrap().id;
    let other = bed.fs.lookup(NodeId::ROOT, &name("b")).await.unwrap();
    bed.remote.cut(true);
    let again = bed.fs.open(id, Access::Read).await.unwrap().0;
    let bytes = bed.fs.read(again, all).await.unwrap().with_slice(<[u8]>::to_vec);
    assert_eq!(bytes, [1]);
    assert_eq!(
        kind(bed.fs.open(id, Access::ReadWrite).await),
        ErrorKind::TimedOut,
        "nobody may write without asking"
    );
    assert_eq!(
        kind(bed.fs.open(other.id, Access::Read).await),
        ErrorKind::TimedOut
    );
    bed.fs.close(first);
    assert!(bed.fs.read(again, all).await.is_ok());
}

/// Every operation that needs the server ends at the deadline of the mount, is named while it waits, and not after.
#[tokio::test(start_paused = true)]
async fn what_waits_is_named_and_ends_in_time() {
    let bed = Bed::new(&["a", "b"]);
    let open = bed.opened("a", Access::ReadWrite).await;
    bed.fs.write(open, 0, &[1; 10], Reach::Here).await.unwrap();
    bed.remote.cut(true);
    let begun = Instant::now();
    let watch = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let waiting = &bed.fs.shared().waiting;
        let mut named: Vec<String> = waiting
            .named()
            .into_iter()
            .map(|waiter| format!("{} {}", waiter.operation, waiter.path.unwrap_or_default()))
            .collect();
        named.sort();
        assert_eq!(named, ["lookup b", "readdir ", "send a", "statfs "]);
        assert_eq!(waiting.count(), 4);
    };
    let (flushed, found, listed, space, ()) = tokio::join!(
        bed.fs.flush(open, false),
        bed.size("b"),
        bed.names(),
        bed.fs.space(),
        watch
    );
    for kind in [kind(flushed), kind(found), kind(listed), kind(space)] {
        assert_eq!(kind, ErrorKind::TimedOut);
    }
    assert!(begun.elapsed() <= DEADLINE + Duration::from_secs(1));
    assert_eq!(bed.fs.shared().waiting.count(), 0);
    bed.remote.cut(false);
    bed.fs.flush(open, false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_look_and_the_read_behind_it_have_one_deadline() {
    let bed = Bed::new(&["a"]);
    let open = bed.opened("a", Access::Read).await;
    bed.remote
        .change(&path("a"), |content| content.write(ByteRange::up_to(500), 2));
    bed.fs.open_volumes().iter().for_each(|volume| volume.unfollow());
    bed.remote.delay(crate::remote::memory::Delays {
        ask: DEADLINE / 2,
        map: DEADLINE * 10,
        ..Default::default()
    });
    let begun = Instant::now();
    assert_eq!(
        kind(bed.fs.read(open, ByteRange::up_to(500)).await),
        ErrorKind::TimedOut
    );
    assert_eq!(begun.elapsed(), DEADLINE);
}
