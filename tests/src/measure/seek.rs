//! What it costs to find holes: walks over all of a file, and single calls anywhere in it.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Bound, Figure, for_reading};
use crate::random::Random;

/// Seconds of a walk by SEEK_DATA and SEEK_HOLE as cp makes it, and the extents of data it found.
pub fn walk(path: &Path, bound: f64) -> Result<(Figure, u64)> {
    let bound = Bound::of(bound)?;
    let file = for_reading(path)?;
    let size = file.metadata()?.len();
    let (mut at, mut extents) = (0, 0);
    while at < size && !bound.is_over() {
        let Some(data) = next_data(&file, at)? else {
            at = size;
            break;
        };
        at = seek(&file, SeekFrom::Hole(data)).with_context(|| format!("SEEK_HOLE at {data}"))?;
        ensure!(at > data, "SEEK_HOLE at {data} went back to {at}");
        extents += 1;
    }
    let mut figure = Figure::done(bound.seconds());
    if at < size {
        figure.stopped = Some(format!("at {extents} extents"));
    }
    Ok((figure, extents))
}

/// Microseconds of one SEEK_DATA anywhere in the file, by as many as fit into `seconds`. The first one, which may
/// fetch the map, does not count.
pub fn seeks(path: &Path, seconds: f64) -> Result<Figure> {
    let file = for_reading(path)?;
    let size = file.metadata()?.len();
    walk_once(&file, size)?;
    let mut random = Random::new(4);
    let bound = Bound::of(seconds)?;
    let mut count = 0;
    while !bound.is_over() {
        next_data(&file, random.below(size))?;
        count += 1;
    }
    Ok(Figure::done(1e6 / bound.rate(count)))
}

/// Asks for a few places all over the file, so that what has to be fetched for that is there.
fn walk_once(file: &File, size: u64) -> Result<()> {
    const PLACES: u64 = 1000;
    for place in 0..PLACES {
        next_data(file, size / PLACES * place)?;
    }
    Ok(())
}

fn next_data(file: &File, from: u64) -> Result<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("SEEK_DATA at {from}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::write_sparse;

    #[test]
    fn a_walk_counts_extents_and_says_where_it_was_stopped() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("volume");
        write_sparse(&file, 1 << 20, 1, [(0, 4096), (65536, 131_072)])?;
        let (figure, extents) = walk(&file, 60.0)?;
        assert_eq!((extents, figure.stopped), (2, None));
        let (figure, extents) = walk(&file, 0.0)?;
        assert_eq!((extents, figure.stopped.as_deref()), (0, Some("at 0 extents")));
        Ok(())
    }
}
