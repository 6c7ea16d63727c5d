//! rsync into the mount: new files, in place over older ones, and folders of images.

use std::fs;

use anyhow::Result;
use lacuna_tests::compare::Space;
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use lacuna_tests::{command, host};
use std::os::unix::fs::MetadataExt;

use super::{edges_into_mount, ensure_arrived, into_mount, run};

#[test]
fn sparse() -> Result<()> {
    host::require_programs(&["rsync"])?;
    into_mount(&samples::random_extents()?, Space::AtMost, |source, target| {
        run("rsync", &["-S"], source, target)
    })
}

#[test]
fn edges() -> Result<()> {
    host::require_programs(&["rsync"])?;
    edges_into_mount(Space::AtMost, |source, target| {
        run("rsync", &["-S"], source, target)
    })
}

/// An older volume full of other bytes becomes sparse and right.
#[test]
fn in_place_over_an_older_volume() -> Result<()> {
    host::require_programs(&["rsync"])?;
    edges_into_mount(Space::AtMost, |source, target| {
        let length = usize::try_from(fs::metadata(source)?.len())?;
        fs::write(target, vec![0xaa; length])?;
        run("rsync", &["-S", "--inplace", "--ignore-times"], source, target)
    })
}

/// Only a few blocks differ; rsync reads the old ones back through the mount.
#[test]
fn in_place_with_few_differences() -> Result<()> {
    host::require_programs(&["rsync"])?;
    let sample = samples::random_extents()?;
    let rig = Rig::filled(|dir| {
        command::tool(
            "cp",
            [
                "--sparse=auto".as_ref(),
                sample.as_os_str(),
                dir.join("written").as_os_str(),
            ],
        )?;
        let old = fs::File::options().write(true).open(dir.join("written"))?;
        for place in 0..20_u64 {
            std::os::unix::fs::FileExt::write_all_at(&old, b"another", place * (50 << 20) + 99)?;
        }
        Ok(())
    })?;
    let options = ["-S", "--inplace", "--ignore-times", "--no-whole-file"];
    run("rsync", &options, &sample, &rig.volume("written"))?;
    ensure_arrived(&rig, &sample, "written", Space::AtMost)
}

/// Modes, owners and times arrive, and a second run finds nothing to do.
#[test]
fn a_folder_of_images() -> Result<()> {
    host::require_programs(&["rsync"])?;
    let rig = Rig::filled(|_| Ok(()))?;
    let source = rig.sandbox.folder("source")?;
    fs::create_dir_all(source.join("images/old"))?;
    for (name, seed) in [("images/a.img", 1), ("images/b.img", 2), ("images/old/c.img", 3)] {
        samples::write_sparse(
            &source.join(name),
            64 << 20,
            seed,
            [(4096, 5 << 20), (40 << 20, 41 << 20)],
        )?;
    }
    fs::write(source.join("notes"), "small")?;
    std::os::unix::fs::chown(source.join("notes"), Some(65534), Some(65534))?;
    // rsync compares the times of folders by the second, and leaves one alone that was made in this one.
    let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for folder in ["images/old", "images", "."] {
        fs::File::open(source.join(folder))?.set_modified(earlier)?;
    }
    let mut from = source.as_os_str().to_owned();
    from.push("/");
    let sync = || {
        command::tool(
            "rsync",
            [
                "-aS".as_ref(),
                "--itemize-changes".as_ref(),
                from.as_os_str(),
                rig.volume("copy").as_os_str(),
            ],
        )
    };
    sync()?;
    for name in ["images/a.img", "images/b.img", "images/old/c.img"] {
        ensure_arrived(&rig, &source.join(name), format!("copy/{name}"), Space::AtMost)?;
    }
    for name in ["notes", "images", "images/old/c.img"] {
        let (expected, found) = (
            fs::metadata(source.join(name))?,
            fs::metadata(rig.original("copy").join(name))?,
        );
        assert_eq!(
            (found.mode(), found.uid(), found.mtime(), found.mtime_nsec()),
            (
                expected.mode(),
                expected.uid(),
                expected.mtime(),
                expected.mtime_nsec()
            ),
            "{name}"
        );
    }
    assert_eq!(sync()?.text()?, "");
    Ok(())
}
