//! `cp --sparse=auto` walks with SEEK_DATA and SEEK_HOLE; `--sparse=always` looks for zeros as well.

use std::path::Path;

use anyhow::Result;
use lacuna_tests::command;
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;

use crate::{copy_of, ensure_copy, ensure_copy_with_map, on_edges};

fn auto(rig: &Rig, name: &Path) -> Result<()> {
    let copy = copy_of(rig, name);
    command::tool(
        "cp",
        [
            "--sparse=auto".as_ref(),
            rig.volume(name).as_os_str(),
            copy.as_os_str(),
        ],
    )?;
    ensure_copy_with_map(&rig.original(name), &copy)
}

fn always(rig: &Rig, name: &Path) -> Result<()> {
    let copy = copy_of(rig, name);
    command::tool(
        "cp",
        [
            "--sparse=always".as_ref(),
            rig.volume(name).as_os_str(),
            copy.as_os_str(),
        ],
    )?;
    ensure_copy(&rig.original(name), &copy, Space::AtMost)
}

mod auto {
    crate::on_samples!(super::auto: ext4_image random_extents many_extents huge);

    #[test]
    fn edges() -> anyhow::Result<()> {
        super::on_edges(super::auto)
    }
}

mod always {
    crate::on_samples!(super::always: ext4_image random_extents many_extents huge);

    #[test]
    fn edges() -> anyhow::Result<()> {
        super::on_edges(super::always)
    }
}

/// Folders, times and modes come along, and a folder of sparse volumes stays sparse.
#[test]
fn recursively_with_attributes() -> Result<()> {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    let rig = Rig::filled(|dir| {
        fs::create_dir_all(dir.join("a/b"))?;
        lacuna_tests::samples::write_sparse(&dir.join("a/b/volume"), 32 << 20, 1, [(4096, 8192)])?;
        Ok(fs::write(dir.join("a/small"), "small")?)
    })?;
    let copy = rig.sandbox.join("copy");
    command::tool(
        "cp",
        ["-a".as_ref(), rig.volume("a").as_os_str(), copy.as_os_str()],
    )?;
    ensure_copy_with_map(&rig.original("a/b/volume"), &copy.join("b/volume"))?;
    for name in ["small", "b", "b/volume"] {
        let (ours, theirs) = (
            fs::metadata(copy.join(name))?,
            fs::metadata(rig.original("a").join(name))?,
        );
        assert_eq!(
            (ours.mode(), ours.mtime(), ours.mtime_nsec()),
            (theirs.mode(), theirs.mtime(), theirs.mtime_nsec())
        );
    }
    Ok(())
}
