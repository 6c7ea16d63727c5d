//! The bytes on the wire, pinned. A change here is a change of the protocol: docs/PROTOCOL.md and the
//! version go with it.

use super::codec::{Codec, Offer, When};
use super::digest::{self, DigestRequest};
use super::error_code::ErrorCode;
use super::frame::{Code, Header, Kind, Sender};
use super::map_page::MapPage;
use super::message::{
    self, Copied, CopyRequest, CreateRequest, Features, FinishRequest, FlushRequest, HandleRequest, Hello,
    ListEntry, ListPage, MakeFolderRequest, MapRequest, Message, OpenRequest, Opened, PathRequest,
    RemoveRequest, RenameMode, RenameRequest, Reshape, ReshapeRequest, ResizeRequest, SetAttrRequest,
    StreamReport, StreamState, Subject, VolumeChanged, Welcome,
};
use super::read::ReadRequest;
use super::write::{Flush, WriteRequest};
use crate::attr::{Attr, NewAttr, NewNode, NewTime, NodeKind, Space, Timestamp};
use crate::digest::Hashing;
use crate::extent::{Extent, ExtentKind};
use crate::id::{BootId, Generation, Handle, InstanceId, LeaseId, LockOwner, NodeId, OperationId, RequestId};
use crate::limits::{PUNCH_RANGES_MAX, VOLUME_BYTES_MAX};
use crate::path::{NodeName, NodePath};
use crate::range::ByteRange;
use crate::wire::event::{LeaseRecalled, LocksFreed};
use crate::wire::lock::{HeldLock, LockFound, LockKind, LockRequest, LockSpace, Locked};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pin<T>(value: &T, expected: &str)
where
    T: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()> + Message + PartialEq + std::fmt::Debug,
{
    let bytes = message::encode(value);
    assert_eq!(hex(&bytes), expected);
    assert_eq!(message::decode::<T>(&bytes).unwrap(), *value);
    for length in 0..bytes.len() {
        assert!(
            message::decode::<T>(&bytes[..length]).is_err(),
            "{length} bytes were taken"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(
        message::decode::<T>(&longer).is_err(),
        "a trailing byte was taken"
    );
}

fn attr() -> Attr {
    Attr {
        id: NodeId(42),
        kind: NodeKind::Volume,
        size: 1 << 34,
        allocated_bytes: 8192,
        mode: 0o640,
        uid: 1000,
        gid: 100,
        links: 1,
        accessed: Timestamp { seconds: 1, nanos: 2 },
        modified: Timestamp {
            seconds: -3,
            nanos: 999_999_999,
        },
        changed: Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        },
        birth_ns: 7,
        generation: Generation(1_700_000_000_000_000_005),
        base: Generation(1_700_000_000_000_000_005),
    }
}

#[test]
fn headers() {
    let request = Header {
        body_bytes: 0x0102,
        kind: Kind::Read,
        code: Code::Done,
        request: RequestId(0x0807_0605_0403_0201),
    };
    assert_eq!(hex(&request.encode()), "02010000140000000102030405060708");
    let more = Header {
        body_bytes: 16,
        kind: Kind::Map,
        code: Code::More,
        request: RequestId(1),
    };
    assert_eq!(hex(&more.encode()), "10000000150001000100000000000000");
    let failed = Header {
        body_bytes: 3,
        kind: Kind::Open,
        code: Code::Failed(ErrorCode::NotFound),
        request: RequestId(2),
    };
    assert_eq!(hex(&failed.encode()), "03000000120010000200000000000000");
    assert_eq!(Header::decode(&failed.encode(), Sender::Server).unwrap(), failed);
}

#[test]
fn numbers_of_kinds_and_errors() {
    let kinds: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| (kind.number(), kind.word()))
        .collect();
    assert_eq!(
        kinds,
        [
            (1, "hello"),
            (2, "volume-changed"),
            (3, "lease-recalled"),
            (4, "locks-freed"),
            (16, "stat"),
            (17, "list"),
            (18, "open"),
            (19, "close"),
            (20, "read"),
            (21, "map"),
            (22, "space"),
            (23, "stat-open"),
            (24, "digest"),
            (32, "write"),
            (33, "reshape"),
            (34, "resize"),
            (35, "copy"),
            (36, "flush"),
            (37, "set-attr"),
            (40, "create"),
            (41, "make-folder"),
            (42, "remove"),
            (43, "rename"),
            (44, "flush-folder"),
            (45, "finish"),
            (46, "keep-lease"),
            (47, "lock"),
            (48, "test-lock"),
        ]
    );
    let errors: Vec<_> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(errors, (16..=37).collect::<Vec<_>>());
}

#[test]
fn hello_and_welcome() {
    let hello = Hello {
        version: 0,
        features: Features::HOLES
            .and(Features::EVENTS)
            .and(Features::CHANGES)
            .and(Features::DIGESTS),
        agent: "lacuna/0.1.0".into(),
        instance: Some(InstanceId([0xcd; 16])),
        patience_ms: None,
    };
    pin(
        &hello,
        "84000f6c6c6163756e612f302e312e3050cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
    );
    let impatient = Hello {
        patience_ms: Some(2000),
        ..hello
    };
    pin(
        &impatient,
        "85000f6c6c6163756e612f302e312e3050cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd1907d0",
    );
    let welcome = Welcome {
        version: 0,
        features: Features::HOLES,
        boot: BootId([0xab; 16]),
        session: 300,
        read_only: true,
        agent: "s".into(),
    };
    pin(&welcome, "86000150abababababababababababababababab19012cf56173");
}

#[test]
fn requests() {
    pin(
        &PathRequest {
            path: NodePath::new(b"a/b").unwrap(),
        },
        "8143612f62",
    );
    pin(&HandleRequest { handle: Handle(5) }, "8105");
    pin(
        &MapRequest {
            handle: Handle(5),
            start: 4096,
            end: u64::MAX,
            pages_max: 1,
        },
        "84051910001bffffffffffffffff01",
    );
    let read = ReadRequest::new(
        Handle(5),
        vec![
            ByteRange::at(4096, 512).unwrap(),
            ByteRange::at(1 << 33, 1).unwrap(),
        ],
    );
    let read = read.unwrap();
    assert_eq!(
        hex(&read.encode()),
        "05000000000000000200001000000000000000020000000000000200000001000000"
    );
    assert_eq!(ReadRequest::decode(&read.encode()).unwrap(), read);
}

#[test]
fn changes() {
    let write = WriteRequest::new(
        Handle(5),
        vec![
            ByteRange::at(4096, 512).unwrap(),
            ByteRange::at(1 << 33, 1).unwrap(),
        ],
    );
    let write = write.unwrap();
    assert_eq!(
        hex(&write.encode_head()),
        "05000000000000000200001000000000000000020000000000000200000001000000"
    );
    assert_eq!(WriteRequest::decode_head(&write.encode_head()).unwrap(), write);
    let reshape = ReshapeRequest {
        handle: Handle(5),
        how: Reshape::Zero,
        start: 4096,
        end: 1 << 40,
        grow: true,
        others: None,
    };
    pin(&reshape, "8505011910001b0000010000000000f5");
    let punch = ReshapeRequest {
        handle: Handle(5),
        how: Reshape::Punch,
        start: 4096,
        end: 8192,
        grow: false,
        others: Some(vec![(8192, 12288), (1 << 33, 1 << 34)]),
    };
    pin(
        &punch,
        "860500191000192000f48282192000193000821b00000002000000001b0000000400000000",
    );
    let resize = ResizeRequest {
        handle: Handle(5),
        size: 1 << 34,
    };
    pin(&resize, "82051b0000000400000000");
    let copy = CopyRequest {
        source: Handle(5),
        source_offset: 4096,
        target: Handle(6),
        target_offset: 0,
        length: 1 << 20,
    };
    pin(&copy, "850519100006001a00100000");
    let copied = Copied {
        bytes: 1 << 20,
        attr: attr(),
    };
    pin(
        &copied,
        "821a001000008e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005",
    );
    let flush = FlushRequest {
        handle: Handle(5),
        data_only: true,
    };
    pin(&flush, "8205f5");
}

#[test]
fn leases_and_locks() {
    let path = NodePath::new(b"a").unwrap();
    let open = OpenRequest {
        path,
        write: true,
        lease: Some(LeaseId(300)),
    };
    pin(&open, "834161f519012c");
    let recalled = LeaseRecalled {
        handle: Handle(5),
        who: "host".to_owned(),
    };
    pin(&recalled, "820564686f7374");
    pin(&LocksFreed { handle: Handle(5) }, "8105");
    let lock = LockRequest {
        handle: Handle(5),
        space: LockSpace::Ranges,
        owner: LockOwner(7),
        pid: 99,
        kind: Some(LockKind::Exclusive),
        start: 100,
        end: 101,
        tell: true,
        again: None,
    };
    pin(&lock, "8805000718630118641865f5");
    let again = LockRequest {
        again: Some(true),
        ..lock
    };
    pin(&again, "8905000718630118641865f5f5");
    let refused = Locked {
        granted: false,
        attr: None,
    };
    pin(&refused, "81f4");
    let granted = Locked {
        granted: true,
        attr: Some(attr()),
    };
    pin(
        &granted,
        "82f58e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005",
    );
    let held = HeldLock {
        kind: LockKind::Shared,
        start: 0,
        end: 1,
        pid: 0,
    };
    pin(&LockFound { held: Some(held) }, "818400000100");
}

#[test]
fn changes_of_names() {
    let path = |text: &str| NodePath::new(text.as_bytes()).unwrap();
    let open = OpenRequest {
        path: path("a/b"),
        write: true,
        lease: None,
    };
    pin(&open, "8243612f62f5");
    let attr = NewAttr {
        mode: Some(0o640),
        uid: None,
        gid: Some(100),
        accessed: Some(NewTime::Now),
        modified: Some(NewTime::At(Timestamp {
            seconds: -3,
            nanos: 999_999_999,
        })),
    };
    let subject = Subject::Path(path("a/b"));
    pin(
        &SetAttrRequest { subject, attr },
        "82820043612f62851901a0f618648100820182221a3b9ac9ff",
    );
    let subject = Subject::Open(Handle(5));
    let attr = NewAttr::default();
    pin(&SetAttrRequest { subject, attr }, "8282010580");
    let node = NewNode {
        mode: 0o644,
        uid: 1000,
        gid: 100,
    };
    let create = CreateRequest {
        operation: OperationId(9),
        path: path("a/b"),
        node,
        exclusive: true,
    };
    pin(&create, "840943612f62831901a41903e81864f5");
    let folder = MakeFolderRequest {
        operation: OperationId(9),
        path: path("a"),
        node,
    };
    pin(&folder, "83094161831901a41903e81864");
    let remove = RemoveRequest {
        operation: OperationId(9),
        path: path("a"),
        folder: true,
        id: Some(NodeId(42)),
    };
    pin(&remove, "84094161f5182a");
    let rename = RenameRequest {
        operation: OperationId(9),
        from: path("a"),
        to: path("b"),
        mode: RenameMode::Exchange,
    };
    pin(&rename, "84094161416202");
}

#[test]
fn replies() {
    pin(
        &attr(),
        "8e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005",
    );
    pin(
        &Opened {
            handle: Handle(5),
            attr: attr(),
            size_max: None,
            lease: None,
        },
        "82058e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005",
    );
    pin(
        &Opened {
            handle: Handle(5),
            attr: attr(),
            size_max: Some(512),
            lease: None,
        },
        "83058e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005190200",
    );
    let entry = ListEntry {
        name: NodeName::new(b"\xffv").unwrap(),
        attr: attr(),
    };
    pin(
        &ListPage { entries: vec![entry] },
        "81818242ff768e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005",
    );
    pin(
        &VolumeChanged::new(Handle(5), attr(), ByteRange::ALL),
        "84058e182a001b00000004000000001920001901a01903e818640182010282221a3b9ac9ff821a6553f10005071b17979cfe362a00051b17979cfe362a0005001bffffffffffffffff",
    );
    let space = Space {
        block_bytes: 4096,
        blocks: 1000,
        blocks_free: 10,
        blocks_available: 9,
        nodes: 70000,
        nodes_free: 1,
        name_bytes_max: 255,
    };
    pin(&space, "871910001903e80a091a000111700118ff");
    assert_eq!(
        hex(&read_of_one_byte().encode_reply_head(Generation(0x0102), None)),
        "0201000000000000"
    );
}

fn read_of_one_byte() -> ReadRequest {
    ReadRequest::new(Handle(5), vec![ByteRange::at(4096, 1).unwrap()]).unwrap()
}

#[test]
fn features_of_packing() {
    assert_eq!((Features::ZSTD.0, Features::LZ4.0), (16, 32));
}

#[test]
fn packed_reads_and_writes() {
    let offers = [
        (&[Codec::Zstd][..], When::Always, "01"),
        (&[Codec::Lz4], When::Always, "02"),
        (&Codec::ALL, When::ByPath, "83"),
    ];
    for (codecs, when, tail) in offers {
        let read = read_of_one_byte().offering(Offer::new(codecs, when));
        let expected = format!("05000000000000000180001000000000000001000000{tail}");
        assert_eq!(hex(&read.encode()), expected);
        assert_eq!(ReadRequest::decode(&read.encode()).unwrap(), read);
    }
    let read = read_of_one_byte().offering(Offer::new(&Codec::ALL, When::Always));
    for (codec, tail) in [(None, "00"), (Some(Codec::Zstd), "01"), (Some(Codec::Lz4), "02")] {
        let head = read.encode_reply_head(Generation(0x0102), codec);
        assert_eq!(hex(&head), format!("0201000000000000{tail}"));
    }
    for (codec, tail) in [(Codec::Zstd, "01"), (Codec::Lz4, "02")] {
        let write = WriteRequest::new(Handle(5), vec![ByteRange::at(4096, 512).unwrap()]);
        let write = write.unwrap().packed(codec);
        let expected = format!("05000000000000000180001000000000000000020000{tail}");
        assert_eq!(hex(&write.encode_head()), expected);
        assert_eq!(WriteRequest::decode_head(&write.encode_head()).unwrap(), write);
    }
}

#[test]
fn streams() {
    assert_eq!(Features::STREAMS, Features(64));
    pin(
        &FinishRequest {
            path: NodePath::new(b"s").unwrap(),
            finish: true,
        },
        "824173f5",
    );
    let report = StreamReport {
        state: StreamState::Failed,
        size: 1 << 34,
        position: 70_000,
        readable_from: 4096,
        held_bytes: 8192,
        spool_bytes_max: Some(1 << 20),
        window_bytes: 65_536,
        refused_bytes: 3,
        enough_bytes: Some(1 << 21),
        note: Some("x".to_owned()),
    };
    pin(
        &report,
        "8a031b00000004000000001a000111701910001920001a001000001a00010000031a002000006178",
    );
    let open = StreamReport {
        state: StreamState::Open,
        spool_bytes_max: None,
        enough_bytes: None,
        note: None,
        ..report
    };
    pin(
        &open,
        "88001b00000004000000001a00011170191000192000f61a0001000003",
    );
}

#[test]
fn map_pages() {
    let extents = [
        Extent::new(ByteRange::new(8192, 12288).unwrap(), ExtentKind::Data),
        Extent::new(ByteRange::new(12288, 1 << 34).unwrap(), ExtentKind::Hole),
        Extent::new(
            ByteRange::new(1 << 34, (1 << 34) + 100).unwrap(),
            ExtentKind::Zero,
        ),
    ];
    let page = MapPage::fill(Generation(9), (1 << 34) + 100, 8192, extents);
    assert_eq!(
        hex(&page.encode()),
        "09000000000000006400000004000000002000000000000064000000040000000c04f6ffff0705"
    );
    assert_eq!(MapPage::decode(&page.encode()).unwrap(), page);
}

#[test]
fn digests() {
    let request = DigestRequest {
        handle: Handle(5),
        origin: 512,
        start: 512 + (1 << 20),
        end: 1 << 23,
        unit_log2: 16,
        how: Hashing::Chained,
    };
    pin(&request, "86051902001a001002001a008000001001");
    assert_eq!(
        hex(&digest::encode_reply(
            Generation(0x0102),
            &[[0xab; 32], [0x01; 32]]
        )),
        format!("0201000000000000{}{}", "ab".repeat(32), "01".repeat(32))
    );
}

#[test]
fn a_newer_peer_may_add_fields() {
    // One more item at the end of the array, as a later minor version would send it.
    let mut bytes = message::encode(&HandleRequest { handle: Handle(5) });
    bytes[0] += 1;
    bytes.push(0x18);
    bytes.push(0x2a);
    assert_eq!(
        message::decode::<HandleRequest>(&bytes).unwrap().handle,
        Handle(5)
    );
}

#[test]
fn punches_of_several_ranges() {
    assert_eq!(Features::PUNCH_MANY, Features(2048));
    let punch = |how, grow, others: Vec<(u64, u64)>| {
        let (start, end) = (4096, 8192);
        let request = ReshapeRequest {
            handle: Handle(5),
            how,
            start,
            end,
            grow,
            others: Some(others),
        };
        message::decode::<ReshapeRequest>(&message::encode(&request))
    };
    let good = punch(Reshape::Punch, false, vec![(8192, 8193), (1 << 20, 1 << 21)]).unwrap();
    let ranges: Vec<(u64, u64)> = good.ranges().map(|range| (range.start(), range.end())).collect();
    assert_eq!(ranges, [(4096, 8192), (8192, 8193), (1 << 20, 1 << 21)]);
    let most = |count: u64| (1..count).map(|index| (index << 20, (index << 20) + 1)).collect();
    let max = u64::try_from(PUNCH_RANGES_MAX).unwrap();
    punch(Reshape::Punch, false, most(max)).unwrap();
    punch(Reshape::Punch, false, most(max + 1)).unwrap_err();
    for bad in [
        vec![],
        vec![(8191, 9000)],
        vec![(9000, 9000)],
        vec![(9000, 8999)],
        vec![(9000, 10000), (9999, 10001)],
        vec![(9000, VOLUME_BYTES_MAX + 1)],
    ] {
        punch(Reshape::Punch, false, bad).unwrap_err();
    }
    punch(Reshape::Zero, false, vec![(9000, 10000)]).unwrap_err();
}

#[test]
fn writes_with_a_flush() {
    assert_eq!(Features::WRITE_FLUSH, Features(1024));
    let write = || WriteRequest::new(Handle(5), vec![ByteRange::at(4096, 512).unwrap()]).unwrap();
    for (flush, codec, count, tail) in [
        (Flush::Data, None, "0140", ""),
        (Flush::All, None, "0120", ""),
        (Flush::Data, Some(Codec::Zstd), "01c0", "01"),
    ] {
        let write = write().flushed(Some(flush));
        let write = match codec {
            Some(codec) => write.packed(codec),
            None => write,
        };
        let expected = format!("0500000000000000{count}001000000000000000020000{tail}");
        assert_eq!(hex(&write.encode_head()), expected);
        assert_eq!(WriteRequest::decode_head(&write.encode_head()).unwrap(), write);
    }
    let mut both = write().flushed(Some(Flush::Data)).encode_head();
    both[9] |= 0x20;
    assert!(WriteRequest::decode_head(&both).is_err());
}
