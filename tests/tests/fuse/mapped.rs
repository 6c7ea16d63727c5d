//! mmap: private and shared maps for reading show the bytes of the original.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::samples;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Calls `see` with the bytes of `path`, mapped.
fn with_map(path: &Path, flags: MapFlags, see: impl FnOnce(&[u8])) -> Result<()> {
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len())?;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing shrinks the file meanwhile.
    let start = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, &file, 0) }
        .with_context(|| format!("cannot map {}", path.display()))?;
    // SAFETY: the mapping has `length` readable bytes and lives until the munmap below.
    see(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) });
    // SAFETY: mapped above with this length; the slice is gone.
    unsafe { munmap(start, length) }.context("cannot unmap")
}

#[test]
fn maps_show_the_original() -> Result<()> {
    let edges = samples::edges()?;
    let rig = Rig::over(&edges[0])?;
    for path in edges.iter().filter(|path| !path.ends_with("edge-empty")) {
        let expected = fs::read(path)?;
        let volume = rig.volume(path.file_name().context("no name")?);
        for flags in [MapFlags::PRIVATE, MapFlags::SHARED] {
            let mut same = false;
            with_map(&volume, flags, |bytes| same = bytes == expected)?;
            ensure!(same, "{} mapped {flags:?} differs", volume.display());
        }
    }
    Ok(())
}

/// The place in the last page past the end of the volume reads as zeros.
#[test]
fn the_rest_of_the_last_page_is_zero() -> Result<()> {
    let rig = Rig::filled(|dir| samples::write_sparse(&dir.join("volume"), 5000, 1, [(0, 5000)]))?;
    let file = rig.mount.open("volume")?;
    // SAFETY: as above; 8192 bytes are the two pages that hold the file.
    let start = unsafe {
        mmap(
            std::ptr::null_mut(),
            8192,
            ProtFlags::READ,
            MapFlags::SHARED,
            &file,
            0,
        )
    }?;
    // SAFETY: both pages are backed by the file.
    let tail = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), 8192) }[5000..].to_vec();
    // SAFETY: mapped above with this length.
    unsafe { munmap(start, 8192) }?;
    ensure!(tail.iter().all(|byte| *byte == 0), "the tail is not zero");
    Ok(())
}
