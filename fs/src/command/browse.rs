//! `lacuna ls`, `stat` and `map`: the same operations without a mount.

use clap::Args;
use lacuna_transport::attr::{Attr, NodeKind};
use lacuna_transport::extent::Extent;
use lacuna_transport::range::ByteRange;
use serde::Serialize;

use super::Global;
use super::connect::ask;
use super::finish::ShownStream;
use super::output::{print, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::location::Location;
use crate::mount_options::TIMEOUT_DEFAULT;
use crate::remote::quic::QuicRemote;
use crate::remote::{Access, Remote, SharedPath};

#[derive(Debug, Args)]
pub struct LsArgs {
    /// HOST[:PORT][/FOLDER]
    location: String,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct StatArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct MapArgs {
    /// HOST[:PORT]/VOLUME
    location: String,
    #[arg(long)]
    json: bool,
}

/// One node, as shown.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    kind: &'static str,
    size: u64,
    allocated_bytes: u64,
    mode: String,
    uid: u32,
    gid: u32,
    modified: i64,
    generation: u64,
}

/// A node with what is known of it beyond its attributes.
#[derive(Debug, Serialize)]
struct ShownAlone {
    #[serde(flatten)]
    node: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<ShownStream>,
}

/// One extent, as shown. Offsets and lengths are in bytes.
#[derive(Debug, Serialize)]
struct ShownExtent {
    start: u64,
    length: u64,
    kind: &'static str,
}

pub fn ls(global: &Global, args: &LsArgs) -> anyhow::Result<()> {
    let nodes = ask(
        global,
        &args.location,
        TIMEOUT_DEFAULT,
        async |remote, location| {
            let path = &location.path;
            match remote.list(path).await {
                Err(error) if error.kind() == ErrorKind::NotFolder => {
                    Ok(vec![shown(&path.to_string(), &remote.stat(path).await?)])
                }
                other => Ok(other?
                    .iter()
                    .map(|(name, attr)| shown(&name.to_string(), attr))
                    .collect()),
            }
        },
    )?;
    print(args.json, &nodes, |out| {
        for node in &nodes {
            let slash = if node.kind == "folder" { "/" } else { "" };
            writeln!(
                out,
                "{:>16} {:>16}  {}{slash}",
                node.size,
                node.allocated_bytes,
                printable(&node.name)
            )?;
        }
        Ok(())
    })
}

pub fn stat(global: &Global, args: &StatArgs) -> anyhow::Result<()> {
    let found = ask(
        global,
        &args.location,
        TIMEOUT_DEFAULT,
        async |remote, location| {
            let path = &location.path;
            let attr = remote.stat(path).await?;
            let stream = match attr.kind {
                NodeKind::Volume => remote.finish(path, false).await.ok(),
                NodeKind::Folder => None,
            };
            Ok(ShownAlone {
                node: shown(&path.to_string(), &attr),
                stream: stream.map(ShownStream::new),
            })
        },
    )?;
    print(args.json, &found, |out| {
        let node = &found.node;
        writeln!(out, "name:       {}", printable(&node.name))?;
        writeln!(out, "kind:       {}", node.kind)?;
        writeln!(out, "size:       {}", node.size)?;
        writeln!(out, "allocated:  {}", node.allocated_bytes)?;
        writeln!(out, "mode:       {}", node.mode)?;
        writeln!(out, "owner:      {}:{}", node.uid, node.gid)?;
        writeln!(out, "modified:   {}", node.modified)?;
        writeln!(out, "generation: {}", node.generation)?;
        found.stream.as_ref().map_or(Ok(()), |stream| stream.write(out))
    })
}

pub fn map(global: &Global, args: &MapArgs) -> anyhow::Result<()> {
    let extents = ask(global, &args.location, TIMEOUT_DEFAULT, extents_of)?;
    let shown: Vec<_> = extents
        .iter()
        .map(|extent| ShownExtent {
            start: extent.range.start(),
            length: extent.range.len(),
            kind: extent.kind.word(),
        })
        .collect();
    print(args.json, &shown, |out| {
        writeln!(out, "{:>20} {:>20}  kind", "start", "length")?;
        for extent in &shown {
            writeln!(out, "{:>20} {:>20}  {}", extent.start, extent.length, extent.kind)?;
        }
        Ok(())
    })
}

async fn extents_of(remote: &QuicRemote, location: &Location) -> Result<Vec<Extent>> {
    let path = &location.path;
    let attr = remote.stat(path).await?;
    if attr.kind != NodeKind::Volume {
        return Err(Error::new(
            ErrorKind::NotVolume,
            format!("{path} is a folder; a map is of a volume"),
        ));
    }
    let (volume, _) = remote
        .open(&SharedPath::new(path.clone()), attr.id, Access::Read)
        .await?;
    let mut extents: Vec<Extent> = Vec::new();
    let mut generations = Vec::new();
    remote
        .map(&volume, ByteRange::ALL, u32::MAX, |page| {
            for extent in page.extents() {
                match extents.last_mut().filter(|last| last.kind == extent.kind) {
                    Some(last) => {
                        last.range =
                            ByteRange::new(last.range.start(), extent.range.end()).unwrap_or(last.range);
                    }
                    None => extents.push(*extent),
                }
            }
            if generations.last() != Some(&page.generation) {
                generations.push(page.generation);
            }
            generations.len() < 2
        })
        .await?;
    if generations.len() > 1 {
        return Err(Error::new(
            ErrorKind::Io,
            format!("{path} changed while its map was read: try again"),
        ));
    }
    Ok(extents)
}

fn shown(name: &str, attr: &Attr) -> Shown {
    Shown {
        name: name.to_owned(),
        kind: match attr.kind {
            NodeKind::Volume => "volume",
            NodeKind::Folder => "folder",
        },
        size: attr.size,
        allocated_bytes: attr.allocated_bytes,
        mode: format!("{:04o}", attr.mode),
        uid: attr.uid,
        gid: attr.gid,
        modified: attr.modified.seconds,
        generation: attr.generation.0,
    }
}
