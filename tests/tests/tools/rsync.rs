//! `rsync -S` reads holes and writes holes; with `--inplace` it punches them into an older copy.

use std::fs;
use std::path::Path;

use anyhow::Result;
use lacuna_tests::command;
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;

use crate::{copy_of, ensure_copy, on_edges, require};

fn sparse(rig: &Rig, name: &Path) -> Result<()> {
    rsync(rig, name, &["-S"])
}

fn in_place(rig: &Rig, name: &Path) -> Result<()> {
    rsync(rig, name, &["-S", "--inplace"])
}

fn rsync(rig: &Rig, name: &Path, options: &[&str]) -> Result<()> {
    require("rsync")?;
    let (volume, copy) = (rig.volume(name), copy_of(rig, name));
    let arguments = options
        .iter()
        .map(AsRef::as_ref)
        .chain([volume.as_os_str(), copy.as_os_str()]);
    command::tool("rsync", arguments)?;
    ensure_copy(&rig.original(name), &copy, Space::AtMost)
}

mod new_file {
    crate::on_samples!(super::sparse: ext4_image random_extents many_extents);

    #[test]
    fn edges() -> anyhow::Result<()> {
        super::on_edges(super::sparse)
    }
}

mod inplace {
    crate::on_samples!(super::in_place: ext4_image random_extents many_extents);

    #[test]
    fn edges() -> anyhow::Result<()> {
        super::on_edges(super::in_place)
    }
}

/// An older copy, full of other bytes, becomes sparse and right.
#[test]
fn over_an_older_copy() -> Result<()> {
    on_edges(|rig, name| {
        let length = usize::try_from(fs::metadata(rig.original(name))?.len())?;
        fs::write(copy_of(rig, name), vec![0xaa; length])?;
        rsync(rig, name, &["-S", "--inplace", "--ignore-times"])
    })
}

/// `rsync -a` of folders keeps times and modes, and a second run finds nothing to do.
#[test]
fn a_second_run_finds_nothing_to_do() -> Result<()> {
    require("rsync")?;
    let rig = Rig::filled(|dir| {
        fs::create_dir(dir.join("folder"))?;
        lacuna_tests::samples::write_sparse(&dir.join("folder/volume"), 16 << 20, 1, [(8192, 12288)])?;
        Ok(fs::write(dir.join("small"), "small")?)
    })?;
    let mut from = rig.mount.path().as_os_str().to_owned();
    from.push("/");
    let to = rig.sandbox.join("copy");
    let run = || {
        command::tool(
            "rsync",
            [
                "-aS".as_ref(),
                "--itemize-changes".as_ref(),
                from.as_os_str(),
                to.as_os_str(),
            ],
        )
    };
    run()?;
    ensure_copy(
        &rig.original("folder/volume"),
        &to.join("folder/volume"),
        Space::AtMost,
    )?;
    assert_eq!(run()?.text()?, "");
    Ok(())
}
