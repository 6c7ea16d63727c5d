//! Sample volumes, made once and shared by all tests, which must not change them.
//!
//! All lie in one folder, so that any server can serve all of them. A sample appears there complete or
//! not at all; two tests that want the same one wait for each other.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::binaries;
use crate::random::Random;

mod ext4_image;

pub use ext4_image::{ext4_image, ext4_manifest};

/// Part of the folder's name: raise it when a recipe changes.
const RECIPES: u32 = 3;

/// Half-open ranges of bytes.
type Ranges = &'static [(u64, u64)];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4 * KIB;

/// A volume of `size` bytes with these ranges of random data, all else hole.
pub fn write_sparse(
    path: &Path,
    size: u64,
    seed: u64,
    ranges: impl IntoIterator<Item = (u64, u64)>,
) -> Result<()> {
    let mut random = Random::new(seed);
    let file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(size)?;
    for (start, end) in ranges {
        ensure!(start < end && end <= size, "{start}..{end} is not inside {size}");
        let bytes = random.bytes(usize::try_from(end - start)?);
        file.write_all_at(&bytes, start)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Until it is on disk, the file system may call data that is still in memory something else.
    file.sync_all()?;
    Ok(())
}

/// About 300 extents of up to 512 KiB, at any byte, in 1 GiB and a bit: a size that 512 divides and 4096 does not.
pub fn random_extents() -> Result<PathBuf> {
    sample("random-extents", |path| {
        let mut random = Random::new(2);
        let size = 1024 * MIB + 3 * 512;
        let ranges = (0..300).map(|_| {
            let start = random.below(size - 1);
            (start, (start + random.between(1, 512 * KIB)).min(size))
        });
        let mut ranges: Vec<_> = ranges.collect();
        // Data at both ends is an edge of its own.
        ranges.extend([(0, 5000), (size - 700, size)]);
        write_sparse(path, size, 3, ranges)
    })
}

/// 100 GiB with 16 MiB of data.
pub fn huge() -> Result<PathBuf> {
    sample("huge", |path| write_scattered(path, 100 * 1024 * MIB, 4))
}

/// 12 GiB with 16 MiB of data: small enough to look at every byte of it.
pub fn large() -> Result<PathBuf> {
    sample("large", |path| write_scattered(path, 12 * 1024 * MIB, 6))
}

/// 16 MiB of data in 64 extents, as far from each other as `size` allows.
fn write_scattered(path: &Path, size: u64, seed: u64) -> Result<()> {
    let stride = size / 64;
    let ranges = (0..64).map(|i| (i * stride + MIB, i * stride + MIB + 256 * KIB));
    write_sparse(path, 64 * stride, seed, ranges)
}

/// 25,000 extents of one block, one to seven blocks apart.
pub fn many_extents() -> Result<PathBuf> {
    sample("many-extents", |path| {
        let mut random = Random::new(5);
        let mut at = 0;
        let ranges: Vec<_> = (0..25_000)
            .map(|_| {
                at += BLOCK * random.between(1, 7);
                at += BLOCK;
                (at - BLOCK, at)
            })
            .collect();
        write_sparse(path, at + MIB, 6, ranges)
    })
}

/// Small volumes, each an edge: their names say which.
pub fn edges() -> Result<Vec<PathBuf>> {
    let recipes: [(&str, u64, Ranges); 9] = [
        ("empty", 0, &[]),
        ("one-byte", 1, &[(0, 1)]),
        ("one-byte-of-hole", 1, &[]),
        ("all-hole", 64 * MIB + 1, &[]),
        ("all-data", 8 * MIB + 123, &[(0, 8 * MIB + 123)]),
        ("hole-first", 3 * MIB + 1000, &[(MIB, 3 * MIB + 1000)]),
        ("hole-last", 3 * MIB + 1000, &[(0, MIB + 1)]),
        ("hole-in-the-last-block", 2 * MIB + 100, &[(0, 2 * MIB)]),
        (
            "one-block-each",
            9 * BLOCK,
            &[(0, BLOCK), (2 * BLOCK, 3 * BLOCK), (8 * BLOCK, 9 * BLOCK)],
        ),
    ];
    let make = |(name, size, ranges): (&str, u64, Ranges)| {
        sample(&format!("edge-{name}"), |path| {
            write_sparse(path, size, 7, ranges.iter().copied())
        })
    };
    recipes.into_iter().map(make).collect()
}

/// `count` extents of `extent_bytes`, with holes of the same length between them.
pub fn write_comb(path: &Path, count: u64, extent_bytes: u64) -> Result<()> {
    let stride = 2 * extent_bytes;
    write_sparse(
        path,
        count * stride,
        8,
        (0..count).map(|i| (i * stride, i * stride + extent_bytes)),
    )
}

/// The folder of all samples.
pub fn folder() -> Result<PathBuf> {
    let folder = binaries::work_dir()?
        .join(format!("samples-{RECIPES}"))
        .join("volumes");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The path of sample `name`, made by `make` if it is not there yet.
fn sample(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = folder()?;
    let path = folder.join(name);
    if path.exists() {
        return Ok(path);
    }
    let making = folder.with_file_name("making");
    fs::create_dir_all(&making)?;
    let lock = File::create(making.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !path.exists() {
        let draft = making.join(name);
        if draft.exists() {
            fs::remove_file(&draft)?;
        }
        make(&draft).with_context(|| format!("cannot make the sample {name}"))?;
        fs::rename(&draft, &path)?;
    }
    Ok(path)
}
