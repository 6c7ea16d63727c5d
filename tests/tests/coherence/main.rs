//! Two hosts have one volume: one writes, the other one reads. What the reader sees, and when.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::compare;
use lacuna_tests::link::{Conditions, Link, LinkedRig};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;

mod at_once;
mod racing;
mod told;

/// The writer's folder of state.
const WRITER: &str = "writer-state";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Two clients of one server, each with a mount of its own.
struct Hosts {
    writer: Mount,
    /// The server, and the host that reads.
    rig: Rig,
    /// What is between the server and the reader, if that is far away.
    _link: Option<Link>,
}

impl Hosts {
    fn filled(fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let rig = Rig::filled(fill)?;
        let client = Client::admitted_as(&rig.sandbox, &rig.server, WRITER)?;
        Self::new(rig, &client, None)
    }

    /// The reader is so far away that it is told late; the writer is beside the server.
    fn far(fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let LinkedRig { rig, link } = LinkedRig::filled(Conditions::of(60, 0), &[], fill)?;
        let client = Client::admitted_as(&rig.sandbox, &rig.server, WRITER)?;
        let client = client.inside(link.server().namespace());
        Self::new(rig, &client, Some(link))
    }

    fn new(rig: Rig, client: &Client, link: Option<Link>) -> Result<Self> {
        let mountpoint = rig.sandbox.join("writer");
        let writer = Mount::new(client, &rig.server, OsStr::new(""), mountpoint, &[])?;
        Ok(Self {
            writer,
            rig,
            _link: link,
        })
    }

    fn reader(&self) -> &Mount {
        &self.rig.mount
    }
}

/// `found` has the bytes, the size, the times, the blocks and the holes of the server's file.
fn ensure_equal(original: &File, found: &File) -> Result<()> {
    let (expected, attributes) = (original.metadata()?, found.metadata()?);
    ensure!(
        attributes.len() == expected.len(),
        "{} bytes, not {}",
        attributes.len(),
        expected.len()
    );
    ensure!(
        attributes.modified()? == expected.modified()?,
        "the time of the last change differs"
    );
    compare::same_range(original, found, 0, expected.len())?;
    let (map, runs) = (SeekMap::of(original)?, SeekMap::of(found)?);
    ensure!(
        map == runs,
        "the map differs: {} and {}",
        runs.short(),
        map.short()
    );
    use std::os::unix::fs::MetadataExt;
    // Last, for a file system may allocate as late as it can.
    let blocks = |file: &File| -> Result<u64> { Ok(file.metadata()?.blocks()) };
    ensure!(
        blocks(found)? == blocks(original)?,
        "{} blocks, not {}",
        blocks(found)?,
        blocks(original)?
    );
    Ok(())
}
