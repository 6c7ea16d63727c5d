//! A reader that has the volume open sees a change once the server has told it: in what it reads, in what it has
//! mapped, in seeks and in attributes, although all of it was cached.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lacuna_tests::direct::{aligned, open_direct};
use lacuna_tests::mapping::Mapping;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{reshape, samples, wait};

use crate::{Hosts, KIB, MIB, ensure_equal};

fn hosts() -> Result<Hosts> {
    Hosts::filled(|dir| {
        let data = [(0, 2 * MIB), (6 * MIB, 7 * MIB)];
        samples::write_sparse(&dir.join("volume"), 8 * MIB, 71, data)
    })
}

/// Told by whoever changes the file at the server, both hosts see it.
#[test]
fn a_change_behind_the_back_of_both() -> Result<()> {
    let hosts = hosts()?;
    let original = File::options()
        .read(true)
        .write(true)
        .open(hosts.rig.original("volume"))?;
    let open = [hosts.reader().open("volume")?, hosts.writer.open("volume")?];
    for file in &open {
        ensure_equal(&original, file)?;
    }
    original.write_all_at(&[7; 100_000], 4 * MIB)?;
    original.set_len(9 * MIB)?;
    original.sync_all()?;
    for file in &open {
        wait::until("the host to be told", wait::LIMIT, || {
            Ok(ensure_equal(&original, file).is_ok())
        })?;
    }
    Ok(())
}

/// All of it is cached by the reader when `change` is made by the writer.
fn reaches_the_reader(change: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let hosts = hosts()?;
    let (reader, original) = (
        hosts.reader().open("volume")?,
        File::open(hosts.rig.original("volume"))?,
    );
    ensure_equal(&original, &reader)?;
    let writer = hosts.writer.open_for_writing("volume")?;
    let size = writer.metadata()?.len();
    change(&writer)?;
    let new_size = writer.metadata()?.len();
    let map = SeekMap::of(&writer)?;
    wait::until("the change to reach the server", wait::LIMIT, || {
        writer.sync_data()?;
        Ok(original.metadata()?.len() == new_size && SeekMap::of(&original)? == map)
    })?;
    let mut last = Ok(());
    let told = wait::until("the reader to be told", wait::LIMIT, || {
        last = ensure_equal(&original, &reader);
        Ok(last.is_ok())
    });
    last.and(told)?;
    ensure!(
        size == new_size || reader.metadata()?.len() != size,
        "the size did not change"
    );
    Ok(())
}

#[test]
fn bytes_that_are_overwritten() -> Result<()> {
    reaches_the_reader(|file| Ok(file.write_all_at(&[7; 100_000], MIB + 5)?))
}

#[test]
fn data_in_a_hole() -> Result<()> {
    reaches_the_reader(|file| Ok(file.write_all_at(&[7; 100_000], 4 * MIB)?))
}

#[test]
fn a_hole_in_data() -> Result<()> {
    reaches_the_reader(|file| reshape::punch(file, 256 * KIB, MIB))
}

#[test]
fn a_larger_size() -> Result<()> {
    reaches_the_reader(|file| Ok(file.write_all_at(&[7; 1000], 20 * MIB)?))
}

#[test]
fn a_smaller_size() -> Result<()> {
    reaches_the_reader(|file| Ok(file.set_len(MIB + 77)?))
}

/// Nobody calls fsync: what was written is sent within moments, and told.
#[test]
fn without_an_fsync_in_what_is_read_mapped_and_read_directly() -> Result<()> {
    let hosts = hosts()?;
    let reader = hosts.reader().open("volume")?;
    let direct = open_direct(&hosts.reader().join("volume"))?;
    let mapping = Mapping::for_loads(&reader, 0, usize::try_from(2 * MIB)?)?;
    let seen = |at: u64, length: usize| -> Result<[Vec<u8>; 3]> {
        let (mut read, mut past_caches) = (vec![0; length], aligned(4096)?);
        reader.read_exact_at(&mut read, at)?;
        direct.read_exact_at(&mut past_caches, at)?;
        let loaded = mapping.load(usize::try_from(at)?, length)?;
        Ok([
            read,
            loaded,
            past_caches.get(..length).unwrap_or_default().to_vec(),
        ])
    };
    let writer = hosts.writer.open_for_writing("volume")?;
    for (round, at) in [(1_u8, 0), (2, 4096), (3, MIB), (4, 0)] {
        let before = seen(at, 100)?;
        ensure!(
            before.iter().all(|bytes| *bytes == before[0]),
            "read, mapped and direct differ"
        );
        writer.write_all_at(&[round; 100], at)?;
        wait::until("every way of reading to show it", wait::LIMIT, || {
            Ok(seen(at, 100)?.iter().all(|bytes| *bytes == [round; 100]))
        })?;
    }
    Ok(())
}

/// What a writer unlinks or renames is told by name as soon as somebody asks for it.
#[test]
fn names() -> Result<()> {
    let hosts = hosts()?;
    let open = hosts.reader().open("volume")?;
    std::fs::rename(hosts.writer.join("volume"), hosts.writer.join("renamed"))?;
    wait::until("the new name", wait::LIMIT, || {
        Ok(hosts.reader().join("renamed").exists() && !hosts.reader().join("volume").exists())
    })?;
    std::fs::remove_file(hosts.writer.join("renamed"))?;
    wait::until("the name to be gone", wait::LIMIT, || {
        Ok(!hosts.reader().join("renamed").exists())
    })?;
    // What is open outlives its name, on the other host too.
    let mut byte = [0];
    open.read_exact_at(&mut byte, MIB)?;
    ensure!(byte != [0], "data was read as a hole");
    Ok(())
}
