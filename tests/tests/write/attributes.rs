//! chmod, chown, utimens, and the times that writes move.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, reshape, wait};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::{MIB, bytes, empty};

/// A change and its name.
type Change<T> = (&'static str, fn(&T) -> Result<()>);

fn both(rig: &Rig, name: &str) -> [PathBuf; 2] {
    [rig.volume(name), rig.original(name)]
}

fn with_volume() -> Result<Rig> {
    let rig = empty()?;
    fs::write(rig.volume("volume"), "x")?;
    fs::create_dir(rig.volume("folder"))?;
    Ok(rig)
}

#[test]
fn mode_and_owner_are_kept_by_the_server() -> Result<()> {
    let rig = with_volume()?;
    for (name, kind) in [("volume", 0o100_000), ("folder", 0o40_000)] {
        for mode in [0o600, 0o4755, 0o000, 0o1777] {
            fs::set_permissions(rig.volume(name), Permissions::from_mode(mode))?;
            for path in both(&rig, name) {
                assert_eq!(fs::metadata(path)?.mode(), kind | mode);
            }
        }
        for (owner, group) in [(Some(65534), Some(12)), (None, Some(13)), (Some(14), None)] {
            chown(rig.volume(name), owner, group)?;
            for path in both(&rig, name) {
                let found = fs::metadata(path)?;
                ensure!(
                    owner.is_none_or(|owner| found.uid() == owner),
                    "uid {}",
                    found.uid()
                );
                ensure!(
                    group.is_none_or(|group| found.gid() == group),
                    "gid {}",
                    found.gid()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn times_are_kept_to_the_nanosecond() -> Result<()> {
    let rig = with_volume()?;
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    for name in ["volume", "folder"] {
        let set = |last_access, last_modification| {
            let times = Timestamps {
                last_access,
                last_modification,
            };
            utimensat(CWD, rig.volume(name), &times, AtFlags::empty())
        };
        set(time(1_000_000_000, 123_456_789), time(1_111_111_111, 987_654_321))?;
        for path in both(&rig, name) {
            let found = fs::metadata(path)?;
            assert_eq!((found.atime(), found.atime_nsec()), (1_000_000_000, 123_456_789));
            assert_eq!((found.mtime(), found.mtime_nsec()), (1_111_111_111, 987_654_321));
        }
        set(time(0, UTIME_OMIT), time(1_222_222_222, 0))?;
        let before = SystemTime::now() - Duration::from_secs(1);
        for path in both(&rig, name) {
            let found = fs::metadata(path)?;
            assert_eq!((found.atime(), found.mtime()), (1_000_000_000, 1_222_222_222));
        }
        set(time(0, UTIME_NOW), time(0, UTIME_OMIT))?;
        for path in both(&rig, name) {
            let found = fs::metadata(path)?;
            ensure!(
                found.accessed()? >= before,
                "UTIME_NOW is {:?}",
                found.accessed()?
            );
            assert_eq!(found.mtime(), 1_222_222_222);
        }
    }
    Ok(())
}

/// As `cp -p` and rsync do: write, set the time, close. What is sent later must not move it.
#[test]
fn a_time_that_was_set_stays_after_earlier_dirty_writes() -> Result<()> {
    let rig = empty()?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
    let file = rig.mount.create("volume")?;
    file.write_all_at(&bytes(1, 5 * MIB)?, 0)?;
    file.set_times(FileTimes::new().set_modified(time))?;
    assert_eq!(file.metadata()?.modified()?, time);
    file.sync_all()?;
    drop(file);
    for path in both(&rig, "volume") {
        assert_eq!(fs::metadata(path)?.modified()?, time);
    }
    assert_eq!(fs::metadata(rig.original("volume"))?.len(), 5 * MIB);
    Ok(())
}

/// Each change moves the time at once, before anything is sent or flushed.
#[test]
fn changes_move_the_time_at_once() -> Result<()> {
    let rig = empty()?;
    let file = rig.mount.create("volume")?;
    file.set_len(MIB)?;
    let changes: [Change<File>; 4] = [
        ("write", |file| Ok(file.write_all_at(b"x", 5000)?)),
        ("punch", |file| reshape::punch(file, 0, 8192)),
        ("zero", |file| reshape::zero(file, 0, 8192)),
        ("truncate", |file| Ok(file.set_len(2 * MIB)?)),
    ];
    for (what, change) in changes {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        file.set_times(FileTimes::new().set_modified(old))?;
        let changed = file.metadata()?.ctime();
        change(&file)?;
        ensure!(file.metadata()?.modified()? > old, "{what} did not move the time");
        ensure!(file.metadata()?.ctime() >= changed, "{what} moved ctime back");
        file.sync_all()?;
        ensure!(
            fs::metadata(rig.original("volume"))?.modified()? > old,
            "{what} did not move the time at the server"
        );
    }
    Ok(())
}

/// The times of a folder move with the names in it.
#[test]
fn names_move_the_time_of_their_folder() -> Result<()> {
    let rig = with_volume()?;
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let folder = rig.volume("folder");
    let changes: [Change<Rig>; 3] = [
        ("create", |rig| Ok(fs::write(rig.volume("folder/new"), "x")?)),
        ("rename", |rig| {
            Ok(fs::rename(rig.volume("folder/new"), rig.volume("folder/other"))?)
        }),
        ("unlink", |rig| Ok(fs::remove_file(rig.volume("folder/other"))?)),
    ];
    for (what, change) in changes {
        File::open(&folder)?.set_times(FileTimes::new().set_modified(old))?;
        change(&rig)?;
        wait::until(&format!("{what} to move the time"), wait::LIMIT, || {
            Ok(fs::metadata(&folder)?.modified()? > old)
        })?;
    }
    Ok(())
}

#[test]
fn cp_keeps_attributes() -> Result<()> {
    let rig = empty()?;
    let source = rig.sandbox.join("source");
    fs::write(&source, bytes(1, 3 * MIB)?)?;
    fs::set_permissions(&source, Permissions::from_mode(0o641))?;
    chown(&source, Some(65534), Some(9))?;
    command::tool(
        "cp",
        ["-p".as_ref(), source.as_os_str(), rig.volume("copy").as_os_str()],
    )?;
    let expected = fs::metadata(&source)?;
    for path in both(&rig, "copy") {
        let found = fs::metadata(path)?;
        assert_eq!((found.mode(), found.uid(), found.gid()), (0o100_641, 65534, 9));
        assert_eq!(found.modified()?, expected.modified()?);
    }
    Ok(())
}
