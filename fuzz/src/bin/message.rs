//! Control messages: what decodes also encodes, and decodes again to the same value.
#![no_main]

use std::fmt::Debug;

use lacuna_transport::attr::{Attr, Space};
use lacuna_transport::wire::event::{LeaseRecalled, LocksFreed};
use lacuna_transport::wire::lock::{LockFound, LockRequest, Locked};
use lacuna_transport::wire::message::{
    self, Copied, CopyRequest, CreateRequest, FinishRequest, FlushRequest, HandleRequest, Hello, ListPage,
    MakeFolderRequest, MapRequest, Message, OpenRequest, Opened, PathRequest, RemoveRequest, RenameRequest,
    ReshapeRequest, ResizeRequest, SetAttrRequest, StreamReport, VolumeChanged, Welcome,
};
use libfuzzer_sys::fuzz_target;

fn check<T>(bytes: &[u8])
where
    T: minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()> + Message + PartialEq + Debug,
{
    if let Ok(value) = message::decode::<T>(bytes) {
        assert_eq!(
            message::decode::<T>(&message::encode(&value)).expect("what was encoded decodes"),
            value
        );
    }
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (kind, bytes) = input;
    match kind % 28 {
        0 => check::<Hello>(&bytes),
        1 => check::<Welcome>(&bytes),
        2 => check::<PathRequest>(&bytes),
        3 => check::<HandleRequest>(&bytes),
        4 => check::<MapRequest>(&bytes),
        5 => check::<Attr>(&bytes),
        6 => check::<Opened>(&bytes),
        7 => check::<ListPage>(&bytes),
        8 => check::<VolumeChanged>(&bytes),
        9 => check::<OpenRequest>(&bytes),
        10 => check::<ReshapeRequest>(&bytes),
        11 => check::<ResizeRequest>(&bytes),
        12 => check::<CopyRequest>(&bytes),
        13 => check::<Copied>(&bytes),
        14 => check::<FlushRequest>(&bytes),
        15 => check::<SetAttrRequest>(&bytes),
        16 => check::<CreateRequest>(&bytes),
        17 => check::<MakeFolderRequest>(&bytes),
        18 => check::<RemoveRequest>(&bytes),
        19 => check::<RenameRequest>(&bytes),
        20 => check::<FinishRequest>(&bytes),
        21 => check::<StreamReport>(&bytes),
        22 => check::<LeaseRecalled>(&bytes),
        23 => check::<LocksFreed>(&bytes),
        24 => check::<LockRequest>(&bytes),
        25 => check::<Locked>(&bytes),
        26 => check::<LockFound>(&bytes),
        _ => check::<Space>(&bytes),
    }
});
